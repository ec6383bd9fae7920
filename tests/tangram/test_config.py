"""The server's configuration: what it accepts, and that every mistake is named with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tangram.config import ServerConfig, load_config, split_address
from tangram.errors import InvalidRequest


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tangram.yaml"


def refusal(file: Path, text: str) -> str:
    file.write_text(text)
    with pytest.raises(InvalidRequest) as raised:
        load_config(file)
    return str(raised.value).replace(str(file), "F")


def test_no_file_at_all_works() -> None:
    config = load_config()
    assert config == ServerConfig()
    assert config.listen_address == ("127.0.0.1", 7070)
    node = config.node_config(7070, Path("/s"), Path("/r"))
    assert (node.instance, node.launcher, node.state) == ("7070", "auto", Path("/s"))


def test_every_key_of_the_documentation_is_understood(file: Path) -> None:
    file.write_text(
        """
listen: 0.0.0.0:8080
http: "[::1]:8081"
state: /var/lib/tangram
launcher: docker
cores: 0-62
memory: 400Gi
disk: 1Ti
reserved_cores: 2
sandbox: {memory: 2Gi, pids: 256, disk: 20Gi, shm: 128Mi, network: egress, output_limit: 2Mi}
images: {base: /images/base}
quotas:
  search: {concurrency: 4}
  judge: {rate: 60, period: 1m}
queue: {max_actions: 1000, max_bytes: 64Mi}
scheduler:
  policy: fixed:4
  order: fair-share
  weights: {coding: 2}
  limits: {coding: {cores: 8, "quota:search": 2}, "*": {cores: 32}}
tenants:
  lab: {tasks: [coding, maths]}
  guests: {tasks: [trial]}
lease: 120
detach_grace: 5
orphan_after: 30
"""
    )
    config = load_config(file)
    assert config.http_address == ("::1", 8081)
    assert (config.memory, config.queue.max_bytes) == (400 << 30, 64 << 20)
    assert config.quotas["judge"].all_windows == ((60, 60.0),)
    rules = config.scheduler
    assert (rules.policy, rules.order, rules.weights) == ("fixed:4", "fair-share", {"coding": 2.0})
    assert rules.limits == {"coding": {"cores": 8, "quota:search": 2}, "*": {"cores": 32}}
    assert config.task_tenants == {"coding": "lab", "maths": "lab", "trial": "guests"}
    node = config.node_config(8080, Path("/s"), Path("/r"))
    assert (node.cores, node.sandbox.memory, node.orphan_after) == ("0-62", 2 << 30, 30.0)


def test_options_win_over_the_file_and_none_is_no_option(file: Path) -> None:
    file.write_text("listen: 127.0.0.1:1\nlauncher: docker\n")
    config = load_config(file, {"listen": "127.0.0.1:2", "launcher": None})
    assert (config.listen, config.launcher) == ("127.0.0.1:2", "docker")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lissten: x", "F:1: lissten: unknown key; did you mean listen?"),
        (
            "launcher: auto\nsandbox:\n  memroy: 1Gi\n",
            "F:3: sandbox.memroy: unknown key; did you mean memory?",
        ),
        (
            "quotas:\n  q:\n    concurrency: 1\n    perod: 1m\n",
            "F:4: quotas.q.perod: unknown key; did you mean period?",
        ),
        ("tenants:\n  lab: {}\n", "F:2: tenants.lab.tasks: Field required"),
        ("tenants: {lab: {tasks: []}}", "tenants.lab.tasks: List should have at least 1 item"),
        ("tenants: {lab: {task: [a]}}", "tenants.lab.task: unknown key; did you mean tasks?"),
        (
            "tenants: {lab: {tasks: [a]}, guests: {tasks: [b, a]}}",
            "tenants.guests.tasks: 'a' is a task of 'lab' already",
        ),
        ("tenants: {lab: {tasks: [lab]}}", "tenants.lab.tasks: 'lab' is a tenant's name too"),
        ("services: []", "does not have GPU services: remove this key"),
        ("launcher: lxc", "F:1: launcher: Input should be 'auto', 'bubblewrap', 'docker'"),
        ("listen: 7070", "F:1: listen:"),
        ("listen: localhost", "is not HOST:PORT, such as 127.0.0.1:7070"),
        ("http: 127.0.0.1:99999", "is not HOST:PORT"),
        ("memory: much", "F:1: memory: 'much' is not a size"),
        ("lease: -1", "F:1: lease: Input should be greater than 0"),
        ("queue:\n  max_actions: 0\n", "F:2: queue.max_actions:"),
        ("quotas: {q: {rate: 1}}", "F:1: quotas.q: rate and period belong together"),
        (
            "scheduler:\n  policy: elstic\n",
            "F:2: scheduler.policy: unknown policy 'elstic'; known are fcfs, fixed:N",
        ),
        ("scheduler: {policy: unlimited}", "'unlimited' is for simulations alone"),
        (
            "scheduler: {order: 'priority:ageing=-1'}",
            "F:1: scheduler.order: order 'priority:ageing=-1': seconds above 0",
        ),
        ("scheduler:\n  weights: {a: 0}\n", "F:2: scheduler.weights.a: Input should be greater"),
        (
            "scheduler:\n  limits:\n    a: {core: 3}\n",
            "F:3: scheduler.limits.a.core: limits are of cores or of quota:NAME, not of 'core'",
        ),
        ("scheduler: {limits: {a: {cores: 0}}}", "scheduler.limits.a.cores: Input should be"),
        (
            "quotas: {search: {concurrency: 1}}\nscheduler: {limits: {a: {'quota:serch': 1}}}",
            "scheduler.limits.a.quota:serch: no such quota; known: search",
        ),
        ("scheduler: {polcy: fcfs}", "scheduler.polcy: unknown key; did you mean policy?"),
        ("launcher: process", "write `unsafe: true`"),
        ("lease: 1\nlease: 2\n", "F:2: lease: given twice"),
        ("- a\n- b\n", "F:1: a configuration is a mapping"),
        ("a: [", "is no YAML"),
    ],
)
def test_a_mistake_is_named_with_file_line_key_and_cure(
    file: Path, text: str, message: str
) -> None:
    assert message in refusal(file, text)


def test_all_mistakes_are_told_at_once(file: Path) -> None:
    lines = refusal(file, "lisetn: x\nlease: no\n").splitlines()
    assert [line.split(": ")[0] for line in sorted(lines)] == ["F:1", "F:2"]


def test_a_mistake_in_an_option_is_not_blamed_on_the_file(file: Path) -> None:
    file.write_text("lease: 1\n")
    with pytest.raises(InvalidRequest, match=r"^options: memory: 'much' is not a size"):
        load_config(file, {"memory": "much"})


def test_a_file_that_is_missing_or_no_text_is_named(file: Path) -> None:
    with pytest.raises(InvalidRequest, match="No such file"):
        load_config(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidRequest, match="UTF-8"):
        load_config(file)


@pytest.mark.parametrize("address", ["[::1]:0", "localhost:80", "10.0.0.1:65535"])
def test_addresses_are_split(address: str) -> None:
    host, port = split_address(address)
    assert host and 0 <= port <= 65_535 and "[" not in host
