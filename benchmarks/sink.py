"""A server that costs next to nothing: takes POSTs, counts lines, answers as Mixpanel does."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType

_CONTEXT = get_context("spawn")


@dataclass
class Taken:
    """What has come so far; instants are monotonic, and the same in all processes.

    Attributes:
        first_events: Those of the first request, which had come before `first_at`.
    """

    events: int = 0
    requests: int = 0
    at_once: int = 0
    most_at_once: int = 0
    first_events: int = 0
    first_at: float = 0.0
    last_at: float = 0.0

    @property
    def rate(self) -> float:
        """Events per second between the first request and the last."""
        return (self.events - self.first_events) / (self.last_at - self.first_at)


class Sink:
    """A process of its own on loopback.

    Args:
        delay_s: How long it takes for each answer.

    Attributes:
        url: Where it listens.
    """

    def __init__(self, delay_s: float = 0.0) -> None:
        self._pipe, child = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(child, delay_s), daemon=True)
        self._process.start()
        child.close()  # or its end would not be noticed
        self.url = f"http://127.0.0.1:{self._pipe.recv()}"

    def taken(self) -> Taken:
        """What has come so far."""
        self._pipe.send("taken")
        taken: Taken = self._pipe.recv()
        return taken

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()


def _serve(pipe: Connection, delay_s: float) -> None:
    taken, lock = Taken(), threading.Lock()
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    threading.Thread(target=_accept, args=(listener, taken, lock, delay_s), daemon=True).start()
    pipe.send(listener.getsockname()[1])
    while True:
        pipe.recv()
        with lock:
            pipe.send(replace(taken))


def _accept(listener: socket.socket, taken: Taken, lock: threading.Lock, delay_s: float) -> None:
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_answer, args=(connection, taken, lock, delay_s), daemon=True).start()


def _answer(connection: socket.socket, taken: Taken, lock: threading.Lock, delay_s: float) -> None:
    from isal import igzip

    stream = connection.makefile("rb", buffering=1 << 20)
    while line := stream.readline():
        length = 0
        while line not in (b"\r\n", b""):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
            line = stream.readline()
        events = igzip.decompress(stream.read(length)).count(b"\n")
        _note(taken, lock, events)
        if delay_s:
            time.sleep(delay_s)
        with lock:
            taken.at_once -= 1
        body = b'{"code":200,"num_records_imported":%d,"status":"OK"}' % events
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )


def _note(taken: Taken, lock: threading.Lock, events: int) -> None:
    with lock:
        taken.last_at = time.monotonic()
        if not taken.requests:
            taken.first_at, taken.first_events = taken.last_at, events
        taken.events += events
        taken.requests += 1
        taken.at_once += 1
        taken.most_at_once = max(taken.most_at_once, taken.at_once)
