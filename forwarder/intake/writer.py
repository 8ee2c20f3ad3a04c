"""The group commit: what arrives while one commit runs is the next one. Nobody lingers for company.

One thread writes, so that a slow disk holds up neither reading nor time limits. A request's records are in
one transaction. A failed commit fails its group; the next group tries again.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from forwarder.errors import ForwarderError, TryAgainError
from forwarder.intake.counters import Counters
from forwarder.intake.intake_log import IntakeLog
from forwarder.spool import FateUnknownError, Producer, SpoolFullError

# Two SDKs give up after 10 s: they have to hear a refusal while they listen.
PATIENCE_S = 5.0
# How long a commit waits for other writers before those who have waited too long may leave its group.
LOCK_TIMEOUT_S = 0.75
_PAUSE_S = 0.05
# A larger group would make single events wait for imports; one larger request is a group of its own.
_GROUP_BYTES = 4 << 20

Done = Callable[[ForwarderError | None], None]


@dataclass(slots=True, eq=False)
class Batch:
    """What one request stores.

    Attributes:
        kind: The name of its kind.
        done: Called in the loop, once: with None when all is durable, or with the error if nothing is stored.
        refused: How many items were refused, by a word for the reason; only counted.
        ids: Those of the records, once they are durable.
    """

    kind: str
    records: Sequence[bytes]
    dead: Sequence[tuple[bytes, str]]
    refused: Mapping[str, int]
    done: Done
    size_bytes: int = 0
    came_at: float = field(default_factory=time.monotonic)
    ids: Sequence[int] = ()


@dataclass(slots=True)
class _Result:
    batches: list[Batch]
    error: ForwarderError | None
    took_s: float


class Writer:
    """Commits batches in a thread of its own. All methods are for the loop's thread.

    Args:
        open_queue: Opens the way into the queue of a kind, by its name.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        open_queue: Callable[[str], Producer],
        counters: Counters,
        log: IntakeLog,
    ) -> None:
        self._loop = loop
        self._open_queue = open_queue
        self._counters = counters
        self._intake_log = log
        self._producers: dict[str, Producer] = {}
        self._news = threading.Condition()
        # The thread takes from it what it will commit; what is still in it can be withdrawn.
        self._waiting: deque[Batch] = deque()
        self._coming: list[Batch] = []
        self._is_closed = False
        self._expiry: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._run, name="intake-writer", daemon=True)

    def start(self, kinds: Sequence[str]) -> None:
        """Open the queues of *kinds*, and begin.

        Raises:
            ConfigError, NotPermittedError: a queue can't be used. What may pass by itself is not raised.
        """
        for kind in kinds:
            try:
                self._producer(kind)
            except ForwarderError as error:
                if error.exit_code in (77, 78):
                    raise
                self._intake_log.storage_failed(error)
        self._thread.start()

    def submit(self, batch: Batch) -> None:
        """Commit *batch*, with others or alone."""
        # Once all that has come is read, not for each: the thread would take the first alone, and the loop
        # would wait for it again and again.
        if not self._coming:
            self._loop.call_soon(self._hand_over)
        self._coming.append(batch)
        if self._expiry is None:
            self._expiry = self._loop.call_later(PATIENCE_S, self._expire)

    def _hand_over(self) -> None:
        with self._news:
            self._waiting += self._coming
            self._news.notify()
        self._coming.clear()

    def close(self) -> None:
        """Commit what waits, and end."""
        self._hand_over()
        with self._news:
            self._is_closed = True
            self._news.notify()
        if self._thread.is_alive():
            self._thread.join()
        for producer in self._producers.values():
            try:
                producer.close()
            except ForwarderError as error:
                self._intake_log.storage_failed(error)

    def _expire(self) -> None:
        """Withdraw what has waited too long; what is in a running transaction waits for its outcome."""
        self._expiry = None
        old: list[Batch] = []
        with self._news:
            limit = time.monotonic() - PATIENCE_S
            while self._waiting and self._waiting[0].came_at <= limit:
                old.append(self._waiting.popleft())
            if self._waiting:
                due_s = self._waiting[0].came_at - limit
                self._expiry = self._loop.call_later(due_s, self._expire)
        if old:
            self._settle([_Result(old, _busy(), 0.0)])

    def _settle(self, results: list[_Result]) -> None:
        for result in results:
            count = sum(len(batch.records) for batch in result.batches)
            if result.error:
                self._intake_log.storage_failed(result.error)
            elif count:  # or there was no commit
                self._intake_log.storage_recovered()
                self._counters.commit_s.add(result.took_s)
                self._counters.group.add(count)
            for batch in result.batches:
                batch.done(result.error)

    # In the thread

    def _run(self) -> None:
        while group := self._next_group():
            kinds: dict[str, list[Batch]] = {}
            for batch in group:
                kinds.setdefault(batch.kind, []).append(batch)
            results = [result for kind in kinds if (result := self._commit(kind, kinds[kind]))]
            if results:
                self._loop.call_soon_threadsafe(self._settle, results)

    def _next_group(self) -> list[Batch]:
        """What is committed next; empty: closed, and nothing is left."""
        group: list[Batch] = []
        size_bytes = 0
        with self._news:
            while not self._waiting and not self._is_closed:
                self._news.wait()
            while self._waiting and (not group or size_bytes + self._waiting[0].size_bytes <= _GROUP_BYTES):
                group.append(self._waiting.popleft())
                size_bytes += group[-1].size_bytes
        return group

    def _commit(self, kind: str, batches: list[Batch]) -> _Result | None:
        """Commit *batches*; None: it may still work, and they wait again."""
        started_at = time.monotonic()
        try:
            self._append(kind, batches)
        except ForwarderError as error:
            # What may be stored already must not be stored once more: whoever has sent it decides.
            if isinstance(error, TryAgainError) and not isinstance(error, SpoolFullError | FateUnknownError):
                return self._put_back(batches)
            return _Result(batches, error, 0.0)
        except Exception as error:  # the thread must go on, and nobody may wait for ever
            return _Result(batches, ForwarderError(f"a bug: {type(error).__name__}: {error}"), 0.0)
        return _Result(batches, None, time.monotonic() - started_at)

    def _append(self, kind: str, batches: list[Batch]) -> None:
        producer = self._producer(kind)
        records = [record for batch in batches for record in batch.records]
        if records:
            ids = producer.append(records, [letter for batch in batches for letter in batch.dead])
            at = 0
            for batch in batches:
                batch.ids = ids[at : at + len(batch.records)]
                at += len(batch.records)
        refused = sum((Counter(batch.refused) for batch in batches if batch.refused), Counter[str]())
        if refused:
            producer.refuse(refused)

    def _put_back(self, batches: list[Batch]) -> _Result | None:
        limit = time.monotonic() - PATIENCE_S
        old = [batch for batch in batches if batch.came_at <= limit]
        with self._news:
            self._waiting.extendleft(batch for batch in reversed(batches) if batch.came_at > limit)
        time.sleep(_PAUSE_S)
        return _Result(old, _busy(), 0.0) if old else None

    def _producer(self, kind: str) -> Producer:
        if kind not in self._producers:
            self._producers[kind] = self._open_queue(kind)
        return self._producers[kind]


def _busy() -> TryAgainError:
    return TryAgainError(
        f"the queue did not take it within {PATIENCE_S:g} s: it is locked, or its disk is slow",
        "Nothing was stored; try again, or look for a stopped process that has it open",
    )
