"""Isolated process trees: the agent that runs inside, the channel to it, the launchers.

`agent` is one self-contained file that runs as PID 1 of every sandbox, `channel` is the server's
end of its socket, `base` the launcher interface, `bubblewrap`, `docker` and `process` its three
implementations.
"""
