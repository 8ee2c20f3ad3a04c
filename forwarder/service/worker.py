"""The work of a turn: settle, look for news, send, maintain the queue. No sleep, threads or signals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from forwarder import spool
from forwarder.config import Settings
from forwarder.delivery.batch import Batch
from forwarder.errors import ForwarderError
from forwarder.records import EVENTS, KINDS
from forwarder.records.kind import Kind
from forwarder.records.verdict import Outcome
from forwarder.service.counters import Counters
from forwarder.service.daemon_log import DaemonLog
from forwarder.service.delivery_log import DeliveryLog
from forwarder.service.destination import MIXPANEL, Destination
from forwarder.service.stream import Stream
from forwarder.spool import Consumer, Control, DamagedError, Presence, QueueReplacedError, SpoolFullError

RETENTION_S = 3600.0
DAY_S = 86400.0
LOOK_S = 1.0
STIRRED_S = 1.0
_GRAVITY = ("running", "backing_off", "blocked")


class Worker:
    """Owns the queue, with a stream a kind. Instants are the caller's (monotonic).

    Args:
        settings: The queue, and how to deliver.
        presence: The claim to be the one that delivers; announced once the queue is open.
        daemon_log: Logs what happens.
        lock_timeout_s: How long to wait for other writers.
        to: Where the records go.

    Attributes:
        streams: By the kind's name.
        counters: The counters for monitoring, by the kind's name.
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
        to: Destination = MIXPANEL,
    ) -> None:
        self._settings = settings
        self._to = to
        self._queues = spool.each(settings.queue)
        self._presence = presence
        self._daemon_log = daemon_log
        self._lock_timeout_s = lock_timeout_s
        self._is_hurried = False
        self._retained_at = float("-inf")
        self._is_damaged = False
        self.counters = {name: Counters() for name in KINDS}
        self._logs = {name: DeliveryLog(kind, daemon_log.failed) for name, kind in KINDS.items()}
        self.streams: dict[str, Stream] = {}
        self._asked: Control | None = None
        self._pause_holds = False
        self.orphaned = ""
        try:
            try:
                self._begin()
            except QueueReplacedError:
                # One kind's tables were damaged, and so the database was set aside under the others.
                self._begin()
            presence.announce()
        except BaseException:
            self._release()
            raise

    def _begin(self) -> None:
        """Start with the queue that is at its place now, and an empty memory."""
        self._is_gone = True
        self._release()
        deadline = time.monotonic() + self._lock_timeout_s
        for queue in self._queues:
            # All together wait for others no longer than one.
            timeout_s = max(deadline - time.monotonic(), 0.0)
            consumer = queue.consumer(timeout_s, self._presence.token)
            consumer.wait_for_locks(self._lock_timeout_s)
            name = queue.kind.name
            counters, delivery_log = self.counters[name], self._logs[name]
            self.streams[name] = Stream(
                queue.kind, consumer, self._settings, self._to, counters, delivery_log
            )
        before, self._asked = self._asked, self._spool.control()
        # A pause stays in force if its directory is no longer at the path.
        is_elsewhere = before is not None and before.place != self._asked.place
        self._pause_holds = self._pause_holds or bool(is_elsewhere and before and before.paused)
        self._watch = Watch(self._spool.changed_mark)
        self._is_new = True
        self._is_gone = False
        self._daemon_log.set_aside(self._queues[0].set_aside())

    @property
    def _spool(self) -> Consumer:
        """The consumer that answers for what concerns all kinds."""
        return self.streams[EVENTS.name].consumer

    def _release(self) -> None:
        for stream in self.streams.values():
            stream.consumer.close()

    def close(self) -> None:
        """Close the queue, and log what was settled since the last time."""
        self._release()
        for each in self._logs.values():
            each.summarise()

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
        for stream in self.streams.values():
            stream.apply(settings)

    def flush(self) -> None:
        """Forget the current waits and try now."""
        self._daemon_log.flushed()
        for stream in self.streams.values():
            stream.dispatcher.flush()

    def receive(self, kind: Kind, batch: Batch, outcome: Outcome) -> None:
        """Settle an outcome in the next turn."""
        self.streams[kind.name].receive(batch, outcome)

    @property
    def in_flight(self) -> int:
        """Records in flight."""
        return sum(stream.dispatcher.in_flight for stream in self.streams.values())

    @property
    def has_sent(self) -> bool:
        """Whether something that was sent is not answered and settled yet."""
        return any(stream.dispatcher.has_sent for stream in self.streams.values())

    @property
    def is_paused(self) -> bool:
        """Whether a person has paused delivery."""
        return self.streams[EVENTS.name].dispatcher.paused

    @property
    def condition(self) -> tuple[str, str]:
        """The worst state of delivery of a kind, and why, for a person."""
        found = []
        for stream in self.streams.values():
            state, reason = stream.dispatcher.condition
            if reason and stream.kind is not EVENTS:
                reason = f"{stream.kind.noun}: {reason}"
            found.append((state, reason))
        return max(found, key=lambda each: (_GRAVITY.index(each[0]), bool(each[1])))

    @property
    def is_stirred(self) -> bool:
        """Whether the queue has changed since its maintenance was complete."""
        return any(stream.is_untidy for stream in self.streams.values())

    def wait_s(self, now: float) -> float:
        """How long nothing is sent, unless there is news or a reply; may be infinite."""
        return min(stream.dispatcher.wait_s(now) for stream in self.streams.values())

    def may_rest(self, now: float) -> bool:
        """Whether a turn would find no news and no maintenance to do."""
        has_housework = any(stream.is_untidy and self._is_at_rest(stream) for stream in self.streams.values())
        return not has_housework and self._watch.is_quiet(now)

    def _is_at_rest(self, stream: Stream) -> bool:
        """Whether it has nothing to do but maintenance, and that is in nobody's way."""
        return stream.dispatcher.is_idle and not self.has_sent

    def work(self, now: float, send: Callable[[Kind, Batch], None] | None) -> None:
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
            self._release()
            orphaned = next(self._orphaned(), "")
            if orphaned:
                self.orphaned += ("; " if self.orphaned else "") + orphaned
            self._daemon_log.replaced(self.orphaned)
            raise
        except DamagedError:
            if self._is_damaged:
                self.set_aside()
            else:
                for stream in self.streams.values():
                    stream.consumer.reopen()
            self._is_damaged = not self._is_damaged
            raise
        self._is_damaged = False

    def _orphaned(self) -> Iterator[str]:
        return (stream.consumer.orphaned for stream in self.streams.values() if stream.consumer.orphaned)

    def _turn(self, now: float, send: Callable[[Kind, Batch], None] | None) -> None:
        # First, as settling may have to wait.
        self._presence.keep()
        streams = self.streams.values()
        if self._is_hurried:
            for stream in streams:
                stream.consumer.wait_for_locks(self._lock_timeout_s)
        errors: list[ForwarderError | None] = []
        full: SpoolFullError | None = None
        for stream in streams:
            try:
                errors.append(stream.settle(now))
            except SpoolFullError as error:
                full = full or error  # what another kind settles may make room
        if full:
            raise full
        self._look(now)
        for stream in streams:
            if send:
                try:
                    stream.send(now, send)
                except SpoolFullError as error:  # for its mark; others need none, and make room
                    errors.append(error)
        for stream in streams:
            stream.maintain(now, at_rest=self._is_at_rest(stream))
        self._discard(now)
        for found in filter(None, errors):
            raise found

    def _look(self, now: float) -> None:
        if self._watch.is_quiet(now):
            return
        self._watch.looked(now)
        before, asked = self._asked, self._spool.control()
        if self._is_new or before is None or before.version != asked.version:
            for stream in self.streams.values():
                stream.notice(now)
            self._is_new = False
        if before is not None and before.flush != asked.flush:
            self._pause_holds = False
            self.flush()
        paused = asked.paused or self._pause_holds
        if paused != self.is_paused:
            for stream in self.streams.values():
                stream.dispatcher.paused = paused
            self._daemon_log.paused(paused)
        self._asked = asked

    def _discard(self, now: float) -> None:
        days = self._settings.dead_letters.max_age_days
        # A clock that is a year ahead, because the network has not set it yet, makes every dead letter old.
        is_clock_right = any(stream.is_clock_right for stream in self.streams.values())
        if days and is_clock_right and now >= self._retained_at + RETENTION_S:
            self._retained_at = now
            before = time.time() - days * DAY_S
            count = sum(stream.consumer.discard_dead_letters(before) for stream in self.streams.values())
            self._daemon_log.discarded(count)


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
