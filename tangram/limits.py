"""Limits and defaults that both ends of the wire hold to: the client says them before it sends, the
server enforces them whoever sends.

Standard library alone, since the client imports it without the server's packages. A limit that only
one side knows stands where that side checks it; what a manager enforces stands in `managers/`.
"""

from __future__ import annotations

import re

DEFAULT_SERVER = "127.0.0.1:7070"
"""Where gRPC is served and looked for: loopback, since there is no authentication yet."""
DEFAULT_HTTP = "127.0.0.1:7071"
"""Where metrics and health are served, beside it."""
SERVER_VARIABLE = "TANGRAM_SERVER"
"""The environment variable that names another server: the SDK and all commands read it."""

MESSAGE_BYTES_MAX = 16 << 20
"""Of one message, either way: room for the output of an action, no room for whole data sets."""
KEEPALIVE_MS = 30_000
"""A connection that is silent for so long is asked for a sign of life; half-open ones are found."""
PAGE_ACTIONS_MAX = 1000
"""Actions of one answer of List: a page of them stays far below a message."""
FILE_CHUNK_BYTES = 1 << 20
"""Of a file in one message, either way: large enough to cost no calls, small enough to interleave."""

ID_CHARACTERS_MAX = 64
"""Of an id that a client chooses: a UUID with a prefix fits, and so does a line of a table."""
ID_PATTERN = re.compile(rf"[A-Za-z0-9._:-]{{1,{ID_CHARACTERS_MAX}}}")
"""Ids stand in commands, paths of URLs and labels of metrics, where nothing else needs no quotes."""
ID_RULE = f"1-{ID_CHARACTERS_MAX} characters of A-Z a-z 0-9 . _ : -"
"""The same in words, for messages."""

CORES_MAX = 65_536
"""More than any machine has; a typo in a bytes-for-cores mix-up lands above it."""
QUOTA_AMOUNT_MAX = 1 << 40
"""Of one action: more tokens than any provider grants at once, and still exact in a float."""
SIZE_BYTES_MAX = 1 << 50
"""A pebibyte: beyond any node's memory or disk, and still exact in a float."""
TIME_S_MAX = 30 * 24 * 3600.0
"""30 days: nobody waits longer for one action; larger values are milliseconds by mistake."""
TIMEOUT_S_DEFAULT = 60.0
"""How long a command or a call may run that does not say: most tests end sooner."""
PULL_POLICIES = ("missing", "always", "never")
"""When a registry is asked for a trajectory's image."""
PREFETCH_IMAGES_MAX = 10_000
"""Of one call: a data set of one image per sample has some thousands."""
PRIORITY_MAX = 1_000_000
"""Either sign; the sum of an action's and its trajectory's stays a 32-bit integer."""
STEP_MAX = 1 << 53
"""Of training: the largest integer that every language's JSON keeps exact."""
CONCURRENCY_MAX = 256
"""Actions of one trajectory at a time: as many as the agent of a sandbox runs."""
FORKS_MAX = 256
"""Of one call: a tree search branches by tens, and each fork reserves memory."""

STDIN_BYTES_MAX = 2 << 20
"""Of one command: it reaches the sandbox in one message together with arguments and environment."""
OUTPUT_BYTES_MAX = 8 << 20
"""Kept of stdout and of stderr each: both travel in one message."""
FILE_MODE_MAX = 0o7777
"""Permissions with set-user-id, set-group-id and sticky bits: all that chmod takes."""
FILE_MODE_DEFAULT = 0o644
"""Of a written file, as an editor would leave it."""

SESSION_INPUT_BYTES_MAX = 64 << 10
"""Typed into a session at once, and waiting there unread."""
PORT_MAX = 65_535
"""Of TCP."""
TERMINAL_SIDE_MAX = 10_000
"""Rows or columns of a session's terminal."""
