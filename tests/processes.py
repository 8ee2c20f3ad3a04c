"""Processes of the forwarder's command that start in 10 ms, not 400: each is forked from one that has
imported all, and from there on lives like any other.

Who asks for memory, imports or variables of the interpreter itself takes a fresh one, by `subprocess`.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import forwarder

# A message: an order and the descriptors that go with it.
MOST_BYTES = 100_000
MOST_FILES = 1000


class Process:
    """A process that runs ``forwarder ARGUMENTS``, as `subprocess.Popen` would start it.

    Args:
        before: A function, as ``module:name``, and its arguments: what the process calls first.
        files: Its standard input, output and error.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        files: Sequence[int],
        before: Sequence[str] = (),
    ) -> None:
        order = {
            "arguments": [*map(str, arguments)],
            "environ": {**environ},
            "before": [*before],
            "cwd": os.getcwd(),
        }
        self._told, theirs = socket.socketpair()
        with theirs:
            _Server.known().send(order, [*files, theirs.fileno()])
        self.args = [*arguments]
        self.pid = int.from_bytes(self._hear(), "big")
        self.returncode: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        with self._lock:
            if self.returncode is None and self._has_ended(0):
                self.returncode = int.from_bytes(self._hear(), "big", signed=True)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, *timeout* seconds at most."""
        if not self._has_ended(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def __del__(self) -> None:
        self._told.close()

    def _hear(self) -> bytes:
        told = self._told.recv(4)
        assert told, "the process that forks has failed"
        return told

    def _has_ended(self, timeout_s: float | None) -> bool:
        return bool(select.select([self._told], [], [], timeout_s)[0])

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send it SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)


def start(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    files: Sequence[int],
    before: Sequence[str] = (),
    *,
    is_fresh: bool = False,
) -> Process | subprocess.Popen[bytes]:
    """Start ``forwarder ARGUMENTS``; in a fresh interpreter also if other variables than the forwarder's have
    changed, as only that heeds all of them."""
    if not is_fresh and _others(environ) == _others(_AT_START):
        return Process(arguments, environ, files, before)
    stdin, stdout, stderr = files
    command = [sys.executable, "-m", "forwarder", *arguments]
    return subprocess.Popen(command, env=environ, stdin=stdin, stdout=stdout, stderr=stderr)


_AT_START = {**os.environ}


def _others(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in environ.items() if not name.startswith(("FORWARDER_", "PG", "PYTEST_"))
    }


def state_of(pid: int) -> str:
    """A process's state as the kernel calls it: T for stopped; Z, too, if there is none any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


class _Server:
    """The process that forks for this one."""

    _lock = threading.Lock()
    _known: _Server | None = None

    @classmethod
    def known(cls) -> _Server:
        with cls._lock:
            if cls._known is None:
                cls._known = cls()
        return cls._known

    def __init__(self) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # In a group of its own: Ctrl-C is for the tests, which end what they have started.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.processes", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                process_group=0,
            )

        atexit.register(self._close)

    def _close(self) -> None:
        self._orders.close()
        self._process.wait()

    def send(self, order: Mapping[str, Any], fds: Sequence[int]) -> None:
        socket.send_fds(self._orders, [json.dumps(order).encode()], fds)


def _next_order(orders: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork for each order, and tell how each ends; returns an order and the descriptors that come with it, in
    the process that is to carry it out."""
    children: dict[int, tuple[int, int]] = {}
    while True:
        for ready in select.select([orders, *children], [], [])[0]:
            if ready is not orders:
                pid, told = children.pop(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.write(told, code.to_bytes(4, "big", signed=True))
                os.close(told)
                os.close(ready)
                continue
            message, fds, _, _ = socket.recv_fds(orders, MOST_BYTES, 4)
            if not message:
                sys.exit()
            *files, told = fds
            if not (pid := os.fork()):
                return json.loads(message), files
            children[os.pidfd_open(pid)] = pid, told
            os.write(told, pid.to_bytes(4, "big"))
            for fd in files:
                os.close(fd)


def _main() -> None:
    for module in pkgutil.walk_packages(forwarder.__path__, "forwarder."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    gc.freeze()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    order, files = _next_order(socket.socket(fileno=int(sys.argv[1])))
    for number, fd in enumerate(files):
        os.dup2(fd, number)
    os.closerange(len(files), MOST_FILES)
    os.environ.clear()
    os.environ.update(order["environ"])
    os.chdir(order["cwd"])
    sys.argv = ["forwarder", *order["arguments"]]
    if order["before"]:
        module, _, name = order["before"][0].partition(":")
        getattr(importlib.import_module(module), name)(*order["before"][1:])
    code: Any = 0
    try:
        importlib.import_module("forwarder.cli").main()
    except SystemExit as ended:
        code = ended.code
    # As at the end of any, but for taking down all that was imported: that takes 70 ms.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    _main()
