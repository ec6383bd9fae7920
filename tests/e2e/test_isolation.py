"""What runs in a sandbox sees and harms nothing but itself, in both launchers alike.

Commands play the attacker; the neighbour's trajectory is looked after by every test. Bad requests
are `test_bad_input`'s.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tangram import AsyncClient, errors
from tangram.client import AsyncTrajectory
from tangram.managers.cpu.sandbox.interpreter import CODE, MOUNT_POINT
from tests.e2e.conftest import SECRET, Serve
from tests.e2e.marks import running
from tests.e2e.servers import ServerProcess
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("neighbour")

AGENT_PROGRAM = f"{MOUNT_POINT}/{CODE}"
MEMORY = "96Mi"
DISK = "32Mi"


@pytest.fixture
async def trajectory(client: AsyncClient, image: str | None) -> AsyncIterator[AsyncTrajectory]:
    async with client.trajectory(image, memory=MEMORY, disk=DISK) as trajectory:
        yield trajectory


async def python(trajectory: AsyncTrajectory, program: str, **settings: Any) -> Any:
    """What a Python program in the sandbox prints as JSON."""
    result = await trajectory.exec(["python3", "-c", program], check=True, **settings)
    return json.loads(result.stdout)


# What it sees


async def test_no_file_of_the_host_is_there(
    trajectory: AsyncTrajectory, shared_server: ServerProcess, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("the host's")
    places = [
        tmp_path,
        shared_server.state,
        Path(__file__),
        Path(f"/run/tangram-{shared_server.port}"),
    ]
    places += [Path("/var/run/docker.sock"), Path("/proc/1/root", str(tmp_path).lstrip("/"))]
    words = " ".join(map(str, places))
    result = await trajectory.exec(f"ls -d {words}; cat /etc/shadow /etc/machine-id")
    seen = result.stdout
    assert not [place for place in places if str(place) in seen], seen
    for secret in (Path("/etc/shadow"), Path("/etc/machine-id")):
        if os.access(secret, os.R_OK):
            assert secret.read_text().splitlines()[0] not in seen


async def test_no_other_sandboxs_files_are_there(
    client: AsyncClient, trajectory: AsyncTrajectory, image: str | None
) -> None:
    find = "find / -xdev -name 'only-*' -not -path '/proc/*' 2>/dev/null; ls /tmp /dev/shm"
    async with client.trajectory(image) as other:
        await other.exec("touch only-mine /tmp/only-mine /dev/shm/only-mine", check=True)
        assert "only-mine" in (await other.exec(find)).stdout
        assert "only-mine" not in (await trajectory.exec(find)).stdout


async def test_nothing_of_the_servers_environment_is_there(trajectory: AsyncTrajectory) -> None:
    result = await trajectory.exec("env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'")
    assert SECRET not in result.stdout
    assert "TANGRAM_TEST_SECRET" not in result.stdout
    assert "TANGRAM_CORES=1" in result.stdout


async def test_no_process_of_the_host_is_there(
    trajectory: AsyncTrajectory, shared_server: ServerProcess
) -> None:
    pids = (await trajectory.exec("ls /proc | grep '^[0-9]'", check=True)).stdout.split()
    assert len(pids) < 10
    lines = (await trajectory.exec("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")).stdout
    assert "serve" not in lines
    assert str(shared_server.state) not in lines


async def test_no_network_reaches_the_host_nor_anything_else(
    trajectory: AsyncTrajectory, shared_server: ServerProcess
) -> None:
    with socket.create_server(("0.0.0.0", 0)) as listening:
        ports = [shared_server.port, int(shared_server.http.rpartition(":")[2])]
        ports.append(listening.getsockname()[1])
        program = f"""
import json, socket
reached = []
for host in ("127.0.0.1", "::1", "172.17.0.1", "10.0.0.1", "169.254.169.254", "8.8.8.8"):
    for port in {ports}:
        try:
            socket.create_connection((host, port), timeout=0.2).close()
            reached.append((host, port))
        except OSError:
            pass
interfaces = [name for _, name in socket.if_nameindex() if name != "lo"]
print(json.dumps([reached, interfaces]))
"""
        reached, interfaces = await python(trajectory, program)
    assert reached == []
    assert set(interfaces) <= {"tunl0", "sit0", "gre0", "erspan0", "gretap0", "ip6tnl0"}


async def test_unix_sockets_of_the_host_have_no_names_inside(trajectory: AsyncTrajectory) -> None:
    name = f"\0tangram-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(name)
        listening.listen()
        program = f"import socket; socket.socket(socket.AF_UNIX).connect({name!r})"
        result = await trajectory.exec(["python3", "-c", program])
    assert "ConnectionRefusedError" in result.stderr


@pytest.mark.parametrize("cores", [1, 2])
async def test_the_cores_that_programs_count_are_those_granted(
    client: AsyncClient, trajectory: AsyncTrajectory, cores: int
) -> None:
    if (await client.status()).nodes[0].cores.total < cores:
        pytest.skip(f"this machine has fewer than {cores} cores")
    program = (
        "import json, os, subprocess; print(json.dumps([os.cpu_count(), "
        "int(subprocess.check_output('nproc')), len(os.sched_getaffinity(0)), "
        "int(os.environ['TANGRAM_CORES']), int(os.environ['OMP_NUM_THREADS'])]))"
    )
    assert await python(trajectory, program, cores=cores) == [cores] * 5


# What it may not do


REFUSED = {
    "mount": "mount -t tmpfs none /tmp",
    "bind mount": "mount --bind / /tmp",
    "user namespace": "unshare --user id",
    "mount namespace": "unshare --mount id",
    "pid namespace": "unshare --pid --fork id",
    "network namespace": "unshare --net id",
    "block device": "mknod /tmp/device b 254 0 && head -c 1 /tmp/device",
    "character device": "mknod /tmp/device c 1 1 && head -c 1 /tmp/device",
    "kernel setting": "echo x > /proc/sys/kernel/core_pattern",
    "kernel trigger": "echo b > /proc/sysrq-trigger",
    "kernel log": "head -c 1 /proc/kmsg",
    "kernel memory": "head -c 1 /proc/kcore | grep .",
    "cores shown": "echo 0-63 > /sys/devices/system/cpu/online",
    "system": "echo x > /sys/kernel/profiling",
    "own limit": "echo -1 > /sys/fs/cgroup/memory/memory.limit_in_bytes",
    "own cores": "echo 0-1 > /sys/fs/cgroup/cpuset/cpuset.cpus",
    "own out-of-memory score": "echo -1000 > /proc/self/oom_score_adj",
    "host name": "hostname changed",
    "clock": "date -s 2020-01-01",
    "agent's program": f"echo x > {AGENT_PROGRAM}",
    "agent's socket": f"touch {MOUNT_POINT}/run/agent.sock",
    "agent's folder": f"rmdir {MOUNT_POINT}/run",
    "agent's memory": "head -c 1 /proc/1/mem",
    "agent's descriptors": "cat /proc/1/fd/0",
    "agent's environment": "cat /proc/1/environ | grep .",
}


async def test_everything_that_would_reach_beyond_the_sandbox_is_refused(
    trajectory: AsyncTrajectory,
) -> None:
    for target in (f"-f {AGENT_PROGRAM}", f"-d {MOUNT_POINT}/run"):
        assert (await trajectory.exec(f"test {target}")).exit_code == 0, target
    for what, command in REFUSED.items():
        result = await trajectory.exec(f"({command}) && echo DONE")
        assert "DONE" not in result.stdout, f"{what}: {result.stdout}{result.stderr}"


SYSTEM_CALLS = """
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
folder = b"/tmp"
def error(number):
    return os.strerror(ctypes.get_errno()) if number == -1 else "done"
tried = {
    "mount": libc.mount(b"none", folder, b"tmpfs", 0, None),
    "chroot to escape": libc.chroot(b"/proc/1/root"),
    "setns": libc.setns(os.open("/proc/self/ns/net", os.O_RDONLY), 0),
    "unshare": libc.unshare(0x10000000),
    "ptrace of the agent": libc.ptrace(16, 1, 0, 0),
    "swapon": libc.swapon(b"/tmp", 0),
    "reboot": libc.reboot(0),
    "sethostname": libc.sethostname(b"x", 1),
    "pivot_root": libc.syscall(155, folder, folder),
    "init_module": libc.syscall(175, 0, 0, b""),
    "bpf": libc.syscall(321, 0, 0, 0),
    "keyctl": libc.syscall(250, 0, -3, 1),
    "perf_event_open": libc.syscall(298, 0, 0, -1, -1, 0),
    "process_vm_readv of the agent": libc.syscall(310, 1, 0, 0, 0, 0, 1),
    "open_by_handle_at": libc.syscall(304, -100, 0, 0),
}
print(json.dumps([name for name, answer in tried.items() if answer != -1]))
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the calls are numbered for x86-64")
async def test_system_calls_that_reach_beyond_the_sandbox_are_refused(
    trajectory: AsyncTrajectory,
) -> None:
    assert await python(trajectory, SYSTEM_CALLS) == []


async def test_a_set_user_id_program_gives_no_rights(
    client: AsyncClient, trajectory: AsyncTrajectory, image: str | None
) -> None:
    rights = "grep -E 'NoNewPrivs|CapEff' /proc/self/status"
    before = (await trajectory.exec(rights)).stdout
    assert "NoNewPrivs:\t1" in before
    shell = "cp $(command -v grep) /tmp/grep; chmod 6755 /tmp/grep; "
    after = (await trajectory.exec(shell + rights.replace("grep", "/tmp/grep"))).stdout
    assert after == before
    assert int(after.partition("CapEff:")[2].split()[0], 16) & ~0x800000FB == 0


# Whom it may not harm


FAKE_FRAMES = """
import glob, socket, struct
for length in (4, 1 << 31, 0xFFFFFFFF, 0):
    for body in (b"", b"\\0" * 64, b"{}" * 20, bytes(range(256)) * 8):
        try:
            with socket.socket(socket.AF_UNIX) as agent:
                agent.settimeout(0.2)
                agent.connect("/.tangram/run/agent.sock")
                agent.sendall(struct.pack("!I", length) + body)
                print("answered" if agent.recv(100) else "closed")
        except OSError as error:
            print(type(error).__name__)
"""


async def test_the_agent_serves_nobody_inside(
    trajectory: AsyncTrajectory, shared_server: ServerProcess
) -> None:
    result = await trajectory.exec(["python3", "-c", FAKE_FRAMES], check=True)
    assert "answered" not in result.stdout
    await trajectory.write_file("file", "still served")
    assert await trajectory.read_file("file") == b"still served"


async def test_a_thousand_held_connections_to_the_agent_hold_nothing_up(
    trajectory: AsyncTrajectory,
) -> None:
    program = """
import socket, time
held = []
for _ in range(1000):
    try:
        agent = socket.socket(socket.AF_UNIX)
        agent.settimeout(0.05)
        agent.connect("/.tangram/run/agent.sock")
        held.append(agent)
    except OSError:
        break
open("ready", "w").close()
time.sleep(600)
"""
    await trajectory.exec(["sh", "-c", 'python3 -c "$0" & echo', program], check=True)

    async def is_ready() -> bool:
        return any(entry.name == "ready" for entry in await trajectory.list_files())

    await until(is_ready)
    assert (await trajectory.exec("echo served")).stdout == "served\n"


async def test_no_signal_harms_the_agent(trajectory: AsyncTrajectory) -> None:
    signals = "for n in $(seq 1 64); do kill -$n 1; done"
    survived = await trajectory.exec(f"({signals}) 2>/dev/null; echo survived")
    assert survived.stdout == "survived\n"
    everybody = await trajectory.exec("trap '' TERM; kill -TERM -1; kill -KILL -1; echo left")
    assert everybody.outcome == "finished"
    assert (await trajectory.exec("echo served")).stdout == "served\n"


async def test_a_fork_bomb_ends_with_its_timeout(trajectory: AsyncTrajectory, mark: str) -> None:
    bomb = f"sleep {mark} & bomb() {{ bomb | bomb & }}; bomb; wait; sleep {mark}"
    result = await trajectory.exec(bomb, timeout=0.7)
    assert result.outcome == "timed_out"
    assert running(mark) == []
    assert (await trajectory.exec("echo served")).stdout == "served\n"


async def test_too_many_processes_are_the_commands_own_outcome(
    client: AsyncClient, trajectory: AsyncTrajectory
) -> None:
    if (await client.status()).nodes[0].limits["pids"] != "hard":
        pytest.skip("processes are not limited hard on this machine")
    program = "import os, time\nwhile os.fork(): pass\ntime.sleep(600)"
    result = await trajectory.exec(["python3", "-S", "-E", "-c", program], timeout=20)
    assert (result.outcome, result.ok) == ("too_many_processes", False)


async def test_too_much_memory_is_the_commands_own_outcome(
    client: AsyncClient, trajectory: AsyncTrajectory
) -> None:
    program = "import time\nkept = []\nwhile True: kept.append(b'x' * (1 << 20)); time.sleep(0.01)"
    result = await trajectory.exec(["python3", "-c", program], timeout=20)
    assert (result.outcome, result.exit_code) == ("out_of_memory", -9)
    # A kernel that enforces the limit stops it there, a watch soon after.
    hard = (await client.status()).nodes[0].limits["memory"] == "hard"
    assert result.usage.peak_memory <= (96 if hard else 2 * 96) << 20
    assert (await trajectory.exec("echo served")).stdout == "served\n"


async def test_shared_memory_is_limited(client: AsyncClient, image: str | None) -> None:
    async with client.trajectory(image, memory=MEMORY, shm="8Mi") as trajectory:
        result = await trajectory.exec(
            "head -c 64000000 /dev/zero > /dev/shm/x; wc -c < /dev/shm/x"
        )
    assert "No space left on device" in result.stderr
    assert int(result.stdout) <= 8 << 20


async def test_a_full_disk_is_the_commands_own_outcome(trajectory: AsyncTrajectory) -> None:
    result = await trajectory.exec(
        "while :; do head -c 8000000 /dev/zero >> /tmp/hog; sleep 0.05; done", timeout=20
    )
    assert (result.outcome, result.exit_code) == ("out_of_disk", -9)


async def test_a_flood_of_output_costs_only_its_own_time(
    client: AsyncClient, trajectory: AsyncTrajectory, shared_server: ServerProcess
) -> None:
    before = psutil.Process(shared_server.pid).memory_info().rss
    result = await trajectory.exec("yes | head -c 200000000", timeout=20)
    assert (result.outcome, result.truncated) == ("finished", True)
    assert len(result.stdout_bytes) <= (1 << 20) + 100
    assert psutil.Process(shared_server.pid).memory_info().rss < before + (64 << 20)


# What it leaves


DAEMON = "(setsid sh -c 'setsid sleep {mark} & sleep {mark}' >/dev/null 2>&1 &)"


@pytest.mark.parametrize("end", ["timeout", "cancel"])
async def test_daemons_die_with_a_timeout_or_a_cancellation(
    client: AsyncClient, trajectory: AsyncTrajectory, mark: str, end: str
) -> None:
    command = f"{DAEMON.format(mark=mark)}; sleep {mark}"
    action = f"a-{mark}"
    task = asyncio.ensure_future(
        trajectory.exec(command, id=action, timeout=0.5 if end == "timeout" else 30)
    )
    await until(lambda: len(running(mark)) >= 3)
    if end == "cancel":
        assert await client.cancel(action) == [action]
        with pytest.raises(errors.Cancelled):
            await task
        await until(lambda: not running(mark))
    else:
        assert (await task).outcome == "timed_out"
        assert running(mark) == []


async def test_daemons_of_a_command_that_ended_die_with_the_sandbox(
    client: AsyncClient, image: str | None, mark: str
) -> None:
    async with client.trajectory(image) as trajectory:
        assert (await trajectory.exec(DAEMON.format(mark=mark))).ok
        await until(lambda: len(running(mark)) >= 2)
        assert (await trajectory.exec("echo served")).stdout == "served\n"
        assert len(running(mark)) >= 2
    assert running(mark) == []


async def test_a_cancelled_call_of_the_sdk_cancels_its_action(
    trajectory: AsyncTrajectory, mark: str
) -> None:
    task = asyncio.ensure_future(trajectory.exec(["sleep", mark]))
    await until(lambda: running(mark))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not running(mark))


async def test_a_closed_trajectory_leaves_nothing_on_this_machine(
    serve: Serve, image: str | None, mark: str
) -> None:
    server = await asyncio.to_thread(lambda: serve({"warm": {"max": 0}}))
    async with AsyncClient(server.address) as client:
        trajectory = client.trajectory(image)
        assert (await trajectory.exec(f"{DAEMON.format(mark=mark)}; echo x > file")).ok
        assert any(item.startswith("process ") for item in server.leftovers())
        await trajectory.close()
        assert server.leftovers() == []
        assert running(mark) == []
