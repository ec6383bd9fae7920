"""What every test gets: no network beyond this machine, and a Docker engine where one is asked for.

Tests marked `docker` run real containers, those marked `registry` pull from a real registry, those
marked `root` change users, mount or write control groups. Where that cannot be they are skipped,
saying why, unless TANGRAM_REQUIRE_DOCKER=1, TANGRAM_REQUIRE_REGISTRY=1 or TANGRAM_REQUIRE_ROOT=1, as
in CI: then they fail.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.image import build as images
from tests.image import variants

DEFAULT_SOCKET = "/var/run/docker.sock"
ENGINE_TIMEOUT_S = 5.0


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what it puts in the background with Ctrl-C ignored, which all children inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    needs: tuple[tuple[str, Callable[[], str]], ...] = (
        ("docker", _engine_problem),
        ("registry", _registry_problem),
        ("root", _root_problem),
    )
    for marker, find_problem in needs:
        if item.get_closest_marker(marker) is None or not (problem := find_problem()):
            continue
        required = f"TANGRAM_REQUIRE_{marker.upper()}"
        if os.environ.get(required) == "1":
            pytest.fail(f"{problem}, and {required}=1", pytrace=False)
        pytest.skip(f"{problem}; .ci/run has what it needs")


@pytest.fixture(scope="session")
def docker_image() -> str:
    """Root, a Python and the usual tools."""
    _build_images()
    return images.PLAIN


@pytest.fixture(scope="session")
def docker_user_image() -> str:
    """USER agent (uid 1000), WORKDIR /testbed, ENV GREETING=hello."""
    _build_images()
    return images.USER


@pytest.fixture(scope="session")
def docker_bare_image() -> str:
    """One static binary: no Python, no libc, no accounts."""
    _build_images()
    return images.BARE


@pytest.fixture(scope="session")
def docker_variants(docker_image: str) -> None:
    """The images of `tests.image.variants`."""
    variants.build()


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A connection that would leave this machine fails the test that tries it."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
            raise AssertionError(f"a test must not connect to {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    yield


def _root_problem() -> str:
    """Why no test for root can run here; "" if they can."""
    return "" if os.geteuid() == 0 else "these tests do not run as root"


def _registry_problem() -> str:
    """Why no registry can run here; "" if one can."""
    return "" if shutil.which("docker-registry") else "the program docker-registry is missing"


@functools.cache
def _engine_problem() -> str:
    """Why no Docker test can run here; "" if they can."""
    url = os.environ.get("DOCKER_HOST") or f"unix://{DEFAULT_SOCKET}"
    path = url.removeprefix("unix://")
    if path == url:
        return ""
    try:
        with socket.socket(socket.AF_UNIX) as trial:
            trial.settimeout(ENGINE_TIMEOUT_S)
            trial.connect(path)
    except OSError as problem:
        return f"no Docker engine answers at {path} ({problem.strerror})"
    if shutil.which("docker") is None:
        return "the docker command is missing, which builds the test images"
    return ""


@functools.cache
def _build_images() -> None:
    images.build()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", "")
