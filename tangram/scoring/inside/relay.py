"""The relay: hands the worker's records on, ends it when it is silent for too long or says too much,
and tells how it ended. It never runs the solution's code, and cannot be read by it."""

import json
import os
import select
import signal
import sys
import time
from typing import Any, Callable, Dict, Optional

from .calls import run_calls
from .records import CHUNK_BYTES, Records, described, write_all
from .suites import run_suite

LOG_BYTES = 1 << 15
"""Kept of the beginning and of the end of what the worker prints, each."""
RECORD_BYTES_MAX = 2 << 20
"""Of one line of the worker: a longer one is not ours."""
PR_SET_DUMPABLE = 4


def main() -> None:
    """Returns when the worker has ended."""
    pipes = [os.pipe() for _ in range(3)]
    (orders, orders_in), (records_out, records), (log_out, log) = pipes
    worker = os.fork()
    if worker == 0:
        os.setsid()
        for descriptor in (orders_in, records_out, log_out):
            os.close(descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        work(orders, Records(records))
    for descriptor in (orders, records, log):
        os.close(descriptor)
    hide()
    request = json.loads(sys.stdin.buffer.read().decode())
    nonce = request.pop("nonce").encode()
    relay = Relay(worker, nonce, records_out, log_out, request)
    try:
        write_all(orders_in, json.dumps(request).encode())
    except BrokenPipeError:
        relay.reason = "deaf"  # It was ended before it had begun, as its exit code will say.
    os.close(orders_in)
    relay.run()


def hide() -> None:
    """Nobody with our user id may trace this process, or read its memory and its descriptors."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return  # Some images have no ctypes: the nonce is then only as safe as the user ids are.


def work(orders: int, records: Records) -> None:
    """The worker. Never returns."""
    request = b""
    while True:
        data = os.read(orders, CHUNK_BYTES)
        if not data:
            break
        request += data
    os.close(orders)
    code = 1
    try:
        order = json.loads(request.decode())
        order["workers"] = order["workers"] or int(os.environ.get("TANGRAM_CORES", "1"))
        run = run_calls if order["kind"] == "calls" else run_suite
        code = run(order, records)
    except BaseException as error:  # noqa: BLE001 - this process ends here, whatever it is
        print("the worker failed: " + described(error))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Relay:
    """One worker and its two pipes."""

    def __init__(
        self, worker: int, nonce: bytes, records: int, log: int, request: Dict[str, Any]
    ) -> None:
        self.reason = ""
        """Why the worker was ended, if it was."""
        self._worker = worker
        self._nonce = nonce
        self._records = records
        self._log = log
        self._silence_s = request["silence_s"]
        self._left_bytes = request["output_bytes_max"]
        self._pending = b""
        self._head = b""
        self._tail = b""
        self._wake, told = os.pipe()
        os.set_blocking(told, False)
        signal.set_wakeup_fd(told)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def run(self) -> None:
        sources: Dict[int, Callable[[], bool]] = {
            self._records: self._on_records,
            self._log: self._on_log,
            self._wake: lambda: bool(os.read(self._wake, CHUNK_BYTES)),
        }
        heard = time.monotonic()
        status = self._reap()
        while status is None:
            left_s = max(0.0, heard + self._silence_s - time.monotonic())
            ready, _, _ = select.select(list(sources), [], [], left_s)
            if self._records in ready:
                heard = time.monotonic()
            elif time.monotonic() >= heard + self._silence_s:
                self._end("silent")
                heard = time.monotonic()
            for source in ready:
                if not sources[source]():
                    del sources[source]
            status = self._reap()
        # What it left running must neither hold the pipes nor see the next tests.
        self._end(self.reason)
        for source in (self._records, self._log):
            while source in sources and select.select([source], [], [], 0)[0]:
                if not sources[source]():
                    break
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        self._send(json.dumps({"event": "ended", "code": code, "reason": self.reason}).encode())
        write_all(2, self._head + self._tail)

    def _reap(self) -> Optional[int]:
        pid, status = os.waitpid(self._worker, os.WNOHANG)
        return status if pid else None

    def _end(self, reason: str) -> None:
        self.reason = reason
        try:
            os.killpg(self._worker, signal.SIGKILL)
        except OSError:
            return  # Nothing is left.

    def _on_records(self) -> bool:
        data = os.read(self._records, CHUNK_BYTES)
        lines = (self._pending + data).split(b"\n")
        self._pending = lines.pop()
        for line in lines:
            self._left_bytes -= len(line)
            if self._left_bytes >= 0:
                self._send(line)
        if self._left_bytes < 0 or len(self._pending) > RECORD_BYTES_MAX:
            self._pending = b""
            self._end("flooded")
        return bool(data)

    def _on_log(self) -> bool:
        data = os.read(self._log, CHUNK_BYTES)
        room = LOG_BYTES - len(self._head)
        self._head += data[:room]
        self._tail = (self._tail + data[room:])[-LOG_BYTES:]
        return bool(data)

    def _send(self, line: bytes) -> None:
        write_all(1, self._nonce + b" " + line + b"\n")
