"""Benchmarks: Tangram against floors and peers, side by side in one run.

`python -m tests.bench` runs them and prints the tables; `--write` puts them into
docs/benchmarks.md. Measured figures are medians of runs, simulated ones means over seeds, with their
spread; ratios are formed run by run. Nothing here asserts on seconds.
"""
