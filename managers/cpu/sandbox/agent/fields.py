"""A request's fields, read by type: a malformed one raises ValueError, and nothing else."""


class Fields:
    """Wraps a decoded message."""

    def __init__(self, fields: "dict[str, object]") -> None:
        self._fields = fields

    def _of(self, name: str, kind: type, what: str) -> object:
        value = self._fields.get(name)
        if type(value) is not kind:  # Exactly: a bool is no int here.
            raise ValueError(f"field {name} must be {what}")
        return value

    def text(self, name: str) -> str:
        return self._of(name, str, "a str")  # type: ignore[return-value]

    def text_or_empty(self, name: str) -> str:
        """Empty where it is missing."""
        return self.text(name) if name in self._fields else ""

    def data(self, name: str) -> bytes:
        return self._of(name, bytes, "bytes")  # type: ignore[return-value]

    def integer(self, name: str) -> int:
        """At least 0."""
        value: "int" = self._of(name, int, "an int")  # type: ignore[assignment]
        if value < 0:
            raise ValueError(f"field {name} must not be negative")
        return value

    def seconds(self, name: str) -> "float | None":
        """None where it is missing."""
        value = self._fields.get(name)
        if value is not None and type(value) not in (int, float):
            raise ValueError(f"field {name} must be a number")
        return value  # type: ignore[return-value]

    def flag(self, name: str) -> bool:
        return self._of(name, bool, "a bool")  # type: ignore[return-value]

    def flag_or_false(self, name: str) -> bool:
        """False where it is missing."""
        return self.flag(name) if name in self._fields else False

    def strings(self, name: str) -> "list[bytes]":
        """A list of bytes that hold no NUL, as execve wants them."""
        values: "list[object]" = self._of(name, list, "a list")  # type: ignore[assignment]
        if not all(isinstance(value, bytes) and b"\0" not in value for value in values):
            raise ValueError(f"field {name} must be a list of bytes without NUL")
        return values  # type: ignore[return-value]

    def each(self, name: str) -> "list[Fields]":
        """A list of dicts."""
        values: "list[object]" = self._of(name, list, "a list")  # type: ignore[assignment]
        if not all(isinstance(value, dict) for value in values):
            raise ValueError(f"field {name} must be a list of dicts")
        return [Fields(value) for value in values]  # type: ignore[arg-type]

    def cores(self, name: str) -> "list[int] | None":
        """None where they are missing."""
        values = self._fields.get(name)
        if values is None:
            return None
        if not isinstance(values, list) or not all(type(value) is int for value in values):
            raise ValueError(f"field {name} must be a list of ints")
        return values

    def environment(self) -> "dict[bytes, bytes]":
        pairs: "dict[str, object]" = self._of("env", dict, "a dict")  # type: ignore[assignment]
        env = {}
        for name, value in pairs.items():
            if not isinstance(name, str):
                raise ValueError("field env: a name must be a str")  # noqa: TRY004
            key = name.encode("utf-8", "surrogateescape")
            if not key or b"=" in key or not isinstance(value, bytes) or b"\0" in key + value:
                raise ValueError(f"field env: {name!r} cannot be a variable")
            env[key] = value
        return env
