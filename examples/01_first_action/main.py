"""Open a trajectory, run a command in its sandbox, print the result and its timing."""

import argparse

from tangram import Client

PROGRAM = """
import os
print(f"6 * 7 = {6 * 7}, computed on {os.cpu_count()} core(s)")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", metavar="HOST:PORT", help="default: 127.0.0.1:7070")
    arguments = parser.parse_args()

    with Client(arguments.server) as client, client.trajectory() as trajectory:
        trajectory.write_file("answer.py", PROGRAM)
        result = trajectory.exec(["python3", "answer.py"], timeout=10)

        print(result.stdout.strip())
        print(f"exit code {result.exit_code}, {result.outcome}, on {result.node}")
        for part in ("queue", "prepare", "run", "overhead", "act"):
            print(f"{part:>9} {1000 * getattr(result.timing, part):8.1f} ms")


if __name__ == "__main__":
    main()
