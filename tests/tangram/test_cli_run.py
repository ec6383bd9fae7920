"""`tangram run`: what it refuses before a sandbox starts, and what it sends."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tangram.cli import app
from tangram.cli.run import Order, execute
from tangram.cli.terminal import EXIT_TANGRAM_FAILED
from tangram.errors import InvalidRequest
from tangram.testing import serve_fake


def test_an_upload_that_does_not_exist_is_refused_without_a_server(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    command = ["run", "--server", "127.0.0.1:1", "--upload", f"{missing}:/x", "--", "true"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == EXIT_TANGRAM_FAILED
    assert f"{missing} does not exist here" in result.output


def test_what_is_not_asked_for_is_left_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[Order] = []

    async def keep(order: Order, *_: object, **__: object) -> None:
        orders.append(order)
        raise InvalidRequest("seen")

    monkeypatch.setattr(import_module("tangram.cli.run"), "execute", keep)
    for options in ([], ["--memory", "32Mi", "--network", "egress"]):
        CliRunner().invoke(app, ["run", *options, "--", "true"])
    asked = [(order.trajectory["memory"], order.trajectory["network"]) for order in orders]
    assert asked == [(None, None), ("32Mi", "egress")]


async def test_an_upload_that_cannot_be_read_is_an_error_of_the_request(tmp_path: Path) -> None:
    # What was there a moment ago is gone when it is read.
    order = Order(["true"], {}, {}, [(str(tmp_path / "gone"), "/x")])
    async with serve_fake() as address:
        with pytest.raises(InvalidRequest, match=r"cannot read .*gone") as raised:
            await execute(order, address, "default", live=False)
    assert raised.value.field == "upload"
