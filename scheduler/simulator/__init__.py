"""The simulator: the scheduler that runs live, under virtual time, against a trace.

`trace` reads and writes traces, `cluster` says what there is, `host` is the loop that feeds the
scheduler and makes its decisions come true, `result` is what came out. No IO: who calls reads the
files and prints the tables. Views with a topology of their own (GPU chunks, quotas) are handed in.
"""
