"""The demo: the HumanEval problems as agents' trajectories, with held cores and with granted ones.

`workload` says what the trajectories do, `runner` runs them through the SDK, `report` sums up what
was measured. Neither decides anything about scheduling: that is the server's, which the demo starts
as a process of its own. Used by `tangram demo` alone.
"""
