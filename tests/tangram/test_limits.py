"""The limits of the wire against each other and against what the managers behind them can take."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tangram.client import requests
from tangram.errors import InvalidRequest
from tangram.limits import (
    CONCURRENCY_MAX,
    ID_CHARACTERS_MAX,
    MESSAGE_BYTES_MAX,
    OUTPUT_BYTES_MAX,
    SIZE_BYTES_MAX,
    STDIN_BYTES_MAX,
)
from tangram.managers.cpu.sandbox.agent import commands, wire
from tangram.managers.quota.calls import REPLY_BYTES_MAX
from tangram.server import validate
from tangram.server.answers import ANSWER_OUTPUT_BYTES_MAX


def test_the_largest_command_fits_into_one_message_to_its_sandbox() -> None:
    rest = 4 * validate.PATH_BYTES_MAX  # Folder, user, names of fields.
    assert STDIN_BYTES_MAX + validate.COMMAND_BYTES_MAX + rest <= wire.MAX_FRAME


def test_an_agent_keeps_as_much_output_and_runs_as_many_commands_as_clients_may_ask_for() -> None:
    assert OUTPUT_BYTES_MAX <= wire.MAX_OUTPUT
    assert CONCURRENCY_MAX <= commands.MAX_ACTIONS


def test_the_largest_answers_fit_into_one_message() -> None:
    assert max(ANSWER_OUTPUT_BYTES_MAX, REPLY_BYTES_MAX) < MESSAGE_BYTES_MAX
    assert ANSWER_OUTPUT_BYTES_MAX >= OUTPUT_BYTES_MAX


@pytest.mark.parametrize(
    "text", ["a", "a" * ID_CHARACTERS_MAX, "x" * (ID_CHARACTERS_MAX + 1), "", "a b", "a\n", "ä"]
)
def test_client_and_server_take_and_refuse_the_same_ids(text: str) -> None:
    def refuses(check: Callable[[str, str], str]) -> bool:
        try:
            return check(text, "id") != text
        except InvalidRequest as error:
            assert error.field == "id"
            return True

    assert refuses(requests.identifier) == refuses(validate.identifier)


def test_a_size_beyond_any_node_is_refused_before_it_is_sent() -> None:
    assert requests.size("1024Ti", "memory") == SIZE_BYTES_MAX
    with pytest.raises(InvalidRequest, match="memory must be at most 1Pi, not '99999Ti'"):
        requests.size("99999Ti", "memory")
