"""The simulator: the scheduler that runs live, under virtual time, against a trace.

`trace` reads and writes traces (`fields` names what is wrong in one), `cluster` says what there is,
`discipline` who is served first, `policies` by what. `simulation` runs one of them: `actions` stages
what the scheduler is told, `replay` feeds it and makes its decisions come true under virtual time
(`timeline`); `dedicated` and `pods` (`podspec`, `kernel_share`) are the baselines beside it. `result`
is what came out, `summary` its figures, `bounds` what they can never be below, and `planner` searches
the smallest pool. `workloads` draws traces; `faults` is a hostile host and its checkers. No IO: who
calls reads the files and prints the tables. Views with a topology of their own (GPU chunks, quotas)
are handed in.
"""
