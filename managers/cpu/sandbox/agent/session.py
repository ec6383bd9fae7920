"""What the server configured for all commands, and how a request is completed by it."""

import posix

from .accounts import Account, account_of, own_key
from .fields import Fields
from .kernel import PR_SET_DUMPABLE, prctl
from .orders import Order, Refused
from .programs import DEFAULT_PATH, find_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Session:
    """Environment, folder, shell and user of commands and file calls that do not say otherwise.

    The default user is looked up once, as a login is: its groups are those of that moment.
    """

    def __init__(self) -> None:
        self._own_key = own_key()
        self._workdir = b"/"
        self._shell: "list[bytes]" = []
        self._set_account(account_of(b""), {})

    def configure(self, fields: Fields) -> None:
        """Raises ValueError with a sentence if there is no such user."""
        self._workdir = fields.data("workdir") or b"/"
        self._shell = fields.strings("shell")
        self._set_account(account_of(fields.data("user")), fields.environment())

    def _set_account(self, account: Account, env: "dict[bytes, bytes]") -> None:
        self._account = self._unless_own(account)
        self._env = {b"PATH": DEFAULT_PATH, **account.variables(), **env}

    def _unless_own(self, account: Account) -> "Account | None":
        """None if running as it means to change neither user nor groups."""
        return None if account.key() == self._own_key else account

    def order(self, fields: Fields) -> Order:
        """Raises Refused for what cannot be run, ValueError for what is no request."""
        env = dict(self._env)
        account = self._account
        user = fields.data("user")
        if user:
            try:
                other = account_of(user)
            except ValueError as error:
                raise Refused("user", str(error)) from error
            env.update(other.variables())
            account = self._unless_own(other)
        env.update(fields.environment())
        if fields.text_or_empty("session"):
            argv = []  # Its shell has one of its own.
        else:
            argv = fields.strings("argv") or self._shell_argv(fields.data("command"), env)
        cwd = self.path(fields.data("cwd"))
        return Order(argv, env, cwd, fields.cores("affinity"), account)

    def _shell_argv(self, command: bytes, env: "dict[bytes, bytes]") -> "list[bytes]":
        if b"\0" in command:
            raise Refused("command", "the command holds a NUL byte")
        if self._shell:
            return [*self._shell, command]
        try:
            return [find_program(b"bash", env.get(b"PATH", DEFAULT_PATH)), b"-c", command]
        except OSError:
            return [b"sh", b"-c", command]

    def path(self, path: bytes) -> bytes:
        """Below the session's folder unless it is absolute."""
        return path if path.startswith(b"/") else self._workdir.rstrip(b"/") + b"/" + path

    def as_user(self, call: "Callable[[], dict[str, object]]") -> "dict[str, object]":
        """Do it as the default user: the process is single-threaded, so nobody else is it then."""
        account = self._account
        if account is None:
            return call()
        groups, gid, uid = posix.getgroups(), posix.getegid(), posix.geteuid()
        try:
            posix.setgroups(account.groups)
            posix.setegid(account.gid)
            posix.seteuid(account.uid)
            return call()
        finally:
            posix.seteuid(uid)
            posix.setegid(gid)
            posix.setgroups(groups)
            prctl(PR_SET_DUMPABLE, 0)
