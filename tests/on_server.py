"""The queue on a server, for the tests: the command with such settings, the books by content, and a proxy
that cuts and stalls connections."""

from __future__ import annotations

import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest

from forwarder.records import KINDS
from forwarder.sandbox import Sandbox
from forwarder.spool import DUE, Figures, Selection
from forwarder.spool.postgresql.address import Address
from forwarder.spool.postgresql.consumer import Consumer
from forwarder.spool.postgresql.engine import Spool
from tests.conftest import TOKEN, Forwarder, insert_id_of

# How long the long runs of `make crash` take; 0: the short ones of every change.
CRASH_S = float(os.environ.get("FORWARDER_CRASH_S") or 0)
long = pytest.mark.skipif(not CRASH_S, reason="FORWARDER_CRASH_S asks for the long runs; `make crash` does")
LIMITS = {"max_bytes": 10**10, "min_free_bytes": 0, "lock_timeout_s": 10.0}
MIB = 1024 * 1024
NOW = int(time.time())


class Remote(Forwarder):
    """The command with settings for a queue on a server, and the queue itself."""

    def __init__(self, address: Address, url: str) -> None:
        super().__init__("", url)
        del self.environ["FORWARDER_QUEUE_PATH"]
        self.environ["FORWARDER_INTAKE_TOKENS"] = TOKEN
        self.point_at(address)

    def point_at(self, address: Address) -> None:
        """From now on, the queue is there."""
        self.address = address
        self.spool = Spool(address, KINDS["event"])
        self.environ |= {
            "FORWARDER_QUEUE_URL": address.url,
            "FORWARDER_QUEUE_SCHEMA": address.schema,
            "FORWARDER_QUEUE_STANDBYS": str(address.standbys),
            "FORWARDER_QUEUE_LEASE_S": str(address.lease_s),
        }

    def figures(self, kind: str = "event") -> Figures:
        """The books of a kind, once they are proven."""
        return figures(self.address, kind)


def figures(address: Address, kind: str = "event") -> Figures:
    """The books of a kind, once they are proven."""
    with Spool(address, KINDS[kind]).view() as view:
        assert [finding for finding in view.check() if not finding.ok] == []
        found = view.figures()
    assert found.accepted == found.delivered + found.dead_lettered + found.deleted + found.waiting
    return found


def waiting(address: Address) -> list[bytes]:
    """What waits, held events included."""
    with Spool(address, KINDS["event"]).view() as view:
        return [row.data for where in (DUE, Selection(held=True)) for row in view.peek(10**6, 0, where)]


def dead(address: Address) -> list[bytes]:
    """The dead letters."""
    with Spool(address, KINDS["event"]).view() as view:
        return [letter.data for letter in view.dead_letters(Selection(), limit=10**6)]


def proven(
    address: Address, server: Sandbox, acknowledged: Iterable[int], *, unknown: Iterable[int] = ()
) -> Figures:
    """The books by content: each event that was acknowledged is delivered, dead or waiting; no other is, but
    those whose fate is *unknown*. Both are numbers of `event`."""
    delivered = server.ledger.events
    assert not any(entry.changed for entry in delivered.values()), "a repeat differed"
    found = {*delivered, *(insert_id_of(data) for data in [*dead(address), *waiting(address)])}
    expected = {f"id-{number}" for number in acknowledged}
    assert expected - found == set(), "lost"
    assert found - expected - {f"id-{number}" for number in unknown} == set(), "never offered"
    return figures(address)


def event(number: int, name: str = "signup") -> dict:
    return {"event": name, "properties": {"distinct_id": "ada", "$insert_id": f"id-{number}", "time": NOW}}


def data(number: int) -> bytes:
    return json.dumps(event(number)).encode()


def lines(*numbers: int, name: str = "signup") -> str:
    return "".join(json.dumps(event(number, name)) + "\n" for number in numbers)


def number_of(record: bytes) -> int:
    return int(insert_id_of(record)[3:])


@contextmanager
def consumer_of(address: Address) -> Iterator[Consumer]:
    """The daemon's side of the queue."""
    with closing(Spool(address, KINDS["event"]).consumer()) as consumer:
        yield consumer


def deliver(consumer: Consumer) -> list[bytes]:
    """Claim and settle all that waits now, and return it."""
    from forwarder.spool import Settlement

    found: list[bytes] = []
    left = consumer.arrivals()
    while left:
        claim = consumer.claim(500, MIB)
        found += claim.events
        left = claim.left
        if claim.ids:
            consumer.settle(Settlement(claim.ids, size_bytes=claim.size_bytes))
    return found


class Proxy:
    """Stands between clients and a server, for URLs of one host. Connections pass until it is asked to
    interfere.

    Attributes:
        has_cut: Whether the connection was cut that `cut` has asked for.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        self._upstream = query["host"][0], int(query["port"][0])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._cut_in = 0
        self.has_cut = False
        self._flows = threading.Event()
        self._flows.set()
        self._is_settled = threading.Event()
        self._is_closed = False
        self._start(self._accept)

    def through(self, address: Address) -> Address:
        """The same queue, by way of the proxy."""
        parts = urlsplit(address.url)
        query = f"host=127.0.0.1&port={self._port}&sslmode=disable&gssencmode=disable"
        return replace(address, url=parts._replace(query=query).geturl())

    def cut(self, after: int) -> None:
        """Cut the connection in place of the message from the server that comes after so many others."""
        self.has_cut, self._cut_in = False, after + 1
        self._is_settled.clear()

    def stall(self) -> None:
        """Let nothing through in either direction; connections are still taken."""
        self._flows.clear()

    def flow(self) -> None:
        """Let all through again, also what has waited."""
        self._flows.set()

    def drop(self) -> None:
        """End all connections."""
        for pair in self._pairs:
            _end(pair)

    def settled(self) -> None:
        """Wait until the server has done what the cut connection asked for."""
        assert self._is_settled.wait(20), "the server has not ended the connection"

    def close(self) -> None:
        self._is_closed = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.flow()
        self.drop()
        for thread in self._threads:
            thread.join(20)
        for end in itertools.chain(*self._pairs):
            end.close()

    def _start(self, what, *arguments: object) -> None:
        thread = threading.Thread(target=what, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listener.accept()
                upstream = socket.create_connection(self._upstream, 20)
            except OSError:
                continue
            for end in (client, upstream):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = client, upstream
            self._pairs.append(pair)
            self._start(self._pass, pair)
            self._start(self._answer, pair)

    def _pass(self, pair: tuple[socket.socket, socket.socket]) -> None:
        client, upstream = pair
        with suppress(OSError):
            while piece := client.recv(65536):
                self._flows.wait()
                upstream.sendall(piece)
        with suppress(OSError):
            upstream.shutdown(socket.SHUT_WR)

    def _answer(self, pair: tuple[socket.socket, socket.socket]) -> None:
        client, upstream = pair
        with suppress(OSError), upstream.makefile("rb") as answers:
            while head := answers.read(5):
                message = head + answers.read(int.from_bytes(head[1:], "big") - 4)
                self._flows.wait()
                if self._cut_in:
                    self._cut_in -= 1
                    if not self._cut_in:
                        self.has_cut = True
                        _end((client,))
                        with suppress(OSError):
                            upstream.shutdown(socket.SHUT_WR)
                            answers.read()
                        self._is_settled.set()
                        break
                client.sendall(message)
        _end(pair)


def _end(ends: Iterable[socket.socket]) -> None:
    # Closed at the end: a thread that is about to read could read from another connection of that number.
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
