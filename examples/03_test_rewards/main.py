"""Five attempts at one function, scored by tests in four ways."""

import argparse
import asyncio

from tangram import AsyncClient
from tangram.scoring import (
    Difficulty,
    FunctionCase,
    FunctionSuite,
    SuiteScore,
    groups_by_pass_rate,
    pass_rates,
)

ATTEMPTS = {
    "right": """
def median(numbers):
    ordered, half = sorted(numbers), len(numbers) // 2
    return ordered[half] if len(numbers) % 2 else (ordered[half - 1] + ordered[half]) / 2
""",
    "odd only": "def median(numbers):\n    return sorted(numbers)[len(numbers) // 2]\n",
    "unsorted": "def median(numbers):\n    return numbers[len(numbers) // 2]\n",
    "crashes": "def median(numbers):\n    return numbers.middle()\n",
    "cheats": "import os\n\n\ndef median(numbers):\n    os._exit(0)\n",
}
TESTS = FunctionSuite(
    cases=[
        FunctionCase(3, [[3]], name="one"),
        FunctionCase(2, [[1, 2, 3]], name="in order"),
        FunctionCase(5, [[9, 1, 5]], name="out of order"),
        FunctionCase(2.5, [[1, 2, 3, 4]], name="even"),
    ],
    function="median",
)


async def score_all(
    client: AsyncClient, scheme: str | Difficulty, *, early_stop: bool = True
) -> dict[str, SuiteScore]:
    """Every attempt at the same time; the server grants the cores."""
    scores = await asyncio.gather(
        *(
            client.score_tests(
                attempt, TESTS, scheme=scheme, early_stop=early_stop, sandbox={"memory": "128Mi"}
            )
            for attempt in ATTEMPTS.values()
        )
    )
    return dict(zip(ATTEMPTS, scores, strict=True))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", metavar="HOST:PORT", help="default: 127.0.0.1:7070")
    arguments = parser.parse_args()

    async with AsyncClient(arguments.server, task="test-rewards") as client:
        by_share = await score_all(client, "fraction", early_stop=False)
        rates = pass_rates(score.outcomes for score in by_share.values())
        groups = groups_by_pass_rate(rates, edges=(0.6, 0.4))
        columns = {
            "all": await score_all(client, "all"),
            "fraction": by_share,
            "strict": await score_all(client, Difficulty(groups, "strict")),
            "soft": await score_all(client, Difficulty(groups, "soft")),
        }

    print("from easy to hard:", " | ".join(", ".join(group) for group in groups))
    print(f"{'':>10}", *(f"{name:>8}" for name in columns))
    for attempt in ATTEMPTS:
        print(f"{attempt:>10}", *(f"{scores[attempt].value:8.2f}" for scores in columns.values()))
    cheat = columns["all"]["cheats"]
    print(f"the cheat: {cheat.tests[0].message}; not run: {', '.join(cheat.not_run)}")


if __name__ == "__main__":
    asyncio.run(main())
