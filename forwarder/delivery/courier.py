"""What is sent when, and what follows from a reply. No thread, no sleep, no clock of its own."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from forwarder.config.settings import Delivery
from forwarder.delivery.backoff import Connections, delay_s
from forwarder.delivery.batch import Batch
from forwarder.delivery.evidence import Evidence
from forwarder.delivery.gate import Gate, Schedule
from forwarder.delivery.line import Line
from forwarder.delivery.outcome import Kind, Outcome, Reply, judge
from forwarder.delivery.probe import is_judgement
from forwarder.delivery.report import Report
from forwarder.delivery.resend import REFUSAL_PACE_S, STUBBORN
from forwarder.spool import Consumer, Dead, Settlement


class Courier:
    """Claims batches from a queue and settles them by the replies.

    For one thread. Call `next` for what may be sent now, send it, and hand the reply to `settle`, which
    is the only place where events are acked.

    Attributes:
        paused: Nothing is sent while it is set.
        line: Who is sent next.
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
        self._random = random
        self._evidence = Evidence()
        self._is_in_doubt = self._had_backlog = False
        schedule = Schedule(settings.retry_initial_s, settings.retry_max_s)
        self.line = Line(spool, self._evidence, settings, Gate(schedule, random))
        self._connections = Connections(settings.connections)
        self.paused = False
        self.gate = Gate(schedule, random)
        self.apply(settings, strict)

    def apply(self, settings: Delivery, strict: bool) -> None:
        """Take new settings; what is in flight stays so, and waiting for the far end begins anew."""
        self._strict = strict
        self.line.apply(settings)
        self.gate.apply(Schedule(settings.retry_initial_s, settings.retry_max_s))
        before, self._connections = self._connections, Connections(settings.connections)
        # What is in flight was sent with the old settings: that it fails says nothing about the new ones.
        self._connections.ticket = before.ticket + 1
        self.gate.flush()

    @property
    def in_flight(self) -> int:
        """Events that are out, and not answered for."""
        return sum(map(len, self.line.out))

    @property
    def has_sent(self) -> bool:
        """Whether a reply will come."""
        return bool(self.line.out)

    def awaits(self, batch: Batch) -> bool:
        """Whether it is out, and a reply to it can be settled."""
        return batch in self.line.out

    @property
    def connections(self) -> int:
        """How many requests may be out at once just now."""
        return self._connections.allowed

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to send or to wait for."""
        return not self.line

    def flush(self) -> None:
        """Forget the present wait."""
        self.gate.flush()
        self.line.flush()

    def wait_s(self, now: float) -> float:
        """How long `next` has nothing to give for, if there is no news and no reply; may be infinite."""
        if self.paused:
            return math.inf
        opens_at = now if self._has_news_in_doubt else self.gate.next_at
        return max(self.line.due_at(now), opens_at, now) - now

    def next(self, now: float) -> Batch | None:
        """The batch to send now; None: nothing, until there is a reply, news or a later *now*."""
        is_closed = self.gate.is_closed(now) and not self._has_news_in_doubt
        if self.paused or is_closed or len(self.line.out) >= self._connections.allowed:
            return None
        batch = self.line.next(now)
        if batch is not None:
            batch.ticket = self._connections.ticket
            self.gate.sent(now)
        return batch

    @property
    def _has_news_in_doubt(self) -> bool:
        """Whether events came in that may end the doubt, where nothing new was left to ask about."""
        return self._is_in_doubt and not self._had_backlog and bool(self.line.backlog)

    def settle(self, batch: Batch, reply: Reply, now: float) -> Report:
        """Do what *reply* to *batch* asks for; the settled events have left the queue on return.

        Raises:
            ForwarderError: the queue could not be written. Nothing has changed: call again with the same.
        """
        outcome = judge(reply, batch.events, self._strict)
        if batch is self.line.probe:
            report = self._probed(batch, outcome, reply, now)
        else:
            report = _RULES[outcome.kind](self, batch, outcome, reply.status, now)
        self.line.answered(batch)
        return report

    def _delivered(
        self, batch: Batch, outcome: Outcome, status: int | None, now: float, short: int = 0
    ) -> Report:
        dead = _letters(batch, outcome, status)
        self._spool.settle(Settlement(batch.ids, dead, short, batch.size_bytes, status, batch.tries))
        self._said_yes(batch, outcome.imported, now)
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
            self._said_yes(batch, outcome.imported, now)
        rest.recounted = True
        self.line.resend.add(rest)
        return Report(outcome, status, len(batch), dead=len(named))

    def _refused(self, batch: Batch, outcome: Outcome, status: int | None, now: float) -> Report:
        if outcome.kind is Kind.TOO_LARGE:
            self.line.size.too_large(batch.size_bytes, outcome.limit_bytes)
        self.gate.succeeded(now)
        if batch.ticket == self._connections.ticket:
            self._open(has_imported=False)
        self._evidence.refused(batch)
        if len(batch) == 1:
            return self._refused_alone(batch, outcome, status, now)
        for half in batch.halves():
            if outcome.kind is Kind.REFUSED:
                self.line.resend.add_paced(half, now + REFUSAL_PACE_S)
            else:
                self.line.resend.add(half)
        return Report(outcome, status, len(batch))

    def _refused_alone(self, batch: Batch, outcome: Outcome, status: int | None, now: float) -> Report:
        dead = self.line.suspects.is_dead(batch)
        if dead:
            letter = Dead(batch.ids[0], batch.events[0], outcome.detail, "", status)
            self._spool.settle(Settlement(batch.ids, [letter], 0, batch.size_bytes, status, batch.tries))
            self._evidence.credit -= 1
        else:
            self.line.suspects.hold(batch)
        self._evidence.refused_alone()
        if not dead and self._evidence.are_too_many:
            self._doubt(outcome.detail, now)
        elif not dead and not self.line.suspects.can_tell and not self.line.has_others(batch):
            # Others that come meanwhile may go out at once, and can end it.
            self._doubt(outcome.detail, now)
            self.line.ask_at = self.gate.opens_at
            self.gate.flush()
        return Report(outcome, status, 1, dead=int(dead))

    def _probed(self, batch: Batch, outcome: Outcome, reply: Reply, now: float) -> Report:
        if is_judgement(reply, outcome, self._strict):
            self._said_yes(batch, 0, now)
        elif outcome.kind not in (Kind.REFUSED, Kind.TOO_LARGE):
            return _RULES[outcome.kind](self, batch, outcome, reply.status, now)
        elif batch.ticket == self._connections.ticket:
            self._doubt(outcome.detail, now)
        return Report(outcome, reply.status, len(batch))

    def _throttled(self, batch: Batch, outcome: Outcome, status: int | None, now: float) -> Report:
        self._back_off(batch, outcome, now)
        self._connections.throttled(batch.ticket)
        self.line.again(batch, now)
        return Report(outcome, status, len(batch))

    def _unreachable(self, batch: Batch, outcome: Outcome, status: int | None, now: float) -> Report:
        if not self._fails_for_itself(batch, now):
            self._back_off(batch, outcome, now)
            self._connections.failed(batch.ticket)
            self.line.again(batch, now)
        return Report(outcome, status, len(batch))

    def _misconfigured(self, batch: Batch, outcome: Outcome, status: int | None, now: float) -> Report:
        if not self._fails_for_itself(batch, now):
            if batch.ticket == self._connections.ticket:
                self.gate.block(outcome.detail, now)
            self._connections.failed(batch.ticket)
            self.line.again(batch, now)
        return Report(outcome, status, len(batch))

    def _fails_for_itself(self, batch: Batch, now: float) -> bool:
        """Whether *batch* has failed again while others did not; then it waits, and they don't.

        A firewall may not like an event's words, or the far end fail over them: that must not keep the others
        waiting. The batch is divided until the event is alone, and that one set apart. It is never believed
        dead for that: it is tried again.
        """
        self._evidence.failed(batch)
        if batch is self.line.probe or not batch.failures:
            return False
        if batch.failures < STUBBORN:
            self.line.resend.add(batch, now + self._wait_s(batch.failed_tries))
        elif len(batch) == 1:
            self.line.apart.add(batch, now)
        else:
            for half in batch.halves():
                # It has failed in company: alone it has to fail once more before it is set apart.
                half.failures = STUBBORN if len(half) > 1 else STUBBORN - 1
                self.line.resend.add_paced(half, now + self._wait_s(1))
        return True

    def _wait_s(self, tries: int) -> float:
        schedule = self.gate.schedule
        return delay_s(tries, schedule.initial_s, schedule.maximum_s, self._random())

    def _back_off(self, batch: Batch, outcome: Outcome, now: float) -> None:
        floor_s = outcome.retry_after_s or 0.0
        if batch.ticket == self._connections.ticket:
            close = self.gate.throttle if outcome.kind is Kind.THROTTLED else self.gate.back_off
            close(outcome.detail, now, floor_s)
        else:
            # One of those that were out together: they fail as one, the longest Retry-After counts.
            self.gate.opens_at = max(self.gate.opens_at, now + floor_s)

    def _said_yes(self, batch: Batch, imported: int, now: float) -> None:
        saturated = len(self.line.out) >= self._connections.allowed and not self.gate.is_closed(now)
        self.gate.succeeded(now)
        self._connections.succeeded(batch.ticket, saturated=saturated)
        self._evidence.said_yes(batch, imported)
        self.line.size.succeeded(batch.size_bytes)
        if batch.ticket == self._connections.ticket or not self.gate.tries:
            self._open(has_imported=imported > 0)

    def _doubt(self, words: str, now: float) -> None:
        """Block for refusals that may be the far end's fault."""
        self._is_in_doubt = True
        self._had_backlog = bool(self.line.backlog)
        self.gate.block(f"every event that was tried since the last import is refused: {words}", now)

    def _open(self, *, has_imported: bool) -> None:
        # That something else is refused, or a probe judged, does not end the doubt.
        if has_imported or not self._is_in_doubt:
            self._is_in_doubt = False
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
