"""What managers raise. One root; values are fields, so that nobody parses a message.

ManagerError
├── TemporaryError         worth another try after `delay_s`
│   └── BackingOff         sandboxes of its kind fail to start; none is tried before that
├── PermanentError         no retry will help
│   ├── Unsupported        this node cannot do that; `cure` says what would
│   └── UnknownImage       no such image on this node
├── LeaseLost              what the lease stood for is gone
│   └── SandboxDied        the sandbox ended under its actions
├── SandboxClosed          somebody closed it: a late call, nothing broken
└── FileProblem            a file call the sandbox refused; `code` is an errno name
"""

from __future__ import annotations


class ManagerError(Exception):
    """Root of all that a manager raises on purpose. `str()` is a sentence for the user."""


class TemporaryError(ManagerError):
    """Worth another try, after `delay_s` seconds."""

    def __init__(self, message: str, *, delay_s: float = 1.0) -> None:
        super().__init__(message)
        self.delay_s = delay_s


class BackingOff(TemporaryError):
    """Sandboxes of this kind failed to start several times in a row: none is started for `delay_s`."""


class PermanentError(ManagerError):
    """No retry will help. `field` is what of the request is to blame, where something is."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class Unsupported(PermanentError):
    """This node, or this launcher, cannot do that. `cure` says what would make it work."""

    def __init__(self, message: str, *, cure: str = "") -> None:
        super().__init__(f"{message}; {cure}" if cure else message)
        self.cure = cure


class UnknownImage(PermanentError):
    """No image or root file system of that name can be had on this node."""

    def __init__(self, image: str, message: str) -> None:
        super().__init__(message, field="image")
        self.image = image


class LeaseLost(ManagerError):
    """What the lease stood for is gone (not given back): the action must end as LOST."""


class SandboxDied(LeaseLost):
    """The sandbox ended under its actions: its agent died, its container was removed."""


class SandboxClosed(ManagerError):
    """The sandbox was closed before this call."""


class FileProblem(ManagerError):
    """A file call that the sandbox refused. `code` is an errno name such as ENOENT."""

    def __init__(self, code: str, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.code = code
        self.path = path
