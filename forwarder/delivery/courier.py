"""What is sent when, and what follows from a reply. No thread, no sleep, no clock of its own."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from forwarder.config.settings import Delivery
from forwarder.delivery.backlog import Backlog
from forwarder.delivery.backoff import BatchSize, Connections
from forwarder.delivery.batch import Batch
from forwarder.delivery.gate import Gate, Schedule
from forwarder.delivery.outcome import Kind, Outcome, Reply, judge
from forwarder.delivery.probe import is_judgement, probe_batch
from forwarder.delivery.report import Report
from forwarder.delivery.suspects import Suspects
from forwarder.delivery.waiting import Waiting
from forwarder.spool import Consumer, Dead, Settlement


class Courier:
    """Claims batches from a queue and settles them by the replies.

    For one thread. Call `next` for what may be sent now, send it, and hand the reply to `settle`, which
    is the only place where events are acked.

    Attributes:
        paused: Nothing is sent while it is set.
        backlog: What has not been claimed yet.
        gate: Whether the far end may be bothered now.
    """

    def __init__(
        self,
        spool: Consumer,
        settings: Delivery,
        *,
        strict: bool = True,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._spool = spool
        self.backlog = Backlog(spool)
        self._waiting = Waiting()
        self._out: set[Batch] = set()
        self._suspects = Suspects(spool)
        self._ask_at = 0.0
        self._probe: Batch | None = None
        self._sent = 0
        self._connections = Connections(settings.connections)
        self.paused = False
        self.gate = Gate(Schedule(settings.retry_initial_s, settings.retry_max_s), random)
        self.apply(settings, strict)

    def apply(self, settings: Delivery, strict: bool) -> None:
        """Take new settings; what is in flight stays so, and waiting for the far end begins anew."""
        self._settings = settings
        self._strict = strict
        self._size = BatchSize(settings.batch_bytes)
        self.backlog.linger_s = settings.linger_s
        self.gate.schedule = Schedule(settings.retry_initial_s, settings.retry_max_s)
        before, self._connections = self._connections, Connections(settings.connections)
        # What is in flight was sent with the old settings: that it fails says nothing about the new ones.
        self._connections.ticket = before.ticket + 1
        self.gate.flush()

    @property
    def in_flight(self) -> int:
        """Events that are out, and not answered for."""
        return sum(map(len, self._out))

    @property
    def has_sent(self) -> bool:
        """Whether a reply will come."""
        return bool(self._out)

    @property
    def connections(self) -> int:
        """How many requests may be out at once just now."""
        return self._connections.allowed

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to send or to wait for."""
        return not (self._out or self._waiting or self._suspects or self.backlog)

    def flush(self) -> None:
        """Forget the present wait."""
        self._ask_at = 0.0
        for waiting in (self.gate, self.backlog, self._waiting):
            waiting.flush()

    def wait_s(self, now: float) -> float:
        """How long `next` has nothing to give for, if there is no news and no reply; may be infinite."""
        if self.paused:
            return math.inf
        due_at = math.inf
        if self._needs_probe or self._suspects.can_ask():
            due_at = now
        elif not self._suspects.are_many:
            due_at = min(self._waiting.due_at(), self.backlog.due_at() if self._may_claim else math.inf)
            if self._has_only_suspects and self._suspects.are_stalled:
                due_at = self._ask_at
        return max(due_at, self.gate.opens_at, now) - now

    def next(self, now: float) -> Batch | None:
        """The batch to send now; None: nothing, until there is a reply, news or a later *now*."""
        if self.paused or self.gate.is_closed(now) or len(self._out) >= self._connections.allowed:
            return None
        batch = self._choose(now)
        if batch is not None:
            self._sent += 1
            batch.number = self._sent
            batch.tries += 1
            batch.ticket = self._connections.ticket
            self._out.add(batch)
        return batch

    def settle(self, batch: Batch, reply: Reply, now: float) -> Report:
        """Do what *reply* to *batch* asks for; the settled events have left the queue on return.

        Raises:
            ForwarderError: the queue could not be written. Nothing has changed: call again with the same.
        """
        outcome = judge(reply, batch.events, self._strict)
        if batch is self._probe:
            report = self._probed(batch, outcome, reply, now)
            self._probe = None
        else:
            report = _RULES[outcome.kind](self, batch, outcome, reply.status, now)
        self._out.discard(batch)
        return report

    def _choose(self, now: float) -> Batch | None:
        if self._needs_probe:
            self._probe = probe_batch()
            return self._probe
        if self._suspects.are_many:
            return None
        if self._has_only_suspects and self._suspects.are_stalled and now >= self._ask_at:
            return self._suspects.pop_any()
        return self._suspects.pop() or self._waiting.pop(now) or self._claim(now)

    @property
    def _needs_probe(self) -> bool:
        """Whether only a probe can tell more: too much was refused, or there is nothing else to ask about."""
        if self._probe is not None or self._suspects.are_many:
            return self._probe is None
        return self._has_only_suspects and not self._suspects.are_stalled and not self._suspects.can_ask()

    @property
    def _has_only_suspects(self) -> bool:
        """Whether there is nothing else to ask the far end about."""
        return bool(self._suspects) and not (self._out or self._waiting or self._may_claim)

    def _claim(self, now: float) -> Batch | None:
        if not self._may_claim:
            return None
        return self.backlog.claim(now, self._settings.batch_events, self._size.allowed_bytes)

    @property
    def _may_claim(self) -> bool:
        """Whether rows are left to claim, and room to hold them."""
        held_bytes = sum(batch.size_bytes for batch in (*self._out, *self._waiting))
        room_bytes = self._settings.connections * self._settings.batch_bytes
        return bool(self.backlog) and held_bytes <= room_bytes

    def _delivered(
        self, batch: Batch, outcome: Outcome, status: int | None, _now: float, short: int = 0
    ) -> Report:
        dead = _letters(batch, outcome, status)
        self._spool.settle(Settlement(batch.ids, dead, short, batch.size_bytes, status, batch.tries))
        self._said_yes(batch, outcome.imported)
        return Report(outcome, status, len(batch), len(batch) - len(dead), len(dead), short)

    def _short(self, batch: Batch, outcome: Outcome, status: int | None, now: float) -> Report:
        named = {rejection.index for rejection in outcome.rejections}
        rest = batch.without(named)
        # While it names more, it may be that it names only so many at a time.
        if not rest or (batch.recounted and not named):
            short = max(len(batch) - len(named) - outcome.imported, 0)
            return self._delivered(batch, outcome, status, now, short)
        if named:
            letters = _letters(batch, outcome, status)
            ids = [letter.event_id for letter in letters]
            self._spool.settle(Settlement(ids, letters, http_status=status, tries=batch.tries))
        if outcome.imported:
            self._said_yes(batch, outcome.imported)
        rest.recounted = True
        self._waiting.add(rest)
        return Report(outcome, status, len(batch), dead=len(named))

    def _refused(self, batch: Batch, outcome: Outcome, status: int | None, now: float) -> Report:
        if outcome.kind is Kind.TOO_LARGE:
            self._size.too_large(batch.size_bytes, outcome.limit_bytes)
        # While everything is refused, one more refusal is no sign of better times.
        is_suspicious = bool(self._suspects) and self.gate.state == "blocked"
        if batch.ticket == self._connections.ticket and not is_suspicious:
            self.gate.open()
        self._suspects.refused(batch, self._sent)
        if len(batch) == 1:
            return self._refused_alone(batch, outcome, status, now)
        for half in batch.halves():
            if outcome.kind is Kind.REFUSED:
                self._waiting.add_refused(half, now)
            else:
                self._waiting.add(half)
        return Report(outcome, status, len(batch))

    def _refused_alone(self, batch: Batch, outcome: Outcome, status: int | None, now: float) -> Report:
        dead = self._suspects.is_dead(batch)
        if dead:
            letter = Dead(batch.ids[0], batch.events[0], outcome.detail, "", status)
            self._spool.settle(Settlement(batch.ids, [letter], 0, batch.size_bytes, status, batch.tries))
            self._suspects.buried()
        else:
            self._suspects.hold(batch)
        has_others = self._waiting or self._may_claim or len(self._out) > 1
        if self._suspects and self._suspects.are_stalled and not has_others:
            # Others that come meanwhile may go out at once, and can end it.
            self.gate.block(f"event after event is refused, and too few are imported: {outcome.detail}", now)
            self._ask_at = self.gate.opens_at
            self.gate.flush()
        return Report(outcome, status, 1, dead=int(dead))

    def _probed(self, batch: Batch, outcome: Outcome, reply: Reply, now: float) -> Report:
        if is_judgement(reply, outcome, self._strict):
            self._said_yes(batch, 0)
        elif outcome.kind not in (Kind.REFUSED, Kind.TOO_LARGE):
            return _RULES[outcome.kind](self, batch, outcome, reply.status, now)
        elif batch.ticket == self._connections.ticket:
            self.gate.block(f"every event that was tried is refused: {outcome.detail}", now)
        return Report(outcome, reply.status, len(batch))

    def _throttled(self, batch: Batch, outcome: Outcome, status: int | None, now: float) -> Report:
        self._back_off(batch, outcome, now)
        self._connections.throttled(batch.ticket)
        return self._again(batch, outcome, status)

    def _unreachable(self, batch: Batch, outcome: Outcome, status: int | None, now: float) -> Report:
        self._back_off(batch, outcome, now)
        self._connections.failed(batch.ticket)
        return self._again(batch, outcome, status)

    def _misconfigured(self, batch: Batch, outcome: Outcome, status: int | None, now: float) -> Report:
        if batch.ticket == self._connections.ticket:
            self.gate.block(outcome.detail, now)
        self._connections.failed(batch.ticket)
        return self._again(batch, outcome, status)

    def _back_off(self, batch: Batch, outcome: Outcome, now: float) -> None:
        floor_s = outcome.retry_after_s or 0.0
        if batch.ticket == self._connections.ticket:
            self.gate.back_off(outcome.detail, now, floor_s)
        else:
            # One of those that were out together: they fail as one, the longest Retry-After counts.
            self.gate.opens_at = max(self.gate.opens_at, now + floor_s)

    def _again(self, batch: Batch, outcome: Outcome, status: int | None) -> Report:
        if batch is not self._probe:
            self._waiting.add(batch)
        return Report(outcome, status, len(batch))

    def _said_yes(self, batch: Batch, imported: int) -> None:
        saturated = len(self._out) >= self._connections.allowed
        self._connections.succeeded(batch.ticket, saturated=saturated)
        self._suspects.said_yes(batch, imported)
        self._size.succeeded(batch.size_bytes)
        is_current = batch.ticket == self._connections.ticket or not self.gate.tries
        if is_current and (imported or not self._suspects.are_stalled):
            self.gate.open()


def _letters(batch: Batch, outcome: Outcome, status: int | None) -> list[Dead]:
    return [
        Dead(batch.ids[said.index], batch.events[said.index], said.message, said.field, status)
        for said in outcome.rejections
    ]


_RULES: dict[Kind, Callable[[Courier, Batch, Outcome, int | None, float], Report]] = {
    Kind.DELIVERED: Courier._delivered,
    Kind.SHORT: Courier._short,
    Kind.TOO_LARGE: Courier._refused,
    Kind.REFUSED: Courier._refused,
    Kind.THROTTLED: Courier._throttled,
    Kind.UNREACHABLE: Courier._unreachable,
    Kind.MISCONFIGURED: Courier._misconfigured,
}
