"""What a model is told of the tools, in the form of OpenAI's function calling, and the check of what it
answers against that. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class ToolError(Exception):
    """The model's own mistake: `str()` is the answer to it."""


def _tool(
    name: str, description: str, properties: dict[str, Any], required: list[str]
) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


BASH = _tool(
    "bash",
    "Run a command in a bash shell that persists: the working directory, variables and background "
    "processes stay from call to call. The output of the command comes back, stdout and stderr as one. "
    "Commands cannot ask for input. A command that runs too long is interrupted; start servers in the "
    "background with & and redirect their output to a file.",
    {
        "command": {"type": "string", "description": "The command, which may have several lines."},
        "timeout": {
            "type": "number",
            "description": "Seconds after which the command is interrupted.",
        },
        "restart": {
            "type": "boolean",
            "description": "End the shell with all that was started in it; the next command gets a "
            "new one. Give no command with it.",
        },
    },
    [],
)
EDITOR = _tool(
    "str_replace_editor",
    "View, create and edit text files. `view` shows a file with line numbers, or lists a folder two "
    "levels deep. `create` makes a new file. `str_replace` replaces old_str, which must match exactly "
    "one place of the file, whitespace included, by new_str. `insert` puts new_str behind line "
    "insert_line. `undo_edit` takes back the last edit of the file.",
    {
        "command": {
            "type": "string",
            "enum": ["view", "create", "str_replace", "insert", "undo_edit"],
            "description": "What to do.",
        },
        "path": {
            "type": "string",
            "description": "The absolute path of a file or folder, such as /workspace/main.py.",
        },
        "file_text": {"type": "string", "description": "For create: the content of the file."},
        "old_str": {"type": "string", "description": "For str_replace: what to replace."},
        "new_str": {
            "type": "string",
            "description": "For str_replace: what to put there, nothing if it is not given. For "
            "insert: the lines to insert.",
        },
        "insert_line": {
            "type": "integer",
            "description": "For insert: the line behind which to insert; 0 is the file's beginning.",
        },
        "view_range": {
            "type": "array",
            "items": {"type": "integer"},
            "description": "For view of a file: the first and the last line to show; -1 as the last "
            "is the file's end.",
        },
    },
    ["command", "path"],
)
FINISH = _tool(
    "finish",
    "Say that the task is done, or cannot be done. Nothing can be done after it.",
    {"message": {"type": "string", "description": "What was done, or why it cannot be."}},
    [],
)
TOOLS = {tool["function"]["name"]: tool for tool in (BASH, EDITOR, FINISH)}

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "array": (list,),
}


def checked(name: str, arguments: Mapping[str, Any] | str) -> dict[str, Any]:
    """The arguments of a call, from a mapping or from JSON text, without those that are null. Raises
    ToolError for an unknown tool, and for what its schema does not allow."""
    if name not in TOOLS:
        raise ToolError(f"there is no tool {name!r}: the tools are {', '.join(TOOLS)}")
    given = _parsed(arguments)
    parameters = TOOLS[name]["function"]["parameters"]
    properties = parameters["properties"]
    found = {key: value for key, value in given.items() if value is not None}
    for key in parameters["required"]:
        if key not in found:
            raise ToolError(f"{name} needs the argument {key!r}")
    for key, value in found.items():
        if key not in properties:
            known = ", ".join(properties)
            raise ToolError(f"{name} has no argument {key!r}: its arguments are {known}")
        _check_value(name, key, value, properties[key])
    return found


def _parsed(arguments: Mapping[str, Any] | str) -> Mapping[str, Any]:
    if not isinstance(arguments, str):
        return arguments
    try:
        value = json.loads(arguments or "{}")
    except ValueError as error:
        raise ToolError(f"the arguments are no valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ToolError("the arguments must be a JSON object")
    return value


def _check_value(name: str, key: str, value: object, schema: Mapping[str, Any]) -> None:
    kind = schema["type"]
    is_right = isinstance(value, _TYPES[kind]) and isinstance(value, bool) == (kind == "boolean")
    if is_right and isinstance(value, list):
        is_right = all(type(item) is int for item in value)
    if not is_right:
        kind = "array of integers" if kind == "array" else kind
        raise ToolError(f"{name}: {key!r} must be of type {kind}")
    if "enum" in schema and value not in schema["enum"]:
        raise ToolError(f"{name}: {key!r} must be one of {', '.join(schema['enum'])}")
