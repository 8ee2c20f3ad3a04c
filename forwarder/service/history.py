"""Recording what happens, a minute at a time, in the queue itself."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from forwarder.errors import ForwarderError, StorageError
from forwarder.records import EVENTS
from forwarder.service.counters import Counters, quantile
from forwarder.service.stream import Stream
from forwarder.spool import Figures, Period, Spool

PERIOD_S = 60.0
MOST_REASON = 200
_COUNTED = ("accepted", "delivered", "dead_lettered", "deleted")


class History:
    """Writes a row a minute for each kind of records that has ever come. Instants are the caller's
    (monotonic).

    If a row can't be written, the next one covers its time too.

    Args:
        queues: The queue, once for each kind.
        counters: What the daemon counts, by the kind's name.
        run: When the daemon started, in seconds since the epoch.
    """

    def __init__(
        self, queues: Iterable[Spool], counters: Mapping[str, Counters], run: float, now: float
    ) -> None:
        self._recorders = {
            queue.kind.name: Recorder(queue, counters[queue.kind.name], run, now) for queue in queues
        }
        self._due_at = now + PERIOD_S

    def observe(self, kinds: Mapping[str, Mapping[str, Any]], now: float) -> bool:
        """Note in which state each kind is from now on. Returns whether a minute is over."""
        for name, recorder in self._recorders.items():
            recorder.observe(kinds[name]["state"], kinds[name]["state_reason"], now)
        return now >= self._due_at

    def record(self, streams: Mapping[str, Stream], now: float) -> None:
        """Write what has happened since the last time."""
        self._due_at = now + PERIOD_S
        for name, recorder in self._recorders.items():
            try:
                with suppress(StorageError):
                    recorder.record(streams[name], now)
            except ForwarderError:
                # Who has the lock has it for all kinds: each would wait for it as long.
                return


class Recorder:
    """The same for one kind."""

    def __init__(self, queue: Spool, counters: Counters, run: float, now: float) -> None:
        self._queue = queue
        self._counters = counters
        self._run = run
        self._began = self._observed = now
        self._states: defaultdict[str, float] = defaultdict(float)
        self._state = self._reason = ""
        self._requests: Mapping[str, int] = {}
        self._totals: dict[str, int] = {}
        with suppress(ForwarderError):
            self._totals = self._look()[0]

    def observe(self, state: str, reason: str, now: float) -> None:
        """Note the state from now on."""
        if self._state:
            self._states[self._state] += now - self._observed
        self._state, self._observed = state, now
        if state != "running":
            self._reason = reason[:MOST_REASON]

    def record(self, stream: Stream, now: float) -> None:
        """Write a row, if any record has ever come. Raises `ForwarderError`: the next call writes it, too."""
        totals, figures, used_bytes = self._look()
        if self._queue.kind is not EVENTS and not (totals["accepted"] or totals["refused"]):
            self._begin(totals, now)
            return
        ended_at = time.time()
        requests = self._counters.by_outcome()
        took_s = self._counters.take_took_s()
        period = Period(
            ended_at,
            now - self._began,
            self._run,
            **{name: _more(total, self._totals.get(name, total)) for name, total in totals.items()},
            waiting=figures.waiting,
            held=figures.held,
            oldest_waiting_s=figures.oldest_waiting_s(ended_at),
            requests={
                name: more
                for name, count in requests.items()
                if (more := count - self._requests.get(name, 0))
            },
            sent_bytes=self._counters.take_sent_bytes(),
            p50_s=quantile(took_s, 0.5),
            p95_s=quantile(took_s, 0.95),
            used_bytes=used_bytes,
            disk_free_bytes=figures.disk_free_bytes,
            states={state: round(seconds, 1) for state, seconds in self._states.items() if seconds},
            reason=self._reason,
        )
        stream.consumer.record(period)
        self._requests = requests
        self._begin(totals, now)

    def _begin(self, totals: dict[str, int], now: float) -> None:
        self._totals, self._began = totals, now
        self._states.clear()
        if self._state == "running":
            self._reason = ""

    def _look(self) -> tuple[dict[str, int], Figures, int]:
        # Without waiting: the loop must not stop here.
        with self._queue.view(timeout_s=0) as view:
            figures, refused, used_bytes = view.figures(), view.refused(), view.used_bytes()
        totals = {name: getattr(figures, name) for name in _COUNTED}
        return {**totals, "refused": sum(refused.values())}, figures, used_bytes


def _more(after: int, before: int) -> int:
    """By how much a total has grown; one of a database that took the place of another began at 0."""
    return after - before if after >= before else after
