"""Forwarders and their time: an event happens at an instant, and may make others happen later."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from forwarder.config.settings import Delivery
from forwarder.delivery.batch import Batch
from forwarder.delivery.dispatcher import Dispatcher
from forwarder.delivery.ordered import OrderedDispatcher
from forwarder.delivery.wire.outcome import Reply, judge
from forwarder.records import EVENTS
from forwarder.records.kind import Kind
from forwarder.spool import Claim, Settlement

# So many steps at one instant are no progress.
MOST_STEPS = 5000


class SpinningError(AssertionError):
    """Steps are made, and time does not go on."""


class Server(Protocol):
    """Where requests go."""

    def arrive(self, now: float, events: Sequence[bytes], patience_s: float) -> tuple[float, Reply]:
        """How long the answer to a request that comes *now* takes, and what it is."""


class Queue(Protocol):
    """What a dispatcher asks of a queue."""

    def arrivals(self) -> int:
        """How many wait behind what was claimed."""

    def claim(self, max_events: int, max_bytes: int) -> Claim:
        """The next rows."""

    def sample(self, place: float) -> Claim:
        """One that waits."""

    def read_again(self, ids: Sequence[int], size_bytes: int) -> Claim:
        """Rows that were claimed before."""

    def settle(self, settlement: Settlement) -> None:
        """Rows leave."""


class Endless:
    """A queue of events that never ends."""

    def __init__(self) -> None:
        self._position = 0

    def arrivals(self) -> int:
        """There is always more."""
        return 1 << 62

    def claim(self, max_events: int, _max_bytes: int) -> Claim:
        """As many as are asked for."""
        first = self._position + 1
        self._position += max_events
        return Claim(range(first, first + max_events), _Same(max_events), max_events * 3, 1 << 62)

    def sample(self, _place: float) -> Claim:
        """The next."""
        return Claim((self._position + 1,), _Same(1), 3)

    def read_again(self, ids: Sequence[int], size_bytes: int) -> Claim:
        """The same as before."""
        return Claim(ids, _Same(len(ids)), size_bytes)

    def settle(self, _settlement: Settlement) -> None:
        """Nothing is kept."""


class _Same(Sequence[bytes]):
    """So many times the same event, without the room for them."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override]
        if not -self._count <= index < self._count:
            raise IndexError
        return b"{}"


@dataclass(eq=False)
class Forwarder:
    """One daemon, and what came of its requests: when they reached the server, and the status."""

    dispatcher: Dispatcher | OrderedDispatcher
    server: Server
    latency_s: float = 0.0
    kind: Kind = EVENTS
    is_alive: bool = True
    wakes_at: float = -1.0
    answers: list[tuple[float, int | None]] = field(default_factory=list)


class World:
    """A clock, and what happens by it.

    Args:
        seed: For all that is left to chance; the same seed gives the same world.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._steps = 0
        self.now = 0.0

    def at(self, when: float, happen: Callable[[], None]) -> None:
        """Have *happen* called at an instant."""
        heapq.heappush(self._events, (when, next(self._count), happen))

    def run(self, until: float) -> None:
        """Let time pass.

        Raises:
            SpinningError: it does not.
        """
        while self._events and self._events[0][0] <= until:
            when, _, happen = heapq.heappop(self._events)
            self._steps = self._steps + 1 if when == self.now else 0
            if self._steps > MOST_STEPS:
                raise SpinningError(f"{MOST_STEPS} steps at {self.now}")
            self.now = when
            happen()
        self.now = until

    def start(self, queue: Queue, settings: Delivery, server: Server, latency_s: float = 0.0) -> Forwarder:
        """A forwarder that starts now; *latency_s* is its way to the server and back."""
        draw = random.Random(self.random.random()).random
        dispatcher = Dispatcher(queue, EVENTS, settings, random=draw)  # type: ignore[arg-type]
        forwarder = Forwarder(dispatcher, server, latency_s)
        self.wake(forwarder)
        return forwarder

    def wake(self, forwarder: Forwarder) -> None:
        """Have it look into its queue, and send what may be sent."""
        forwarder.dispatcher.notice(self.now)
        self._turn(forwarder)

    def _turn(self, forwarder: Forwarder) -> None:
        if not forwarder.is_alive:
            return
        dispatcher = forwarder.dispatcher
        while (batch := dispatcher.next(self.now)) is not None:
            self._send(forwarder, batch)
        wait_s = dispatcher.wait_s(self.now)
        if dispatcher.flow.out < dispatcher.flow.connections and wait_s < float("inf"):
            # A None may be a step on the way to a batch.
            wakes_at = self.now + max(wait_s, 1e-3)
            if not self.now < forwarder.wakes_at <= wakes_at:
                forwarder.wakes_at = wakes_at
                self.at(wakes_at, lambda: self._woken(forwarder, wakes_at))

    def _woken(self, forwarder: Forwarder, when: float) -> None:
        if when == forwarder.wakes_at:
            forwarder.wakes_at = -1.0
        self._turn(forwarder)

    def _send(self, forwarder: Forwarder, batch: Batch) -> None:
        there_s, back_s = (forwarder.latency_s * self.random.uniform(0.4, 0.6) for _ in range(2))
        self.at(self.now + there_s, lambda: self._arrive(forwarder, batch, there_s, back_s))

    def _arrive(self, forwarder: Forwarder, batch: Batch, there_s: float, back_s: float) -> None:
        took_s, reply = forwarder.server.arrive(self.now, batch.events, batch.patience_s)
        forwarder.answers.append((self.now, reply.status))
        all_s = there_s + took_s + back_s
        outcome = judge(forwarder.kind, replace(reply, took_s=all_s), batch.events)

        def settle() -> None:
            if forwarder.is_alive:
                forwarder.dispatcher.settle(batch, outcome, self.now)
                self._turn(forwarder)

        self.at(self.now + took_s + back_s, settle)
