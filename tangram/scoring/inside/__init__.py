"""The program that runs in the sandbox: calls functions of a solution, or runs a suite of pytest.

It is sent as text (`link.program`: the other files here, and nothing else of the project) to any
CPython >= 3.6 of an image, so it is written for that. Its standard input is one JSON object, its
standard output lines of `NONCE JSON`. It knows no expected value and judges nothing.

Two processes: the relay (`relay`) reads the request and alone holds the nonce and the standard
output; the worker (`calls`, `suites`), forked before the request is read, loads the solution's code
and sends records to the relay by a pipe. Whatever that code prints is only a log.
"""
