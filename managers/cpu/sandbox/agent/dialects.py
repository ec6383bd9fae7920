"""What a session's shell is started with: the loop in which it takes commands, and how one is put to it.

Commands come over a descriptor of their own and are evaluated by the shell itself, so that folder,
variables and functions stay; the terminal is all theirs. After each the shell writes its number and
its exit code to a second descriptor. In between it ignores Ctrl-C, so that one that comes late hits
nothing. `$?` is what the command before left.
"""

from .programs import DEFAULT_PATH, find_program

GRANTED = (b"TANGRAM_CORES", b"OMP_NUM_THREADS")
"""Variables that tell a command its cores: numbers, which may differ from run to run."""

# An interactive bash, for only that breaks off its own loops at Ctrl-C. It never comes to a prompt:
# what it runs before its first one is this loop, and again after Ctrl-C has thrown it out of it. It
# is one line, so that line numbers in messages are the command's. `jobs` makes it forget those done.
_BASH_LOOP = (
    b"{ __tangram_code=$?; trap '' INT;"
    b' if [ -z "${__tangram_at-}" ]; then __tangram_at=0; __tangram_loop=$PROMPT_COMMAND;'
    b" export -n PROMPT_COMMAND; set +o history; set +H; unset HISTFILE;"
    b' __tangram_status() { return "$__tangram_code"; }; fi;'
    b" PROMPT_COMMAND=$__tangram_loop; } 2>/dev/null;"
    b' while { printf \'\\n%s %s\\n\' "$__tangram_at" "$__tangram_code" >&251;'
    b" IFS= read -r __tangram_at <&250 && IFS= read -r __tangram_change <&250"
    b" && IFS= read -r -d '' __tangram_line <&250"
    b' && eval "$__tangram_change" && trap - INT; } 2>/dev/null;'
    b' do case $__tangram_code in 0) eval "$__tangram_line" ;;'
    b' *) __tangram_status || eval "$__tangram_line" ;; esac;'
    b" { __tangram_code=$?; trap '' INT; jobs; } >/dev/null 2>&1;"
    b" done; exit"
)
# What any sh can do: it knows descriptors of one digit, and takes a command line by line. Without the
# empty trap it would end with each command that Ctrl-C ends.
_SH_LOOP = b"""set -m; __tangram_code=0; __tangram_at=0; trap '' INT
__tangram_status() { return "$__tangram_code"; }
while printf '\\n%s %s\\n' "$__tangram_at" "$__tangram_code" >&7
IFS=' ' read -r __tangram_at __tangram_count <&6 && IFS= read -r __tangram_change <&6; do
__tangram_line=
while [ "$__tangram_count" -gt 0 ]; do
IFS= read -r __tangram_piece <&6
__tangram_line="$__tangram_line$__tangram_piece
"
__tangram_count=$((__tangram_count - 1))
done
eval "$__tangram_change"
trap : INT
case $__tangram_code in 0) eval "$__tangram_line" ;; *) __tangram_status || eval "$__tangram_line" ;; esac
__tangram_code=$?
trap '' INT
done
"""
_DEFAULTS = {b"TERM": b"dumb", b"PAGER": b"cat", b"GIT_PAGER": b"cat", b"MANPAGER": b"cat"}
"""A pager would wait for keys, since it sees a terminal."""


class Dialect:
    """bash, or the sh of an image that has no bash."""

    def __init__(self, env: "dict[bytes, bytes]") -> None:
        """`env` is that of the request and the sandbox together; `self.env` the shell's."""
        self.env = dict(_DEFAULTS)
        self.env.update(env)
        try:
            bash = find_program(b"bash", env.get(b"PATH", DEFAULT_PATH))
        except OSError:
            self.argv = [b"sh", b"-c", _SH_LOOP]
            self.descriptors = [6, 7]
            """Which numbers the pipes of commands and of reports have in it."""
            self._is_bash = False
            return
        self.argv = [bash, b"--norc", b"--noprofile", b"--noediting", b"-i"]
        self.env[b"PROMPT_COMMAND"] = _BASH_LOOP
        self.descriptors = [250, 251]
        self._is_bash = True

    def message(self, number: int, change: bytes, command: bytes) -> bytes:
        """The bytes that make it run a command; `change` is one line to be evaluated before it."""
        if self._is_bash:
            return b"%d\n%s\n%s\0" % (number, change, command)
        return b"%d %d\n%s\n%s\n" % (number, command.count(b"\n") + 1, change, command)


def change_of(old: "dict[bytes, bytes]", new: "dict[bytes, bytes]") -> bytes:
    """A line that exports what is granted now, where it is still what was told before."""
    parts = [b":"]
    for name in GRANTED:
        before, now = old.get(name, b""), new.get(name, b"")
        if before != now and now.isdigit() and (before.isdigit() or not before):
            parts.append(b'[ "${%s-}" != "%s" ] || export %s=%s' % (name, before, name, now))
    return b"; ".join(parts)
