"""Who is sent next: suspects that can be told, what came back, what waits; or a question, to tell more."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from forwarder.config.settings import Delivery
from forwarder.delivery.apart import Apart
from forwarder.delivery.backlog import Backlog
from forwarder.delivery.backoff import BatchSize
from forwarder.delivery.batch import Batch
from forwarder.delivery.evidence import Evidence
from forwarder.delivery.gate import Gate, Schedule
from forwarder.delivery.probe import probe_batch
from forwarder.delivery.resend import Resend
from forwarder.delivery.sample import Sample
from forwarder.delivery.suspects import Suspects
from forwarder.spool import Consumer

Option = tuple[float, Callable[[], Batch | None]]


class Line:
    """All that waits to be sent, and what is out. Instants are the caller's (monotonic).

    Attributes:
        out: What was sent and is not answered for.
        probe: The probe that is out; None: none is.
        ask_at: When a suspect may be asked about of which nothing new is known.
        size: How large a batch may be.
    """

    def __init__(self, spool: Consumer, evidence: Evidence, settings: Delivery, gate: Gate) -> None:
        """*gate* is that of the events that are set apart."""
        self._evidence = evidence
        self.backlog = Backlog(spool)
        self.resend = Resend(spool, evidence)
        self.apart = Apart(spool, evidence, gate)
        self.suspects = Suspects(spool, evidence)
        self.out: set[Batch] = set()
        self.probe: Batch | None = None
        self._sample: Sample | None = None
        self._is_probes_turn = False
        self.ask_at = 0.0
        self._probed_at = self._asked_at = -1
        self.apply(settings)

    def apply(self, settings: Delivery) -> None:
        """Take new settings."""
        self._settings = settings
        self.size = BatchSize(settings.batch_bytes)
        self.backlog.linger_s = settings.linger_s
        self.apart.gate.schedule = Schedule(settings.retry_initial_s, settings.retry_max_s)

    def flush(self) -> None:
        """Let all that waits be sent now."""
        self.ask_at = 0.0
        self.backlog.flush()
        self.resend.flush()
        self.apart.flush()

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

    def again(self, batch: Batch, now: float) -> None:
        """Have *batch*, which has failed as any other would, sent again as what it was."""
        if batch in self.apart:
            self.apart.add(batch, now)
        elif self._sample is not None and batch is self._sample.batch:
            self.resend.add(self._sample.rejoined())
            self._sample = None
            self._is_probes_turn = True
        elif batch is not self.probe:
            self.resend.add(batch)

    def answered(self, batch: Batch) -> None:
        """All that follows for *batch* has been done: it is out no more."""
        if batch is self.probe:
            self.probe = None
        elif self._sample is not None and batch is self._sample.batch:
            self.resend.add(self._sample.rest())
            self._sample = None
        self.apart.answered(batch)
        self.out.discard(batch)

    def has_others(self, batch: Batch) -> bool:
        """Whether there is anything but *batch* and those held or set apart to ask the far end about."""
        return bool(self.out - {batch} or self._sample or self.resend or self._may_claim)

    def __bool__(self) -> bool:
        return bool(self.out or self.resend or self.apart or self.suspects or self.backlog)

    def _options(self, now: float) -> Iterator[Option]:
        """What might be sent next and when, the best first."""
        is_in_doubt = self._evidence.are_many or self._evidence.are_too_many
        if self._is_stuck(now):
            yield now, lambda: self._ask(now)
        if not is_in_doubt:
            if self.suspects.can_ask():
                yield now, self.suspects.pop
            if self.apart.is_hopeful:
                yield self.apart.due_at, lambda: self.apart.pop(now)
            yield self.resend.due_at, lambda: self._resend(now)
            if self._may_claim:
                yield self.backlog.due_at(self._settings.batch_events), self._claim
        if not self.out:
            yield from self._last_options(now)

    def _last_options(self, now: float) -> Iterator[Option]:
        """The same where only such are left as have failed or were refused, and nothing went well since."""
        if self._may_probe():
            yield now, self._make_probe
        if self._may_claim:
            yield self.backlog.due_at(self._settings.batch_events), self._claim
        yield self.resend.due_at, lambda: self._resend(now)
        yield (
            self.resend.stubborn_due_at(alone=True),
            lambda: self.resend.pop_stubborn(now, alone=True),
        )
        yield self.resend.stubborn_due_at(alone=False), lambda: self._ask(now)
        yield self.apart.due_at, lambda: self.apart.pop(now)
        if self.suspects and not (self._may_claim or self.resend):
            yield self.ask_at, self.suspects.pop_any

    def _may_probe(self) -> bool:
        """Whether a probe may tell more; not twice on end, as the far end may not understand it."""
        if self._probed_at == self._evidence.sent or self._evidence.are_too_many:
            return False
        if self._evidence.are_many:
            return True
        return self.suspects.can_tell and not self.resend and not self._may_claim

    def _is_stuck(self, now: float) -> bool:
        """Whether a batch fails again and again, and only a yes can show that it is for one of its events.

        One event that fails holds back nobody but itself. After one question others have their turn.
        """
        if self.out or self._asked_at == self._evidence.sent:
            return False
        return self.resend.stubborn_due_at(alone=False) <= now

    def _ask(self, now: float) -> Batch | None:
        """A sample of a batch that fails; after one has failed a probe, as all of the batch may be bad."""
        self._asked_at = self._evidence.sent + 1
        if self._is_probes_turn:
            self._is_probes_turn = False
            return self._make_probe()
        whole = self.resend.pop_stubborn(now, alone=False)
        if whole is None:
            return None
        self._sample = Sample.of(whole)
        return self._sample.batch

    def _make_probe(self) -> Batch:
        self.probe = probe_batch()
        self._probed_at = self._evidence.sent + 1
        return self.probe

    def _resend(self, now: float) -> Batch | None:
        # The neighbours of what was refused may be as bad: what is far from them tells more.
        return self.resend.pop(now, last_first=self._evidence.are_unpaid)

    def _claim(self) -> Batch | None:
        return self.backlog.claim(self._settings.batch_events, self.size.allowed_bytes)

    @property
    def _may_claim(self) -> bool:
        """Whether rows are left to claim, and room to hold them."""
        held_bytes = self.resend.size_bytes + sum(batch.size_bytes for batch in self.out)
        if self._sample is not None:
            held_bytes += self._sample.whole.size_bytes
        room_bytes = self._settings.connections * self._settings.batch_bytes
        return bool(self.backlog) and held_bytes <= room_bytes
