"""The process table as /proc shows it, and who descends from whom. Looked at only where a command
is killed, or left something behind: a scan costs more than most commands."""

import posix
import time

from .kernel import read_whole

MAX_STAT = 4096
TICKS_PER_S = posix.sysconf("SC_CLK_TCK")
CLOCK_BOOTTIME = 7


class Process:
    """One line of the process table."""

    def __init__(self, pid: int, fields: "list[bytes]") -> None:
        self.pid = pid
        self.is_dead = fields[0] in (b"Z", b"X")
        self.parent = int(fields[1])
        self.session = int(fields[3])
        self.start_ticks = int(fields[19])


def processes() -> "list[Process]":
    """All that /proc shows. Raises OSError where /proc is not mounted."""
    found = []
    for name in posix.listdir(b"/proc"):
        if not name.isdigit():
            continue
        try:
            stat = read_whole(b"/proc/" + name + b"/stat", MAX_STAT)
        except OSError:  # It ended meanwhile.
            continue
        # The command's name, in parentheses, may itself hold spaces and parentheses.
        rest = stat.rpartition(b")")[2].split()
        if len(rest) > 19:
            found.append(Process(int(name), rest))
    return found


def descendants(table: "list[Process]", roots: "set[int]") -> "list[int]":
    """Live processes below the roots, which are not among them; zombies are dead already."""
    children: "dict[int, list[Process]]" = {}
    for process in table:
        children.setdefault(process.parent, []).append(process)
    found = []
    waiting = list(roots)
    while waiting:
        for process in children.get(waiting.pop(), ()):
            waiting.append(process.pid)
            if not process.is_dead and process.pid not in roots:
                found.append(process.pid)
    return found


def cpu_seconds(pid: int) -> float:
    """What a process and its children that it has waited for have used; 0 where that is not known."""
    try:
        stat = read_whole(b"/proc/%d/stat" % pid, MAX_STAT)
    except OSError:
        return 0.0
    rest = stat.rpartition(b")")[2].split()
    return sum(int(ticks) for ticks in rest[11:15]) / TICKS_PER_S


def ticks_now() -> int:
    """Now as field 22 of /proc/PID/stat counts it: clock ticks since boot."""
    return int(time.clock_gettime(CLOCK_BOOTTIME) * TICKS_PER_S)
