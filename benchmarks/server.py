"""A server that makes trouble: takes POSTs as Mixpanel does, and answers each as its behaviour says."""

from __future__ import annotations

import random
import select
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from benchmarks import netns

HOST = "mixpanel.test"
DELAY_S = 0.25
RESET = 0  # in place of a status: the connection is reset, without an answer
_CONTEXT = get_context("spawn")
_PROBE = b'{"event":"",'  # the forwarder asks whether events are checked one by one


@dataclass(frozen=True)
class Request:
    """What a behaviour decides by.

    Attributes:
        number: Of all requests, from 0.
        at_once: How many are without an answer now, with this one.
        size: Of the body in bytes, uncompressed, as Mixpanel counts.
        address: Where it came in.
    """

    number: int
    at_once: int
    size: int
    address: str


@dataclass(frozen=True)
class Answer:
    """What a behaviour decides."""

    status: int = 200
    delay_s: float = DELAY_S
    padding: int = 0


Behaviour = Callable[[Request], Answer]
HANG = Answer(RESET, delay_s=3600.0)


def well(_request: Request) -> Answer:
    """Nothing but 250 ms a request."""
    return Answer()


def sometimes(percent: int, answer: Answer, request: Request) -> Answer:
    """*answer* to so many of each hundred requests, at places drawn at random, always the same."""
    hundred, place = divmod(request.number, 100)
    return answer if place in _drawn(percent, hundred) else Answer()


def every(count: int, answer: Answer, request: Request) -> Answer:
    """*answer* to each so-manieth request."""
    return Answer() if (request.number + 1) % count else answer


def first(count: int, answer: Answer, request: Request) -> Answer:
    """*answer* to the first requests."""
    return answer if request.number < count else Answer()


def above(size: int, answer: Answer, request: Request) -> Answer:
    """*answer* to bodies larger than *size*."""
    return answer if request.size > size else Answer()


def at(address: str, answer: Answer, request: Request) -> Answer:
    """*answer* at one of the server's addresses."""
    return answer if request.address == address else Answer()


def crowded(request: Request) -> Answer:
    """0.2 s for a request alone, and four times as much for each of two."""
    return Answer(delay_s=0.2 * request.at_once**2)


@cache
def _drawn(percent: int, hundred: int) -> frozenset[int]:
    return frozenset(random.Random(f"{percent} {hundred}").sample(range(100), percent))


@dataclass(frozen=True)
class Acknowledged:
    """One request that was answered with 200, and whose client was still there to hear it."""

    at: float
    events: int
    sent_bytes: int
    address: str
    client: str


@dataclass
class Taken:
    """What has come so far; instants are monotonic, and the same in all processes.

    Attributes:
        answers: How many requests by their status; those that hang are under RESET.
    """

    first_at: float = 0.0
    requests: int = 0
    at_once: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    acknowledged: list[Acknowledged] = field(default_factory=list)

    @property
    def events(self) -> int:
        """How many were acknowledged."""
        return sum(each.events for each in self.acknowledged)

    def at(self, events: int) -> float:
        """When so many events had been acknowledged."""
        for each in self.acknowledged:
            events -= each.events
            if events <= 0:
                return each.at
        raise ValueError("there were not so many")

    def rate(self, events: float) -> float:
        """Events/s from the first request until so many were acknowledged."""
        return events / (self.at(int(events)) - self.first_at)

    def rate_within(self, seconds: float) -> float:
        """Events/s in so many seconds from the first request."""
        until = self.first_at + seconds
        return sum(each.events for each in self.acknowledged if each.at <= until) / seconds


class Server:
    """A process of its own.

    Args:
        behave: A module's function or a partial of one, as it goes to that process.
        space: The network namespace to be in; "" stays on loopback.
        certificate: What `make_certificate` made; "" is plain HTTP.

    Attributes:
        url: Where it listens.
    """

    def __init__(self, behave: Behaviour = well, space: str = "", certificate: str = "") -> None:
        self._pipe, child = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(child, behave, space, certificate), daemon=True)
        self._process.start()
        child.close()  # or its end would not be noticed
        self.address = f"{HOST if space else '127.0.0.1'}:{self._pipe.recv()}"
        self.url = f"{'https' if certificate else 'http'}://{self.address}"

    def taken(self) -> Taken:
        """What has come so far."""
        taken: Taken = self._ask("taken")
        return taken

    def behave(self, behave: Behaviour) -> None:
        """Behave otherwise from now on."""
        self._ask("behave", behave)

    def hang_up(self) -> None:
        """Close all connections."""
        self._ask("hang_up")

    def _ask(self, *asked: Any) -> Any:
        self._pipe.send(asked)
        return self._pipe.recv()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()


def make_certificate(file: str) -> str:
    """A self-signed one for HOST, as *file*, with its key in FILE.key."""
    named = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    usage = ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *named, *usage]
    command = ["openssl", *made, "-keyout", f"{file}.key", "-out", file]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return file


def _serve(pipe: Connection, behave: Behaviour, space: str, certificate: str) -> None:
    if space:
        netns.enter(space)
    listener = socket.create_server(("" if space else "127.0.0.1", 0), backlog=128)
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, f"{certificate}.key")
    site = _Site(behave, context)
    threading.Thread(target=site.accept, args=(listener,), daemon=True).start()
    pipe.send(listener.getsockname()[1])
    while True:
        name, *values = pipe.recv()
        with site.lock:
            pipe.send(getattr(site, name)(*values))


class _Site:
    """In the server's process: what it has taken, and one thread for each connection."""

    def __init__(self, behave: Behaviour, context: ssl.SSLContext | None) -> None:
        self.lock = threading.Lock()
        self._behave, self._context = behave, context
        self._taken = Taken()
        self._open: set[socket.socket] = set()

    def taken(self) -> Taken:
        return self._taken

    def behave(self, behave: Behaviour) -> None:
        self._behave = behave

    def hang_up(self) -> None:
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        # A client that leaves is no failure of the server's.
        with suppress(OSError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            with connection:
                self._open.add(connection)
                while self._answer(connection):
                    pass
        self._open.discard(connection)

    def _answer(self, connection: socket.socket) -> bool:
        """Answer one request; whether another may follow."""
        from isal import igzip

        with connection.makefile("rb", buffering=1 << 20) as stream:
            length = 0
            while (line := stream.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            body = stream.read(length)
        if not body or len(body) < length:
            return False
        text = igzip.decompress(body)
        address = connection.getsockname()[0]
        answer = self._decide(len(text), address)
        time.sleep(answer.delay_s)
        with self.lock:
            self._taken.at_once -= 1
        if select.select([connection], [], [], 0)[0]:
            return False  # the client has given up: nothing of this counts
        if answer.status == RESET:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        events = text.count(b"\n")
        connection.sendall(_response(answer, events, is_probe=text.startswith(_PROBE)))
        if answer.status == 200 and not text.startswith(_PROBE):
            client = connection.getpeername()[0]
            with self.lock:
                self._taken.acknowledged.append(
                    Acknowledged(time.monotonic(), events, len(body), address, client)
                )
        return True

    def _decide(self, size: int, address: str) -> Answer:
        with self.lock:
            taken = self._taken
            taken.first_at = taken.first_at or time.monotonic()
            taken.at_once += 1
            answer = self._behave(Request(taken.requests, taken.at_once, size, address))
            taken.requests += 1
            taken.answers[answer.status] += 1
            return answer


def _response(answer: Answer, events: int, *, is_probe: bool) -> bytes:
    status = 400 if is_probe and answer.status == 200 else answer.status
    text = b'{"code":200,"num_records_imported":%d,"status":"OK"}' % events
    if status == 400 and is_probe:
        failed = b'{"index":0,"insert_id":"","field":"event","message":"must not be empty"}'
        text = b'{"code":400,"failed_records":[%s],"num_records_imported":0,"status":"Bad Request"}' % failed
    elif status != 200:
        text = b'{"code":%d,"error":"not now","status":"%s"}' % (status, b"x" * answer.padding)
    head = b"HTTP/1.1 %d -\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(text)) + text
