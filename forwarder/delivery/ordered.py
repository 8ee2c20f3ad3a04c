"""Delivery where the order counts, and each repeat. No threads, no sleep, no clock of its own.

Records of one lane, such as the updates of one profile, are sent in their order: nothing of a lane is sent
while an earlier record of it is unanswered or waits to be sent again. Records that leave another state when
they are sent twice go in small requests of their own.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import NamedTuple

from forwarder.config.settings import Delivery
from forwarder.delivery.backlog import Backlog
from forwarder.delivery.batch import Batch
from forwarder.delivery.flow import Flow, delay_s
from forwarder.delivery.lanes import Lanes, Row, Turns, postponed, split
from forwarder.delivery.report import MOST_POSTPONED, Postponed, Report
from forwarder.records.kind import OrderedKind
from forwarder.records.verdict import Outcome, Verdict
from forwarder.spool import Consumer, Dead, Settlement

# The most records in a request whose repeat would count: so many may become dead letters by one lost answer.
UNREPEATED_MOST = 50
# How many rows are remembered at once, of at most 500 bytes each: 25 MB.
MOST_ROWS = 50_000
DOUBTFUL = (
    "doubtful: sent, but no usable answer came ({}); Mixpanel may have applied it."
    " Retry it only if it has not"
)
ENDED = "the forwarder ended before"

_Counts = tuple[int, int]
_NONE: _Counts = (0, 0)


class _Sent(NamedTuple):
    """A request in flight. *is_marked*: the queue knows that its rows are being sent."""

    flow: Flow
    rows: list[Row]
    is_turn: bool
    is_full: bool
    is_marked: bool


class OrderedDispatcher:
    """Does for ordered records what `dispatcher.Dispatcher` does for others, with the same methods.

    Args:
        on_doubt: What happens if a record whose repeat would count was sent, and no usable answer came:
            "repeat" sends it again, "hold" makes it a dead letter.

    Attributes:
        paused: Nothing is sent while it is set.
        flow: How much the server can take.
    """

    def __init__(
        self,
        spool: Consumer,
        kind: OrderedKind,
        settings: Delivery,
        on_doubt: str,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._spool = spool
        self._kind = kind
        self._random = random
        self._backlog = Backlog(spool)
        self._lanes = Lanes()
        self._turns = Turns(self._wait_s)
        # What failed and is tried again as it was: when something else has passed, or after a wait.
        self._failed_rows: deque[list[Row]] = deque()
        self._interrupted: list[Dead] = []
        self._out: dict[Batch, _Sent] = {}
        self._known = self._number = 0
        self._dead, self._reason = 0, ""
        self.paused = False
        self.apply(settings, on_doubt)

    def apply(self, settings: Delivery, on_doubt: str = "") -> None:
        """Use new settings, and *on_doubt* unless it is empty; as `dispatcher.Dispatcher.apply`."""
        count = min(settings.batch_events, self._kind.max_records)
        size_bytes = min(settings.batch_bytes, self._kind.max_request_bytes)
        self._settings = replace(settings, batch_events=count, batch_bytes=size_bytes)
        if on_doubt:
            self._holds = on_doubt == "hold"
        self.flow = Flow(self._settings, self._random)
        self.flush()

    @property
    def in_flight(self) -> int:
        """Records in flight."""
        return sum(map(len, self._out))

    @property
    def has_sent(self) -> bool:
        """Whether a request is in flight: a reply will come."""
        return bool(self._out)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to send or to wait for."""
        return not (self._known or self._out or self._interrupted or self._backlog)

    @property
    def condition(self) -> tuple[str, str]:
        """The state of delivery, ``running``, ``backing_off`` or ``blocked``, and why, for a person."""
        state, reason = self.flow.trouble
        if state != "running" and (self.flow.holds_all or not (self._out or self._lanes.has_free)):
            return state, reason
        return "running", self.flow.note

    def awaits(self, batch: Batch) -> bool:
        """Whether it is in flight, so that a reply can be settled."""
        return batch in self._out

    def notice(self, now: float) -> None:
        """See what has been added to the queue."""
        self._backlog.notice(now)

    def take_dead(self) -> tuple[int, str]:
        """How many rows since the last call became dead letters when they were claimed, and the first reason:
        they were no records, or an earlier daemon had sent them."""
        count, reason = self._backlog.take_dead()
        found = count + self._dead, reason or self._reason
        self._dead, self._reason = 0, ""
        return found

    def deferred(self, now: float) -> list[Postponed]:
        """What was sent without success, as far as it is reported; not what waits behind it."""
        failed = ((rows, self.flow.retry_at) for rows in self._failed_rows)
        due = islice(chain(self._turns.due(), failed), MOST_POSTPONED)
        return [postponed(rows, at, now) for rows, at in due]

    def flush(self) -> None:
        """Forget the present waits."""
        self.flow.flush()
        self._backlog.flush()
        self._turns.flush()

    # What is sent

    def wait_s(self, now: float) -> float:
        """How long `next` returns nothing, unless there is news or a reply; may be infinite."""
        if self.paused:
            return math.inf
        at = [self._turns.at, self._claim_at]
        if self._lanes.has_free or self._interrupted:
            at.append(now)
        if self._failed_rows:
            at.append(now if self._may_retry(now) else self.flow.retry_at)
        return max(min(at), self.flow.next_at, now) - now

    def next(self, now: float) -> Batch | None:
        """The batch to send now; None: there is none now, or call again.

        Raises:
            ForwarderError: the queue could not be read or written. Nothing has changed.
        """
        flow, lanes = self.flow, self._lanes
        if self.paused or now < flow.next_at or flow.out >= flow.connections:
            return None
        while self._failed_rows and self._may_retry(now):
            lanes.put_back(self._failed_rows.popleft())
        # One row at a time, until one gets through. Any may be at fault, so each source has its share.
        is_trouble = self._is_trouble
        share = self._number % 4 if is_trouble else 0
        if self._turns.at <= now and (not flow.is_open or share == 1 or not lanes.has_free):
            return self._send([self._turns.take(now)], now, is_turn=True)
        while self._claim_at <= now:
            self._claim()
        if share == 3 and self._backlog and self._known < MOST_ROWS:
            self._claim()
        self._bring_out_interrupted()
        usable = [repeats for repeats in (True, False) if lanes.free[repeats]]
        if not usable:
            return None
        if is_trouble:
            repeats = usable[self._number % len(usable)]
        else:
            repeats = min(usable, key=lambda each: lanes.free[each][0])
        if self._holds and not repeats and flow.tries:
            return self._probe(now)
        if is_trouble:
            return self._send(lanes.take_one(repeats, self._random()), now)
        most = self._settings.batch_events
        most = most if repeats else min(most, UNREPEATED_MOST)
        return self._send(lanes.take(repeats, most, flow.size.allowed_bytes), now)

    def _probe(self, now: float) -> Batch:
        """An invalid record, which shows whether anything gets through. No other may become a dead letter by
        the attempt."""
        batch = Batch((), (self._kind.probe,), len(self._kind.probe) + 1)
        return self._start(batch, _Sent(self.flow, [], False, False, False), now)

    def _may_retry(self, now: float) -> bool:
        first = self._failed_rows[0][0]
        return now >= self.flow.retry_at or self.flow.has_passed_since(first.number)

    @property
    def _is_trouble(self) -> bool:
        return self.flow.is_open or self.flow.tries > 1

    @property
    def _claim_at(self) -> float:
        """When to claim more rows: if there are too few for a request, or none beside one that may fail."""
        lanes, most = self._lanes, self._settings.batch_events
        enough = lanes.count >= most and len(lanes.free[True]) + len(lanes.free[False]) > self._is_trouble
        if enough or self._known >= MOST_ROWS:
            return math.inf
        return self._backlog.due_at(most, self._settings.linger_s)

    def _claim(self) -> None:
        claim = self._backlog.read(self._settings.batch_events, self.flow.size.allowed_bytes)
        doubtful = set(claim.doubtful) if self._holds else ()
        for row_id, record in zip(claim.ids, claim.events, strict=True):
            key, repeats = self._kind.lane(record)
            if row_id in doubtful and not repeats:
                self._interrupted.append(Dead(row_id, record, DOUBTFUL.format(ENDED)))
            else:
                # A hash takes little memory; equal ones of different keys only put them in one order.
                self._lanes.add(Row(row_id, hash(key), repeats, len(record) + 1))
                self._known += 1

    def _bring_out_interrupted(self) -> None:
        if self._interrupted:
            dead = self._interrupted
            self._spool.settle(Settlement([each.event_id for each in dead], dead))
            self._dead, self._reason = self._dead + len(dead), self._reason or dead[0].reason
            self._interrupted = []

    def _send(self, rows: list[Row], now: float, *, is_turn: bool = False) -> Batch | None:
        repeats = rows[0].repeats
        is_marked = self._holds and not repeats
        try:
            ids = [row.id for row in rows]
            if is_marked:
                # Before they are read: what was held until now is not sent, and the rest can't be held.
                self._spool.mark_sent(ids)
            claim = self._spool.read_again(ids, sum(row.size_bytes for row in rows))
        except BaseException:
            if is_turn:
                self._turns.put_back(rows[0])
            else:
                self._lanes.put_back(rows)
            raise
        if len(claim.ids) < len(rows):
            there = set(claim.ids)
            gone = [row for row in rows if row.id not in there]
            rows = [row for row in rows if row.id in there]
            self._known -= len(gone)
            self._lanes.release({row.lane for row in gone} - {row.lane for row in rows})
        if not rows:
            if is_turn:
                self._turns.end(now, has_failed=False)
            return None
        is_full = repeats and self._lanes.has_free and self.flow.out + 1 == self.flow.connections
        batch = Batch(claim.ids, claim.events, claim.size_bytes, tries=max(row.tries for row in rows))
        for row in rows:
            row.tries += 1
        self._start(batch, _Sent(self.flow, rows, is_turn, is_full, is_marked), now)
        if not repeats:
            batch.patience_s = self._settings.read_timeout_s
        return batch

    def _start(self, batch: Batch, sent: _Sent, now: float) -> Batch:
        self._number += 1
        self.flow.sent(self._number, now)
        batch.number = self._number
        batch.patience_s = self.flow.patience_s(batch.tries)
        batch.tries += 1
        self._out[batch] = sent
        return batch

    # What a reply leads to

    def settle(self, batch: Batch, outcome: Outcome, now: float) -> Report:
        """Act on the *outcome* of *batch*; on return the settled records have left the queue.

        Raises:
            ForwarderError: the queue could not be written. Nothing has changed: call again with the same.
        """
        sent = self._out[batch]
        has_passed = outcome.verdict is Verdict.DELIVERED
        # Sent before the settings changed: its failure says nothing about the server of now.
        is_stale = sent.flow is not self.flow and not has_passed
        was_open = sent.flow.is_open
        rule = self._rule(sent, outcome, is_stale=is_stale)
        counts = rule(batch, outcome, sent, now)
        if batch.ids and batch.tries == 1 and not was_open:
            sent.flow.tried(has_failed=outcome.verdict in (Verdict.UNREACHABLE, Verdict.MISCONFIGURED))
        if was_open and not sent.flow.is_open:
            # What was isolated meanwhile may have failed by chance.
            self._turns.flush()
        if sent.is_turn:
            self._turns.end(now, has_failed=not (has_passed or counts[1]))
        del self._out[batch]
        sent.flow.ended()
        return Report(
            outcome, len(batch), batch.tries > 1, is_stale, *counts, 0, *self.condition, self.wait_s(now)
        )

    def _rule(
        self, sent: _Sent, outcome: Outcome, *, is_stale: bool
    ) -> Callable[[Batch, Outcome, _Sent, float], _Counts]:
        verdict = outcome.verdict
        if not sent.rows:
            return self._probed
        if verdict is Verdict.DELIVERED:
            return self._delivered
        if outcome.is_doubtful and self._holds and not sent.rows[0].repeats:
            return self._lost
        if is_stale:
            return self._as_it_was
        if verdict in (Verdict.REFUSED, Verdict.TOO_LARGE):
            return self._refused
        return self._throttled if verdict is Verdict.THROTTLED else self._failed

    def _delivered(self, batch: Batch, outcome: Outcome, sent: _Sent, now: float) -> _Counts:
        self._remove(batch, (), outcome, sent)
        sent.flow.timed(
            batch.number,
            batch.size_bytes,
            outcome.took_s,
            now,
            upload_s=outcome.upload_s,
            is_telling=sent.is_full and not outcome.is_fresh,
        )
        sent.flow.passed(batch.number, now, len(batch))
        return len(batch), 0

    def _probed(self, batch: Batch, outcome: Outcome, sent: _Sent, now: float) -> _Counts:
        if outcome.verdict in (Verdict.REFUSED, Verdict.DELIVERED):
            sent.flow.passed(batch.number, now)
        elif outcome.verdict is Verdict.THROTTLED:
            sent.flow.throttled(batch.number, outcome.detail, now, outcome.retry_after_s or 0.0)
        else:
            self._report_failure(sent.flow, batch, outcome, now)
        return _NONE

    def _lost(self, batch: Batch, outcome: Outcome, sent: _Sent, now: float) -> _Counts:
        """Whether they count is not known, and may not be tried."""
        self._remove(batch, batch.all_dead(DOUBTFUL.format(outcome.detail), outcome), outcome, sent)
        self._report_failure(sent.flow, batch, outcome, now)
        return 0, len(batch)

    def _refused(self, batch: Batch, outcome: Outcome, sent: _Sent, now: float) -> _Counts:
        """None was stored. So they may be sent in parts, until the one that is refused is alone.

        It is dead if it is refused once more after another was applied: a server in trouble may refuse all.
        """
        flow, rows = self.flow, sent.rows
        is_too_large = outcome.verdict is Verdict.TOO_LARGE
        if is_too_large:
            flow.size.too_large(batch.size_bytes, outcome.limit_bytes)
        if len(rows) > 1:
            self._unmark(batch, sent)
            split(rows)
            self._lanes.put_back(rows)
            if not is_too_large:
                flow.passed(batch.number, now)
            return _NONE
        row = rows[0]
        if is_too_large or (row.is_refused and flow.has_imported_since(row.number)):
            self._remove(batch, batch.all_dead(outcome.detail, outcome), outcome, sent)
            if not is_too_large:
                flow.passed(batch.number, now)
            return 0, 1
        self._unmark(batch, sent)
        row.is_refused, row.number, row.most, row.reason = True, batch.number, 1, outcome.detail
        self._failed_rows.append(rows)
        flow.refused(batch.number, outcome.detail, now)
        return _NONE

    def _throttled(self, batch: Batch, outcome: Outcome, sent: _Sent, now: float) -> _Counts:
        counts = self._as_it_was(batch, outcome, sent, now)
        self.flow.throttled(batch.number, outcome.detail, now, outcome.retry_after_s or 0.0)
        return counts

    def _as_it_was(self, batch: Batch, _outcome: Outcome, sent: _Sent, _now: float) -> _Counts:
        self._unmark(batch, sent)
        self._lanes.put_back(sent.rows)
        return _NONE

    def _failed(self, batch: Batch, outcome: Outcome, sent: _Sent, now: float) -> _Counts:
        self._unmark(batch, sent)
        flow, rows = self.flow, sent.rows
        was_open = flow.is_open
        # What fails again while others pass says nothing about the server.
        is_own = sent.is_turn
        for row in rows:
            has_passed = row.failures > 0 and flow.has_passed_since(row.number)
            row.failures += not row.failures or has_passed
            row.number, row.reason = batch.number, outcome.detail
            is_own = is_own or has_passed
        failures = max(row.failures for row in rows)
        if was_open or not is_own:
            self._report_failure(flow, batch, outcome, now, is_news=was_open or failures < 2)
        if outcome.is_cut and len(rows) > 1 and not was_open and flow.size.cut(batch.size_bytes):
            self._lanes.put_back(rows)
        elif flow.is_chance(failures):
            self._failed_rows.append(rows)
        elif len(rows) == 1:
            rows[0].most = 1
            self._turns.add(rows[0], now)
        else:
            split(rows)
            self._failed_rows.append(rows)
        return _NONE

    @staticmethod
    def _report_failure(
        flow: Flow, batch: Batch, outcome: Outcome, now: float, *, is_news: bool = True
    ) -> None:
        # A firewall's 403 may be about one of the records.
        blocks = outcome.verdict is Verdict.MISCONFIGURED and (outcome.status != 403 or flow.tries > 0)
        state = "blocked" if blocks else "backing_off"
        wait_s = outcome.retry_after_s or 0.0
        flow.failed(batch.number, state, outcome.detail, now, wait_s, is_news=is_news)

    def _remove(self, batch: Batch, dead: Sequence[Dead], outcome: Outcome, sent: _Sent) -> None:
        self._spool.settle(
            Settlement(batch.ids, dead, 0, batch.size_bytes, outcome.status, batch.tries, outcome.took_s)
        )
        self._known -= len(sent.rows)
        self._lanes.release(row.lane for row in sent.rows)

    def _unmark(self, batch: Batch, sent: _Sent) -> None:
        if sent.is_marked:
            self._spool.mark_sent(batch.ids, sent=False)

    def _wait_s(self, tries: int) -> float:
        settings = self._settings
        return delay_s(tries, settings.retry_initial_s, settings.retry_max_s, self._random())
