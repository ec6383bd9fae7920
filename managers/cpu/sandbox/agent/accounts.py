"""Who commands and file calls run as: the sandbox's own /etc/passwd and /etc/group, read without
the C library's name service, which an image may lack."""

import posix

from .kernel import read_whole, show

MAX_ACCOUNT_FILE = 1 << 20
"""Bytes of /etc/passwd and /etc/group that are looked at."""


class Account:
    """A user with its groups."""

    def __init__(self, uid: int, gid: int, groups: "list[int]", name: bytes, home: bytes) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.name = name
        self.home = home

    def key(self) -> "tuple[int, ...]":
        return (self.uid, self.gid, *sorted(self.groups))

    def variables(self) -> "dict[bytes, bytes]":
        found = {b"HOME": self.home}
        if self.name:
            found.update({b"USER": self.name, b"LOGNAME": self.name})
        return found


def account_of(user: bytes) -> Account:
    """Of `name[:group]` or `uid[:gid]`, or with an empty `user` of this process, whose groups are
    then its own. Raises ValueError with a sentence if there is none, or this process cannot be it."""
    own_uid = posix.getuid()
    account = _find_account(user or str(own_uid).encode())
    if not user or (account.uid == own_uid and b":" not in user):
        account.gid = posix.getgid()
        account.groups = sorted(posix.getgroups())
    elif own_uid != 0:
        raise ValueError(
            f"commands cannot run as {show(user)}: the sandbox itself runs as uid {own_uid},"
            " not as root"
        )
    return account


def own_key() -> "tuple[int, ...]":
    """`Account.key` of this process."""
    return (posix.getuid(), posix.getgid(), *sorted(posix.getgroups()))


def _lines(path: bytes) -> "list[list[bytes]]":
    try:
        lines = read_whole(path, MAX_ACCOUNT_FILE).splitlines()
    except OSError:
        return []
    return [line.split(b":") for line in lines]


def _find_account(user: bytes) -> Account:
    wanted, colon, wanted_group = user.partition(b":")
    number = int(wanted) if wanted.isdigit() else -1
    if number >= 1 << 32 or not wanted:
        raise ValueError(f"{show(user)} is no user")
    uid, gid, name, home = number, 0, b"", b"/"
    for line in _lines(b"/etc/passwd"):
        if len(line) < 6 or not line[2].isdigit() or not line[3].isdigit():
            continue
        if line[0] == wanted or int(line[2]) == number:
            uid, gid, name, home = int(line[2]), int(line[3]), line[0], line[5] or b"/"
            break
    if uid < 0:
        raise ValueError(f"no user {show(wanted)} in the sandbox's /etc/passwd")
    if colon:
        gid = _find_group(wanted_group)
        return Account(uid, gid, [gid], name, home)
    groups = {gid}
    for line in _lines(b"/etc/group"):
        if len(line) >= 4 and line[2].isdigit() and name and name in line[3].split(b","):
            groups.add(int(line[2]))
    return Account(uid, gid, sorted(groups), name, home)


def _find_group(group: bytes) -> int:
    for line in _lines(b"/etc/group"):
        if len(line) >= 3 and line[0] == group and line[2].isdigit():
            return int(line[2])
    if not group.isdigit() or int(group) >= 1 << 32:
        raise ValueError(f"no group {show(group)} in the sandbox's /etc/group")
    return int(group)
