"""Who is sent next: suspects that can be told, what came back, what waits; a probe where only that helps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from forwarder.config.settings import Delivery
from forwarder.delivery.backlog import Backlog
from forwarder.delivery.backoff import BatchSize
from forwarder.delivery.batch import Batch
from forwarder.delivery.evidence import Evidence
from forwarder.delivery.probe import probe_batch
from forwarder.delivery.resend import Resend
from forwarder.delivery.suspects import Suspects
from forwarder.spool import Consumer

# A batch that has failed so often lets others go first: it may be what makes the far end fail.
STUBBORN = 3

Option = tuple[float, Callable[[], Batch | None]]


class Line:
    """All that waits to be sent, and what is out. Instants are the caller's (monotonic).

    Attributes:
        out: What was sent and is not answered for.
        probe: The probe that is out; None: none is.
        ask_at: When a suspect may be asked about of which nothing new is known.
        size: How large a batch may be.
    """

    def __init__(self, spool: Consumer, evidence: Evidence, settings: Delivery) -> None:
        self._evidence = evidence
        self.backlog = Backlog(spool)
        self.resend = Resend(spool)
        self.suspects = Suspects(spool, evidence)
        self.out: set[Batch] = set()
        self.probe: Batch | None = None
        self.ask_at = 0.0
        self._probed_at = -1
        self.apply(settings)

    def apply(self, settings: Delivery) -> None:
        """Take new settings."""
        self._settings = settings
        self.size = BatchSize(settings.batch_bytes)
        self.backlog.linger_s = settings.linger_s

    def flush(self) -> None:
        """Let all that waits be sent now."""
        self.ask_at = 0.0
        self.backlog.flush()
        self.resend.flush()

    def next(self, now: float) -> Batch | None:
        """What to send now; it is out then. None may also be a step on the way to it."""
        for due_at, take in self._options(now):
            if due_at <= now:
                batch = take()
                if batch is not None:
                    self._evidence.number(batch)
                    self.out.add(batch)
                return batch
        return None

    def due_at(self, now: float) -> float:
        """When `next` has something to give; infinite: not before a reply or news."""
        return min((due_at for due_at, _ in self._options(now)), default=math.inf)

    def has_others(self, batch: Batch) -> bool:
        """Whether there is anything but *batch* and suspects to ask the far end about."""
        return bool(self.out - {batch} or self.resend or self._may_claim)

    def __bool__(self) -> bool:
        return bool(self.out or self.resend or self.suspects or self.backlog)

    def _options(self, now: float) -> Iterator[Option]:
        """What might be sent next and when, the best first."""
        is_in_doubt = self._evidence.are_many or self._evidence.are_too_many
        if self._is_stuck(now):
            yield now, self._make_probe
        if not is_in_doubt:
            if self.suspects.can_ask():
                yield now, self.suspects.pop
            yield self.resend.due_at(self._is_fit), lambda: self._resend(now, self._is_fit)
            if self._may_claim:
                yield self.backlog.due_at(self._settings.batch_events), self._claim
        if self.out:
            return
        # Only such are left as have failed or were refused, and nothing is known to have gone well since.
        if self._may_probe():
            yield now, self._make_probe
        if self._may_claim:
            yield self.backlog.due_at(self._settings.batch_events), self._claim
        yield self.resend.due_at(_any), lambda: self._resend(now, _any)
        if self.suspects and not (self._may_claim or self.resend):
            yield self.ask_at, self.suspects.pop_any

    def _is_stubborn(self, batch: Batch) -> bool:
        return batch.failed_tries >= STUBBORN and not self._evidence.is_judging_since(batch.failed_at)

    def _is_fit(self, batch: Batch) -> bool:
        return not self._is_stubborn(batch)

    def _may_probe(self) -> bool:
        """Whether a probe may tell more; not twice on end, as the far end may not understand it."""
        if self._probed_at == self._evidence.sent or self._evidence.are_too_many:
            return False
        if self._evidence.are_many:
            return True
        return self.suspects.can_tell and not self.resend and not self._may_claim

    def _is_stuck(self, now: float) -> bool:
        """Whether a batch fails again and again, and only a yes can show that it is for one of its events.

        One event that fails holds back nobody but itself.
        """
        if self.out or self._probed_at == self._evidence.sent:
            return False
        return self.resend.due_at(lambda batch: self._is_stubborn(batch) and len(batch) > 1) <= now

    def _make_probe(self) -> Batch:
        self.probe = probe_batch()
        self._probed_at = self._evidence.sent + 1
        return self.probe

    def _resend(self, now: float, is_fit: Callable[[Batch], bool]) -> Batch | None:
        # The neighbours of what was refused may be as bad: what is far from them tells more.
        return self.resend.pop(now, is_fit, last_first=self._evidence.are_unpaid)

    def _claim(self) -> Batch | None:
        return self.backlog.claim(self._settings.batch_events, self.size.allowed_bytes)

    @property
    def _may_claim(self) -> bool:
        """Whether rows are left to claim, and room to hold them."""
        held_bytes = sum(batch.size_bytes for batch in (*self.out, *self.resend))
        room_bytes = self._settings.connections * self._settings.batch_bytes
        return bool(self.backlog) and held_bytes <= room_bytes


def _any(_batch: Batch) -> bool:
    return True
