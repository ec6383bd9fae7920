"""The tools of coding agents: edits of texts, what a model may call, and the tools over a fake node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tangram import AsyncClient, Client
from tangram.client import AsyncTrajectory
from tangram.errors import Lost, TrajectoryClosed
from tangram.testing import serve_fake
from tangram.tools import AsyncCodingTools, CodingTools
from tangram.tools.schemas import TOOLS, ToolError, checked
from tangram.tools.text import clipped, inserted, numbered, replaced, viewed

FILE = "one\ntwo\nthree\n"
LINES = st.lists(
    st.text(st.characters(exclude_characters="\n"), min_size=1, max_size=5), max_size=8
)

# Texts


def test_a_text_is_shown_with_the_numbers_of_its_lines() -> None:
    assert viewed(FILE, None) == "     1\tone\n     2\ttwo\n     3\tthree"
    assert viewed(FILE, [2, 2]) == "     2\ttwo"
    assert viewed(FILE, [2, -1]) == "     2\ttwo\n     3\tthree"
    assert viewed(FILE, [3, 99]) == "     3\tthree"
    assert viewed("no newline", None) == "     1\tno newline"
    assert viewed("", None) == "(the file is empty)"


@pytest.mark.parametrize("view_range", [[1], [0, 2], [3, 2], [4, 5], [1, 2, 3], [2, -2]])
def test_a_range_that_is_none_is_refused(view_range: list[int]) -> None:
    with pytest.raises(ToolError, match="view_range"):
        viewed(FILE, view_range)


def test_a_replacement_must_match_exactly_one_place() -> None:
    edited, around = replaced(FILE, "two\nthree", "2\n3")
    assert edited == "one\n2\n3\n"
    assert around == "     1\tone\n     2\t2\n     3\t3"
    with pytest.raises(ToolError, match="not found"):
        replaced(FILE, "two ", "2")
    with pytest.raises(ToolError, match="found 2 times, at lines 1, 2"):
        replaced("on\non\n", "on", "x")
    with pytest.raises(ToolError, match="found 2 times"):
        replaced("aaa", "aa", "b")
    with pytest.raises(ToolError, match="empty"):
        replaced(FILE, "", "x")


def test_line_ends_of_other_systems_stay() -> None:
    assert replaced("a\r\nb\r\n", "b", "c")[0] == "a\r\nc\r\n"
    assert inserted("a\r\nb\r\n", 1, "x")[0] == "a\r\nx\nb\r\n"


@given(LINES, LINES.filter(bool), st.booleans(), st.data())
def test_inserted_lines_stand_where_they_were_put(
    lines: list[str], new: list[str], ends: bool, data: st.DataObject
) -> None:
    text = "\n".join(lines) + ("\n" if ends and lines else "")
    at = data.draw(st.integers(0, len(lines)))
    edited, _ = inserted(text, at, "\n".join(new))
    assert edited.removesuffix("\n").split("\n") == lines[:at] + new + lines[at:]
    assert edited.endswith("\n") == (text.endswith("\n") or not text)
    for wrong in (-1, len(lines) + 1):
        with pytest.raises(ToolError, match="insert_line"):
            inserted(text, wrong, "x")


@given(st.text(min_size=1), st.text(min_size=1), st.text())
def test_a_replacement_changes_nothing_else(before: str, old: str, after: str) -> None:
    text = before + old + after
    try:
        edited, _ = replaced(text, old, "\x00new")
    except ToolError:
        assert text.count(old) > 1 or text.find(old) != text.rfind(old)
        return
    start = text.index(old)
    assert edited == text[:start] + "\x00new" + text[start + len(old) :]


def test_a_long_answer_keeps_head_and_tail() -> None:
    assert clipped("short", 100) == "short"
    cut = clipped("a" * 500 + "z" * 500, 100)
    assert cut.startswith("a" * 50)
    assert cut.endswith("z" * 50)
    assert "900 characters cut" in cut


def test_numbers_are_as_wide_as_those_of_cat() -> None:
    assert numbered("x\ny", 2, 2) == "     2\ty"


# What a model may call


def test_schemas_are_what_openai_takes() -> None:
    for name, tool in TOOLS.items():
        assert tool["type"] == "function"
        function = tool["function"]
        assert function["name"] == name
        parameters = function["parameters"]
        assert set(parameters["required"]) <= set(parameters["properties"])
        assert json.loads(json.dumps(tool)) == tool


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("shell", {}, "there is no tool 'shell': the tools are bash, str_replace_editor, finish"),
        ("bash", "{not json", "no valid JSON"),
        ("bash", "[1]", "must be a JSON object"),
        ("bash", {"comand": "ls"}, "no argument 'comand'"),
        ("bash", {"command": 7}, "'command' must be of type string"),
        ("bash", {"timeout": True}, "'timeout' must be of type number"),
        ("bash", {"restart": 1}, "'restart' must be of type boolean"),
        ("str_replace_editor", {"command": "view"}, "needs the argument 'path'"),
        ("str_replace_editor", {"command": "cut", "path": "/x"}, "must be one of view, create"),
        (
            "str_replace_editor",
            {"command": "view", "path": "/x", "view_range": ["1", "2"]},
            "array of integers",
        ),
    ],
)
def test_a_wrong_call_is_answered_with_what_is_right(
    name: str, arguments: dict[str, Any] | str, said: str
) -> None:
    with pytest.raises(ToolError, match=said.replace("[", "\\[")):
        checked(name, arguments)


def test_arguments_come_as_text_or_as_a_mapping_and_null_is_nothing() -> None:
    assert checked("bash", '{"command": "ls", "timeout": null}') == {"command": "ls"}
    assert checked("finish", "") == {}


# Over a node


@pytest.fixture
async def trajectory() -> AsyncIterator[AsyncTrajectory]:
    async with (
        serve_fake(cores=2) as address,
        AsyncClient(address) as client,
        client.trajectory() as opened,
    ):
        yield opened


@pytest.fixture
def tools(trajectory: AsyncTrajectory) -> AsyncCodingTools:
    return AsyncCodingTools(trajectory)


async def edit(tools: AsyncCodingTools, command: str, path: str, **given: Any) -> str:
    return await tools.call("str_replace_editor", {"command": command, "path": path, **given})


async def test_bash_remembers_and_tells_how_it_ended(tools: AsyncCodingTools) -> None:
    assert await tools.call("bash", {"command": "cd /tmp"}) == "[no output]"
    assert await tools.call("bash", '{"command": "pwd; false"}') == "/tmp\n[exit code 1]"
    assert await tools.call("bash", {"restart": True}) == "the shell was restarted"
    assert await tools.call("bash", {"command": "pwd"}) == "/workspace"
    late = await tools.call("bash", {"command": "echo begun; spin", "timeout": 0.05})
    assert late == "begun\n[interrupted after 0.05 s, with all that it had started]"
    limit = await tools.call("bash", {"command": "exceed memory"})
    assert limit == "[ended by a limit of the sandbox: out of memory]"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "needs the argument 'command'"),
        ({"command": "ls", "restart": True}, "either command or restart"),
        ({"command": "ls", "timeout": 1e9}, "timeout must be above 0 and at most 1800 seconds"),
        ({"command": "echo \0"}, "NUL"),
    ],
)
async def test_mistakes_with_bash_are_told_to_the_model(
    tools: AsyncCodingTools, arguments: dict[str, Any], said: str
) -> None:
    answer = await tools.call("bash", arguments)
    assert answer.startswith("error: ")
    assert said in answer


async def test_a_file_is_created_edited_and_taken_back(
    tools: AsyncCodingTools, trajectory: AsyncTrajectory
) -> None:
    path = "/workspace/src/main.py"
    assert await edit(tools, "create", path, file_text=FILE) == f"{path} was created"
    assert "     2\t2" in await edit(tools, "str_replace", path, old_str="two", new_str="2")
    assert "     1\tzero" in await edit(tools, "insert", path, insert_line=0, new_str="zero")
    assert await edit(tools, "view", path, view_range=[1, 2]) == "     1\tzero\n     2\tone"
    assert await trajectory.read_text(path) == "zero\none\n2\nthree\n"
    for _ in range(2):
        assert "taken back" in await edit(tools, "undo_edit", path)
    assert await trajectory.read_text(path) == FILE
    assert "error: there is no edit" in await edit(tools, "undo_edit", path)
    assert await edit(tools, "view", "/workspace") == "src/\nsrc/main.py"


async def test_an_edit_keeps_the_mode_of_the_file(
    tools: AsyncCodingTools, trajectory: AsyncTrajectory
) -> None:
    await trajectory.write_file("run.sh", "echo one\n", mode=0o755)
    await edit(tools, "str_replace", "/workspace/run.sh", old_str="one", new_str="two")
    assert (await trajectory.stat("run.sh")).mode == 0o755


async def test_mistakes_with_files_are_told_to_the_model(
    tools: AsyncCodingTools, trajectory: AsyncTrajectory
) -> None:
    await trajectory.write_file("text", FILE)
    await trajectory.write_file("binary", b"\xff\xfe")
    await trajectory.exec(["link", "text", "/workspace/link"])
    cases: list[tuple[tuple[str, str], dict[str, Any], str]] = [
        (("view", "/workspace/none"), {}, "ENOENT"),
        (("view", "text"), {}, "absolute, such as /workspace/text"),
        (("view", "/workspace/binary"), {}, "no UTF-8 text"),
        (("view", "/workspace/link"), {}, "is a link to text"),
        (("insert", "/workspace"), {"insert_line": 1, "new_str": "x"}, "no file but a directory"),
        (("create", "/workspace/text"), {"file_text": "x"}, "exists already"),
        (("create", "/workspace/new"), {}, "create needs the argument 'file_text'"),
        (("insert", "/workspace/text"), {"new_str": "x"}, "needs the argument 'insert_line'"),
        (("view", "/workspace/text"), {"old_str": "x"}, "view takes no argument 'old_str'"),
        (("str_replace", "/workspace/text"), {"old_str": "e", "new_str": ""}, "found 3 times"),
    ]
    for (command, path), given_, said in cases:
        answer = await edit(tools, command, path, **given_)
        assert answer.startswith("error: "), (command, path)
        assert said in answer
    assert await trajectory.read_text("text") == FILE


async def test_after_finish_nothing_is_done(tools: AsyncCodingTools) -> None:
    assert not tools.finished
    assert await tools.call("finish", {"message": "all tests pass"}) == "finished"
    assert (tools.finished, tools.answer) == (True, "all tests pass")
    assert (await tools.call("bash", {"command": "ls"})).startswith("error: the task was finished")


async def test_what_is_not_the_models_fault_is_raised(
    tools: AsyncCodingTools, trajectory: AsyncTrajectory
) -> None:
    await trajectory.close()
    with pytest.raises((TrajectoryClosed, Lost)):
        await tools.call("bash", {"command": "ls"})
    with pytest.raises((TrajectoryClosed, Lost)):
        await edit(tools, "view", "/workspace")


async def test_blocking_code_has_the_same_tools() -> None:
    def work(address: str) -> None:
        with Client(address) as client, client.trajectory() as trajectory:
            tools = CodingTools(trajectory, max_characters=60)
            assert [tool["function"]["name"] for tool in tools.schemas()] == list(TOOLS)
            assert tools.call("bash", '{"command": "echo hi"}') == "hi"
            assert "cut ...]" in tools.call("bash", {"command": "emit 1000"})
            assert tools.call("finish", {"message": "done"}) == "finished"
            assert (tools.finished, tools.answer) == (True, "done")

    async with serve_fake(cores=2) as address:
        await asyncio.to_thread(work, address)
