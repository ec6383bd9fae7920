"""Docker sandboxes, on a real engine: what a container is, what it is confined to, how it ends.

What every kind of sandbox does (commands, files, timeouts) is in the contract suite.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tangram.managers.base import ExecSpec, SandboxSpec, Stream
from tangram.managers.cpu.cgroup import Cgroups
from tangram.managers.cpu.sandbox import docker_layers, docker_sandbox
from tangram.managers.cpu.sandbox.base import Sandbox
from tangram.managers.cpu.sandbox.docker import DockerLauncher
from tangram.managers.cpu.sandbox.docker_client import DockerEngine
from tangram.managers.cpu.sandbox.docker_sandbox import DockerSandbox
from tangram.managers.cpu.sandbox.folder import SandboxFolder
from tangram.managers.cpu.sandbox.layers import Layer
from tangram.managers.errors import (
    PermanentError,
    SandboxDied,
    TemporaryError,
    UnknownImage,
    Unsupported,
)
from tests.waiting import until

MIB = 1 << 20
CORES = tuple(sorted(os.sched_getaffinity(0)))
RUN_TIMEOUT_S = 30.0
PIDS = 64


@dataclass
class Transcript:
    """The output of one command."""

    stdout: str = ""
    stderr: str = ""

    def write(self, stream: Stream, offset: int, data: bytes) -> None:
        setattr(self, stream.value, getattr(self, stream.value) + data.decode(errors="replace"))


@dataclass
class Bench:
    """A launcher, and what tests do with it."""

    launcher: DockerLauncher
    runtime: Path
    losses: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    async def start(self, spec: SandboxSpec) -> DockerSandbox:
        sandbox = await self.launcher.start(spec, self.losses.append)
        assert isinstance(sandbox, DockerSandbox)
        return sandbox

    async def run(self, sandbox: Sandbox, command: str, *, ok: bool = True) -> Transcript:
        said = Transcript()
        result = await sandbox.channel.exec(
            f"action-{next(self._numbers)}",
            1,
            ExecSpec(shell_command=command),
            cores=None,
            affinity=None,
            timeout_s=RUN_TIMEOUT_S,
            output=said,
        )
        assert (result.exit_code == 0) is ok, (result, said)
        return said

    async def containers(self) -> list[str]:
        """The names of our containers that exist on the engine."""
        labels = {"tangram.instance": self.launcher._instance}
        return [name for _, name in await self.launcher.engine.labelled(labels)]


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests: its interpreter takes longer to build than most of them."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture
def make_bench(state: Path) -> Iterator[Callable[..., Bench]]:
    name = f"test-{os.getpid()}"
    cgroups = Cgroups.probe(Path("/sys/fs/cgroup"), name)
    # Not below pytest's folder: the path of a socket must be short.
    runtime = Path(tempfile.mkdtemp(prefix="tangram-"))

    def make(*, direct: bool = True, **options: Any) -> Bench:
        groups = cgroups if direct else None
        launcher = DockerLauncher(name, state, runtime, groups, PIDS, **options)
        return Bench(launcher, runtime)

    yield make
    shutil.rmtree(runtime)
    if cgroups is not None:
        cgroups.close()


@pytest.fixture
async def bench(make_bench: Callable[..., Bench]) -> AsyncIterator[Bench]:
    bench = make_bench()
    yield bench
    await bench.launcher.aclose()


@pytest.fixture
def spec(docker_image: str) -> SandboxSpec:
    return SandboxSpec(
        "trajectory-1",
        image=docker_image,
        memory_bytes=128 * MIB,
        disk_bytes=1 << 30,
        shm_bytes=16 * MIB,
    )


@pytest.mark.docker
async def test_a_command_runs_and_nothing_is_left_after_close(
    bench: Bench, spec: SandboxSpec
) -> None:
    sandbox = await bench.start(spec)
    assert len(await bench.containers()) == 1
    assert (await bench.run(sandbox, "id -u; pwd; echo $HOME")).stdout == "0\n/workspace\n/root\n"
    assert (await bench.run(sandbox, "df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2")).stdout
    await asyncio.gather(sandbox.aclose(), sandbox.aclose())
    await sandbox.aclose()
    assert await bench.containers() == []
    assert list(bench.runtime.glob("d-*")) == []
    assert bench.losses == []


@pytest.mark.docker
async def test_the_images_user_workdir_environment_and_home_stand(
    bench: Bench, spec: SandboxSpec, docker_user_image: str
) -> None:
    sandbox = await bench.start(replace(spec, image=docker_user_image))
    assert sandbox.workdir == "/testbed"
    said = await bench.run(sandbox, "id -un; pwd; echo $HOME $GREETING; cat README")
    assert said.stdout == "agent\n/testbed\n/home/agent hello\na repository under test\n"
    await bench.run(sandbox, "touch /testbed/mine /workspace/mine")
    facts = await bench.launcher.engine.container(sandbox.container)
    assert facts is not None
    # The image's variables are for its commands: the agent has none of them.
    assert b"GREETING" not in _environment(facts.pid)


@pytest.mark.docker
async def test_user_workdir_and_env_of_the_trajectory_override_the_images(
    bench: Bench, spec: SandboxSpec, docker_user_image: str
) -> None:
    wanted = replace(
        spec,
        image=docker_user_image,
        user="nobody",
        workdir="/srv/deep/work",
        env={"GREETING": "bye", "COLOUR": "blue"},
    )
    sandbox = await bench.start(wanted)
    said = await bench.run(sandbox, "id -un; pwd; echo $GREETING $COLOUR; touch made && ls")
    assert said.stdout == "nobody\n/srv/deep/work\nbye blue\nmade\n"


@pytest.mark.docker
@pytest.mark.parametrize("direct", [True, False], ids=["cgroupfs", "docker-update"])
async def test_nproc_and_cpu_count_follow_the_cores(
    make_bench: Callable[..., Bench], spec: SandboxSpec, direct: bool
) -> None:
    bench = make_bench(direct=direct)
    look = "nproc; python3 -c 'import os; print(os.cpu_count(), os.sched_getaffinity(0))'"
    try:
        sandbox = await bench.start(spec)
        for cores in [(CORES[0],), (CORES[-1],), CORES]:
            await sandbox.confine(cores)
            n = len(cores)
            assert (await bench.run(sandbox, look)).stdout == f"{n}\n{n} {set(cores)}\n"
        await sandbox.confine(None)
        assert (await bench.run(sandbox, "nproc")).stdout == f"{len(CORES)}\n"
    finally:
        await bench.launcher.aclose()


@pytest.mark.docker
async def test_too_much_memory_kills_the_command_and_is_counted(
    bench: Bench, spec: SandboxSpec
) -> None:
    sandbox = await bench.start(spec)
    assert sandbox.events().oom_kills == 0
    await bench.run(sandbox, "python3 -c 'bytearray(1 << 30)'", ok=False)
    events = sandbox.events()
    assert events.oom_kills > 0
    assert 64 * MIB < events.peak_bytes <= 128 * MIB
    await bench.run(sandbox, "true")
    assert bench.losses == []


@pytest.mark.docker
async def test_too_many_processes_are_refused_and_counted(bench: Bench, spec: SandboxSpec) -> None:
    sandbox = await bench.start(spec)
    script = (
        "import os, signal\n"
        "children = []\n"
        "try:\n"
        "    while len(children) < 1000:\n"
        "        pid = os.fork()\n"
        "        if pid == 0: signal.pause()\n"
        "        children.append(pid)\n"
        "except BlockingIOError:\n"
        "    print(len(children))\n"
        "for pid in children: os.kill(pid, 9)\n"
    )
    forked = int((await bench.run(sandbox, f"python3 -c '{script}'")).stdout)
    assert 0 < forked < PIDS
    assert sandbox.events().pids_refused > 0


@pytest.mark.docker
async def test_there_is_no_network_unless_asked(bench: Bench, spec: SandboxSpec) -> None:
    interfaces = "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"
    alone = await bench.start(spec)
    assert (await bench.run(alone, interfaces)).stdout == "lo\n"
    online = await bench.start(replace(spec, trajectory="trajectory-2", network="egress"))
    assert "eth0" in (await bench.run(online, interfaces)).stdout.split()


@pytest.mark.docker
async def test_root_keeps_what_package_managers_need_and_nothing_else(
    bench: Bench, spec: SandboxSpec
) -> None:
    sandbox = await bench.start(spec)
    await bench.run(sandbox, "touch f && chown agent f && chmod u+s f && test -u f")
    for refused in (
        "mount -t tmpfs tmpfs /tmp",
        "mknod /tmp/disk b 8 0",
        "chroot / true",
        "hostname other",
        "echo 1 > /proc/sys/kernel/panic",
        "echo 0 > /sys/fs/cgroup/cpuset/cpuset.cpus",
        "touch /.tangram/agent.code",
        "echo 0-63 > /sys/devices/system/cpu/online",
        "unshare --mount true",
    ):
        await bench.run(sandbox, refused, ok=False)
    status = await bench.run(sandbox, "grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status")
    fields = dict(line.split(":\t") for line in status.stdout.splitlines())
    # CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID (bits 0 1 3 4 5 6 7) and SETFCAP (31).
    assert int(fields["CapBnd"], 16) == 0b11111011 | 1 << 31
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")


@pytest.mark.docker
async def test_nothing_of_the_host_is_visible(
    bench: Bench, spec: SandboxSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANGRAM_TEST_SECRET", "of the server")
    (tmp_path / "secret").write_text("of the host")
    sandbox = await bench.start(spec)
    assert "TANGRAM_TEST_SECRET" not in (await bench.run(sandbox, "env")).stdout
    await bench.run(sandbox, "cat /proc/1/environ", ok=False)
    await bench.run(sandbox, f"cat {tmp_path}/secret", ok=False)
    await bench.run(sandbox, "ls /var/run/docker.sock /run/docker.sock", ok=False)
    processes = (await bench.run(sandbox, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")).stdout
    assert "dockerd" not in processes
    assert "pytest" not in processes
    assert (await bench.run(sandbox, "ls /.tangram/run")).stdout == "online\n"


@pytest.mark.docker
async def test_an_image_without_python_libc_or_accounts_works(
    bench: Bench, spec: SandboxSpec, docker_bare_image: str
) -> None:
    sandbox = await bench.start(replace(spec, image=docker_bare_image))
    await sandbox.confine((CORES[0],))
    assert (await bench.run(sandbox, "id -u; pwd; nproc")).stdout == "0\n/workspace\n1\n"
    numbered = await bench.start(
        replace(spec, trajectory="trajectory-2", image=docker_bare_image, user="1234:5678")
    )
    said = await bench.run(numbered, "id -u; id -g; echo content > file; cat file")
    assert said.stdout == "1234\n5678\ncontent\n"


@pytest.mark.docker
async def test_written_files_count_as_disk(bench: Bench, spec: SandboxSpec) -> None:
    sandbox = await bench.start(spec)
    before = await sandbox.disk_used_bytes()
    await bench.run(
        sandbox, "dd if=/dev/urandom of=big bs=1M count=8 2>/dev/null; sync big || true"
    )
    assert 8 * MIB <= await sandbox.disk_used_bytes() - before < 9 * MIB
    # Where the layer's folder cannot be read, the engine counts.
    sandbox._upper_folder = ""
    assert await sandbox.disk_used_bytes() >= 8 * MIB


def _environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def _kill_agent(bench: Bench, sandbox: DockerSandbox) -> None:
    facts = await bench.launcher.engine.container(sandbox.container)
    assert facts is not None and facts.pid
    os.kill(facts.pid, signal.SIGKILL)


async def _remove_container(bench: Bench, sandbox: DockerSandbox) -> None:
    await bench.launcher.engine.remove(sandbox.container)


@pytest.mark.docker
@pytest.mark.parametrize(
    ("end", "reason"),
    [(_kill_agent, "exit code 137"), (_remove_container, "removed")],
    ids=["agent-killed", "container-removed"],
)
async def test_a_lost_sandbox_is_told_once_with_the_reason(
    bench: Bench,
    spec: SandboxSpec,
    end: Callable[[Bench, DockerSandbox], Awaitable[None]],
    reason: str,
) -> None:
    sandbox = await bench.start(spec)
    running = asyncio.create_task(bench.run(sandbox, "sleep 60"))
    await bench.run(sandbox, "true")
    await end(bench, sandbox)
    with pytest.raises(SandboxDied):
        await running
    await until(lambda: bench.losses)
    assert len(bench.losses) == 1
    assert "trajectory-1" in bench.losses[0]
    assert reason in bench.losses[0]
    sandbox.boost(True)
    assert sandbox.events().oom_kills == 0
    with pytest.raises(SandboxDied):
        await sandbox.confine((CORES[0],))
    await sandbox.aclose()
    assert await bench.containers() == []


@pytest.mark.docker
async def test_an_unknown_image_is_refused_with_names_nearby(
    bench: Bench, spec: SandboxSpec
) -> None:
    with pytest.raises(UnknownImage) as refused:
        await bench.launcher.check_image(replace(spec, image="tangram-tset:latest"))
    assert refused.value.image == "tangram-tset:latest"
    assert "tangram-test:latest" in str(refused.value)
    assert "docker load" in str(refused.value)


@pytest.mark.docker
async def test_what_can_never_start_is_refused_and_leaves_nothing(
    bench: Bench, spec: SandboxSpec
) -> None:
    with pytest.raises(Unsupported, match="network"):
        await bench.start(replace(spec, network="host"))
    with pytest.raises(Unsupported, match="image="):
        await bench.start(replace(spec, image=""))
    with pytest.raises(PermanentError, match="no user ghost"):
        await bench.start(replace(spec, user="ghost"))
    with pytest.raises(PermanentError, match=r"(?i)memory"):
        await bench.start(replace(spec, memory_bytes=1))
    assert await bench.containers() == []
    assert list(bench.runtime.glob("d-*")) == []


@pytest.mark.docker
async def test_an_agent_that_ends_while_it_starts_is_an_error_and_leaves_nothing(
    make_bench: Callable[..., Bench], spec: SandboxSpec
) -> None:
    bench = make_bench(orphan_after_s=-1.0)  # It is an orphan before it can call.
    try:
        with pytest.raises(PermanentError, match=r"ended while it started: .* exit code 0"):
            await bench.start(spec)
        assert await bench.containers() == []
        assert list(bench.runtime.glob("d-*")) == []
    finally:
        await bench.launcher.aclose()


@pytest.mark.docker
async def test_a_cancelled_start_leaves_nothing(bench: Bench, spec: SandboxSpec) -> None:
    starting = asyncio.create_task(bench.start(spec))
    await until(bench.containers)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert await bench.containers() == []
    assert list(bench.runtime.glob("d-*")) == []


@pytest.mark.docker
async def test_reap_removes_what_an_earlier_life_left_and_nothing_of_others(
    make_bench: Callable[..., Bench], spec: SandboxSpec, tmp_path: Path
) -> None:
    earlier, later = make_bench(), make_bench()
    stranger = DockerLauncher("stranger", tmp_path, earlier.runtime, None, PIDS)
    try:
        kept = await stranger.start(spec, lambda message: None)
        orphan = await earlier.start(spec)
        mine = await later.start(spec)
        assert await later.launcher.reap() == 1
        assert await later.launcher.reap() == 0
        assert await later.containers() == [mine.container]
        await until(lambda: earlier.losses)
        await later.run(mine, "true")
        await later.run(kept, "true")
        await orphan.aclose()
    finally:
        for launcher in (earlier.launcher, later.launcher, stranger):
            await launcher.aclose()


@pytest.mark.docker
async def test_the_checks_try_a_container(bench: Bench, docker_image: str) -> None:
    checks = {check.name: check for check in await bench.launcher.checks()}
    assert all(check.ok for check in checks.values())
    assert "started" in checks["docker container"].detail
    assert await bench.containers() == []


async def test_without_an_engine_the_error_names_the_cures(
    make_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = make_bench(base_url=f"unix://{tmp_path}/no-engine.sock")
    with pytest.raises(Unsupported) as refused:
        await bench.launcher.check_image(SandboxSpec("trajectory-1", image="any"))
    assert "no-engine.sock" in str(refused.value)
    assert "docker.io" in refused.value.cure
    assert "bubblewrap" in refused.value.cure
    [check] = await bench.launcher.checks()
    assert not check.ok
    assert "docker.io" in check.cure
    await bench.launcher.aclose()


@pytest.mark.docker
async def test_an_engine_without_images_is_no_failure(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_images(engine: DockerEngine) -> list[str]:
        return []

    monkeypatch.setattr(DockerEngine, "image_names", no_images)
    checks = {check.name: check for check in await bench.launcher.checks()}
    assert checks["docker container"].ok
    assert "no image" in checks["docker container"].detail


@pytest.mark.docker
async def test_an_image_that_cannot_be_started_is_no_failure_of_the_launcher(
    bench: Bench, docker_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["no/such:image"]

    async def some_images(engine: DockerEngine) -> list[str]:
        return names

    monkeypatch.setattr(DockerEngine, "image_names", some_images)
    checks = {check.name: check for check in await bench.launcher.checks()}
    assert checks["docker container"].ok
    assert "none could be started of no/such:image" in checks["docker container"].detail
    names.append(docker_image)
    checks = {check.name: check for check in await bench.launcher.checks()}
    assert f"started and removed one of {docker_image}" in checks["docker container"].detail


@pytest.mark.docker
async def test_an_engine_that_fails_while_it_is_tried_is_a_failure(
    bench: Bench, docker_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [await bench.launcher.engine.facts()]

    async def facts(engine: DockerEngine) -> object:
        if not answers:
            raise TemporaryError("the Docker engine did not answer in time")
        return answers.pop()

    monkeypatch.setattr(DockerEngine, "facts", facts)
    checks = {check.name: check for check in await bench.launcher.checks()}
    assert not checks["docker container"].ok


@pytest.mark.docker
def test_the_test_images_carry_the_label_of_their_recipe(docker_image: str) -> None:
    asked = ["docker", "image", "inspect", "-f", "{{json .Config.Labels}}", docker_image]
    assert b"tangram.recipe" in subprocess.run(asked, capture_output=True, check=True).stdout


# Kept files


@pytest.mark.parametrize("way", ["layers", "images"])
async def test_a_fork_has_all_that_its_parent_wrote(
    bench: Bench, spec: SandboxSpec, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "images":
        monkeypatch.setattr(docker_sandbox, "can_stand_on_layers", lambda *places: False)
    parent = await bench.start(spec)
    await bench.run(parent, "rm /etc/os-release; mkdir -p /opt/d; echo old > /opt/d/file")
    kept = await parent.keep_files("s", 1 << 30)
    assert (kept.layers[0].image_id != "") is (way == "images")
    await bench.run(parent, "echo new > /opt/d/file")
    fork = await bench.start(replace(spec, snapshot="s"))
    said = await bench.run(fork, "cat /opt/d/file; ls /etc/os-release || echo gone")
    assert said.stdout == "old\ngone\n"
    await bench.run(fork, "rm -r /opt/d; mkdir /opt/d; touch /opt/d/mine")
    await fork.keep_files("t", 1 << 30)
    again = await bench.start(replace(spec, snapshot="t"))
    assert (await bench.run(again, "ls -A /opt/d")).stdout == "mine\n"
    assert (await bench.run(again, "hostname; cat /etc/hosts | wc -l")).stdout.splitlines()[1:]
    for sandbox in (parent, fork):
        await sandbox.aclose()
    for name in ("s", "t"):
        await bench.launcher.discard_files(name)
    await bench.run(again, "touch /opt/d/more")
    await again.aclose()
    assert bench.launcher.kept_bytes() == 0
    assert await bench.launcher.engine.labelled_images(bench.launcher._labels) == []
    folder = bench.launcher.store.folder
    assert not folder.exists() or not list(folder.iterdir())


async def test_without_cgroups_the_engine_holds_a_container_still(
    make_bench: Callable[..., Bench], spec: SandboxSpec
) -> None:
    bench = make_bench(direct=False)
    parent = await bench.start(spec)
    await bench.run(parent, "echo data > /workspace/file")
    await parent.keep_files("s", 1 << 30)
    fork = await bench.start(replace(spec, snapshot="s"))
    assert (await bench.run(fork, "cat /workspace/file")).stdout == "data\n"
    assert (await bench.run(parent, "echo goes on")).stdout == "goes on\n"
    await bench.launcher.aclose()


async def test_the_next_server_removes_what_was_kept(
    make_bench: Callable[..., Bench], spec: SandboxSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_bench()
    sandbox = await first.start(spec)
    await sandbox.keep_files("s", 1 << 30)
    monkeypatch.setattr(docker_sandbox, "can_stand_on_layers", lambda *places: False)
    await sandbox.keep_files("t", 1 << 30)
    await sandbox.aclose()
    second = make_bench()
    await second.launcher.reap()
    assert not list(second.launcher.store.folder.iterdir())
    labels = second.launcher._labels
    assert await second.launcher.engine.labelled_images(labels) == []
    await first.launcher.engine.aclose()
    await second.launcher.aclose()


def test_a_container_of_another_kind_is_not_put_on_layers(tmp_path: Path) -> None:
    upper = tmp_path / "overlay2/abc/diff"
    upper.mkdir(parents=True)
    assert not docker_layers.can_stand_on_layers("", tmp_path)
    assert not docker_layers.can_stand_on_layers(str(upper), tmp_path)
    lower = upper.parent / "lower"
    lower.write_text("l/ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert docker_layers.can_stand_on_layers(str(upper), tmp_path)
    assert not docker_layers.can_stand_on_layers(str(upper), tmp_path / "a:b")
    lower.write_text("something else")
    with pytest.raises(PermanentError, match="unknown way"):
        docker_layers.stand_on(str(upper), ())
    with pytest.raises(PermanentError, match="did not put"):
        docker_layers.check_stands_on(os.getpid(), [Layer(SandboxFolder(tmp_path, "l-none"), 0)])
