"""The managers' settings: what they accept, what they refuse, and that the refusal says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from tangram.managers import config
from tangram.managers.config import NodeConfig, QuotaConfig, SandboxConfig
from tangram.managers.periods import parse_period

PLACES = {"instance": "tangram-7070", "state": Path("/s"), "runtime": Path("/r")}


def node(**settings: Any) -> NodeConfig:
    return NodeConfig.model_validate({**PLACES, **settings})


def test_the_defaults_are_those_of_the_documentation() -> None:
    sandbox = SandboxConfig()
    assert (sandbox.memory, sandbox.disk, sandbox.shm) == (1 << 30, 10 << 30, 64 << 20)
    assert (sandbox.pids, sandbox.network, sandbox.output_limit) == (512, "none", 1 << 20)
    assert (node().launcher, node().orphan_after, node().memory) == ("auto", 60.0, None)


def test_sizes_are_bytes_or_text() -> None:
    assert node(memory="400Gi", disk=10**12).memory == 400 << 30
    assert SandboxConfig.model_validate({"memory": "512Mi"}).memory == 512 << 20


@pytest.mark.parametrize("size", ["much", "-1Gi", -1, 0, True, 1.5, None, "1Xi"])
def test_what_is_no_size_is_refused_with_the_right_form(size: Any) -> None:
    with pytest.raises(ValidationError, match="size"):
        SandboxConfig.model_validate({"memory": size})


@pytest.mark.parametrize(
    ("text", "period_s"), [("1m", 60.0), ("90", 90.0), ("1.5h", 5400.0), (2, 2.0), ("250 ms", 0.25)]
)
def test_periods_are_seconds_or_text(text: object, period_s: float) -> None:
    assert parse_period(text) == period_s


@pytest.mark.parametrize("period", ["minute", "1w", "", 0, -1, True, "inf", float("nan"), 1e12])
def test_what_is_no_period_is_refused(period: Any) -> None:
    with pytest.raises(ValidationError):
        QuotaConfig.model_validate({"rate": 1, "period": period})


def test_a_quota_collects_all_its_windows() -> None:
    quota = QuotaConfig.model_validate(
        {"rate": 60, "period": "1m", "windows": [{"rate": 1000, "period": "1d"}]}
    )
    assert quota.all_windows == ((60, 60.0), (1000, 86400.0))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "needs concurrency, or rate and period"),
        ({"rate": 5}, "rate and period belong together"),
        ({"period": 5}, "rate and period belong together"),
        ({"concurrency": 0}, "greater than 0"),
        ({"concurrency": 2.5}, "valid integer"),
        ({"concurency": 2}, "Extra inputs are not permitted"),
        ({"windows": [{"rate": 1}]}, "windows.0.period"),
    ],
)
def test_a_quota_that_limits_nothing_or_half_is_refused(
    settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValidationError, match=says):
        QuotaConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"launcher": "podman"}, "launcher"),
        ({"launcher": "process"}, "unsafe: true"),
        ({"reserved_cores": -1}, "reserved_cores"),
        ({"sandbox": {"pids": 3}}, "sandbox.pids"),
        ({"sandbox": {"network": "host"}}, "sandbox.network"),
        ({"sandbox": {"default": {}}}, "sandbox.default"),
        ({"name": "../up"}, "name"),
        ({"orphan_after": 0}, "orphan_after"),
        ({"core": "0-3"}, "core"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_path(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        node(**settings)


def test_the_unsafe_launcher_may_be_chosen_in_so_many_words() -> None:
    assert node(launcher="process", unsafe=True).launcher == "process"


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        node().cores = "0"


def test_every_setting_is_documented() -> None:
    models = [m for m in vars(config).values() if isinstance(m, type) and issubclass(m, BaseModel)]
    undocumented = [
        f"{model.__name__}.{name}"
        for model in models
        for name, field in model.model_fields.items()
        if not field.description
    ]
    assert len(models) > 5
    assert undocumented == []
