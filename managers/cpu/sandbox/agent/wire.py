"""What server and agent say to each other: the limits both know, and the codec of their messages.

A message is the list [kind, fields], encoded, behind its length in 4 bytes. What the kinds mean is said
where they are handled. Pure: no IO here.

There are two encodings, since the two sides do not trust each other alike. What a sandbox says is
read with a codec of our own that has None, bool, int, float, bytes, str, list and dict with str keys,
nothing executable, and that no bytes can hurt. What the server says is marshalled, ten times quicker:
an agent obeys whoever is at that end in any case.
"""

import _struct
import marshal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PROTOCOL = (2, 1)
"""Major, minor. Server and agent work one minor version apart."""

KIB = 1024
MIB = 1024 * KIB
MARSHAL_VERSION = 2
"""The newest that every Python reads alike which an agent may run on."""
MAX_FRAME = 4 * MIB
"""Bytes of one message: what a request may hold in argv, environment and stdin together."""
MAX_DEPTH = 8
"""Levels of lists and dicts in a message; our own have three."""
CHUNK = MIB
"""Bytes of a file in one message, and the largest piece of output in one."""
MAX_OUTPUT = 64 * MIB
"""Bytes kept of one stream at most, since they are kept in the sandbox's memory."""

_LENGTH = _struct.Struct(">I")
_SIZED = _struct.Struct(">cI")
_INT = _struct.Struct(">cq")
_FLOAT = _struct.Struct(">cd")
_CONSTANTS = {None: b"N", True: b"T", False: b"F"}
_CONSTANT_TAGS = {ord(tag): value for value, tag in _CONSTANTS.items()}
_SIZED_TAGS = b"sbld"
_STR, _BYTES, _, _DICT = _SIZED_TAGS
_INT_TAG, _FLOAT_TAG = b"if"
_read_length = _LENGTH.unpack_from
_FIGURES = _struct.Struct(">iiddqqqq?")


def encode(value: object) -> bytes:
    """The bytes of a value. Raises ValueError for one that has no encoding."""
    parts: "list[bytes]" = []
    _encode(value, parts, 0)
    return b"".join(parts)


def _encode(value: object, parts: "list[bytes]", depth: int) -> None:
    """What messages have most of comes first, compared by type: quicker than isinstance."""
    kind = type(value)
    if kind is int:
        try:
            parts.append(_INT.pack(b"i", value))
        except _struct.error:  # type: ignore[attr-defined]
            raise ValueError(f"{value} does not fit 64 bits") from None
    elif kind is str:
        parts.append(_encode_text(value))  # type: ignore[arg-type]
    elif kind is float:
        parts.append(_FLOAT.pack(b"f", value))
    elif value is None or kind is bool:
        parts.append(_CONSTANTS[value])  # type: ignore[index]
    elif isinstance(value, (bytes, bytearray)):
        parts.append(_SIZED.pack(b"b", len(value)))
        parts.append(bytes(value))
    elif isinstance(value, (dict, list, tuple)):
        _encode_items(value, parts, depth + 1)
    else:
        raise ValueError(f"{kind.__name__} has no encoding")


def _encode_text(text: str) -> bytes:
    data = text.encode()
    return _SIZED.pack(b"s", len(data)) + data


def _encode_items(
    items: "dict[str, object] | list[object] | tuple[object, ...]",
    parts: "list[bytes]",
    depth: int,
) -> None:
    if depth > MAX_DEPTH and items:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(items, dict):
        parts.append(_SIZED.pack(b"d", len(items)))
        for key, item in items.items():
            if not isinstance(key, str):
                raise ValueError(f"a key must be a str: {key!r}")  # noqa: TRY004
            parts.append(_encode_text(key))
            _encode(item, parts, depth)
    else:
        parts.append(_SIZED.pack(b"l", len(items)))
        for item in items:
            _encode(item, parts, depth)


def decode(data: bytes) -> object:
    """The value of exactly these bytes. Raises ValueError, and nothing else, for any other bytes."""
    try:
        value, end = _decode(data, 0, 0)
    except IndexError:
        raise ValueError("no value where one should be: cut off") from None
    except _struct.error:  # type: ignore[attr-defined]
        raise ValueError("cut off in a number") from None
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes follow the value")
    return value


def _decode(data: bytes, at: int, depth: int) -> "tuple[object, int]":
    """The value at a byte, and where it ends. What messages have most of comes first."""
    tag = data[at]
    if tag in _SIZED_TAGS:
        start = at + 5
        size: "int" = _read_length(data, at + 1)[0]
        # Every item takes a byte or more: a lying count is refused before anything is built.
        if start + size > len(data):
            raise ValueError(f"{size} bytes or items are announced, {len(data) - start} left")
        if tag == _STR:
            return data[start : start + size].decode(), start + size
        if tag == _BYTES:
            return data[start : start + size], start + size
        if depth == MAX_DEPTH and size:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        return (_decode_dict if tag == _DICT else _decode_list)(data, start, size, depth + 1)
    if tag in _CONSTANT_TAGS:
        return _CONSTANT_TAGS[tag], at + 1
    if tag == _INT_TAG:
        return _INT.unpack_from(data, at)[1], at + 9
    if tag == _FLOAT_TAG:
        return _FLOAT.unpack_from(data, at)[1], at + 9
    raise ValueError(f"no value at byte {at}")


def _decode_list(data: bytes, at: int, size: int, depth: int) -> "tuple[object, int]":
    items = []
    for _ in range(size):
        item, at = _decode(data, at, depth)
        items.append(item)
    return items, at


def _decode_dict(data: bytes, at: int, size: int, depth: int) -> "tuple[object, int]":
    fields: "dict[str, object]" = {}
    for _ in range(size):
        key, at = _decode(data, at, depth)
        if not isinstance(key, str) or key in fields:
            raise ValueError(f"{key!r} is no key, or there twice")
        fields[key], at = _decode(data, at, depth)
    return fields, at


def marshalled(data: bytes) -> object:
    """The value of a server's bytes. Raises ValueError for what is none."""
    try:
        return marshal.loads(data)
    except (EOFError, TypeError) as error:
        raise ValueError(f"not marshalled: {error}") from error


def pack_figures(
    exit_code: int,
    signal: "int | None",
    run_s: float,
    cpu_s: float,
    rss: int,
    stdout: int,
    stderr: int,
    survivors: int,
    reset: bool,
) -> bytes:
    """The numbers of a command's result as one value: apart they cost more than all of the rest."""
    return _FIGURES.pack(
        exit_code, signal or 0, run_s, cpu_s, rss, stdout, stderr, survivors, reset
    )


def unpack_figures(
    data: bytes,
) -> "tuple[int, int | None, float, float, int, int, int, int, bool]":
    """As `pack_figures` takes them. Raises ValueError for other bytes."""
    try:
        code, signal, run_s, cpu_s, rss, stdout, stderr, survivors, reset = _FIGURES.unpack(data)
    except _struct.error as error:  # type: ignore[attr-defined]
        raise ValueError(f"no figures of a result: {error}") from None
    return code, signal or None, run_s, cpu_s, rss, stdout, stderr, survivors, reset


def frame(kind: str, fields: "dict[str, object]") -> bytes:
    """What an agent says, ready to be sent. Raises ValueError if it is above MAX_FRAME bytes."""
    return _framed(encode([kind, fields]))


def request(kind: str, fields: "dict[str, object]") -> bytes:
    """What a server says, alike."""
    return _framed(marshal.dumps([kind, fields], MARSHAL_VERSION))


def _framed(body: bytes) -> bytes:
    if len(body) > MAX_FRAME:
        raise ValueError(f"a message of {len(body)} bytes; at most {MAX_FRAME}")
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts a byte stream into messages; `read` is `decode` at a server, `marshalled` at an agent."""

    def __init__(self, read: "Callable[[bytes], object]" = decode) -> None:
        self._read = read
        self._buffer = bytearray()

    def feed(self, data: bytes) -> "list[tuple[str, dict[str, object]]]":
        """The messages that are whole now, as (kind, fields). Raises ValueError if the stream is
        not one of messages; it cannot be read any further then."""
        buffer = self._buffer
        buffer += data
        messages = []
        start = 0
        while len(buffer) - start >= 4:
            size: "int" = _LENGTH.unpack_from(buffer, start)[0]
            if size > MAX_FRAME:
                raise ValueError(f"a message of {size} bytes; at most {MAX_FRAME}")
            end = start + 4 + size
            if len(buffer) < end:
                break
            messages.append(_as_message(self._read(bytes(buffer[start + 4 : end]))))
            start = end
        del buffer[:start]
        return messages


def _as_message(value: object) -> "tuple[str, dict[str, object]]":
    if isinstance(value, list) and len(value) == 2:
        kind, fields = value
        if isinstance(kind, str) and isinstance(fields, dict):
            return kind, fields
    raise ValueError("not a message: [kind, fields] expected")
