"""The pure parts of images: names, progress, refusals, digests per task, eviction, shared work."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tangram.managers.config import PullConfig, RegistryConfig
from tangram.managers.cpu.images.eviction import DiskUse, Evictable, Watermarks, eviction_order
from tangram.managers.cpu.images.ledger import PREFETCH_PIN_S, Ledger
from tangram.managers.cpu.images.progress import PullProgress
from tangram.managers.cpu.images.reference import digest_among, parse
from tangram.managers.cpu.images.refusals import DiskFull, refusal
from tangram.managers.cpu.images.resolutions import KEPT_S, Resolutions, Resolved
from tangram.managers.cpu.images.retrying import TRIES_MAX, retrying
from tangram.managers.cpu.images.sharing import SharedWork
from tangram.managers.errors import PermanentError, TemporaryError, UnknownImage
from tests.waiting import until

DIGEST = f"sha256:{'a' * 64}"


# Names


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("python", "docker.io/library/python:latest"),
        ("team/app:v1", "docker.io/team/app:v1"),
        ("index.docker.io/library/python", "docker.io/library/python:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("reg.example:5000/a/b/c:v1", "reg.example:5000/a/b/c:v1"),
        (f"python:3.12@{DIGEST}", f"docker.io/library/python@{DIGEST}"),
    ],
)
def test_a_name_means_what_docker_means_by_it(name: str, wanted: str) -> None:
    assert parse(name).wanted == wanted


@pytest.mark.parametrize("name", ["", "Upper/Case", "a b", "x:" + "t" * 200, "a@sha256:short"])
def test_what_is_no_name_is_refused_with_it(name: str) -> None:
    with pytest.raises(ValueError, match="is no image reference"):
        parse(name)


def test_a_mirror_has_the_same_path_below_its_folder() -> None:
    hub = parse("python:3.12")
    assert hub.mirrored("mirror:5000").wanted == "mirror:5000/library/python:3.12"
    assert hub.mirrored("mirror/hub").wanted == "mirror/hub/library/python:3.12"


def test_an_images_digest_is_the_one_of_its_repository() -> None:
    names = ("other.example/x@sha256:1", "python@sha256:2")
    assert digest_among("docker.io/library/python", names) == "sha256:2"
    assert digest_among("far.example/python", names) == "sha256:1"
    assert digest_among("docker.io/library/python", ()) == ""


# Progress


def _layer(name: str, status: str, current: int = 0, total: int = 0) -> dict[str, Any]:
    return {"id": name, "status": status, "progressDetail": {"current": current, "total": total}}


def test_a_pull_of_two_layers_counts_their_bytes() -> None:
    progress = PullProgress()
    progress.feed({"id": "v1", "status": "Pulling from team/app"})
    assert progress.fraction is None
    progress.feed(_layer("a", "Pulling fs layer"))
    assert progress.fraction == 0.0
    progress.feed(_layer("a", "Downloading", 300, 300))
    progress.feed(_layer("b", "Downloading", 0, 100))
    assert progress.fraction == pytest.approx(0.7 * 0.75)
    for name in ("a", "b"):
        progress.feed(_layer(name, "Pull complete"))
    assert progress.fraction == 1.0


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from(
                ["Downloading", "Extracting", "Download complete", "Pull complete", "Waiting"]
            ),
            st.integers(0, 200),
            st.integers(0, 100),
        )
    )
)
def test_progress_stays_within_bounds_and_never_goes_back(messages: list[Any]) -> None:
    progress, before = PullProgress(), 0.0
    for name, status, current, total in messages:
        progress.feed(_layer(name, status, current, total))
        now = progress.fraction
        assert now is not None
        assert before <= now <= 1.0
        before = now


# Refusals


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (404, "manifest unknown: manifest unknown", UnknownImage),
        (500, "manifest for x:1 not found: manifest unknown", UnknownImage),
        (401, "unauthorized: authentication required", UnknownImage),
        (500, 'Head "http://h/v2/": no basic auth credentials', UnknownImage),
        (404, "pull access denied for x, repository does not exist", UnknownImage),
        (500, "dial tcp: lookup h on 10.0.0.1:53: no such host", UnknownImage),
        (500, "x509: certificate signed by unknown authority", UnknownImage),
        (429, "toomanyrequests: slow down", TemporaryError),
        (500, "error parsing HTTP 429 response body: invalid character", TemporaryError),
        (500, "received unexpected HTTP status: 503 Service Unavailable", TemporaryError),
        (500, "dial tcp 10.0.0.1:443: connect: connection refused", TemporaryError),
        (0, "write /var/lib/docker/tmp/x: no space left on device", DiskFull),
        (400, "invalid reference format", PermanentError),
    ],
)
def test_what_the_engine_says_is_understood(status: int, said: str, kind: type[Exception]) -> None:
    error = refusal(status, said, "x:1", parse("h.example/x:1"), "me")
    assert type(error) is kind
    assert said in str(error)


# Digests per task


def test_a_task_keeps_its_digest_for_as_long_as_it_is_used() -> None:
    resolutions = Resolutions()
    one, other = Resolved("x", "d1", ""), Resolved("x", "d2", "i2")
    assert resolutions.put("a", one, 0.0) == one
    assert resolutions.put("a", other, 1.0) == one
    assert resolutions.put("b", other, 1.0) == other
    here = Resolved("x", "d1", "i1")
    assert resolutions.put("a", here, 2.0) == here
    resolutions.hold("a", "x")
    assert resolutions.get("a", "x", 10 * KEPT_S) == here
    resolutions.let_go("a", "x", 20 * KEPT_S)
    assert resolutions.get("a", "x", 20.5 * KEPT_S) == here
    assert resolutions.get("a", "x", 22 * KEPT_S) is None


# Eviction


def test_the_longest_unused_go_first_and_those_that_are_needed_never() -> None:
    images = [
        Evictable("new", 3.0, 0, False),
        Evictable("old", 1.0, 0, False),
        Evictable("pinned", 0.0, 0, True),
        Evictable("used", 0.0, 1, False),
        Evictable("middle", 2.0, 0, False),
    ]
    assert eviction_order(images) == ["old", "middle", "new"]


def test_watermarks_are_shares_of_the_disk() -> None:
    marks = Watermarks(high=0.85, low=0.75)
    assert marks.exceeded(DiskUse(86, 100))
    assert not marks.exceeded(DiskUse(85, 100))
    assert marks.reached(DiskUse(75, 100))
    assert not marks.reached(DiskUse(76, 100))
    assert not marks.exceeded(DiskUse(0, 0))


# What was pulled


def test_the_ledger_survives_a_restart_and_pins_end(tmp_path: Path) -> None:
    now = [1000.0]
    ledger = Ledger(tmp_path / "state" / "images.json", lambda: now[0])
    ledger.add("i1", ["h/x@d", "h/x:v1"])
    ledger.add("i2", ["h/y@d"])
    ledger.pin("i1")
    ledger.remove("i2")
    later = Ledger(tmp_path / "state" / "images.json", lambda: now[0])
    assert [entry.image_id for entry in later] == ["i1"]
    assert later.prefetched("i1")
    now[0] += PREFETCH_PIN_S
    assert not later.prefetched("i1")
    later.pin("i1")
    later.use("i1")
    assert not later.prefetched("i1")


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"version": 99, "images": []})])
def test_a_ledger_that_cannot_be_read_lists_nothing(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "images.json").write_text(text)
    assert list(Ledger(tmp_path / "images.json")) == []
    assert "left aside" in caplog.text


# Tries


async def test_tries_end_and_none_comes_before_it_was_asked_for() -> None:
    pauses: list[float] = []
    told: list[str] = []

    async def pause(delay_s: float) -> None:
        pauses.append(delay_s)

    tries = 0
    with pytest.raises(TemporaryError, match="try 8"):
        async for attempt in retrying(pause, lambda error, delay_s: told.append(str(error))):
            with attempt:
                tries += 1
                raise TemporaryError(f"try {tries}", delay_s=30.0 if tries == 1 else 0.0)
    assert tries == TRIES_MAX
    assert len(pauses) == len(told) == TRIES_MAX - 1
    assert pauses[0] >= 30.0
    assert all(1.0 <= delay_s <= 60.0 for delay_s in pauses)


async def test_what_will_not_pass_is_not_tried_again() -> None:
    tries = 0
    with pytest.raises(UnknownImage):
        async for attempt in retrying(asyncio.sleep, lambda error, delay_s: None):
            with attempt:
                tries += 1
                raise UnknownImage("x", "gone")
    assert tries == 1


# Work that is shared


async def test_work_is_done_once_and_told_to_all() -> None:
    shared: SharedWork[int] = SharedWork()
    started, go_on = 0, asyncio.Event()

    async def work() -> int:
        nonlocal started
        started += 1
        await go_on.wait()
        return started

    joined = [asyncio.create_task(shared.join("k", work)) for _ in range(5)]
    await until(lambda: shared.waiters("k") == 5)
    joined[0].cancel()
    await asyncio.wait([joined[0]])
    go_on.set()
    assert await asyncio.gather(*joined[1:]) == [1] * 4
    assert await shared.join("k", work) == 2


async def test_work_ends_with_the_last_who_wants_it_and_a_newcomer_begins_anew() -> None:
    shared: SharedWork[str] = SharedWork()
    ended: list[str] = []

    async def work() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")
        return "never"

    async def at_once() -> str:
        return "anew"

    joined = [asyncio.create_task(shared.join("k", work)) for _ in range(2)]
    await until(lambda: shared.waiters("k") == 2)
    joined[0].cancel()
    await asyncio.wait([joined[0]])
    assert ended == []
    joined[1].cancel()
    await asyncio.wait([joined[1]])
    assert ended == ["ended"]
    assert await shared.join("k", at_once) == "anew"


# Settings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"username": "me"}, "belong together"),
        ({"password_file": "/x"}, "belong together"),
        ({"username": "me", "password_file": "/x", "auth_env": "A"}, "not both"),
        ({"auth_env": "not a name"}, "pattern"),
        ({"mirrors": ["https://mirror"]}, "pattern"),
    ],
)
def test_settings_of_a_registry_that_contradict_are_refused(
    settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        RegistryConfig(**settings)


def test_the_low_watermark_is_not_above_the_high() -> None:
    with pytest.raises(ValidationError, match="disk_low"):
        PullConfig(disk_high=0.5)
