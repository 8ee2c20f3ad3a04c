"""Threads that wait for the far end, so that nothing else has to."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from forwarder.delivery.batch import Batch, pack

if TYPE_CHECKING:
    from forwarder.delivery.client import Client
    from forwarder.delivery.outcome import Reply


class Senders:
    """As many threads as there have been batches out at once; each packs, sends and hands the reply back.

    Args:
        client: Sends the batches from now on; may be replaced at any time.
        done: Called from a sender's thread with each batch and its reply.
        timed: Called from a sender's thread with how long each request took, in seconds.
    """

    def __init__(
        self, client: Client, done: Callable[[Batch, Reply], None], timed: Callable[[float], None]
    ) -> None:
        self.client = client
        self._done = done
        self._timed = timed
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._threads = 0

    def send(self, batch: Batch) -> None:
        """Send *batch* as soon as a thread is free for it; returns at once.

        Where no thread can be started, the reply says so, and comes from the caller's own.
        """
        try:
            self._engage()
        except RuntimeError as error:
            self._done(batch, _unsent(error))
            return
        self._batches.put(batch)

    def close(self) -> None:
        """Let the threads end when they are done."""
        for _ in range(self._threads):
            self._batches.put(None)

    def _engage(self) -> None:
        """Count on one more thread; start it if none is free."""
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
                return
            # They are not waited for: a process that is told to hurry may leave them behind.
            name = f"sender-{self._threads + 1}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
            self._threads += 1

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            reply = self._post(batch)
            with self._lock:
                self._idle += 1
            self._done(batch, reply)

    def _post(self, batch: Batch) -> Reply:
        try:
            body = pack(batch.events)
            started_at = time.monotonic()
            reply = self.client.post(body)
            self._timed(time.monotonic() - started_at)
            return reply
        except Exception as error:  # whatever it is, the batch must come back, or it is never settled
            return _unsent(error)


def _unsent(error: Exception) -> Reply:
    from forwarder.delivery.outcome import Reply

    return Reply(None, {}, b"", f"could not be sent: {type(error).__name__}: {error}", time.time())
