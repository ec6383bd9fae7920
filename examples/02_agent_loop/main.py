"""Many rollouts at once, each a loop of thinking and acting, and where their actions' time went."""

import argparse
import asyncio
import random
from statistics import mean, quantiles

from tangram import AsyncClient, Result, TangramError

WRONG = "def median(numbers):\n    return numbers[len(numbers) // 2]\n"
RIGHT = "def median(numbers):\n    return sorted(numbers)[len(numbers) // 2]\n"
TEST = "from solution import median\nassert median([{}]) == {}, 'not the median'\n"


async def rollout(client: AsyncClient, seed: int, group: str) -> list[Result]:
    """Write a program and its test, run it, mend it, run it again: the results of both runs."""
    policy = random.Random(seed)
    numbers = sorted(policy.sample(range(100), 9))
    numbers = numbers[5:] + numbers[:5]  # the median stands at the end, not in the middle
    test = TEST.format(", ".join(map(str, numbers)), numbers[-1])

    results = []
    async with client.trajectory(memory="128Mi", group=group) as trajectory:
        await trajectory.write_file("test.py", test)
        for program in (WRONG, RIGHT):
            await asyncio.sleep(policy.uniform(0.0, 0.5))  # the policy thinks: no core is held
            await trajectory.write_file("solution.py", program)
            results.append(await trajectory.exec(["python3", "test.py"], timeout=30))
    return results


def print_table(results: list[Result]) -> None:
    print(f"{'':>9} {'mean':>10} {'p95':>10}")
    for part in ("queue", "prepare", "run", "overhead", "act"):
        seconds = [getattr(result.timing, part) for result in results]
        p95 = quantiles(seconds, n=20)[-1]
        print(f"{part:>9} {1000 * mean(seconds):7.1f} ms {1000 * p95:7.1f} ms")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", metavar="HOST:PORT", help="default: 127.0.0.1:7070")
    parser.add_argument("--trajectories", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    async with AsyncClient(arguments.server, task="agent-loop") as client:
        rollouts = await asyncio.gather(
            *(
                rollout(client, seed=arguments.seed + number, group=f"prompt-{number // 4}")
                for number in range(arguments.trajectories)
            ),
            return_exceptions=True,
        )

    done = [results for results in rollouts if not isinstance(results, BaseException)]
    for failure in rollouts:
        if isinstance(failure, TangramError) and failure.infra:
            print(f"masked: {failure}")
        elif isinstance(failure, BaseException):
            raise failure
    mended = sum(not wrong.ok and right.ok for wrong, right in done)
    print(f"{mended} of {len(done)} programs failed their test first and passed it when mended")
    print_table([result for results in done for result in results])


if __name__ == "__main__":
    asyncio.run(main())
