"""The server's file requests, done as the session's user; files and trees in several messages."""

import errno

from .connection import Connection
from .fields import Fields
from .files import Read, Write, list_folder, open_parent, stat_file
from .session import Session
from .trees import ReadTree, WriteTree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_TRANSFERS = 64
"""Files and trees being read or written at once."""


class Transfers:
    """Each is known by the number of the request that began it."""

    def __init__(self, connection: Connection, session: Session) -> None:
        self._connection = connection
        self._session = session
        self._open: "dict[int, Read | Write | ReadTree | WriteTree]" = {}
        connection.handlers.update(
            {
                "stat": self._on_stat,
                "list": self._on_list,
                "read": self._on_read,
                "more": self._on_more,
                "write": self._on_write,
                "chunk": self._on_chunk,
                "read-tree": self._on_read_tree,
                "write-tree": self._on_write_tree,
                "pieces": self._on_pieces,
                "abort": self._on_abort,
            }
        )

    def end_all(self) -> None:
        """The server is gone: half-written files go too."""
        for number in list(self._open):
            self._end(number)

    def _on_stat(self, fields: Fields) -> None:
        self._answer_of_path(fields, stat_file)

    def _on_list(self, fields: Fields) -> None:
        self._answer_of_path(fields, list_folder)

    def _on_read(self, fields: Fields) -> None:
        number, offset = fields.integer("id"), fields.integer("offset")
        limit = fields.integer("limit")

        def begin(path: bytes) -> "dict[str, object]":
            self._check(number)
            self._open[number] = read = Read(path, offset, limit)
            return self._next_chunk(number, read)

        self._answer_of_path(fields, begin)

    def _on_more(self, fields: Fields) -> None:
        number = fields.integer("id")
        read = self._open.get(number)
        if isinstance(read, (Read, ReadTree)):
            self._answer(number, b"", lambda: self._next_chunk(number, read))

    def _on_read_tree(self, fields: Fields) -> None:
        number = fields.integer("id")

        def begin(path: bytes) -> "dict[str, object]":
            self._check(number)
            self._open[number] = read = ReadTree(path)
            return self._next_chunk(number, read)

        self._answer_of_path(fields, begin)

    def _next_chunk(self, number: int, read: "Read | ReadTree") -> "dict[str, object]":
        chunk = read.chunk()
        if chunk["last"]:
            self._end(number)
        return chunk

    def _on_write(self, fields: Fields) -> None:
        number, mode = fields.integer("id"), fields.integer("mode") & 0o7777

        def begin(path: bytes) -> "dict[str, object]":
            self._check(number)
            self._open[number] = write = Write(*open_parent(path), mode)
            return self._add_chunk(number, write, fields)

        self._answer_of_path(fields, begin)

    def _on_chunk(self, fields: Fields) -> None:
        number = fields.integer("id")
        write = self._open.get(number)
        if isinstance(write, Write):  # Else it failed before, and the server knows.
            self._answer(number, b"", lambda: self._add_chunk(number, write, fields))

    def _add_chunk(self, number: int, write: Write, fields: Fields) -> "dict[str, object]":
        last = fields.flag("last")
        reply = write.add(fields.data("data"), last)
        if last:
            self._end(number)
        return reply

    def _on_write_tree(self, fields: Fields) -> None:
        number = fields.integer("id")

        def begin(path: bytes) -> "dict[str, object]":
            self._check(number)
            self._open[number] = write = WriteTree(path)
            return self._add_pieces(number, write, fields)

        self._answer_of_path(fields, begin)

    def _on_pieces(self, fields: Fields) -> None:
        number = fields.integer("id")
        write = self._open.get(number)
        if isinstance(write, WriteTree):  # Else it failed before, and the server knows.
            self._answer(number, b"", lambda: self._add_pieces(number, write, fields))

    def _add_pieces(self, number: int, write: WriteTree, fields: Fields) -> "dict[str, object]":
        last = fields.flag("last")
        reply = write.add(fields.each("pieces"), last)
        if last:
            self._end(number)
        return reply

    def _on_abort(self, fields: Fields) -> None:
        self._end(fields.integer("id"))

    def _check(self, number: int) -> None:
        if number in self._open:
            raise OSError(errno.EBUSY, "a transfer of that number is open")
        if len(self._open) >= MAX_TRANSFERS:
            raise OSError(errno.EMFILE, f"{MAX_TRANSFERS} transfers are open")

    def _end(self, number: int) -> None:
        transfer = self._open.pop(number, None)
        if transfer is not None:
            transfer.close()

    def _answer_of_path(self, fields: Fields, call: "Callable[[bytes], dict[str, object]]") -> None:
        number, path = fields.integer("id"), fields.data("path")
        if not path or b"\0" in path:
            message = "a path must not be empty or hold NUL bytes"
            self._connection.fail(number, "EINVAL", path, message)
            return
        self._answer(number, path, lambda: call(self._session.path(path)))

    def _answer(self, number: int, path: bytes, call: "Callable[[], dict[str, object]]") -> None:
        """Reply what the call returns, or the errno that it failed with, which ends a transfer."""
        try:
            fields = self._session.as_user(call)
        except OSError as error:
            self._end(number)
            code = errno.errorcode.get(error.errno or 0, "EIO")
            self._connection.fail(number, code, path, error.strerror or str(error))
            return
        self._connection.send("reply", dict(fields, id=number))
