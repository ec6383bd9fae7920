"""The blocking SDK: the facade, its threads, its futures, Ctrl-C, and what a fork does to it.

The server runs in a process of its own, as a user's does; whatever forks or is interrupted, too.
"""

from __future__ import annotations

import inspect
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from pathlib import Path

import pytest

from tangram.client import AsyncClient, AsyncPermit, AsyncTrajectory, Client, Permit, Trajectory
from tangram.client.background import background
from tangram.errors import Cancelled, InvalidRequest, NotFound, TrajectoryClosed

WAIT_S = 20.0
"""Longest that a test waits for a condition; reached only when it fails."""

SERVER = """
import asyncio
from tangram.managers.config import QuotaConfig
from tangram.managers.fake import FakeManager
from tangram.testing import serve_fake

async def main():
    node = FakeManager(cores=4, memory_bytes=1 << 40)
    async with serve_fake(manager=node, quotas={"one": QuotaConfig(concurrency=1)}) as address:
        print(address, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@contextmanager
def script(source: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs `source`; killed at the end if it still runs."""
    # Newer Pythons warn of every fork with threads, which is what is tried here.
    warnings = ["-W", "error", "-W", "ignore:This process"]
    command = [sys.executable, *warnings, "-c", source, *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with script(SERVER) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


@pytest.fixture
def client(server: str) -> Iterator[Client]:
    with Client(server, task="job") as client:
        yield client


@pytest.fixture
def trajectory(client: Client) -> Iterator[Trajectory]:
    with client.trajectory(concurrency=256) as trajectory:
        yield trajectory


def until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up_at, "the condition did not come true"
        threading.Event().wait(0.002)


def state(client: Client, action: str) -> str:
    try:
        return client.get(action).state
    except NotFound:
        return "unknown"


# The facade


def parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    """What it takes. A trajectory is of each client's own kind."""
    return [
        parameter.replace(annotation=str(parameter.annotation).replace("AsyncTraj", "Traj"))
        for parameter in inspect.signature(function).parameters.values()
    ]


FOR_THIS_PACKAGE = {"run_action"}


@pytest.mark.parametrize(
    ("blocking", "twin"),
    [(Client, AsyncClient), (Trajectory, AsyncTrajectory), (Permit, AsyncPermit)],
)
def test_every_method_takes_what_its_asynchronous_twin_takes(blocking: type, twin: type) -> None:
    names = [
        name
        for name, _ in inspect.getmembers(blocking, inspect.isfunction)
        if not name.startswith("_") and name != "submit"
    ]
    assert len(names) >= 3
    ours = {name for name, _ in inspect.getmembers(twin, inspect.isfunction) if name[0] != "_"}
    assert ours - FOR_THIS_PACKAGE == set(names)
    for name in names:
        assert parameters(getattr(blocking, name)) == parameters(getattr(twin, name)), name


def test_a_trajectory_runs_commands_and_keeps_files(client: Client, tmp_path: Path) -> None:
    with client.trajectory() as trajectory:
        assert trajectory.wait_ready().state == "ready"
        result = trajectory.exec(["echo", "hello"], check=True)
        assert (result.stdout, result.ok) == ("hello\n", True)
        trajectory.write_file("a.txt", "text")
        assert trajectory.read_text("a.txt") == "text" == trajectory.read_file("a.txt").decode()
        assert trajectory.stat("a.txt").size == 4
        assert [file.name for file in trajectory.list_files()] == ["a.txt"]
        assert trajectory.download("a.txt", tmp_path / "b.txt").files == 1
        assert trajectory.upload(tmp_path / "b.txt", "c.txt").size == 4
        assert client.attach(trajectory.id).read_text("c.txt") == "text"
    with pytest.raises(TrajectoryClosed):
        trajectory.exec(["true"])


def test_the_pool_can_be_looked_at(client: Client, trajectory: Trajectory) -> None:
    trajectory.exec(["true"], id="looked-at")
    assert client.get("looked-at").state == "finished"
    assert client.explain("looked-at").action.id == "looked-at"
    assert [action.id for action in client.list(trajectory=trajectory.id)] == ["looked-at"]
    assert client.status().nodes[0].cores.total == 4


def test_output_and_status_can_be_followed(client: Client, trajectory: Trajectory) -> None:
    assert trajectory.open().id == trajectory.id
    trajectory.exec("echo one; echo two", id="followed")
    assert b"".join(data for _, data in client.output("followed", follow=True)) == b"one\ntwo\n"
    with pytest.raises(NotFound):
        next(client.output("nobody"))
    statuses = client.watch(0.1)
    assert [next(statuses).version for _ in range(2)]
    del statuses


def test_permits_are_held_within_the_block(client: Client) -> None:
    with client.quota("one") as permit:
        assert permit.timing is not None
        assert state(client, permit.action_id) == "running"
    assert state(client, permit.action_id) == "finished"
    with client.quota("one") as permit:
        permit.report(retry_after=0.01)
        assert state(client, permit.action_id) == "finished"


def test_live_output_comes_on_the_background_thread(trajectory: Trajectory) -> None:
    seen: list[tuple[str, bytes, str]] = []
    trajectory.exec(
        ["echo", "one"],
        on_output=lambda *piece: seen.append((*piece, threading.current_thread().name)),
    )
    assert seen == [("stdout", b"one\n", "tangram-client")]


def test_a_blocking_call_on_the_background_thread_is_refused(trajectory: Trajectory) -> None:
    def on_output(stream: str, data: bytes) -> None:
        trajectory.exec(["true"])

    with pytest.raises(RuntimeError, match="would wait for itself"):
        trajectory.exec(["echo", "one"], on_output=on_output)


def test_errors_are_those_of_the_asynchronous_client(trajectory: Trajectory) -> None:
    with pytest.raises(InvalidRequest, match="cores"):
        trajectory.exec(["true"], cores=0)


def test_many_threads_use_one_client(trajectory: Trajectory) -> None:
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda n: trajectory.exec(["echo", str(n)]), range(64)))
    assert [result.stdout for result in results] == [f"{n}\n" for n in range(64)]


def test_the_way_through_the_thread_is_short() -> None:
    # 0.07 ms where this was written; a no-op action takes 2 ms, of which this may be a tenth.
    async def nothing() -> None: ...

    def once() -> float:
        began = time.perf_counter()
        background().run(nothing())
        return time.perf_counter() - began

    assert min(once() for _ in range(200)) < 0.3e-3


# Futures


def test_submit_takes_no_thread_and_answers_with_a_future(
    client: Client, trajectory: Trajectory
) -> None:
    before = threading.active_count()
    futures = [client.submit(trajectory.exec, ["echo", str(n)]) for n in range(200)]
    assert threading.active_count() == before
    assert not wait(futures, timeout=WAIT_S).not_done
    assert [future.result().stdout for future in futures] == [f"{n}\n" for n in range(200)]
    assert client.submit(client.status).result(WAIT_S).version


def test_a_failed_call_is_the_exception_of_its_future(
    client: Client, trajectory: Trajectory
) -> None:
    assert isinstance(client.submit(client.get, "nobody").exception(WAIT_S), NotFound)
    refused = client.submit(trajectory.exec, []).exception(WAIT_S)
    assert isinstance(refused, InvalidRequest)


def test_cancelling_a_future_cancels_its_action(client: Client, trajectory: Trajectory) -> None:
    future = client.submit(trajectory.exec, ["spin"], id="future")
    until(lambda: state(client, "future") == "running")
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result()
    until(lambda: state(client, "future") == "cancelled")


def test_a_cancelled_future_is_told_to_those_who_wait_for_it(
    client: Client, trajectory: Trajectory
) -> None:
    running = client.submit(trajectory.exec, ["spin"], id="waited-for")
    until(lambda: state(client, "waited-for") == "running")
    # The loop is held up, so that this one is cancelled before it has started.
    held_up = threading.Event()
    background().loop.call_soon_threadsafe(held_up.wait, WAIT_S)
    unstarted = client.submit(trajectory.exec, ["true"])
    assert unstarted.cancel() and running.cancel()
    held_up.set()
    assert not wait([running, unstarted], timeout=WAIT_S).not_done
    assert set(as_completed([running, unstarted], timeout=WAIT_S)) == {running, unstarted}


def test_an_action_that_is_cancelled_elsewhere_raises_cancelled(
    client: Client, trajectory: Trajectory
) -> None:
    future = client.submit(trajectory.exec, ["spin"], id="elsewhere")
    until(lambda: state(client, "elsewhere") == "running")
    assert client.cancel(action="elsewhere") == ["elsewhere"]
    assert isinstance(future.exception(WAIT_S), Cancelled)
    assert trajectory.cancel() == []


def test_submit_refuses_what_it_cannot_run_without_a_thread(client: Client) -> None:
    functions: list[Callable[..., object]] = [print, client.trajectory, client.output, lambda: None]
    for function in functions:
        with pytest.raises(InvalidRequest, match="ThreadPoolExecutor"):
            client.submit(function)


# Other processes


def test_clients_and_trajectories_pickle_to_address_task_and_id(
    client: Client, trajectory: Trajectory
) -> None:
    trajectory.write_file("shared", "text")
    copy: Trajectory = pickle.loads(pickle.dumps(trajectory))
    assert copy.read_text("shared") == "text"
    other: Client = pickle.loads(pickle.dumps(client))
    assert (other.server, other.task) == (client.server, "job")


FORKS = """
import os, signal, sys
from tangram.client import Client

client = Client(sys.argv[1], task="job")
trajectory = client.trajectory(concurrency=256)
assert trajectory.exec(["echo", "parent"]).stdout == "parent\\n"
for busy in [False] * 5 + [True] * 5:
    futures = [client.submit(trajectory.exec, ["sleep", "0.05"]) for _ in range(20 * busy)]
    child = os.fork()
    if not child:
        signal.alarm(15)
        ok = trajectory.exec(["echo", "child"]).stdout == "child\\n"
        os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0, "the child could not use the client"
    assert all(future.result().ok for future in futures)
trajectory.close()
print("done", flush=True)
"""

MULTIPROCESSING = """
import multiprocessing, sys
from tangram.client import Client

def work(trajectory, answers):
    answers.put(trajectory.exec(["echo", "child"]).stdout)

if __name__ == "__main__":
    with Client(sys.argv[1], task="job") as client, client.trajectory(concurrency=8) as trajectory:
        assert trajectory.exec(["true"]).ok
        for method in ("fork", "spawn"):
            context = multiprocessing.get_context(method)
            answers = context.SimpleQueue()
            process = context.Process(target=work, args=(trajectory, answers))
            process.start()
            assert answers.get() == "child\\n"
            process.join()
            assert process.exitcode == 0
        assert trajectory.exec(["true"]).ok
    print("done", flush=True)
"""

INTERRUPTED = """
import sys
from tangram.client import Client

with Client(sys.argv[1], task="job") as client, client.trajectory(id="interrupted") as trajectory:
    print("running", flush=True)
    try:
        trajectory.exec(["spin"], id="spin")
    except KeyboardInterrupt:
        print(client.get("spin").state, flush=True)
"""


def test_a_forked_child_and_its_parent_both_go_on_using_the_client(server: str) -> None:
    with script(FORKS, server) as process:
        output, _ = process.communicate(timeout=WAIT_S * 2)
    assert (output, process.returncode) == ("done\n", 0)


def test_worker_processes_use_the_trajectory_of_their_parent(server: str, tmp_path: Path) -> None:
    # Spawned workers import the script, so that it has to be a file.
    path = tmp_path / "workers.py"
    path.write_text(MULTIPROCESSING)
    done = subprocess.run(
        [sys.executable, path, server],
        check=False,
        capture_output=True,
        text=True,
        timeout=WAIT_S * 2,
    )
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


def test_ctrl_c_cancels_the_action_before_it_is_raised(client: Client, server: str) -> None:
    with script(INTERRUPTED, server) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        until(lambda: state(client, "spin") == "running")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=WAIT_S)
    assert (output, process.returncode) == ("cancelled\n", 0)
