"""Coding agents as they were measured: many tests and shell commands, most of them short.

`agentcgroup-like` is drawn from distributions fitted to public measurements; a recorded trace takes
its place with `--trace FILE`.
"""

from __future__ import annotations

from .coding import BASELINES, OURS, PUBLISHED
from .measure import Sheet
from .simulations import Job, Simulations, seeded, spread

WORKLOAD = "agentcgroup-like"
SETTINGS = ((128, 0.03), (512, 0.03))
"""Trajectories and the share of a test that does not scale."""

NODES = "1x128x1024Gi"
"""Small enough that 512 trajectories are a load."""

POLICIES = {"fcfs": "fcfs", "fixed:4": "a fixed degree of 4", PUBLISHED: PUBLISHED}


def measure(simulations: Simulations) -> list[Sheet]:
    settings = [(count, serial) for count, serial in SETTINGS]
    baselines = {**POLICIES, **BASELINES}
    simulations.run(
        seeded(
            [
                job
                for count, serial in settings
                for policy in (OURS, *baselines)
                for job in _jobs(simulations, count, serial, policy)
            ],
            simulations.seeds,
        )
    )
    rows = []
    for count, serial in settings:
        ours, malleable = _jobs(simulations, count, serial, OURS)
        for policy, called in baselines.items():
            baseline = _jobs(simulations, count, serial, policy)[0]
            rows.append(
                (
                    f"{count:,} trajectories, s {serial:g}, against {called}",
                    spread(simulations.faster(ours, baseline)),
                    spread(simulations.faster(malleable, baseline)),
                    spread(simulations.faster(ours, baseline, "test")),
                    spread(simulations.acts_s(baseline), 3),
                    spread(simulations.acts_s(ours), 3),
                )
            )
    source = f"the trace {simulations.trace.name}" if simulations.trace else f"`{WORKLOAD}`"
    return [
        Sheet(
            "Coding agents as measured",
            f"Trajectories of {source} on one node of 128 cores, all starting at once; tests are"
            " taken to be elastic 1 - 32, which the measured ones were not. How many times lower"
            f" the mean ACT is, mean (min - max) over {len(simulations.seeds)} seeds.",
            (
                "workload and baseline",
                "`elastic`",
                "malleable",
                "tests alone",
                "baseline's ACT, s",
                "`elastic` ACT, s",
            ),
            tuple(rows),
        )
    ]


def _jobs(simulations: Simulations, count: int, serial: float, policy: str) -> list[Job]:
    """The job, and with our policy also the one whose tests are malleable."""
    if simulations.trace is not None:
        elastic = f"test=1-32:{serial:g}"
        job = Job(str(simulations.trace), count, policy, 0, nodes=NODES, elastic=elastic)
    else:
        job = Job(f"{WORKLOAD}:serial={serial:g}", count, policy, 0, nodes=NODES)
    if policy != OURS:
        return [job]
    return [job, Job(job.workload, count, policy, 0, NODES, malleable=True, elastic=job.elastic)]
