"""Seeded fault injection: the scheduler against a hostile host, judged by checkers outside it.

`run_seed` makes a world, a workload and a choice of faults from one seed, and lets them happen
under virtual time. Importing this package loads nothing; a seed gives the same run every time.
"""
