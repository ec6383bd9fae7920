"""The paper's figures beside ours, in the same unit, with what each of ours assumes.

The paper is ARL-Tangram (arXiv 2603.13019, section 6). Its baseline for AI coding: one pod per
trajectory on Kubernetes, request half a core, limit four.
"""

from __future__ import annotations

from collections.abc import Sequence

from .coding import BASELINES, OURS, PODS, PODS_110, PUBLISHED, limits
from .measure import Sheet
from .simulations import Job, Simulations, seeded, spread

BATCH = 1280
SWEEP = (128, 512, 1280, 1536)
POOLS = {768: "3x256x2400Gi", 1024: "4x256x2400Gi", 1280: ""}
"""Cores of the capacity sweep and their nodes; none: the workload's own."""

DEGREES = (("2.0", 256, 4), ("3.0", 1280, 16), ("1.8", 1280, 4))
"""What the paper found, its batch, and the fixed degree of parallelism that it compares with."""


def measure(simulations: Simulations) -> list[Sheet]:
    rows: list[tuple[Job, Job, str, str, str]] = []
    """Ours, the baseline, the kind of action, the paper's figure, what it is of."""
    pods = _job(PODS_110)
    rows += [
        (_job(OURS), pods, "", "4.3", "AI coding, external time in all"),
        (_job(OURS), pods, "shell", "9.0", "AI coding, environment interaction"),
        (_job(OURS), pods, "test", "2.8", "AI coding, reward"),
        (_job(OURS), _job(PODS), "", "4.3", "AI coding, external time in all"),
    ]
    for batch in SWEEP:
        figure = {128: "3.1 (the least of the sweep)", 1536: "27.7 (the most)"}.get(batch, "-")
        rows.append((_job(OURS, batch), _job(PODS_110, batch), "", figure, f"batch {batch:,}"))
    for cores, nodes in POOLS.items():
        figure = {768: "1.89 (the least)", 1280: "4.33 (the most)"}.get(cores, "-")
        ours, baseline = _job(OURS, BATCH, nodes), _job(PODS_110, BATCH, nodes)
        rows.append((ours, baseline, "", figure, f"{cores:,} cores"))
    for figure, batch, degree in DEGREES:
        ours, baseline = _job(OURS, batch), _job(f"fixed:{degree}", batch)
        rows.append((ours, baseline, "", figure, f"elastic degree of parallelism, batch {batch:,}"))
    asked = [job for ours, baseline, *_ in rows for job in _all(ours, baseline)]
    simulations.run(seeded(asked, simulations.seeds))
    return [
        Sheet(
            "The paper's figures beside ours",
            "How many times lower the mean ACT is than the baseline's. Ours: `coding64`, a batch of"
            " 1,280 on 5 nodes of 256 cores unless the line says otherwise; a control plane that"
            " costs nothing; durations known for elastic actions alone. Mean (min - max) over"
            f" {len(simulations.seeds)} seeds. Limit: every action at its fastest, never queued.",
            (
                "figure and our baseline",
                "the paper",
                "`arl-tangram` here",
                "`elastic`",
                "malleable",
                "limit",
            ),
            tuple(_row(simulations, *row) for row in rows),
        )
    ]


def _job(policy: str, batch: int = BATCH, nodes: str = "", malleable: bool = False) -> Job:
    return Job("coding64", batch, policy, 0, nodes, malleable)


def _all(ours: Job, baseline: Job) -> Sequence[Job]:
    return (baseline, ours, *(_variant(ours, *of) for of in _VARIANTS if _compared(ours)))


_VARIANTS = ((PUBLISHED, False), (OURS, False), (OURS, True))


def _compared(ours: Job) -> bool:
    """Whether the other policies are run beside ours: on the batches of `coding` they are."""
    return not ours.nodes and ours.count in SWEEP


def _variant(ours: Job, policy: str, malleable: bool) -> Job:
    return _job(policy, ours.count, ours.nodes, malleable)


def _row(
    simulations: Simulations, ours: Job, baseline: Job, kind: str, figure: str, what: str
) -> tuple[str, ...]:
    called = BASELINES.get(baseline.policy, f"degree {baseline.policy.partition(':')[2]} for all")
    found = (
        spread(simulations.faster(variant, baseline, kind))
        if variant == ours or _compared(ours)
        else ""
        for variant in (_variant(ours, *of) for of in _VARIANTS)
    )
    limit = "" if kind else spread(limits(simulations, baseline))
    return (f"{what}, against {called}", figure, *found, limit)
