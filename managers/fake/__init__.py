"""A complete manager in memory, for tests: of the dispatcher and the server, and of users' code.

It executes nothing. `manager` keeps leases and sandboxes as a real node would and can be told to
fail, `commands` is the small language its sandboxes understand, `files` their file systems.
"""

from .manager import FakeManager, Faults

__all__ = ["FakeManager", "Faults"]
