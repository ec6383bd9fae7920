"""Edits of a text and how they are shown to a model. Pure: no file is read or written here.

Lines end at "\\n" alone, so that whatever else a file has, carriage returns as well, stays as it is.
"""

from __future__ import annotations

from .schemas import ToolError

CONTEXT_LINES = 4
"""Shown before and behind an edit."""


def numbered(text: str, first: int, last: int) -> str:
    """Lines `first` to `last` (counted from 1), each behind its number, as `cat -n` does."""
    lines = text.split("\n")[first - 1 : last]
    return "\n".join(f"{first + index:6}\t{line}" for index, line in enumerate(lines))


def line_count(text: str) -> int:
    """A newline at the end ends the last line, and begins none."""
    return text.count("\n") + (0 if text.endswith("\n") or not text else 1)


def viewed(text: str, view_range: list[int] | None) -> str:
    """The whole text or a range of lines, numbered. Raises ToolError."""
    count = line_count(text)
    if view_range is None:
        return numbered(text, 1, count) if count else "(the file is empty)"
    if len(view_range) != 2:
        raise ToolError("view_range must have two numbers: the first and the last line")
    first, last = view_range
    last = count if last == -1 else last
    if not 1 <= first <= last:
        raise ToolError(
            f"view_range {view_range} must begin at 1 or later and not end before it begins"
        )
    if first > count:
        raise ToolError(f"view_range {view_range} begins behind the last line: there are {count}")
    return numbered(text, first, min(last, count))


def replaced(text: str, old: str, new: str) -> tuple[str, str]:
    """The text with its only `old` replaced, and the lines around it. Raises ToolError."""
    if not old:
        raise ToolError("old_str is empty: give the text to replace, or use insert")
    places = _places(text, old)
    if not places:
        raise ToolError("old_str was not found: it must match exactly, whitespace included")
    if len(places) > 1:
        lines = ", ".join(str(text.count("\n", 0, place) + 1) for place in places)
        raise ToolError(
            f"old_str was found {len(places)} times, at lines {lines}: give more of what is around "
            "the right one"
        )
    start = places[0]
    edited = text[:start] + new + text[start + len(old) :]
    return edited, _around(edited, text.count("\n", 0, start) + 1, new.count("\n") + 1)


def inserted(text: str, line: int, new: str) -> tuple[str, str]:
    """The text with lines behind line `line`, and the lines around them. Raises ToolError."""
    count = line_count(text)
    if not 0 <= line <= count:
        raise ToolError(f"insert_line must be 0 to {count}, the number of lines, not {line}")
    new = new if new.endswith("\n") else new + "\n"
    lines = text.split("\n")
    before = "".join(f"{kept}\n" for kept in lines[:line])
    edited = before + new + "\n".join(lines[line:])
    if line == count and text and not text.endswith("\n"):
        edited = edited.removesuffix("\n")  # The file had no newline at its end: it gets none.
    return edited, _around(edited, line + 1, line_count(new))


def clipped(text: str, limit: int) -> str:
    """At most about `limit` characters: the head and the tail, and how much was cut between."""
    if len(text) <= limit:
        return text
    cut = len(text) - limit
    return f"{text[: limit // 2]}\n[... {cut} characters cut ...]\n{text[-(limit // 2) :]}"


def _places(text: str, part: str) -> list[int]:
    """Where it begins, overlapping ones as well: each would be a place to replace."""
    places, at = [], text.find(part)
    while at >= 0:
        places.append(at)
        at = text.find(part, at + 1)
    return places


def _around(text: str, first: int, count: int) -> str:
    start = max(1, first - CONTEXT_LINES)
    return numbered(text, start, min(line_count(text), first + count - 1 + CONTEXT_LINES))
