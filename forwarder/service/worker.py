"""The work of a turn: settle, look for news, send, maintain the queue. No sleep, threads or signals."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from forwarder import spool
from forwarder.config import Settings
from forwarder.delivery.batch import Batch
from forwarder.delivery.dispatcher import Dispatcher
from forwarder.delivery.wire.outcome import CLOCK_BLOCKS_S
from forwarder.errors import ForwarderError, TryAgainError
from forwarder.records import EVENTS
from forwarder.records.verdict import Outcome
from forwarder.service.counters import Counters
from forwarder.service.daemon_log import DaemonLog
from forwarder.spool import Control, DamagedError, Presence, QueueReplacedError, SpoolFullError

TIDY_S = 0.05
RETENTION_S = 3600.0
DAY_S = 86400.0
LOOK_S = 1.0
STIRRED_S = 1.0


class Worker:
    """Owns the queue and the dispatcher. Instants are the caller's (monotonic).

    Args:
        settings: The queue, and how to deliver.
        presence: The claim to be the one that delivers; announced once the queue is open.
        daemon_log: Logs what happens.
        lock_timeout_s: How long to wait for other writers.

    Attributes:
        counters: The counters for monitoring.
        orphaned: What only those files hold that were moved, deleted or replaced under it, for a person.

    Raises:
        ConfigError, NotPermittedError: there is no usable queue.
    """

    def __init__(
        self,
        settings: Settings,
        presence: Presence,
        daemon_log: DaemonLog,
        lock_timeout_s: float,
    ) -> None:
        self._settings = settings
        self._queue = spool.at(settings.queue.path)
        self._presence = presence
        self._daemon_log = daemon_log
        self._lock_timeout_s = lock_timeout_s
        self._is_hurried = False
        self._retained_at = float("-inf")
        self._is_clock_right = False
        self._tidy_at = 0.0
        self._is_damaged = False
        self.counters = Counters()
        self._asked: Control | None = None
        self._pause_holds = False
        self.orphaned = ""
        self._begin()
        try:
            presence.announce()
        except BaseException:
            self._spool.close()
            raise

    def _begin(self) -> None:
        """Start with the queue that is at the path now, and an empty memory."""
        self._is_gone = True
        self._spool = self._queue.consumer(self._lock_timeout_s)
        before, self._asked = self._asked, self._spool.control()
        # A pause stays in force if its directory is no longer at the path.
        is_elsewhere = before is not None and before.place != self._asked.place
        self._pause_holds = self._pause_holds or bool(is_elsewhere and before and before.paused)
        self._watch = Watch(self._spool.changed_mark)
        self.dispatcher = Dispatcher(self._spool, EVENTS, self._settings.delivery)
        self._outcomes: deque[tuple[Batch, Outcome]] = deque()
        self._is_new = True
        self._untidy = True
        self._is_gone = False
        self._daemon_log.set_aside(self._queue.set_aside())

    def close(self) -> None:
        """Close the queue."""
        self._spool.close()

    def wait_for_locks(self, timeout_s: float) -> None:
        """From the next turn on, wait for other writers this long at most, in seconds."""
        self._lock_timeout_s = timeout_s
        self._is_hurried = True

    def set_aside(self) -> None:
        """Set the damaged database aside; the next turn makes a fresh one."""
        self._spool.set_aside()
        self._is_gone = True

    def apply(self, settings: Settings) -> None:
        """Use new settings; the queue stays the same."""
        self._settings = settings
        self.dispatcher.apply(settings.delivery)

    def flush(self) -> None:
        """Forget the current wait and try now."""
        self._daemon_log.flushed()
        self.dispatcher.flush()

    def receive(self, batch: Batch, outcome: Outcome) -> None:
        """Settle an outcome in the next turn."""
        # What was sent from a queue that is gone can't be settled.
        if self.dispatcher.awaits(batch):
            self._outcomes.append((batch, outcome))
        self._untidy = True

    @property
    def is_done(self) -> bool:
        """Whether everything that was sent is answered and settled."""
        return not self.dispatcher.has_sent

    @property
    def is_stirred(self) -> bool:
        """Whether the queue has changed since its maintenance was complete."""
        return self._untidy

    def may_rest(self, now: float) -> bool:
        """Whether a turn would find no news and no maintenance to do."""
        has_housework = self._untidy and self.dispatcher.is_idle
        return not has_housework and self._watch.is_quiet(now)

    def work(self, now: float, send: Callable[[Batch], None] | None) -> None:
        """One turn; without *send* nothing new is sent.

        If the queue was replaced, it starts with the new one. A damaged queue is opened again. If that
        does not help, it is set aside, and the next turn makes a fresh one.

        Raises:
            TakenError: another process delivers from the queue, too.
            ForwarderError: the queue can't be read or written; a later turn does the rest.
        """
        if self._is_gone:
            self._begin()
        try:
            self._turn(now, send)
        except QueueReplacedError:
            self._is_gone = True
            self._spool.close()
            if self._spool.orphaned:
                self.orphaned += ("; " if self.orphaned else "") + self._spool.orphaned
            self._daemon_log.replaced(self.orphaned)
            raise
        except DamagedError:
            if self._is_damaged:
                self.set_aside()
            else:
                self._spool.reopen()
            self._is_damaged = not self._is_damaged
            raise
        self._is_damaged = False

    def _turn(self, now: float, send: Callable[[Batch], None] | None) -> None:
        if self._is_hurried:
            self._spool.wait_for_locks(self._lock_timeout_s)
        error = self._settle(now)
        self._look(now)
        if send:
            while (batch := self.dispatcher.next(now)) is not None:
                send(batch)
        self._daemon_log.no_events(*self.dispatcher.take_dead(), now)
        self._maintain(now)
        if error:
            raise error

    def _settle(self, now: float) -> ForwarderError | None:
        """Settle the outcomes, in order; keep those that can't be settled. Returns the first one's error.

        Raises:
            ForwarderError: none could be settled. Nothing new may be sent then, or they would pile up.
        """
        waiting, self._outcomes = self._outcomes, deque()
        first_error = None
        is_settled = False
        while waiting:
            batch, outcome = waiting.popleft()
            try:
                report = self.dispatcher.settle(batch, outcome, now)
            except ForwarderError as error:
                first_error = first_error or error
                self._outcomes.append((batch, outcome))
                # Another may need less room, or free some. With a lock, each would wait as long again.
                if isinstance(error, TryAgainError) and not isinstance(error, SpoolFullError):
                    break
            else:
                is_settled = True
                self._daemon_log.settled(report, now)
                self.counters.settled(outcome, is_retry=report.is_retry)
                skew_s = outcome.clock_skew_s
                if skew_s is not None:
                    self._is_clock_right = abs(skew_s) <= CLOCK_BLOCKS_S
        self._outcomes += waiting
        if first_error and not is_settled:
            raise first_error
        return first_error

    def _look(self, now: float) -> None:
        if self._watch.is_quiet(now):
            return
        self._watch.looked(now)
        self._presence.keep()
        before, asked = self._asked, self._spool.control()
        if self._is_new or before is None or before.version != asked.version:
            self._untidy = True
            self.dispatcher.notice(now)
            self._is_new = False
        if before is not None and before.flush != asked.flush:
            self._pause_holds = False
            self.flush()
        paused = asked.paused or self._pause_holds
        if paused != self.dispatcher.paused:
            self.dispatcher.paused = paused
            self._daemon_log.paused(paused)
        self._asked = asked

    def _maintain(self, now: float) -> None:
        at_rest = self._untidy and self.dispatcher.is_idle and now >= self._tidy_at
        has_more = self._spool.maintain(at_rest=at_rest)
        if at_rest:
            self._untidy = has_more
            self._tidy_at = now + TIDY_S
        days = self._settings.dead_letters.max_age_days
        # A clock that is a year ahead, because the network has not set it yet, makes every dead letter old.
        if days and self._is_clock_right and now >= self._retained_at + RETENTION_S:
            self._retained_at = now
            self._daemon_log.discarded(self._spool.discard_dead_letters(time.time() - days * DAY_S))


class Watch:
    """Whether a look into the queue can be skipped: looking is most of an idle daemon's cost.

    Watches a mark that changes with the queue.

    A change may become visible a little later. So the queue is looked at for `STIRRED_S` after the mark has
    changed, and every `LOOK_S` in any case.

    Args:
        mark: Gives the mark; None: there is none.
    """

    def __init__(self, mark: Callable[[], object]) -> None:
        self._mark = mark
        self._seen: object = None
        self._stirred_at = self._looked_at = float("-inf")

    def is_quiet(self, now: float) -> bool:
        """Whether there is nothing new. If there may be, look into the queue and call `looked`.

        Args:
            now: Any clock that doesn't go back, in seconds.
        """
        seen = self._mark()
        if seen is None or seen != self._seen:
            self._seen, self._stirred_at = seen, now
        return self._stirred_at + STIRRED_S <= now < self._looked_at + LOOK_S

    def looked(self, now: float) -> None:
        """The queue is being looked at."""
        self._looked_at = now
