"""A password-protected registry (Debian's docker-registry) in a process of its own, with images that
are made on the spot."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import tarfile
from itertools import count
from pathlib import Path

from tests.waiting import until_now

USERNAME = "trainer"
PASSWORD = "only for tests"
_HTPASSWD = "$2b$04$c/2nPnZIMkXnxLO4u8uKFOeiNjSgy3c.alqmPp4QYYJcwPBNRHSiG"
"""The same as htpasswd -B has it: bcrypt is in no standard library."""

_CONFIG = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}/images}}}}
http: {{addr: "127.0.0.1:{port}"}}
auth: {{htpasswd: {{realm: tests, path: {folder}/htpasswd}}}}
"""
_NUMBERS = count(1)
_TIMEOUT_S = 60


class Registry:
    """Started and answering. All of its images are gone from the engine after `stop`."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.logins = folder / "docker"
        """A folder for DOCKER_CONFIG, logged in."""
        self._hosts = {self.host}
        self._kept: list[str] = []
        (folder / "htpasswd").write_text(f"{USERNAME}:{_HTPASSWD}\n")
        (folder / "config.yml").write_text(_CONFIG.format(folder=folder, port=self.port))
        self.login(self.logins, self.host)
        with (folder / "messages").open("wb") as messages:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(folder / "config.yml")],
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,
            )
        until_now(self._answers)

    def login(self, folder: Path, host: str) -> None:
        """Write what `docker login` leaves."""
        folder.mkdir(exist_ok=True)
        auth = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
        (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))

    def serves_also(self, host: str) -> None:
        """Another name under which its images come to the engine."""
        self._hosts.add(host)

    def push(self, name: str, *, size_bytes: int = 1024) -> str:
        """A new image `NAME:TAG` of one random layer, in the registry and not on the engine any
        more; its digest."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            entry = tarfile.TarInfo(f"layer-{next(_NUMBERS)}")
            entry.size = size_bytes
            tar.addfile(entry, io.BytesIO(os.urandom(size_bytes)))
        image = docker("import", "-", stdin=archive.getvalue()).strip()
        return self.push_copy(image, name)

    def push_copy(self, image: str, name: str, *, change: str = "") -> str:
        """An image of the engine, in the registry as well, with a change (`LABEL a=b`) if one is
        given; its digest. What the engine knows under that name stays."""
        target = f"{self.host}/{name}"
        if change:
            container = docker("create", image, "true").strip()
            image = docker("commit", "-c", change, container).strip()
            docker("rm", container)
        before = docker("image", "inspect", "-f", "{{.Id}}", target, check=False).strip()
        docker("tag", image, target)
        docker("--config", str(self.logins), "push", "--quiet", target)
        names = docker("image", "inspect", "-f", '{{join .RepoDigests " "}}', target).split()
        repository = target.rpartition(":")[0]
        [digest] = {n.partition("@")[2] for n in names if n.startswith(f"{repository}@")}
        docker("rmi", "--force", target)
        docker("rmi", "--force", f"{repository}@{digest}", check=False)
        if before:
            docker("tag", before, target)
        return digest

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(_TIMEOUT_S)
        self.remove_images()

    def remove_images(self) -> None:
        """From the engine, every image with a name of this registry."""
        listed = docker("images", "--digests", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}")
        for line in listed.splitlines():
            repository, tag, digest = line.split()
            if not repository.startswith(tuple(f"{host}/" for host in self._hosts)):
                continue
            for name, mark in ((tag, ":"), (digest, "@")):
                if name != "<none>":
                    docker("rmi", "--force", f"{repository}{mark}{name}", check=False)

    def _answers(self) -> bool:
        assert self._process.poll() is None, "the registry ended"
        with socket.socket() as trial:
            return trial.connect_ex(("127.0.0.1", self.port)) == 0


def docker(*words: str, stdin: bytes | None = None, check: bool = True) -> str:
    done = subprocess.run(
        ["docker", *words], input=stdin, capture_output=True, timeout=_TIMEOUT_S, check=False
    )
    assert not check or not done.returncode, done.stderr.decode()
    return done.stdout.decode()


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])
