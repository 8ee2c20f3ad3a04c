"""A far end that costs next to nothing: takes POSTs, counts lines, answers as Mixpanel does."""

from __future__ import annotations

import socket
import threading
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType

_CONTEXT = get_context("spawn")


class Sink:
    """A process of its own on loopback.

    Attributes:
        url: Where it listens.
    """

    def __init__(self, delay_s: float = 0.0) -> None:
        self._pipe, child = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(child, delay_s), daemon=True)
        self._process.start()
        self.url = f"http://127.0.0.1:{self._pipe.recv()}"

    def figures(self) -> tuple[int, int, float]:
        """Events taken so far, requests, and when the last one came (monotonic)."""
        self._pipe.send("figures")
        events, requests, last_at = self._pipe.recv()
        return events, requests, last_at

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()


class _Counts:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.events = 0
        self.requests = 0
        self.last_at = 0.0


def _serve(pipe: Connection, delay_s: float) -> None:
    counts = _Counts()
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    threading.Thread(target=_accept, args=(listener, counts, delay_s), daemon=True).start()
    pipe.send(listener.getsockname()[1])
    while True:
        pipe.recv()
        with counts.lock:
            pipe.send((counts.events, counts.requests, counts.last_at))


def _accept(listener: socket.socket, counts: _Counts, delay_s: float) -> None:
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_answer, args=(connection, counts, delay_s), daemon=True).start()


def _answer(connection: socket.socket, counts: _Counts, delay_s: float) -> None:
    from isal import igzip

    stream = connection.makefile("rb", buffering=1 << 20)
    while line := stream.readline():
        length = 0
        while line not in (b"\r\n", b""):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
            line = stream.readline()
        events = igzip.decompress(stream.read(length)).count(b"\n")
        with counts.lock:
            counts.events += events
            counts.requests += 1
            counts.last_at = time.monotonic()
        if delay_s:
            time.sleep(delay_s)
        body = b'{"code":200,"num_records_imported":%d,"status":"OK"}' % events
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )
