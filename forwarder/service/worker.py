"""The work of a turn: settle what was sent, look for news, send, keep house. No sleep, thread or signal."""

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
    """Has the queue and the dispatcher. Instants are the caller's (monotonic).

    Args:
        settings: What to deliver from, and how.
        presence: That it delivers; announced once the queue has turned out to be one.
        daemon_log: Gets what happens.
        lock_timeout_s: How long to wait for other writers.

    Attributes:
        counters: What it counts.
        orphaned: What only files hold that were moved, deleted or replaced under it, for a person.

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
        """Begin with the queue that is at the path now, and nothing in memory."""
        self._is_gone = True
        self._spool = self._queue.consumer(self._lock_timeout_s)
        before, self._asked = self._asked, self._spool.control()
        # A pause holds where the directory that says so is not at the path any more.
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
        """Wait for other writers no longer than this from the next turn on, in seconds."""
        self._lock_timeout_s = timeout_s
        self._is_hurried = True

    def set_aside(self) -> None:
        """Set the database aside, which is damaged; the next turn makes a fresh one."""
        self._spool.set_aside()
        self._is_gone = True

    def apply(self, settings: Settings) -> None:
        """Take new settings; the queue stays the same."""
        self._settings = settings
        self.dispatcher.apply(settings.delivery)

    def flush(self) -> None:
        """Forget the present wait and try now."""
        self._daemon_log.flushed()
        self.dispatcher.flush()

    def receive(self, batch: Batch, outcome: Outcome) -> None:
        """Have an outcome acted on in the next turn."""
        # Of what was sent from a queue that is gone, nothing can be settled.
        if self.dispatcher.awaits(batch):
            self._outcomes.append((batch, outcome))
        self._untidy = True

    @property
    def is_done(self) -> bool:
        """Whether everything that was sent is answered for and settled."""
        return not self.dispatcher.has_sent

    @property
    def is_stirred(self) -> bool:
        """Whether something has come or gone since the queue was last tidy."""
        return self._untidy

    def may_rest(self, now: float) -> bool:
        """Whether a turn would find nothing new in the queue, and nothing to tidy."""
        has_housework = self._untidy and self.dispatcher.is_idle
        return not has_housework and self._watch.is_quiet(now)

    def work(self, now: float, send: Callable[[Batch], None] | None) -> None:
        """One turn; without *send* nothing new is sent.

        A queue that was replaced is begun with anew. A damaged one is set aside, so that the next turn makes
        a fresh one; but only when opening it again has not helped.

        Raises:
            TakenError: another process delivers from it, too.
            ForwarderError: the queue can't be read or written; what is left is done in a later turn.
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
        """Act on the outcomes, in order; those that can't be settled are kept. Returns why, for the first.

        Raises:
            ForwarderError: none could be; then nothing new may be sent either, or they would pile up.
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
                # Another may do with less room, or make some. For a lock, each would wait as long again.
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
        # A clock a year ahead, as before it is set by network, makes every dead letter old.
        if days and self._is_clock_right and now >= self._retained_at + RETENTION_S:
            self._retained_at = now
            self._daemon_log.discarded(self._spool.discard_dead_letters(time.time() - days * DAY_S))


class Watch:
    """Whether a look into the queue can be saved: it is most of what an idle daemon would cost.

    Watches a mark that changes with the queue.

    What has changed may be seen only a little later. So the queue is worth a look for `STIRRED_S` after the
    mark has changed, and every `LOOK_S` in any case.

    Args:
        mark: Gives it; None: there is none.
    """

    def __init__(self, mark: Callable[[], object]) -> None:
        self._mark = mark
        self._seen: object = None
        self._stirred_at = self._looked_at = float("-inf")

    def is_quiet(self, now: float) -> bool:
        """Whether there is nothing new to be seen; if not, take a look, and say so by `looked`.

        Args:
            now: Any clock that doesn't go back, in seconds.
        """
        seen = self._mark()
        if seen is None or seen != self._seen:
            self._seen, self._stirred_at = seen, now
        return self._stirred_at + STIRRED_S <= now < self._looked_at + LOOK_S

    def looked(self, now: float) -> None:
        """A look is being taken."""
        self._looked_at = now
