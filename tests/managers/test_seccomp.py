"""The system call filter: checked by running it, in this kernel and in a small interpreter."""

from __future__ import annotations

import errno
import re
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tangram.managers.cpu.sandbox.seccomp import build_filter, machine_supported, syscall_numbers

ALLOW = 0x7FFF0000
KILL = 0x80000000
EPERM = 0x00050000 | errno.EPERM
ENOSYS = 0x00050000 | errno.ENOSYS
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS = {
    "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
    "aarch64": "/usr/include/asm-generic/unistd.h",
}
LEGACY = {"create_module", "get_kernel_syms", "query_module", "nfsservctl", "_sysctl"}
CLONE_NEWUSER = 0x10000000
CLONE_THREAD_FLAGS = 0x003D0F00


def answer(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the filter answers to a system call, by interpreting its program."""
    packed = struct.pack(
        "=IIQ6Q",
        number,
        ARCHITECTURE[machine] if architecture is None else architecture,
        0,
        *(arguments + (0,) * 6)[:6],
    )
    program = list(struct.iter_unpack("=HBBI", build_filter(machine)))
    at, value = 0, 0
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        if code == 0x20:
            (value,) = struct.unpack_from("=I", packed, operand)
        elif code == 0x06:
            return int(operand)
        else:
            holds = {
                0x15: value == operand,
                0x35: value >= operand,
                0x45: bool(value & operand),
            }[code]
            at += if_true if holds else if_false


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    "name",
    ["mount", "pivot_root", "keyctl", "bpf", "setns", "reboot", "open_by_handle_at", "fsopen"],
)
def test_what_changes_the_machine_is_denied(machine: str, name: str) -> None:
    assert answer(machine, syscall_numbers(machine)[name]) == EPERM


@pytest.mark.parametrize("name", ["clone3", "io_uring_setup", "io_uring_enter"])
def test_what_has_a_substitute_seems_to_be_missing(machine: str, name: str) -> None:
    assert answer(machine, syscall_numbers(machine)[name]) == ENOSYS


@pytest.mark.parametrize("name", ["clone", "unshare"])
def test_new_namespaces_are_denied_but_not_threads(machine: str, name: str) -> None:
    number = syscall_numbers(machine)[name]
    assert answer(machine, number, CLONE_NEWUSER) == EPERM
    assert answer(machine, number, CLONE_THREAD_FLAGS | CLONE_NEWUSER | 17) == EPERM
    assert answer(machine, number, CLONE_THREAD_FLAGS) == ALLOW


def test_only_dangerous_arguments_are_denied(machine: str) -> None:
    numbers = syscall_numbers(machine)
    tiocsti, tcgets, vsock, unix = 0x5412, 0x5401, 40, 1
    assert answer(machine, numbers["ioctl"], 0, tiocsti) == EPERM
    # The kernel looks at the low half only, so a filter for the whole word would be passed by.
    assert answer(machine, numbers["ioctl"], 0, tiocsti | 1 << 32) == EPERM
    assert answer(machine, numbers["ioctl"], 0, tcgets) == ALLOW
    assert answer(machine, numbers["socket"], vsock) == EPERM
    assert answer(machine, numbers["socket"], unix) == ALLOW
    assert answer(machine, numbers["personality"], 0xFFFFFFFF) == ALLOW
    assert answer(machine, numbers["personality"], 0x0400000) == EPERM


def test_the_calls_of_another_architecture_end_the_process(machine: str) -> None:
    assert answer(machine, 1, architecture=0x40000003) == KILL


def test_the_x32_calls_are_denied() -> None:
    assert answer("x86_64", 0x40000000 | 1) == EPERM


def test_everything_else_is_allowed(machine: str) -> None:
    named = set(syscall_numbers(machine).values())
    allowed = [number for number in range(500) if number not in named]
    assert all(answer(machine, number) == ALLOW for number in allowed)


def test_the_numbers_are_the_kernels(machine: str) -> None:
    header = Path(HEADERS[machine])
    if not header.exists():
        pytest.skip(f"{header} is missing: install linux-libc-dev")
    lines = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
    kernels = {name: int(number) for name, number in lines}
    ours = syscall_numbers(machine)
    assert {name: ours[name] for name in ours.keys() & kernels.keys()} == {
        name: kernels[name] for name in ours.keys() & kernels.keys()
    }
    # Removed long ago, or newer than this machine's headers.
    assert {name for name in ours.keys() - kernels.keys() if ours[name] < 425} <= LEGACY


def test_other_machines_are_told_apart() -> None:
    assert machine_supported("x86_64")
    assert not machine_supported("riscv64")
    with pytest.raises(KeyError):
        build_filter("riscv64")


FILTERED = textwrap.dedent(
    """
    import ctypes, errno, sys, threading
    libc = ctypes.CDLL(None, use_errno=True)
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    rules = bytes.fromhex(sys.argv[1])
    buffer = ctypes.create_string_buffer(rules, len(rules))
    program = Program(len(rules) // 8, ctypes.addressof(buffer))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0, ctypes.get_errno()
    import subprocess
    assert subprocess.run(["true"]).returncode == 0
    thread = threading.Thread(target=lambda: None)
    thread.start(); thread.join()
    for call in sys.argv[2:]:
        number, *arguments = map(int, call.split(":"))
        result = libc.syscall(number, *map(ctypes.c_long, arguments))
        print(errno.errorcode[ctypes.get_errno()] if result == -1 else "ok")
    """
)


@pytest.mark.skipif(not machine_supported(), reason="the filter is for x86_64 and aarch64")
def test_a_process_under_the_filter_works_and_is_denied_what_it_should_be() -> None:
    numbers = syscall_numbers()
    calls = {
        f"{numbers['unshare']}:{CLONE_NEWUSER}": "EPERM",
        f"{numbers['unshare']}:0": "ok",
        f"{numbers['mount']}:0:0:0:0:0": "EPERM",
        f"{numbers['clone3']}:0:0": "ENOSYS",
        f"{numbers['io_uring_setup']}:1:0": "ENOSYS",
        f"{numbers['keyctl']}:0:0": "EPERM",
        f"{numbers['ioctl']}:0:{0x5412}:0": "EPERM",
        f"{numbers['socket']}:40:1:0": "EPERM",
        f"{numbers['personality']}:{0x0400000}": "EPERM",
        f"{numbers['perf_event_open']}:0:0:0:0:0": "EPERM",
    }
    ran = subprocess.run(
        [sys.executable, "-I", "-c", FILTERED, build_filter().hex(), *calls],
        capture_output=True,
        check=False,
        text=True,
        timeout=20,
    )
    assert ran.returncode == 0, ran.stderr
    assert dict(zip(calls, ran.stdout.split(), strict=True)) == calls
