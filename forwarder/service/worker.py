"""The work of a turn: settle replies, look for news, send, keep house. No sleep, no thread, no signal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from forwarder.config import Settings
from forwarder.delivery.batch import Batch
from forwarder.delivery.courier import Courier
from forwarder.delivery.outcome import Reply
from forwarder.errors import ForwarderError, TryAgainError
from forwarder.service.instance import InstanceLock
from forwarder.service.journal import Journal
from forwarder.service.watch import Watch
from forwarder.spool import Consumer, SpoolFullError

TIDY_S = 0.05
RETENTION_S = 3600.0
DAY_S = 86400.0


class Worker:
    """Has the queue and the courier. Instants are the caller's (monotonic).

    Args:
        settings: What to deliver from, and how.
        lock: On the queue; announced once the queue has turned out to be one.
        journal: Told what happens.
        lock_timeout_s: How long to wait for other writers.

    Raises:
        ConfigError, NotPermittedError: there is no usable queue.
    """

    def __init__(
        self, settings: Settings, lock: InstanceLock, journal: Journal, lock_timeout_s: float
    ) -> None:
        self._settings = settings
        self._lock = lock
        self._journal = journal
        self._spool = Consumer(settings.queue.path, lock_timeout_s)
        try:
            lock.announce()
            self._flush_requests = self._spool.control().flush_requests
        except BaseException:
            self._spool.close()
            raise
        self._watch = Watch(settings.queue.path)
        self.courier = Courier(self._spool, settings.delivery, strict=settings.mixpanel.strict)
        self._replies: deque[tuple[Batch, Reply]] = deque()
        self._version: int | None = None
        self._retained_at = float("-inf")
        self._tidy_at = 0.0
        self._untidy = True

    def close(self) -> None:
        """Close the queue."""
        self._spool.close()

    def wait_for_locks(self, timeout_s: float) -> None:
        """Wait for other writers no longer than this from now on, in seconds."""
        self._spool.wait_for_locks(timeout_s)

    def apply(self, settings: Settings) -> None:
        """Take new settings; the queue stays the same."""
        self._settings = settings
        self.courier.apply(settings.delivery, settings.mixpanel.strict)

    def flush(self) -> None:
        """Forget the present wait and try now."""
        self._journal.flushed()
        self.courier.flush()

    def receive(self, batch: Batch, reply: Reply) -> None:
        """Have a reply acted on in the next turn."""
        self._replies.append((batch, reply))
        self._untidy = True

    @property
    def is_done(self) -> bool:
        """Whether everything that was sent is answered for and settled."""
        return not self.courier.in_flight and not self._replies

    def may_rest(self, now: float) -> bool:
        """Whether a turn would find nothing new in the queue, and nothing to tidy."""
        has_housework = self._untidy and self.courier.is_idle
        return not has_housework and self._watch.is_quiet(now)

    def work(self, now: float, send: Callable[[Batch], None] | None) -> None:
        """One turn; without *send* nothing new is sent.

        Raises:
            QueueReplacedError: the database at the path is another by now; only a new start can take it up.
            TakenError: another process delivers from it, too.
            ForwarderError: the queue can't be read or written; what is left is done in a later turn.
        """
        error = self._settle(now)
        self._look(now)
        if send:
            while (batch := self.courier.next(now)) is not None:
                send(batch)
        self._journal.buried(*self.courier.backlog.take_buried())
        self._keep_house(now)
        if error:
            raise error

    def _settle(self, now: float) -> ForwarderError | None:
        """Act on the replies, in order; those that can't be settled are kept. Returns why, for the first.

        Raises:
            ForwarderError: none could be; then nothing new may be sent either, or the replies would pile up.
        """
        waiting, self._replies = self._replies, deque()
        first_error = None
        is_settled = False
        while waiting:
            batch, reply = waiting.popleft()
            try:
                report = self.courier.settle(batch, reply, now)
            except ForwarderError as error:
                first_error = first_error or error
                self._replies.append((batch, reply))
                # Another may do with less room, or make some. For a lock, each would wait as long again.
                if isinstance(error, TryAgainError) and not isinstance(error, SpoolFullError):
                    break
            else:
                is_settled = True
                self._journal.settled(report, self.courier.gate, now)
        self._replies += waiting
        if first_error and not is_settled:
            raise first_error
        return first_error

    def _look(self, now: float) -> None:
        if self._watch.is_quiet(now):
            return
        self._watch.looked(now)
        self._lock.keep()
        version = self._spool.version()
        if version == self._version:
            return
        self._untidy = True
        self.courier.backlog.notice(now)
        control = self._spool.control()
        if control.paused != self.courier.paused:
            self.courier.paused = control.paused
            self._journal.paused(control.paused)
        if control.flush_requests != self._flush_requests:
            self._flush_requests = control.flush_requests
            self.flush()
        self._version = version

    def _keep_house(self, now: float) -> None:
        days = self._settings.dead_letters.max_age_days
        if days and now >= self._retained_at + RETENTION_S:
            self._retained_at = now
            self._journal.discarded(self._spool.discard_dead_letters(time.time() - days * DAY_S))
        if self._untidy and self.courier.is_idle and now >= self._tidy_at:
            self._untidy = self._spool.tidy()
            self._tidy_at = now + TIDY_S
