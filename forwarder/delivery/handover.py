"""From this host's queue to one on a server, each record once. No threads, no sleep, no clock of its own.

One batch at a time, in the order of the queue. The server notes the last batch. So before the first one, and
after any that was not acknowledged, it is asked what that was, and what is still the same here is settled.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from forwarder.config.settings import Delivery
from forwarder.delivery.backlog import Backlog
from forwarder.delivery.batch import Batch
from forwarder.delivery.flow import Flow
from forwarder.delivery.report import Postponed, Report
from forwarder.records.kind import Kind
from forwarder.records.verdict import Outcome, Verdict
from forwarder.spool import Claim, Consumer, HandedOver, Settlement


@dataclass(slots=True, eq=False)
class Parcel(Batch):
    """A batch to hand over; an empty one asks what the last one was.

    Attributes:
        source: The queue that it comes from.
        turn: See `HandedOver`.
        last: The answer to an empty one, set by whoever sends it.
    """

    source: str = ""
    turn: int = 0
    last: HandedOver | None = None


class HandoverDispatcher:
    """Does for a relay what `dispatcher.Dispatcher` does for Mixpanel, with the same methods."""

    def __init__(self, spool: Consumer, kind: Kind, settings: Delivery) -> None:
        self._spool = spool
        self._is_ordered = kind.is_ordered
        self._backlog = Backlog(spool)
        self._turn: int | None = None
        # What was claimed, and is not known to be taken over.
        self._again: Sequence[int] = ()
        self._again_bytes = 0
        self._out: Parcel | None = None
        self._number = 0
        self.paused = False
        self.apply(settings)

    def apply(self, settings: Delivery) -> None:
        """Use new settings; waits are forgotten."""
        self._settings = settings
        self.flow = Flow(settings, random.random)

    @property
    def in_flight(self) -> int:
        """Records in flight."""
        return len(self._out or ())

    @property
    def has_sent(self) -> bool:
        """Whether an answer will come."""
        return self._out is not None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to send or to wait for."""
        return not (self.has_sent or self._again or self._backlog)

    @property
    def condition(self) -> tuple[str, str]:
        """The state, ``running``, ``backing_off`` or ``blocked``, and why, for a person."""
        return self.flow.trouble

    def awaits(self, batch: Batch) -> bool:
        """Whether it is in flight, so that an answer can be settled."""
        return batch is self._out

    def notice(self, now: float) -> None:
        """See what has been added to the queue."""
        self._backlog.notice(now)

    def take_dead(self) -> tuple[int, str]:
        """How many rows since the last call were not records, and the reason for the first."""
        return self._backlog.take_dead()

    def deferred(self, now: float) -> list[Postponed]:
        """What was not taken over at the last try."""
        _, reason = self.condition
        if not (self._again and reason):
            return []
        return [Postponed.until(self.flow.retry_at, now, self._again, reason, self.flow.tries)]

    def flush(self) -> None:
        """Forget the present wait."""
        self.flow.flush()

    def wait_s(self, now: float) -> float:
        """How long `next` returns nothing, unless there is news or an answer; may be infinite."""
        if self.paused or self.has_sent or not (self._again or self._backlog):
            return math.inf
        return max(self.flow.retry_at, now) - now

    def next(self, now: float) -> Parcel | None:
        """What to send now; None: there is nothing now, or call again.

        Raises:
            ForwarderError: the queue could not be read or written. Nothing has changed.
        """
        if self.wait_s(now) > 0:
            return None
        if self._turn is None:
            parcel = Parcel((), (), 0)
        else:
            claim = self._claim()
            if not claim.ids:
                return None
            # A person must not hold back, for a later release, what may be taken over already. Of an event
            # Mixpanel drops the repeat, and marking its row takes room on a full disk.
            is_safe = not self._is_ordered or len(claim.doubtful) == len(claim.ids)
            if not is_safe and self._spool.mark_sent(claim.ids) < len(claim.ids):
                return None  # some have just been held or deleted
            parcel = Parcel(claim.ids, claim.events, claim.size_bytes, turn=self._turn)
        self._number += 1
        parcel.number, parcel.tries, parcel.source = self._number, self.flow.tries + 1, self._spool.queue_id
        self._out = parcel
        return parcel

    def _claim(self) -> Claim:
        if self._again:
            claim = self._spool.read_again(self._again, self._again_bytes)
        else:
            claim = self._backlog.read(self._settings.batch_events, self._settings.batch_bytes)
        self._again, self._again_bytes = claim.ids, claim.size_bytes
        return claim

    def settle(self, batch: Batch, outcome: Outcome, now: float) -> Report:
        """Act on the *outcome* of *batch*; on return what was taken over has left the queue.

        Raises:
            ForwarderError: the queue could not be written. Nothing has changed: call again with the same.
        """
        assert isinstance(batch, Parcel)
        delivered = 0
        if outcome.verdict is not Verdict.DELIVERED:
            self._turn = None
            state = "blocked" if outcome.verdict is Verdict.MISCONFIGURED else "backing_off"
            self.flow.failed(batch.number, state, outcome.detail, now)
        else:
            if batch.last:
                delivered = self._settle_last(batch.last)
                self._turn = batch.last.turn
            else:
                delivered = len(batch)
                size_bytes, took_s = batch.size_bytes, outcome.took_s
                self._spool.settle(
                    Settlement(batch.ids, size_bytes=size_bytes, tries=batch.tries, took_s=took_s)
                )
                self._again = ()
            # A server that only answers may still take nothing, as on a full disk.
            if batch.ids or not (self._again or self._backlog):
                self.flow.passed(batch.number, now, delivered)
        self._out = None
        is_retry = batch.tries > 1
        return Report(
            outcome, len(batch), is_retry, False, delivered, 0, 0, *self.condition, self.wait_s(now)
        )

    def _settle_last(self, last: HandedOver) -> int:
        """Remove what is left here of what was taken over. Returns how many."""
        if not last.digests:
            return 0
        claim = self._spool.read_again(sorted(last.digests), self._settings.batch_bytes)
        over = [
            row_id for row_id, record in zip(claim.ids, claim.events, strict=True) if last.has(row_id, record)
        ]
        if over:
            self._spool.settle(Settlement(over))
            self._again = sorted({*self._again}.difference(over))
        return len(over)
