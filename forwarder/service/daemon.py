"""The daemon: a loop that only waits, around passes that do the work."""

from __future__ import annotations

import os
import queue
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from forwarder import log
from forwarder.config import Settings
from forwarder.delivery.batch import Batch
from forwarder.delivery.courier import Courier
from forwarder.delivery.outcome import Reply
from forwarder.delivery.probe import new_client
from forwarder.errors import ForwarderError
from forwarder.service import state as state_file
from forwarder.service.journal import Journal
from forwarder.service.notify import notify
from forwarder.service.senders import Senders
from forwarder.service.state import DaemonState
from forwarder.spool import Consumer, QueueReplacedError

POLL_S = 0.05
PUBLISH_S = 0.2
STOP_S = 30.0
STORAGE_RETRY_S = 1.0
RETENTION_S = 3600.0
DAY_S = 86400.0


class Daemon:
    """Delivers from one queue. The caller holds the instance lock, and calls `turn` again and again.

    Args:
        settings: What to deliver from, where, and how.
        load: Reads the settings anew, for a reload.

    Raises:
        ConfigError, NotPermittedError: there are no usable credentials, or no usable queue.
    """

    def __init__(self, settings: Settings, load: Callable[[], Settings]) -> None:
        self.settings = settings
        self._load = load
        client, warnings = new_client(settings)
        self._inbox: queue.SimpleQueue[tuple[Batch, Reply] | signal.Signals] = queue.SimpleQueue()
        self._spool = Consumer(settings.queue.path)
        self.courier = Courier(self._spool, settings.delivery, strict=settings.mixpanel.strict)
        self._senders = Senders(client, lambda batch, reply: self._inbox.put((batch, reply)))
        self._replies: deque[tuple[Batch, Reply]] = deque()
        self._journal = Journal()
        self._journal.secrets_warned(warnings)
        self._state = DaemonState(os.getpid(), started_at=time.time())
        self._version: int | None = None
        self._flush_requests = self._spool.control().flush_requests
        self._published_at = self._retained_at = float("-inf")
        self._storage_ok_at = self._tidy_at = 0.0
        self._storage_error = ""
        self._untidy = True
        self._stop_at: float | None = None

    def signalled(self, number: int, _frame: object = None) -> None:
        """A signal handler: only takes note."""
        self._inbox.put(signal.Signals(number))

    def start(self) -> None:
        """Say that all is ready."""
        self._journal.started(self.settings)
        notify("READY=1")

    def stop(self) -> None:
        """Send nothing new; what is in flight has `STOP_S`, or no time at all at the second call."""
        hurry = self._stop_at is not None
        self._stop_at = time.monotonic() + (0.0 if hurry else STOP_S)
        self._journal.stopping(self.courier.in_flight, hurry)
        notify("STOPPING=1")

    @property
    def is_stopped(self) -> bool:
        """Whether it was told to stop and everything is answered for, or its time is up."""
        if self._stop_at is None:
            return False
        return (not self.courier.in_flight and not self._replies) or time.monotonic() >= self._stop_at

    def turn(self, wait_s: float = POLL_S) -> None:
        """One turn of the loop: settle replies, look for news, send what may be sent, wait.

        Raises:
            QueueReplacedError: the database at the path is another by now; only a new start can take it up.
        """
        now = time.monotonic()
        if now >= self._storage_ok_at:
            try:
                self._work(now)
                self._storage_recovered(now)
            except QueueReplacedError:
                raise
            except ForwarderError as error:
                self._storage_failed(error, now)
        self._publish(now)
        self._wait(wait_s if self._must_wait else min(wait_s, self.courier.wait_s(now)))

    def close(self) -> None:
        """Close all files; what is still in flight waits in the queue for the next daemon."""
        self._senders.close()
        self._senders.client.close()
        state_file.remove(self.settings.queue.path)
        self._journal.stopped(self.courier.in_flight)
        self._spool.close()

    def flush(self) -> None:
        """Forget the present wait and try now."""
        self._journal.flushed()
        self.courier.flush()

    def reload(self) -> None:
        """Read settings and secrets anew; if they can't be used, the old ones stay in force."""
        try:
            settings = self._load()
            client, warnings = new_client(settings)
        except ForwarderError as error:
            self._journal.reload_failed(error)
            return
        if settings.queue.path != self.settings.queue.path:
            self._journal.needs_restart("queue.path")
            settings = replace(settings, queue=replace(settings.queue, path=self.settings.queue.path))
        # The old client is not closed: its requests in flight go on, and it goes with the last of them.
        self._senders.client = client
        log.configure(settings.log.level, settings.log.format)
        self.courier.apply(settings.delivery, settings.mixpanel.strict)
        self.settings = settings
        self._journal.reloaded(settings, warnings)

    @property
    def _must_wait(self) -> bool:
        """Whether what is due can't be done before a reply comes, or the disk works again."""
        return bool(self.courier.has_sent or self._storage_error or self._stop_at is not None)

    def _work(self, now: float) -> None:
        while self._replies:
            batch, reply = self._replies[0]
            report = self.courier.settle(batch, reply, now)
            self._replies.popleft()
            self._journal.settled(report, self.courier.gate, now)
        self._look(now)
        if self._stop_at is None:
            while (next_batch := self.courier.next(now)) is not None:
                self._senders.send(next_batch)
        self._journal.buried(*self.courier.backlog.take_buried())
        self._keep_house(now)

    def _look(self, now: float) -> None:
        version = self._spool.version()
        if version == self._version:
            return
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
        days = self.settings.dead_letters.max_age_days
        if days and now >= self._retained_at + RETENTION_S:
            self._retained_at = now
            self._journal.discarded(self._spool.discard_dead_letters(time.time() - days * DAY_S))
        if self.courier.is_idle:
            self._tidy(now)

    def _tidy(self, now: float) -> None:
        if self._untidy and now >= self._tidy_at:
            self._untidy = self._spool.tidy()
            self._tidy_at = now + POLL_S

    def _wait(self, wait_s: float) -> None:
        try:
            item = self._inbox.get(timeout=wait_s)
            while True:
                if isinstance(item, signal.Signals):
                    self._act(item)
                else:
                    self._replies.append(item)
                    self._untidy = True
                item = self._inbox.get_nowait()
        except queue.Empty:
            pass

    def _act(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            self.reload()
            notify("READY=1")
        elif number == signal.SIGUSR1:
            self.flush()
        else:
            self.stop()

    def _storage_failed(self, error: ForwarderError, now: float) -> None:
        self._storage_error = str(error)
        self._storage_ok_at = now + STORAGE_RETRY_S
        self._journal.storage_failed(error, now)

    def _storage_recovered(self, now: float) -> None:
        if self._storage_error:
            self._storage_error = ""
            self._journal.storage_recovered(now)

    def _publish(self, now: float) -> None:
        if now < self._published_at + PUBLISH_S:
            return
        gate = self.courier.gate
        name, reason = gate.state, gate.reason
        if self._storage_error:
            name, reason = "backing_off", self._storage_error
        elif self.courier.paused:
            name, reason = "paused", "paused by command; `forwarder resume` goes on"
        state = replace(
            self._state,
            state=name,
            state_reason=reason,
            in_flight=self.courier.in_flight,
            connections=self.courier.connections,
            last_error=self._journal.last_error,
            failures=gate.tries,
        )
        if state != self._state or self._published_at < 0:
            self._state, self._published_at = state, now
            state_file.write(self.settings.queue.path, replace(state, updated_at=time.time()))
