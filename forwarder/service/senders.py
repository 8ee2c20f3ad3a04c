"""Threads that wait for the server, so that the loop does not."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from forwarder import log
from forwarder.delivery.batch import Batch
from forwarder.records.kind import Kind
from forwarder.records.verdict import Outcome, Verdict


class Client(Protocol):
    """Takes batches of a *kind* to where they go; for several threads.

    Attributes:
        proxy: The proxy on the way, for people; "" for none.
    """

    kind: Kind
    proxy: str

    def deliver(self, batch: Batch) -> Outcome:
        """Send *batch* and judge what came back."""

    def close(self) -> None:
        """Release what is held."""


class Senders:
    """As many threads as batches were in flight at once; each delivers one at a time.

    Args:
        client: Sends the batches; may be replaced at any time.
        done: Called from a sender's thread with the kind, each batch and its outcome.
        timed: Called from a sender's thread with the duration of each request, in seconds.
    """

    def __init__(
        self, client: Client, done: Callable[[Kind, Batch, Outcome], None], timed: Callable[[float], None]
    ) -> None:
        self.client = client
        self._done = done
        self._timed = timed
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._threads = 0

    def send(self, batch: Batch) -> None:
        """Send *batch* as soon as a thread is free; returns at once.

        If no thread can be started, the outcome says so, and comes from the caller's thread.
        """
        try:
            self._engage()
        except RuntimeError:
            self._done(
                self.client.kind,
                batch,
                _unsent("no thread could be started: too many processes, or not enough memory"),
            )
            return
        self._batches.put(batch)

    def close(self) -> None:
        """Let the threads end when they have finished."""
        for _ in range(self._threads):
            self._batches.put(None)

    def _engage(self) -> None:
        """Reserve a thread; start one if none is free."""
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
                return
            # A process that has to end at once does not wait for them.
            name = f"sender-{self._threads + 1}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
            self._threads += 1

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            outcome = self._post(batch)
            with self._lock:
                self._idle += 1
            self._done(self.client.kind, batch, outcome)

    def _post(self, batch: Batch) -> Outcome:
        client = self.client
        try:
            started_at = time.monotonic()
            outcome = client.deliver(batch)
            self._timed(time.monotonic() - started_at)
            return outcome
        except Exception as error:  # whatever it is, the batch must come back, or it would never be settled
            if isinstance(error, OSError) and error.strerror:
                return _unsent(error.strerror)
            log.get("sender").exception("request.failed")
            return replace(_unsent("a bug in the forwarder; see its log"), is_doubtful=True)


def _unsent(why: str) -> Outcome:
    return Outcome(Verdict.UNREACHABLE, f"could not be sent: {why}")
