"""Checks of what clients send, each with a sentence that says what is right.

Only pure checks of numbers and text live here, with the limits that only the server knows. Each raises InvalidRequest with the field's path and
returns the checked value; what a value means is decided in `convert` and behind it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from ..errors import InvalidRequest, TooLarge
from ..limits import (
    ID_CHARACTERS_MAX,
    ID_PATTERN,
    ID_RULE,
    SIZE_BYTES_MAX,
    STDIN_BYTES_MAX,
    TIME_S_MAX,
)
from ..scheduler.model import EFFICIENCY_MIN

AMOUNT_VALUES_MAX = 1024
"""Entries of a set of amounts or of an elasticity table: the scheduler walks them per pass."""
LABELS_MAX = 64
"""Of one action: they are copied to each and shown together."""
LABEL_KEY_CHARACTERS_MAX = 128
"""A name, with a prefix such as a company's domain."""
LABEL_VALUE_CHARACTERS_MAX = 1024
"""A sentence or a path; what is longer is data, and belongs in a file."""
TEXT_CHARACTERS_MAX = 256
"""Of a group, an image, a user: names that are shown and compared."""
PATH_BYTES_MAX = 4095
"""Linux' PATH_MAX without the final NUL."""
ARGUMENT_BYTES_MAX = 131_071
"""Linux' MAX_ARG_STRLEN without the final NUL: one argument or variable of a command."""
COMMAND_BYTES_MAX = 1_900_000
"""Arguments and environment together, below Linux' 2 MiB with room for the sandbox's own."""
SHELL_WORDS_MAX = 16
"""Of a trajectory's shell, which is a program with a few options."""
HEADERS_MAX = 128
"""Of one HTTP request: servers commonly take a hundred."""
HEADER_BYTES_MAX = 16_384
"""Of one header's value: a long token fits, and servers commonly take no more."""
URL_CHARACTERS_MAX = 8192
"""What servers commonly take in a request's first line."""

_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,254}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,31}(:[A-Za-z0-9_][A-Za-z0-9._-]{0,31})?")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


def identifier(value: str, field: str) -> str:
    """An id that a client may choose (`limits.ID_RULE`)."""
    if ID_PATTERN.fullmatch(value):
        return value
    if not value:
        raise InvalidRequest(
            f"{field} is missing: give an id of 1-{ID_CHARACTERS_MAX} characters", field=field
        )
    raise InvalidRequest(f"{field} {_shown(value)} is not an id: use {ID_RULE}", field=field)


def task_name(value: str) -> str:
    """A task's name; an empty one is the task `default`."""
    return identifier(value, "task") if value else "default"


def integer(value: int, field: str, low: int, high: int, unit: str = "") -> int:
    """An integer of [low, high]."""
    if low <= value <= high:
        return value
    unit = f" {unit}" if unit else ""
    raise InvalidRequest(f"{field} must be {low} to {high}{unit}, not {value}", field=field)


def size(value: int, field: str) -> int | None:
    """Bytes; 0 means the default and becomes None."""
    return integer(value, field, 0, SIZE_BYTES_MAX, "bytes") or None


def seconds(value: float, field: str) -> float:
    """A time span: finite, above 0, at most 30 days."""
    if 0 < value <= TIME_S_MAX:
        return value
    raise InvalidRequest(
        f"{field} must be above 0 and at most {TIME_S_MAX:.0f} seconds (30 days), not {value:g}",
        field=field,
    )


def seconds_or_zero(value: float, field: str) -> float:
    """A time span for which 0 means: do not wait."""
    return value if value == 0 else seconds(value, field)


def at_least(value: float, field: str, low: float) -> float:
    """A number that may not be smaller than `low`."""
    if value >= low:
        return value
    raise InvalidRequest(f"{field} must be at least {low:g}, not {value:g}", field=field)


def efficiency(value: float, field: str) -> float:
    """Of several units: at least EFFICIENCY_MIN, at most 1."""
    if EFFICIENCY_MIN <= value <= 1:
        return value
    raise InvalidRequest(
        f"{field} must be from {EFFICIENCY_MIN:g} to 1, not {value:g}", field=field
    )


def share(value: float, field: str) -> float:
    """A part of a whole: from 0 to 1."""
    if 0 <= value <= 1:
        return value
    raise InvalidRequest(f"{field} must be from 0 to 1, not {value:g}", field=field)


def text(value: str, field: str, limit: int = TEXT_CHARACTERS_MAX) -> str:
    """A short name that is shown on one line."""
    if len(value) <= limit and (not value or value.isprintable()):
        return value
    if len(value) > limit:
        raise InvalidRequest(
            f"{field} has {len(value)} characters, the limit is {limit}", field=field
        )
    raise InvalidRequest(f"{field} must be printable text on one line", field=field)


def labels(values: Mapping[str, str], field: str = "labels") -> dict[str, str]:
    if not values:
        return {}
    if len(values) > LABELS_MAX:
        raise InvalidRequest(f"{field} has {len(values)}, the limit is {LABELS_MAX}", field=field)
    for key, value in values.items():
        if not key:
            raise InvalidRequest(f"{field} has an empty key: name it", field=field)
        text(key, f"{field} key", LABEL_KEY_CHARACTERS_MAX)
        text(value, f"{field}[{_shown(key)}]", LABEL_VALUE_CHARACTERS_MAX)
    return dict(values)


def path(value: str, field: str, *, absolute: bool = False) -> str:
    """A path inside a sandbox. What it leads to is the sandbox's to judge."""
    if not value:
        return value
    no_nul(value, field)
    if len(value.encode()) > PATH_BYTES_MAX:
        raise InvalidRequest(f"{field} is longer than {PATH_BYTES_MAX} bytes", field=field)
    if absolute and not value.startswith("/"):
        raise InvalidRequest(
            f"{field} must be absolute, such as /workspace, not {_shown(value)}", field=field
        )
    return value


def no_nul(value: str, field: str) -> str:
    if "\0" in value:
        raise InvalidRequest(f"{field} contains a NUL byte: remove it", field=field)
    return value


def argv(values: Iterable[str], field: str) -> tuple[str, ...]:
    """The words of a command; the first names the program."""
    words = tuple(values)
    if words and not words[0]:
        raise InvalidRequest(
            f"{field}[0] is empty: it must name a program or its path", field=f"{field}[0]"
        )
    for word in words:
        if "\0" in word:
            index = words.index(word)
            no_nul(word, f"{field}[{index}]")
    return words


def environment(values: Mapping[str, str], field: str) -> dict[str, str]:
    for name, value in values.items():
        if not name or "=" in name or "\0" in name:
            raise InvalidRequest(
                f"{field} has a variable named {_shown(name)}: a name is not empty and has "
                "neither '=' nor a NUL byte",
                field=field,
            )
        no_nul(value, f"{field}[{_shown(name)}]")
    return dict(values)


def command_size(words: Iterable[str], env: Mapping[str, str], field: str) -> None:
    """Refuse what no Linux could start: E2BIG from far away helps nobody."""
    total = 0
    for what in (*words, *(f"{name}={value}" for name, value in env.items())):
        length = len(what.encode())
        total += length + 1
        if length > ARGUMENT_BYTES_MAX:
            raise TooLarge(
                f"{field} has an argument or variable of {length} bytes, Linux takes "
                f"{ARGUMENT_BYTES_MAX}: pass it by stdin or in a file",
                field=field,
            )
    if total > COMMAND_BYTES_MAX:
        raise TooLarge(
            f"{field} has {total} bytes of arguments and environment, the limit is "
            f"{COMMAND_BYTES_MAX}: pass them by stdin or in a file",
            field=field,
        )


def stdin(value: bytes, field: str) -> bytes:
    """What a command reads."""
    if len(value) <= STDIN_BYTES_MAX:
        return value
    raise TooLarge(
        f"{field} has {len(value)} bytes, the limit is {STDIN_BYTES_MAX >> 20} MiB: write a file "
        "and read that",
        field=field,
    )


def user(value: str, field: str) -> str:
    if not value or _USER.fullmatch(value):
        return value
    raise InvalidRequest(
        f"{field} must be a user name or number, with :group if wanted, not {_shown(value)}",
        field=field,
    )


def image(value: str, field: str) -> str:
    if not value or _IMAGE.fullmatch(value):
        return value
    raise InvalidRequest(
        f"{field} must be an image reference such as python:3.11-slim, not {_shown(value)}",
        field=field,
    )


def url(value: str, field: str) -> str:
    """An absolute http or https URL."""
    if len(value) > URL_CHARACTERS_MAX:
        raise InvalidRequest(f"{field} is longer than {URL_CHARACTERS_MAX} characters", field=field)
    try:
        parts = urlsplit(value)
        proper = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, an unclosed bracket
        proper = False
    if not proper or not value.isprintable() or " " in value:
        raise InvalidRequest(
            f"{field} must be an absolute http:// or https:// URL, not {_shown(value)}", field=field
        )
    return value


def method(value: str, field: str) -> str:
    """An HTTP method; empty means POST."""
    if not value:
        return "POST"
    if not _TOKEN.fullmatch(value):
        raise InvalidRequest(
            f"{field} must be an HTTP method such as POST, not {_shown(value)}", field=field
        )
    return value.upper()


def headers(values: Mapping[str, str], field: str) -> dict[str, str]:
    if len(values) > HEADERS_MAX:
        raise InvalidRequest(f"{field} has {len(values)}, the limit is {HEADERS_MAX}", field=field)
    for name, value in values.items():
        if not _TOKEN.fullmatch(name):
            raise InvalidRequest(
                f"{field} has {_shown(name)}, which is not a header name", field=field
            )
        if len(value) > HEADER_BYTES_MAX or not _HEADER_VALUE.fullmatch(value):
            raise InvalidRequest(
                f"{field}[{name}] must be one line of latin-1 text of at most "
                f"{HEADER_BYTES_MAX} characters",
                field=field,
            )
    return dict(values)


def _shown(value: str) -> str:
    """As it goes into a message: quoted, escaped, short."""
    return repr(value) if len(value) <= 80 else f"{value[:80]!r}..."
