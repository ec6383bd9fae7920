"""Lower bounds on the mean ACT of a trace on a cluster: a figure below one is a bug, not a success.

`lower` names them; each in a file of its own forgets something that a real schedule has to respect,
and says what.
"""
