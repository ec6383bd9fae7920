"""The system calls that no sandbox makes, as a seccomp filter in the kernel's BPF form.

A deny-list, close to what Docker's default profile denies an unprivileged container: whatever
changes mounts, namespaces, keys, modules, clocks or the kernel itself. Debuggers work (ptrace is
allowed). Only bytes are made here; bubblewrap loads them with --seccomp.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Mapping
from dataclasses import dataclass

# Instructions of classic BPF: the class, size and mode bits of linux/bpf_common.h, added up.
_LOAD_WORD = 0x20
_JUMP_EQUAL = 0x15
_JUMP_ANY_BIT = 0x45
_JUMP_AT_LEAST = 0x35
_RETURN = 0x06

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL_PROCESS = 0x80000000
_EPERM = _ERRNO | errno.EPERM
_ENOSYS = _ERRNO | errno.ENOSYS

# Offsets in struct seccomp_data; arguments are 64 bit, little-endian on both machines.
_NUMBER = 0
_ARCHITECTURE = 4


def _argument(index: int) -> int:
    """The low word: the only one the kernel itself looks at for these arguments."""
    return 16 + 8 * index


_X32_BIT = 0x40000000
_NEW_NAMESPACES = (
    0x00000080  # CLONE_NEWTIME; as an exit signal of clone it has no other meaning
    | 0x00020000  # CLONE_NEWNS
    | 0x02000000  # CLONE_NEWCGROUP
    | 0x04000000  # CLONE_NEWUTS
    | 0x08000000  # CLONE_NEWIPC
    | 0x10000000  # CLONE_NEWUSER
    | 0x20000000  # CLONE_NEWPID
    | 0x40000000  # CLONE_NEWNET
)
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0x40000, 0xFFFFFFFF)
"""Linux, its 32-bit and UNAME26 forms, no address randomisation (debuggers), and "tell me"."""
_TERMINAL_INJECTIONS = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX put characters into a terminal's input, as if its owner had typed them."""
_AF_VSOCK = 40
"""Not bound to a network namespace: on a virtual machine it reaches the host."""

_COMMON = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "clone3": 435,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "open_tree_attr": 467,
}
"""Since Linux 5.0 a system call has one number on all machines."""

_X86_64 = {
    "acct": 163,
    "add_key": 248,
    "bpf": 321,
    "chroot": 161,
    "clock_adjtime": 305,
    "clock_settime": 227,
    "clone": 56,
    "create_module": 174,
    "delete_module": 176,
    "fanotify_init": 300,
    "finit_module": 313,
    "get_kernel_syms": 177,
    "init_module": 175,
    "ioctl": 16,
    "ioperm": 173,
    "iopl": 172,
    "kexec_file_load": 320,
    "kexec_load": 246,
    "keyctl": 250,
    "lookup_dcookie": 212,
    "mount": 165,
    "name_to_handle_at": 303,
    "nfsservctl": 180,
    "open_by_handle_at": 304,
    "perf_event_open": 298,
    "personality": 135,
    "pivot_root": 155,
    "query_module": 178,
    "quotactl": 179,
    "reboot": 169,
    "request_key": 249,
    "setdomainname": 171,
    "sethostname": 170,
    "setns": 308,
    "settimeofday": 164,
    "socket": 41,
    "swapoff": 168,
    "swapon": 167,
    "_sysctl": 156,
    "syslog": 103,
    "umount2": 166,
    "unshare": 272,
    "uselib": 134,
    "userfaultfd": 323,
    "ustat": 136,
    "vhangup": 153,
}

_AARCH64 = {
    "acct": 89,
    "add_key": 217,
    "bpf": 280,
    "chroot": 51,
    "clock_adjtime": 266,
    "clock_settime": 112,
    "clone": 220,
    "delete_module": 106,
    "fanotify_init": 262,
    "finit_module": 273,
    "init_module": 105,
    "ioctl": 29,
    "kexec_file_load": 294,
    "kexec_load": 104,
    "keyctl": 219,
    "lookup_dcookie": 18,
    "mount": 40,
    "name_to_handle_at": 264,
    "nfsservctl": 42,
    "open_by_handle_at": 265,
    "perf_event_open": 241,
    "personality": 92,
    "pivot_root": 41,
    "quotactl": 60,
    "reboot": 142,
    "request_key": 218,
    "setdomainname": 162,
    "sethostname": 161,
    "setns": 268,
    "settimeofday": 170,
    "socket": 198,
    "swapoff": 225,
    "swapon": 224,
    "syslog": 116,
    "umount2": 39,
    "unshare": 97,
    "userfaultfd": 282,
    "vhangup": 58,
}

_BY_ARGUMENT = frozenset({"clone", "unshare", "personality", "ioctl", "socket"})
"""Everyday calls of which only some arguments are denied."""
_MISSING = frozenset({"clone3", "io_uring_setup", "io_uring_enter", "io_uring_register"})
"""Answered "no such call", for which libraries have another way: clone3's flags lie in memory,
where a filter cannot look, and io_uring would do calls past the filter."""


@dataclass(frozen=True, slots=True)
class _Machine:
    audit_architecture: int
    numbers: Mapping[str, int]
    has_x32: bool = False


_MACHINES = {
    "x86_64": _Machine(0xC000003E, {**_X86_64, **_COMMON}, has_x32=True),
    "aarch64": _Machine(0xC00000B7, {**_AARCH64, **_COMMON}),
}


def machine_supported(machine: str = "") -> bool:
    return (machine or platform.machine()) in _MACHINES


def syscall_numbers(machine: str = "") -> Mapping[str, int]:
    """Name -> number of every call that the filter looks at, on this machine or a named one."""
    return _MACHINES[machine or platform.machine()].numbers


def build_filter(machine: str = "") -> bytes:
    """The program for this machine, or a named one: an array of struct sock_filter.

    Raises KeyError for a machine that is neither x86_64 nor aarch64 (see `machine_supported`).
    """
    known = _MACHINES[machine or platform.machine()]
    program = _check_architecture(known)
    for name, number in sorted(known.numbers.items()):
        if name not in _BY_ARGUMENT:
            answer = _ENOSYS if name in _MISSING else _EPERM
            program += [_jump(_JUMP_EQUAL, number, 0, 1), _give(answer)]
    for name in ("clone", "unshare"):
        program += _deny_bits(known.numbers[name], _NEW_NAMESPACES)
    program += _deny_values(known.numbers["ioctl"], 1, _TERMINAL_INJECTIONS)
    program += _deny_values(known.numbers["socket"], 0, (_AF_VSOCK,))
    program += _allow_only(known.numbers["personality"], 0, _PERSONALITIES)
    program.append(_give(_ALLOW))
    return b"".join(program)


def _check_architecture(machine: _Machine) -> list[bytes]:
    # Another architecture has other numbers, so that every rule below would be off by miles.
    program = [
        _load(_ARCHITECTURE),
        _jump(_JUMP_EQUAL, machine.audit_architecture, 1, 0),
        _give(_KILL_PROCESS),
        _load(_NUMBER),
    ]
    if machine.has_x32:
        program += [_jump(_JUMP_AT_LEAST, _X32_BIT, 0, 1), _give(_EPERM)]
    return program


def _deny_bits(number: int, bits: int) -> list[bytes]:
    return _on_call(number, 0, [_jump(_JUMP_ANY_BIT, bits, 0, 1), _give(_EPERM)])


def _deny_values(number: int, index: int, values: tuple[int, ...]) -> list[bytes]:
    checks: list[bytes] = []
    for value in values:
        checks += [_jump(_JUMP_EQUAL, value, 0, 1), _give(_EPERM)]
    return _on_call(number, index, checks)


def _allow_only(number: int, index: int, values: tuple[int, ...]) -> list[bytes]:
    checks: list[bytes] = []
    for value in values:
        checks += [_jump(_JUMP_EQUAL, value, 0, 1), _give(_ALLOW)]
    return _on_call(number, index, [*checks, _give(_EPERM)])


def _on_call(number: int, index: int, checks: list[bytes]) -> list[bytes]:
    """Run `checks` over one argument of one call. What they let through is allowed."""
    body = [_load(_argument(index)), *checks, _give(_ALLOW)]
    return [_jump(_JUMP_EQUAL, number, 0, len(body)), *body]


def _load(offset: int) -> bytes:
    return struct.pack("=HBBI", _LOAD_WORD, 0, 0, offset)


def _jump(operation: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("=HBBI", operation, if_true, if_false, value)


def _give(answer: int) -> bytes:
    return struct.pack("=HBBI", _RETURN, 0, 0, answer)
