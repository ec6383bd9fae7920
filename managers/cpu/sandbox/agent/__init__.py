"""The agent: process 1 of every sandbox. It runs commands and file calls for the server outside.

    agent (PID 1) --- unix socket, connected from inside --> server
      +- spawner      a forked copy and child subreaper, one per running action, reused when clean
           +- command and all its descendants
      +- spawner      kept by a session, for as long as that lives
       +- shell on a terminal, and what actions of the session started

The agent keeps running commands and finished results while no server is attached, and exits, which
ends the whole sandbox, when none came back for `--orphan-after` seconds. Nothing inside may reach
it: it is not dumpable, ignores signals, and serves only a peer outside its pid namespace.

It stays resident in every sandbox and starts with it, so only modules written in C are imported (4
MiB instead of 10), by any CPython >= 3.6, and its own modules name each other relatively: inside it
is the package `agent`. It knows nothing of actions' grants, leases or cores beyond what a request
says. The server imports `wire` alone; `main` is where it starts.
"""
