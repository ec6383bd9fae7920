"""Images from a password-protected registry, through a real server, its SDK and its commands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tangram import Client
from tangram.errors import NotFound
from tests.e2e.servers import ServerProcess
from tests.image import build
from tests.managers.registry.process import PASSWORD, USERNAME, Registry

pytestmark = [pytest.mark.docker, pytest.mark.registry]


@pytest.fixture(scope="module")
def registry(
    tmp_path_factory: pytest.TempPathFactory, docker_bare_image: str
) -> Iterator[Registry]:
    registry = Registry(tmp_path_factory.mktemp("registry"))
    yield registry
    registry.stop()


@pytest.fixture
def server(
    registry: Registry, tmp_path: Path, serve: Callable[..., ServerProcess]
) -> ServerProcess:
    (tmp_path / "password").write_text(PASSWORD)
    account = {"username": USERNAME, "password_file": str(tmp_path / "password")}
    settings = {"registries": {registry.host: account}, "pulls": {"concurrency": 2}}
    # A sandbox that stands ready uses its image too.
    return serve({**settings, "warm": {"max": 0}})


def _tangram(server: ServerProcess, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tangram.cli", *words, "--server", server.address]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _push(registry: Registry, name: str) -> tuple[str, str]:
    digest = registry.push_copy(build.BARE, name, change=f"LABEL name={name}")
    return f"{registry.host}/{name}", digest


def test_a_trajectory_gets_its_image_and_tells_which_it_is(
    server: ServerProcess, registry: Registry
) -> None:
    image, digest = _push(registry, "swe/one:v1")
    with Client(server.address, task="coding") as client:
        with client.trajectory(image) as trajectory:
            result = trajectory.exec("echo ran")
            assert result.stdout == "ran\n"
            assert trajectory.wait_ready().image_digest == digest
            assert result.timing.prepare > 0
            [found] = [i for i in client.images() if i.name == image]
            assert (found.in_use, found.digest, found.pulled) == (1, digest, True)
        with pytest.raises(NotFound, match="manifest unknown"):
            client.trajectory(f"{image}-none")


def test_the_next_images_are_brought_by_a_command(
    server: ServerProcess, registry: Registry, tmp_path: Path
) -> None:
    names = [_push(registry, f"swe/next-{n}:v1")[0] for n in range(3)]
    (tmp_path / "epoch.txt").write_text("# the next epoch\n" + "\n".join(names[:2]) + "\n\n")
    done = _tangram(server, "images", "prefetch", str(tmp_path / "epoch.txt"), names[2], "--wait")
    assert (done.returncode, done.stderr) == (0, ""), done
    listed = _tangram(server, "images", "--json")
    images = {image["name"]: image for image in json.loads(listed.stdout)["images"]}
    assert all(
        (images[name]["state"], images[name]["pinned"]) == ("present", True) for name in names
    )
    table = _tangram(server, "images").stdout
    assert "pinned" in table
    failed = _tangram(server, "images", "prefetch", f"{names[0]}-none", "--wait")
    assert failed.returncode == 1
    assert "manifest unknown" in failed.stderr
    nothing = tmp_path / "empty.txt"
    nothing.write_text("# none\n")
    refused = _tangram(server, "images", "prefetch", str(nothing))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "no image is named" in refused.stderr


def test_a_server_of_bubblewrap_alone_says_that_it_pulls_nothing(
    serve: Callable[..., ServerProcess],
) -> None:
    listed = _tangram(serve({"launcher": "bubblewrap"}), "images")
    assert listed.returncode == 1
    assert "pulls no images; set launcher to auto or docker" in listed.stderr
