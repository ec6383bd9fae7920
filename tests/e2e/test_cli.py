"""The commands as a user runs them: processes against a real server with bubblewrap sandboxes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.servers import ServerProcess
from tests.waiting import until_now

TANGRAM = (sys.executable, "-m", "tangram.cli")
DEADLINE_S = 30.0


def processes_with(marker: str) -> list[int]:
    """The pids of all processes on this machine with `marker` among their arguments, but for the
    commands that asked for it."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        if marker in arguments and "tangram.cli" not in arguments:
            found.append(process.pid)
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that these tests have for themselves, to see that it is empty."""
    process = ServerProcess(tmp_path_factory.mktemp("server"))
    yield process.address
    process.stop()


def tangram(
    server: str, *arguments: str, stdin: bytes = b"", timeout_s: float = DEADLINE_S
) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "TANGRAM_SERVER": server}
    return subprocess.run(
        [*TANGRAM, *arguments],
        check=False,
        input=stdin,
        capture_output=True,
        timeout=timeout_s,
        env=environment,
    )


def tangram_json(server: str, *arguments: str) -> Any:
    done = tangram(server, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def only_status(server: str) -> dict[str, Any]:
    return dict(tangram_json(server, "status"))


def is_empty(server: str) -> bool:
    status = only_status(server)
    return all(
        not node["cores"]["granted"] and not any(node["sandboxes"].values())
        for node in status["nodes"]
    )


def test_run_hands_through_output_bytes_and_exit_code(server: str) -> None:
    script = r"printf '\377out'; printf err >&2; exit 7"
    done = tangram(server, "run", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"\xffout", b"err")


def test_run_needs_no_dashes_before_a_command_with_options(server: str) -> None:
    done = tangram(server, "run", "sh", "-c", "echo $0 $1", "-e", "--json")
    assert (done.returncode, done.stdout) == (0, b"-e --json\n")


@pytest.mark.parametrize(
    ("options", "command", "code"),
    [
        ((), ("sh", "-c", "kill -TERM $$"), 128 + 15),
        (("--timeout", "0.3"), ("sleep", "30"), 124),
        ((), ("/nowhere/at-all",), 127),
        ((), ("/etc/passwd",), 126),
        (("--cores", "100000"), ("true",), 125),
        (("--image", "no/such:image"), ("true",), 125),
    ],
)
def test_run_exits_with_a_code_that_says_what_happened(
    server: str, options: tuple[str, ...], command: tuple[str, ...], code: int
) -> None:
    done = tangram(server, "run", *options, "--", *command)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    if code in (124, 125):
        assert done.stderr.startswith(b"tangram: ")
        assert done.stderr.count(b"\n") == 1


def test_run_passes_environment_stdin_cores_and_files(server: str, tmp_path: Path) -> None:
    source = tmp_path / "given.txt"
    source.write_text("from here\n")
    done = tangram(
        server,
        "run",
        *("-e", "NAME=a b", "--stdin", "--upload", f"{source}:/workspace/taken.txt"),
        *("-w", "/tmp", "--cores", "1-2"),
        *(
            "--",
            "sh",
            "-c",
            'echo "$NAME"; cat; cat /workspace/taken.txt; pwd; nproc; echo {cores}',
        ),
        stdin=b"typed\n",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines() == ["a b", "typed", "from here", "/tmp", "1", "1"]


def test_run_json_is_alone_on_stdout_and_has_the_documented_keys(server: str) -> None:
    done = tangram(server, "run", "--json", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    document = json.loads(done.stdout)
    assert done.returncode == 3
    assert list(document) == [
        *("id", "state", "outcome", "reason", "exit_code", "stdout", "stderr", "truncated"),
        *("timing", "cores", "node"),
    ]
    assert (document["state"], document["outcome"]) == ("finished", "finished")
    assert (document["stdout"], document["stderr"]) == ("out\n", "err\n")
    timing = document["timing"]
    parts = timing["queue"] + timing["prepare"] + timing["run"] + timing["overhead"]
    assert parts == pytest.approx(timing["act"], abs=1e-6)
    assert timing["run"] > 0


def test_run_json_of_a_refused_action_has_the_same_keys_and_the_reason(server: str) -> None:
    done = tangram(server, "run", "--json", "--cores", "4096", "--", "true")
    document = json.loads(done.stdout)
    assert done.returncode == 125
    assert (document["state"], document["reason"]) == ("failed", "infeasible")
    assert document["exit_code"] is None


def test_output_arrives_while_the_command_runs(server: str) -> None:
    command = [*TANGRAM, "run", "--server", server, "--", "sh", "-c", "echo first; sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_an_interrupted_run_leaves_nothing_running(
    server: str, number: signal.Signals, code: int
) -> None:
    marker = str(500_000 + os.getpid() + number)
    script = f"setsid sleep {marker} & echo up; sleep {marker}"
    command = [*TANGRAM, "run", "--server", server, "--", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        until_now(lambda: len(processes_with(marker)) == 2)
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == code
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    assert processes_with(marker) == []
    assert is_empty(server)


def test_status_shows_the_pool_as_table_and_as_json(server: str) -> None:
    document = only_status(server)
    assert {"version", "nodes", "quotas", "queues", "tasks"} <= set(document)
    (node,) = document["nodes"]
    assert node["launcher"] == "bubblewrap"
    assert node["cores"]["total"] == node["cores"]["granted"] + node["cores"]["free"]
    assert set(node["limits"].values()) <= {"hard", "soft"}
    table = tangram(server, "status").stdout.decode()
    assert node["name"] in table
    assert "bubblewrap" in table


def test_top_prints_once_where_stdout_is_no_terminal(server: str) -> None:
    done = tangram(server, "top")
    assert done.returncode == 0, done.stderr
    assert "cores" in done.stdout.decode()
    assert b"\x1b" not in done.stdout


def test_an_ended_action_can_be_explained_and_its_output_read_again(server: str) -> None:
    ended = json.loads(
        tangram(server, "run", "--json", "--", "sh", "-c", "echo o; echo e >&2").stdout
    )
    explained = tangram_json(server, "explain", ended["id"])
    assert (explained["id"], explained["state"]) == (ended["id"], "finished")
    assert "run" in [span["part"] for span in explained["spans"]]
    assert explained["history"]
    text = tangram(server, "explain", ended["id"]).stdout.decode()
    assert "timeline" in text
    assert ended["id"] in text
    logs = tangram(server, "logs", ended["id"])
    assert (logs.returncode, logs.stdout, logs.stderr) == (0, b"o\n", b"e\n")


@pytest.mark.parametrize("by", ["action", "task"])
def test_cancel_ends_a_running_action(server: str, by: str) -> None:
    task = f"cancel-by-{by}-{os.getpid()}"
    marker = str(700_000 + os.getpid() + len(by))
    command = [*TANGRAM, "run", "--server", server, "--task", task, "--json", "--"]
    with subprocess.Popen([*command, "sleep", marker], stdout=subprocess.PIPE) as process:
        until_now(lambda: processes_with(marker))
        running = [entry for entry in only_status(server)["actions"] if entry["task"] == task]
        selector = ["--task", task] if by == "task" else [running[0]["id"]]
        cancelled = tangram_json(server, "cancel", *selector)
        assert cancelled == {"cancelled": [running[0]["id"]]}
        assert process.stdout is not None
        document = json.loads(process.stdout.read())
        assert process.wait(DEADLINE_S) == 125
    assert (document["state"], document["reason"]) == ("cancelled", "cancelled")
    assert processes_with(marker) == []


def test_cancel_without_a_selector_or_a_match_says_so(server: str) -> None:
    bare = tangram(server, "cancel")
    assert (bare.returncode, bare.stderr[:9]) == (1, b"tangram: ")
    nothing = tangram(server, "cancel", "--task", "nobody")
    assert nothing.returncode == 1
    assert b"nothing to cancel" in nothing.stderr


@pytest.mark.parametrize("command", [("explain", "no-such-id"), ("logs", "no-such-id")])
def test_an_unknown_action_is_one_clear_line(server: str, command: tuple[str, ...]) -> None:
    done = tangram(server, *command)
    assert done.returncode == 1
    assert done.stderr.startswith(b"tangram: ")
    assert b"no-such-id" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("command", "code"),
    [(("status",), 1), (("top",), 1), (("run", "--", "true"), 125), (("cancel", "x"), 1)],
)
def test_without_a_server_the_error_names_the_address_and_the_cure(
    command: tuple[str, ...], code: int
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        done = tangram(address, *command)
    assert done.returncode == code
    assert address.encode() in done.stderr
    assert b"tangram serve" in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_second_server_on_the_same_port_says_so(server: str) -> None:
    done = tangram(server, "serve", "--listen", server, "--http", "127.0.0.1:0")
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.startswith(b"tangram: ")
    assert server.rpartition(":")[2].encode() in done.stderr


def test_serve_check_accepts_a_right_file_and_names_the_wrong_key(tmp_path: Path) -> None:
    right = tmp_path / "right.yaml"
    right.write_text("quotas:\n  search:\n    concurrency: 4\n")
    done = tangram("", "serve", "--check", "--config", str(right))
    assert done.returncode == 0, done.stderr
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("quota:\n  search:\n    concurrency: 4\n")
    done = tangram("", "serve", "--check", "--config", str(wrong))
    assert done.returncode == 1
    assert done.stderr.startswith(b"tangram: ")
    assert b"quotas" in done.stderr
    assert b"Traceback" not in done.stderr


def test_doctor_says_which_launchers_work_and_the_cure_of_the_others() -> None:
    done = tangram("", "doctor", "--json")
    document = json.loads(done.stdout)
    launchers = {report["launcher"]: report for report in document["launchers"]}
    assert launchers["bubblewrap"]["works"] is True
    assert set(launchers["bubblewrap"]["limits"].values()) <= {"hard", "soft"}
    for report in launchers.values():
        broken = [check for check in report["checks"] if not check["ok"]]
        assert report["works"] is not bool(broken)
        assert all(check["cure"] for check in broken)
    table = tangram("", "doctor").stdout.decode()
    assert "bubblewrap" in table
