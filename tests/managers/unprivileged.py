"""Run by a test as its own process: the bubblewrap launcher as a user who is not root.

Started as root it first becomes such a user, in a mount namespace where that one can read the
Python that runs this, which may lie in root's home. Prints its last line only if all holds.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
UID = 54321
READABLE = """
set -e
for path in "$@"; do
  hidden=
  at=$path
  while [ "$at" != / ]; do
    case $(stat -c %A "$at") in *x|*t) ;; *) hidden=$at ;; esac
    at=$(dirname "$at")
  done
  [ -n "$hidden" ] || continue
  mkdir -p "$KEEP/kept"
  mount --bind "$path" "$KEEP/kept"
  mount -t tmpfs -o mode=755 none "$hidden"
  mkdir -p "$path"
  mount --bind "$KEEP/kept" "$path"
done
shift $#
exec setpriv --reuid $UID --regid $UID --clear-groups --no-new-privs "$PYTHON" "$SCRIPT"
"""


def main() -> None:
    if os.geteuid() == 0:
        become_unprivileged()
    sys.path.insert(0, str(PROJECT))
    asyncio.run(check())
    print("all as it should be")


def become_unprivileged() -> None:
    keep = tempfile.mkdtemp(dir="/tmp")
    os.chmod(keep, 0o711)
    environment = {
        **os.environ,
        "KEEP": keep,
        "PYTHON": sys.executable,
        "SCRIPT": __file__,
        "UID": str(UID),
    }
    command = ["unshare", "--mount", "sh", "-c", READABLE, "sh", sys.base_prefix]
    code = subprocess.run(command, env=environment, check=False).returncode
    shutil.rmtree(keep)
    sys.exit(code)


async def check() -> None:
    from tangram.managers.cpu.sandbox.bubblewrap import Bubblewrap
    from tangram.managers.cpu.sandbox.bwrap_sandbox import BubblewrapSandbox
    from tests.managers.sandboxes import processes_with, run, spec_of

    def lost(message: str) -> None:
        raise AssertionError(message)

    place = Path(tempfile.mkdtemp(prefix="bw-", dir="/tmp"))
    cores = tuple(sorted(os.sched_getaffinity(0)))
    launcher = Bubblewrap(
        name="test",
        state=place / "state",
        runtime=place / "run",
        cgroups=None,
        parking=cores,
        images={},
        orphan_after_s=20.0,
        pids_max=64,
    )
    checks = await launcher.checks()
    assert all(check.ok for check in checks), checks
    assert launcher.limits()["memory"] == launcher.limits()["cores"] == "soft"

    sandbox = await launcher.start(spec_of(), lost)
    status = (await run(sandbox, "cat /proc/self/status")).stdout
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    assert fields["Uid"].split() == ["1000"] * 4
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert (fields["NoNewPrivs"].strip(), fields["Seccomp"].strip()) == ("1", "2")

    wrote = await run(sandbox, "id -un && touch a ~/b /tmp/c && pwd")
    assert wrote.stdout == "sandbox\n/workspace\n", wrote
    for command in ("unshare -U true", "touch /x", "touch /dev/x", f"ls {place}", f"ls {PROJECT}"):
        assert (await run(sandbox, command)).exit_code != 0, command
    names = (await run(sandbox, "tail -n +3 /proc/net/dev | cut -d: -f1")).stdout.split()
    assert names == ["lo"]

    await sandbox.confine(cores[:1])
    count = "nproc; python3 -c 'import os; print(os.cpu_count())'"
    assert (await run(sandbox, count, affinity=cores[:1])).stdout.split() == ["1", "1"]

    await sandbox.keep_files("s", 1 << 30)
    fork = await launcher.start(spec_of(snapshot="s"), lost)
    changed = await run(fork, "rm a; ls; ls ~ /tmp; mkdir a; touch a/in")
    assert changed.stdout == "/home/sandbox:\nb\n\n/tmp:\nc\n", changed
    await fork.keep_files("t", 1 << 30)
    again = await launcher.start(spec_of(snapshot="t"), lost)
    assert (await run(again, "ls a")).stdout == "in\n"
    assert isinstance(fork, BubblewrapSandbox)
    assert launcher.flat or fork.layers
    for name in ("s", "t"):
        await launcher.discard_files(name)

    hog = await run(sandbox, "x = bytearray(1 << 30)", shell=False)
    assert "MemoryError" in hog.stderr, hog
    await watch_memory(place)
    await run(sandbox, "mkdir -p locked/in; chmod 0 locked")
    # Last, since what it leaves takes every process that the sandbox may have.
    bomb = "import os\nfor _ in range(99):\n if os.fork() == 0: os.execvp('sleep', ['sleep', '9'])"
    assert "BlockingIOError" in (await run(sandbox, bomb, shell=False)).stderr
    await launcher.aclose()
    left = [*(place / "state/sandboxes").iterdir(), *(place / "run").iterdir()]
    assert not left, left
    assert not processes_with(str(place))
    shutil.rmtree(place)


async def watch_memory(place: Path) -> None:
    from tangram.managers.config import NodeConfig
    from tangram.managers.cpu.manager import CpuManager
    from tests.managers.soft_memory import check_soft_memory

    node = NodeConfig(
        instance="soft", launcher="bubblewrap", state=place / "node", runtime=place / "soft"
    )
    manager = await CpuManager.open_node(node)
    assert manager.describe().limits["memory"] == "soft"
    await check_soft_memory(manager)
    await manager.aclose()


if __name__ == "__main__":
    main()
