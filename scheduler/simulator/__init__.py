"""The simulator: the scheduler that runs live, under virtual time, against a trace.

`trace` reads and writes traces (`fields` names what is wrong in one), `cluster` says what there is,
`discipline` who is served first, `actions` what the scheduler is told, `loop` feeds the scheduler
and makes its decisions come true, `pods` is the baseline beside it (`podspec`, `sharing`), `host`
runs one simulation, `result` is what came out, `summary` its figures and `bounds` what they can never be below. `workloads` draws traces.
No IO: who calls reads the files and prints the tables. Views with a topology of their own (GPU
chunks, quotas) are handed in.
"""
