"""What is sent when, and what a reply leads to. No threads, no sleep, no clock of its own."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

from forwarder.config.settings import Delivery
from forwarder.delivery.backlog import Backlog
from forwarder.delivery.batch import Batch
from forwarder.delivery.deferred import PART_PACE_S, Deferred, Heap
from forwarder.delivery.flow import Flow, delay_s
from forwarder.delivery.report import MOST_POSTPONED, Postponed, Report
from forwarder.delivery.sent import Sent, Way
from forwarder.records.kind import Kind
from forwarder.records.verdict import Outcome, Verdict
from forwarder.spool import Consumer, Dead, Settlement

# An event is dead after this many refusals without a reason, with a success of others between each two. Of
# 200 single events, while every second request was refused at random, 50 were given up with 2, 13 with 4, 3
# with 6. Halving a batch of 2000 takes eleven requests.
REFUSALS = 5
# How many events may be given up so for each import, and at most without another. After this many refusals
# without a success in between, none is given up: everything may be refused.
DEAD_FOR_ONE, DEAD_MOST, IN_A_ROW = 3, 20, 3
# While this many parts wait to be sent, new batches go one at a time.
MOST_PARTS = 100
# This many failures are not chance, however many others fail.
SURELY = 1000
# The fractions of its multiples are spread well: each sample comes from elsewhere in the batch.
GOLDEN = 0.618


# How many events were delivered, dead-lettered, and not counted by the server.
_Counts = tuple[int, int, int]
_NONE: _Counts = (0, 0, 0)


class Dispatcher:
    """Claims batches from a queue and settles them by the outcome of their requests.

    For one thread. Call `next` for what may be sent now, send it, and pass the outcome to `settle`: only
    there events are acked.

    Attributes:
        paused: Nothing is sent while it is set.
        flow: How much the server can take.
    """

    def __init__(
        self, spool: Consumer, kind: Kind, settings: Delivery, random: Callable[[], float] = random.random
    ) -> None:
        self._spool = spool
        self._kind = kind
        self._random = random
        self._backlog = Backlog(spool)
        self._deferred = Deferred(spool, self._wait_s)
        self._out: dict[Batch, Sent] = {}
        self._number = 0
        self._may_die = self._refused_in_a_row = self._asks = 0
        self._probe_at = -math.inf
        self.paused = False
        self.apply(settings)

    def apply(self, settings: Delivery) -> None:
        """Use new settings. There may be another server: waits and all that was learned are forgotten.

        Requests in flight continue; if they fail, that says nothing about the new server.
        """
        count = min(settings.batch_events, self._kind.max_records)
        size_bytes = min(settings.batch_bytes, self._kind.max_request_bytes)
        self._settings = replace(settings, batch_events=count, batch_bytes=size_bytes)
        self.flow = Flow(self._settings, self._random)
        self.flush()

    @property
    def in_flight(self) -> int:
        """Events in flight, samples included."""
        return sum(len(batch.events) for batch in self._out)

    @property
    def has_sent(self) -> bool:
        """Whether a request is in flight: a reply will come."""
        return bool(self._out)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to send or to wait for."""
        return not (self._out or self._deferred or self._backlog)

    @property
    def condition(self) -> tuple[str, str]:
        """The state of delivery, ``running``, ``backing_off`` or ``blocked``, and why, for a person."""
        state, reason = self.flow.trouble
        waits = not (self._out or self._deferred.ready or self._deferred.parts)
        # One event may be refused because of itself: the ones behind it are sent next.
        waits = waits and not (self._backlog and state == "blocked")
        if state != "running" and (self.flow.holds_all or waits):
            return state, reason
        return "running", self.flow.note

    def awaits(self, batch: Batch) -> bool:
        """Whether it is in flight, so that a reply can be settled."""
        return batch in self._out

    def notice(self, now: float) -> None:
        """See what has been added to the queue."""
        self._backlog.notice(now)

    def take_dead(self) -> tuple[int, str]:
        """How many rows since the last call were not events, and the reason for the first."""
        return self._backlog.take_dead()

    def deferred(self, now: float) -> list[Postponed]:
        """What was sent without success, as far as it is reported."""
        return [*islice(self._deferred.postponed(self.flow.retry_at, now), MOST_POSTPONED)]

    def flush(self) -> None:
        """Forget the present waits."""
        self.flow.flush()
        self._backlog.flush()
        self._deferred.flush()
        self._probe_at = -math.inf

    # What is sent

    def wait_s(self, now: float) -> float:
        """How long `next` returns nothing, unless there is news or a reply; may be infinite."""
        if self.paused:
            return math.inf
        due_at = min((due_at for due_at, _ in self._options(now)), default=math.inf)
        return max(due_at, self.flow.next_at, now) - now

    def next(self, now: float) -> Batch | None:
        """The batch to send now; None: there is none now, or call again.

        Raises:
            ForwarderError: the queue could not be read. Nothing has changed.
        """
        if self.paused or now < self.flow.next_at or self.flow.out >= self.flow.connections:
            return None
        for due_at, take in self._options(now):
            if due_at <= now:
                return take(now)
        return None

    def _options(self, now: float) -> Iterator[tuple[float, Callable[[float], Batch | None]]]:
        """What might be sent next and when, the best first."""
        flow, deferred = self.flow, self._deferred
        if flow.is_open:
            if deferred or self._backlog:
                yield flow.opens_at, self._ask
            return
        if deferred.ready:
            yield now, partial(self._again, deferred.ready, Way.AGAIN)
        if deferred.failed:
            first = deferred.failed[0]
            has_passed = flow.has_passed_since(first.number)
            # If it is the only one, it is tried once more as it is before it is split.
            if has_passed or first.tries == 1:
                yield now if has_passed else flow.retry_at, partial(self._again, deferred.failed, Way.AGAIN)
            else:
                yield flow.retry_at, self._ask
        if sum(sent.is_blamed for sent in self._out.values()) < max(flow.connections // 2, 1):
            if deferred.parts:
                yield deferred.parts_at, partial(self._again, deferred.parts, Way.PART)
            if deferred.refused and self._may_tell(deferred.refused[0]):
                yield deferred.parts_at, partial(self._again, deferred.refused, Way.ASK)
            if deferred.blamed and flow.has_passed_since(deferred.blamed[0].number):
                yield deferred.parts_at, partial(self._again, deferred.blamed, Way.ASK)
        yield deferred.turn_at, self._turn
        if self._may_claim:
            yield self._backlog.due_at(self._settings.batch_events, self._settings.linger_s), self._new
        elif self._wants_probe:
            yield self._probe_at, self._probe

    @property
    def _may_claim(self) -> bool:
        if not self._backlog or len(self._deferred.parts) < MOST_PARTS:
            return bool(self._backlog)
        return not any(sent.way is Way.NEW for sent in self._out.values())

    def _new(self, now: float) -> Batch | None:
        batch = self._backlog.claim(self._settings.batch_events, self.flow.size.allowed_bytes)
        return self._send(batch, now, Way.NEW)

    def _again(self, lane: deque[Batch] | Heap, way: Way, now: float) -> Batch | None:
        """A deferred batch, in parts if it is now larger than allowed."""
        batch = self._deferred.take(lane, now, is_paced=way is not Way.AGAIN)
        while batch is not None and len(batch) > 1 and batch.size_bytes > self.flow.size.allowed_bytes:
            batch, other = batch.halves()
            self._deferred.add_ready(other)
        return self._send(batch, now, way)

    def _ask(self, now: float) -> Batch | None:
        """A sample of what waits, to find out whether anything gets through."""
        deferred = self._deferred
        self._asks += 1
        if self._backlog and (self._asks % 2 or not deferred):
            # The newest, and one from anywhere, by turns: bad ones may be side by side.
            place = 1.0 if self._asks % 4 == 1 else self._asks * GOLDEN % 1
            return self._send_copy(self._backlog.peek(place), now, Way.AGAIN)
        lanes = [lane for lane in (deferred.failed, deferred.ready, deferred.parts) if lane]
        # Each source gets its share: what is in one of them may never pass.
        if deferred.turn_at < math.inf and (not lanes or self._asks % 8 == 6):
            return self._turn(now)
        if not lanes:
            return None
        lane = lanes[self._asks // 2 % len(lanes)]
        return self._sample(deferred.take(lane, now), now, Way.AGAIN)

    def _turn(self, now: float) -> Batch | None:
        """The isolated batch whose turn it is, or a sample of it."""
        return self._sample(self._deferred.take_turn(now), now, Way.TURN)

    def _sample(self, whole: Batch | None, now: float, way: Way) -> Batch | None:
        """A copy of one event of *whole*. If it passes, another event makes the batch fail.

        Each time another event, because this one may be the one that fails.
        """
        if whole is None or len(whole) == 1:
            return self._send(whole, now, way)
        # Random: with a fixed step, the requests in between might lead to the same event each time.
        event = random.Random(self._number).choice(whole.events)  # noqa: S311  # no secret
        if way is Way.TURN:
            return self._send_copy(event, now, way, self._deferred.isolate(self._deferred.blamed, whole, now))
        return self._send_copy(event, now, way, self._deferred.add_failed(whole))

    def _send_copy(
        self, event: bytes | None, now: float, way: Way, whole: Batch | None = None
    ) -> Batch | None:
        """One event as a batch that settles nothing."""
        copy = None if event is None else Batch((), (event,), len(event) + 1)
        return self._send(copy, now, way, whole)

    @property
    def _wants_probe(self) -> bool:
        """Whether a refused event needs a success of something else, and there is nothing else to send."""
        deferred = self._deferred
        others = self._out or self._backlog or deferred.ready or deferred.parts or deferred.failed
        if others or not (deferred.refused and self._may_die):
            return False
        first = deferred.refused[0]
        is_imported = first.refusals > 1 or self.flow.has_imported_since(first.number)
        return is_imported and not self._may_tell(first)

    def _probe(self, now: float) -> Batch | None:
        """An invalid record that Mixpanel refuses by name, which shows that Mixpanel works."""
        self._probe_at = now + PART_PACE_S
        return self._send_copy(self._kind.probe, now, Way.PROBE)

    def _send(self, batch: Batch | None, now: float, way: Way, whole: Batch | None = None) -> Batch | None:
        if batch is None:
            return None
        flow = self.flow
        self._number += 1
        flow.sent(self._number, now)
        is_full = way is Way.NEW and bool(self._backlog) and flow.out == flow.connections
        self._out[batch] = Sent(flow, way, batch.number, is_full, whole)
        batch.number = self._number
        batch.patience_s = flow.patience_s(batch.tries)
        batch.tries += 1
        return batch

    # What a reply leads to

    def settle(self, batch: Batch, outcome: Outcome, now: float) -> Report:
        """Act on the *outcome* of *batch*; on return the settled events have left the queue.

        Raises:
            ForwarderError: the queue could not be written. Nothing has changed: call again with the same.
        """
        sent = self._out[batch]
        rule = _RULES[outcome.verdict]
        if not batch.ids and outcome.is_plain_no:
            rule = Dispatcher._delivered
        has_passed = rule in (Dispatcher._delivered, Dispatcher._short)
        was_open = sent.flow.is_open
        # Sent before the settings changed: its failure says nothing.
        is_stale = sent.flow is not self.flow and not has_passed
        if is_stale:
            rule = Dispatcher._as_it_was
        elif not has_passed:
            batch.reason = outcome.detail
        counts = rule(self, batch, outcome, sent, now)
        if batch.ids and batch.tries == 1 and not was_open:
            sent.flow.tried(has_failed=rule is Dispatcher._failed)
        if was_open and not sent.flow.is_open:
            # What was isolated meanwhile may have failed by chance.
            self._deferred.flush()
        del self._out[batch]
        sent.flow.ended()
        if sent.way is Way.TURN:
            self._deferred.end_turn(now, has_failed=not has_passed)
        return Report(
            outcome, len(batch), batch.tries > 1, is_stale, *counts, *self.condition, self.wait_s(now)
        )

    def _delivered(self, batch: Batch, outcome: Outcome, sent: Sent, now: float, short: int = 0) -> _Counts:
        dead = batch.dead(outcome)
        if batch.ids:
            self._settle(batch, batch.ids, dead, outcome, short)
        self._passed(batch, outcome, sent, now)
        return len(batch) - len(dead), len(dead), short

    def _short(self, batch: Batch, outcome: Outcome, sent: Sent, now: float) -> _Counts:
        named = {rejection.index for rejection in outcome.rejections}
        rest = batch.without(named) if batch.ids else batch
        # While each answer names more, it may name only so many at a time.
        if not batch.ids or not rest or (batch.is_recounted and not named):
            short = max(len(batch) - len(named) - outcome.imported, 0)
            return self._delivered(batch, outcome, sent, now, short)
        if named:
            dead = batch.dead(outcome)
            self._settle(batch, [each.event_id for each in dead], dead, outcome)
        self._passed(batch, outcome, sent, now)
        rest.is_recounted = True
        self._deferred.add_ready(rest)
        return 0, len(named), 0

    def _passed(self, batch: Batch, outcome: Outcome, sent: Sent, now: float) -> None:
        flow = sent.flow
        is_telling = sent.is_full and not outcome.is_fresh
        flow.timed(
            batch.number,
            batch.size_bytes,
            outcome.took_s,
            now,
            upload_s=outcome.upload_s,
            is_telling=is_telling,
        )
        flow.passed(batch.number, now, outcome.imported)
        self._refused_in_a_row = 0
        if outcome.imported:
            self._may_die = min(self._may_die + DEAD_FOR_ONE, DEAD_MOST)
        if sent.whole is not None and sent.whole.tries:
            # One of its events passes: if the rest fails again, one of its events is the cause.
            sent.whole.failures = SURELY

    def _refused(self, batch: Batch, outcome: Outcome, sent: Sent, now: float) -> _Counts:
        flow = self.flow
        refusals = batch.refusals + (not batch.refusals or self._tells(batch.refusals, sent.before))
        dead = len(batch) == 1 and refusals >= REFUSALS and self._may_give_up
        if dead:
            self._settle(batch, batch.ids, batch.all_dead(outcome.detail, outcome), outcome)
            self._may_die -= 1
        if outcome.verdict is Verdict.TOO_LARGE:
            flow.size.too_large(batch.size_bytes, outcome.limit_bytes)
        # If a part may be good, or the same was refused before, it says nothing new about the server.
        if len(batch) <= 1 and (flow.is_open or sent.way not in (Way.ASK, Way.TURN)):
            flow.refused(batch.number, outcome.detail, now)
        batch.refusals = refusals
        self._refused_in_a_row += len(batch) == 1
        if len(batch) > 1 and outcome.verdict is Verdict.TOO_LARGE:
            self._deferred.add_ready(*batch.halves())
        elif len(batch) > 1:
            self._deferred.add_parts(*batch.halves(), now=now)
        elif not batch.ids:
            self._probe_at = flow.retry_at
        elif not dead:
            self._deferred.isolate(self._deferred.refused, batch, now)
        return 0, int(dead), 0

    def _failed(self, batch: Batch, outcome: Outcome, sent: Sent, now: float) -> _Counts:
        flow = self.flow
        was_open = flow.is_open
        if not batch.failures or flow.has_passed_since(sent.before):
            batch.failures += 1
        if was_open or not sent.is_blamed:
            # A firewall's 403 may be about one of the events: a sample will show it.
            blocks = outcome.verdict is Verdict.MISCONFIGURED and (outcome.status != 403 or flow.tries > 0)
            state = "blocked" if blocks else "backing_off"
            # It fails again while others pass: that says nothing about the others.
            is_news = was_open or batch.failures < 2
            flow.failed(
                batch.number, state, outcome.detail, now, outcome.retry_after_s or 0.0, is_news=is_news
            )
        if not batch.ids:
            self._probe_at = flow.retry_at
        elif len(batch) > 1 and outcome.is_cut and not was_open and flow.size.cut(batch.size_bytes):
            self._deferred.add_ready(*batch.halves())
        elif flow.is_chance(batch.failures) and sent.is_blamed:
            self._deferred.isolate(self._deferred.blamed, batch, now)
        elif flow.is_chance(batch.failures):
            self._deferred.add_failed(batch)
        elif len(batch) == 1:
            self._deferred.isolate(self._deferred.alone, batch, now)
        else:
            batch.failures = 1
            self._deferred.add_parts(*batch.halves(), now=now)
        return _NONE

    def _throttled(self, batch: Batch, outcome: Outcome, sent: Sent, now: float) -> _Counts:
        self.flow.throttled(batch.number, outcome.detail, now, outcome.retry_after_s or 0.0)
        return self._as_it_was(batch, outcome, sent, now)

    def _as_it_was(self, batch: Batch, _outcome: Outcome, sent: Sent, now: float) -> _Counts:
        if batch.ids and sent.way is Way.TURN:
            self._deferred.isolate(
                self._deferred.refused if batch.refusals else self._deferred.alone, batch, now
            )
        elif batch.ids:
            self._deferred.add_ready(batch)
        return _NONE

    def _settle(
        self, batch: Batch, ids: Sequence[int], dead: Sequence[Dead], outcome: Outcome, short: int = 0
    ) -> None:
        size_bytes = batch.size_bytes if len(ids) == len(batch) else 0
        self._spool.settle(
            Settlement(ids, dead, short, size_bytes, outcome.status, batch.tries, outcome.took_s)
        )

    def _may_tell(self, batch: Batch) -> bool:
        """Whether another refusal of *batch*, of one event, would count."""
        return self._may_give_up and self._tells(batch.refusals, batch.number)

    @property
    def _may_give_up(self) -> bool:
        """Whether an event may be given up now."""
        return self._may_die > 0 and self._refused_in_a_row < IN_A_ROW

    def _tells(self, refusals: int, number: int) -> bool:
        """Whether something else passed since request *number*; after the first refusal, an import."""
        since = self.flow.has_imported_since if refusals == 1 else self.flow.has_passed_since
        return since(number)

    def _wait_s(self, tries: int) -> float:
        settings = self._settings
        return delay_s(tries, settings.retry_initial_s, settings.retry_max_s, self._random())


_RULES: dict[Verdict, Callable[[Dispatcher, Batch, Outcome, Sent, float], _Counts]] = {
    Verdict.DELIVERED: Dispatcher._delivered,
    Verdict.SHORT: Dispatcher._short,
    Verdict.TOO_LARGE: Dispatcher._refused,
    Verdict.REFUSED: Dispatcher._refused,
    Verdict.THROTTLED: Dispatcher._throttled,
    Verdict.UNREACHABLE: Dispatcher._failed,
    Verdict.MISCONFIGURED: Dispatcher._failed,
}
