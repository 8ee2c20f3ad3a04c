"""The daemon: a loop that waits, and calls passes that do the work."""

from __future__ import annotations

import math
import os
import queue
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from forwarder import log, spool
from forwarder.config import Settings
from forwarder.delivery.batch import Batch
from forwarder.delivery.report import Postponed
from forwarder.errors import ForwarderError
from forwarder.records import EVENTS
from forwarder.records.kind import Kind
from forwarder.records.verdict import Outcome
from forwarder.service.alerts import Messenger
from forwarder.service.daemon_log import DaemonLog
from forwarder.service.destination import MIXPANEL, Destination
from forwarder.service.history import History
from forwarder.service.listener import Listener
from forwarder.service.notify import Supervisor, notify
from forwarder.service.senders import Senders
from forwarder.service.state import DaemonState, Heartbeat, Publisher, summary
from forwarder.service.stream import Stream
from forwarder.service.worker import Worker
from forwarder.spool import Presence, TakenError

POLL_S = 0.065
LOCK_TIMEOUT_S = 10.0
STORAGE_RETRY_S = 1.0
# Of the queue; the rest is for those that write to it.
_AT_START = ("path", "url", "schema", "password_file", "standbys", "lease_s")


class Daemon:
    """Delivers from one queue. The caller calls `turn` repeatedly, and releases the presence at the end.

    Args:
        settings: The queue, the server, and how to deliver.
        load: Reads the settings again, for a reload.
        presence: The claim to be the one that delivers; announced once the queue is open.
        lock_timeout_s: How long to wait for other writers.
        passing: It only runs to drain the queue. Then its start and end are not logged, and it serves no
            pages.
        to: Where it delivers to.

    Raises:
        ConfigError, NotPermittedError: there are no usable credentials, or no usable queue.
        UnavailableError: the address of its pages is in use.
    """

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Settings],
        presence: Presence,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
        passing: bool = False,
        to: Destination = MIXPANEL,
    ) -> None:
        self.settings = settings
        self._load = load
        self._to = to
        clients, warnings = to.clients(settings)
        self._inbox: queue.SimpleQueue[tuple[Kind, Batch, Outcome] | signal.Signals] = queue.SimpleQueue()
        self._daemon_log = DaemonLog(passing)
        self._worker = Worker(settings, presence, self._daemon_log, lock_timeout_s, to)
        self._senders = {
            name: Senders(client, self._answered, self._worker.counters[name].timed)
            for name, client in clients.items()
        }
        self._daemon_log.secrets_warned(warnings)
        self._publisher = Publisher(presence, self._deferred)
        self._supervisor = Supervisor(lambda: summary(self.settings.queue, *self.condition))
        self._pid, self._started_at = os.getpid(), time.time()
        self._state, self._state_since, self._next_try_at = "", 0.0, 0.0
        self._storage_ok_at = 0.0
        self._storage_error = ""
        self._stop_at: float | None = None
        now = time.monotonic()
        self._history = History(spool.each(settings.queue), self._worker.counters, self._started_at, now)
        self._heartbeat = self._beat(now)
        self._listener = None if passing else self._listen()
        self._messenger = None if passing else Messenger(lambda: self._heartbeat)

    def _listen(self) -> Listener | None:
        address = self.settings.metrics.listen
        try:
            return Listener(address) if address else None
        except BaseException:
            self._worker.close()
            raise

    def signalled(self, number: int, _frame: object = None) -> None:
        """A signal handler: only notes the signal."""
        self._inbox.put(signal.Signals(number))

    def start(self) -> None:
        """Report that the daemon is ready."""
        if self._listener:
            self._heartbeat = self._beat(time.monotonic())
            # Loaded only if used: Prometheus' library takes memory and time.
            from forwarder.service import metrics, page

            self._listener.serve(
                page.pages(lambda: self._heartbeat, self._to.server)
                | metrics.pages(lambda: self._heartbeat, self._worker.counters)
            )
            self._daemon_log.listening(self._listener.url)
        if self._messenger:
            self._messenger.apply(self.settings)
        place, proxy = self._to.place(self.settings), self._senders[EVENTS.name].client.proxy
        self._daemon_log.started(self.settings, place, proxy)
        self._supervisor.tell()
        notify("READY=1")

    def stop(self) -> None:
        """Send nothing new. Requests in flight have the destination's ``stop_s``; at the second call none."""
        hurry = self._stop_at is not None
        self._stop_at = time.monotonic() + (0.0 if hurry else self._to.stop_s)
        self._daemon_log.stopping(self.in_flight, hurry)
        notify("STOPPING=1")

    @property
    def is_stopped(self) -> bool:
        """Whether it is to stop, and either everything is answered or its time is up."""
        if self._stop_at is None:
            return False
        return not self._worker.has_sent or time.monotonic() >= self._stop_at

    def turn(self, dozing: bool = False) -> None:
        """One turn of the loop: settle replies, look for news, send what may be sent, wait for `POLL_S`.

        Args:
            dozing: Whether it may wait longer, until there is something to do.

        Raises:
            TakenError: another process delivers from the queue, too.
        """
        now = time.monotonic()
        if now >= self._storage_ok_at:
            try:
                self._worker.work(now, self._send if self._stop_at is None else None)
                self._storage_recovered(now)
            except TakenError:
                raise
            except ForwarderError as error:
                self._storage_failed(error, now)
        has_news = self._publish(now) or self._worker.is_stirred
        if self._history.observe(self._heartbeat.state.kinds, now) and not self._storage_error:
            self._history.record(self._worker.streams, now)
        self._supervisor.turned(now, has_news)
        due_s = POLL_S if self._must_wait else self._worker.wait_s(now)
        while not self._wait(min(POLL_S, due_s)) and dozing and self._may_doze(now + due_s):
            pass

    def close(self) -> None:
        """Close all files. Events still in flight wait in the queue for the next daemon."""
        if self._messenger:
            self._messenger.close()
        if self._listener:
            self._listener.close()
        for senders in self._senders.values():
            senders.close()
            senders.client.close()
        in_flight = self.in_flight
        now = time.monotonic()
        self._history.observe(self._heartbeat.state.kinds, now)
        self._history.record(self._worker.streams, now)
        self._worker.close()
        self._daemon_log.stopped(in_flight)

    def wait_for_locks(self, timeout_s: float) -> None:
        """From now on, wait for other writers this long at most, in seconds."""
        self._worker.wait_for_locks(timeout_s)

    def set_aside(self) -> None:
        """Set the damaged database aside and continue with a fresh one."""
        self._worker.set_aside()

    def reload(self) -> None:
        """Read settings and secrets again; if they can't be used, the old ones stay in force."""
        try:
            settings = self._load()
            clients, warnings = self._to.clients(settings)
        except ForwarderError as error:
            self._daemon_log.reload_failed(error)
            return
        kept = {key: getattr(self.settings.queue, key) for key in _AT_START}
        for key, value in kept.items():
            if getattr(settings.queue, key) != value:
                self._daemon_log.needs_restart(f"queue.{key}")
        settings = replace(settings, queue=replace(settings.queue, **kept))
        if settings.metrics != self.settings.metrics:
            self._daemon_log.needs_restart("metrics.listen")
            settings = replace(settings, metrics=self.settings.metrics)
        # The old clients are not closed: their requests in flight continue, and they end with the last.
        for name, client in clients.items():
            self._senders[name].client = client
        log.configure(settings.log.level, settings.log.format)
        self._worker.apply(settings)
        self.settings = settings
        if self._messenger:
            self._messenger.apply(settings)
        self._daemon_log.reloaded(settings, self._to.place(settings), warnings)

    @property
    def in_flight(self) -> int:
        """Records in flight."""
        return self._worker.in_flight

    @property
    def is_held(self) -> bool:
        """Whether nothing is sent, of any kind: it is paused, or the queue can't be used."""
        return bool(self._storage_error) or self._worker.is_paused

    @property
    def condition(self) -> tuple[str, str]:
        """The reported state, and the reason."""
        if self._storage_error:
            return "backing_off", self._storage_error
        if self._worker.is_paused:
            return "paused", "paused by command; `forwarder resume` continues it"
        return self._worker.condition

    @property
    def _must_wait(self) -> bool:
        """Whether the work that is due has to wait for a reply, or for the disk to work again."""
        return bool(self._worker.has_sent or self._storage_error or self._stop_at is not None)

    def _may_doze(self, until: float) -> bool:
        """Whether another turn would do nothing; an idle turn costs five times more than this check."""
        now = time.monotonic()
        return now < until and not self._must_wait and self._worker.may_rest(now)

    def _send(self, kind: Kind, batch: Batch) -> None:
        self._senders[kind.name].send(batch)

    def _answered(self, kind: Kind, batch: Batch, outcome: Outcome) -> None:
        """Called from a sender's thread."""
        self._inbox.put((kind, batch, outcome))

    def _wait(self, wait_s: float) -> bool:
        """Wait for replies and signals. Returns whether there were any."""
        came = False
        try:
            item = self._inbox.get(timeout=wait_s)
            while True:
                came = True
                if isinstance(item, signal.Signals):
                    self._act(item)
                else:
                    self._worker.receive(*item)
                item = self._inbox.get_nowait()
        except queue.Empty:
            return came

    def _act(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            self.reload()
            notify("READY=1")
        elif number == signal.SIGUSR1:
            self._worker.flush()
        else:
            self.stop()

    def _storage_failed(self, error: ForwarderError, now: float) -> None:
        self._storage_error = str(error)
        self._storage_ok_at = now + STORAGE_RETRY_S
        self._daemon_log.storage_failed(error, now)

    def _storage_recovered(self, now: float) -> None:
        if self._storage_error:
            self._storage_error = ""
            self._daemon_log.storage_recovered(now)

    def _publish(self, now: float) -> bool:
        self._heartbeat = self._beat(now)
        return self._publisher.publish(self._heartbeat.state, now)

    def _beat(self, now: float) -> Heartbeat:
        name, reason = self.condition
        if name != self._state:
            self._state, self._state_since = name, time.time()
        events = self._worker.streams[EVENTS.name].dispatcher
        state = DaemonState(
            self._pid,
            name,
            reason,
            in_flight=events.in_flight,
            connections=events.flow.connections,
            last_error=self._daemon_log.last_error,
            last_error_at=self._daemon_log.last_error_at,
            failures=events.flow.tries,
            orphaned=self._worker.orphaned,
            requests=self._worker.counters[EVENTS.name].by_outcome(),
            kinds={name: self._of_kind(stream) for name, stream in self._worker.streams.items()},
            started_at=self._started_at,
            state_since=self._state_since,
            next_try_at=self._next_try(name, now),
        )
        trouble = self._storage_error or ("" if self._stop_at is None else "the daemon is stopping")
        return Heartbeat(state, self.settings, trouble, now)

    def _next_try(self, state: str, now: float) -> float:
        """When a request is sent again, in seconds since the epoch; 0: none is planned."""
        streams = () if state == "running" or self.is_held else self._worker.streams.values()
        waiting = (each.dispatcher for each in streams if each.dispatcher.condition[0] == state)
        wait_s = min((each.wait_s(now) for each in waiting), default=math.inf)
        at = time.time() + wait_s if wait_s < math.inf else 0.0
        # Clocks differ from each other by less than that, and each change is reported.
        if abs(at - self._next_try_at) > 1:
            self._next_try_at = at
        return self._next_try_at

    def _deferred(self) -> dict[str, list[Postponed]]:
        now = time.monotonic()
        return {name: stream.dispatcher.deferred(now) for name, stream in self._worker.streams.items()}

    def _of_kind(self, stream: Stream) -> dict[str, Any]:
        """The state of one kind's delivery."""
        state, reason = self.condition if self.is_held else stream.dispatcher.condition
        return {"state": state, "state_reason": reason, "in_flight": stream.dispatcher.in_flight}
