"""Benchmarks: Tangram against floors and peers, side by side in one run.

`python -m tests.bench` runs them and prints the tables; `--write` puts them into
docs/benchmarks.md. Every figure is a median of runs with its spread; ratios are formed run by run.
Nothing here asserts on seconds.
"""
