"""Running the daemon in this process: until it is stopped, or until the queue is drained."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from forwarder import spool
from forwarder.config import Settings
from forwarder.errors import ForwarderError, StorageError, UnavailableError
from forwarder.service import state as state_file
from forwarder.service.daemon import LOCK_TIMEOUT_S, POLL_S, Daemon
from forwarder.service.destination import MIXPANEL, Destination
from forwarder.service.signals import Early, handled
from forwarder.service.standing import Standing
from forwarder.spool import DamagedError, Figures, NoQueueError, Presence, Spool, TakenError

NO_PROGRESS_S = 60.0
STAND_BY_S = 1.0
_M_ARENA_MAX = -8  # malloc.h of glibc; other C libraries have no mallopt, or ignore it


@dataclass(frozen=True, slots=True)
class Drained:
    """How many events are left, and why; *reason* is "" if none is."""

    left: int
    reason: str = ""


class StuckError(UnavailableError):
    """Nothing gets through until a person acts; *left* is how many events wait."""

    def __init__(self, left: int, what: str, remedy: str = "") -> None:
        super().__init__(what, remedy)
        self.left = left


class SetAsideError(StorageError):
    """Nothing waits any more, but damaged *files* with waiting events were set aside."""

    left = 0

    def __init__(self, files: list[str]) -> None:
        are = "a damaged database is" if len(files) == 1 else f"{len(files)} damaged databases are"
        super().__init__(
            f"{are} set aside and not salvaged yet",
            f"`forwarder salvage {files[0]} --apply` recovers what can be read, and names the next one",
        )


def run(
    settings: Settings,
    load: Callable[[], Settings],
    early: Early | None = None,
    to: Destination = MIXPANEL,
) -> None:
    """Deliver *to* there until SIGTERM or SIGINT. SIGHUP reloads with *load*, SIGUSR1 flushes.

    *early* has the signals that came before.

    While another daemon delivers from a queue on a server, this one stands by and takes over from it.

    Raises:
        TryAgainError: another daemon has this queue, in a directory.
        ConfigError, NotPermittedError: no usable credentials, or no usable queue.
    """
    _spare_memory()
    queue = spool.of(settings.queue)
    while True:
        try:
            with running(settings, load, presence=stand_by(queue), to=to) as daemon:
                if early:
                    early.hand_over(daemon.signalled)
                while not daemon.is_stopped:
                    daemon.turn(dozing=True)
                return
        except TakenError:
            if not queue.stands_by:
                raise


def stand_by(queue: Spool) -> Presence:
    """Become the one that delivers from *queue*; on a server, wait until no other does.

    Raises:
        TakenError: another delivers, and daemons of this queue do not stand by.
        ForwarderError: as `Spool.take`, at the first try.
    """
    standing = Standing()
    while True:
        try:
            presence = queue.take()
        except ForwarderError as error:
            if not queue.stands_by or not (isinstance(error, TakenError) or standing.why):
                raise
            standing.turned(error.what)
            time.sleep(STAND_BY_S)  # a signal ends it
        else:
            standing.ended()
            return presence


def _spare_memory() -> None:
    """Let the C library's threads share two arenas: with one each, ten senders took 90 MB more."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def drain(settings: Settings, timeout_s: float | None, to: Destination = MIXPANEL) -> Drained:
    """Deliver what waits *to* there, without lingering. If a daemon runs, ask it to do so and wait for it.

    Args:
        timeout_s: The most time it may take. None: until nothing has got through for `NO_PROGRESS_S` and no
            request in flight can still be answered.

    Raises:
        StuckError: delivery is blocked or paused, or the daemon has stopped.
        SetAsideError: nothing is left in the queue itself.
        TakenError: another daemon is starting.
    """
    done = _drain(settings, timeout_s, to)
    if not done.left and (files := spool.of(settings.queue).set_aside()):
        raise SetAsideError(files)
    return done


def _drain(settings: Settings, timeout_s: float | None, to: Destination) -> Drained:
    # A reload gives the same settings.
    settings = replace(settings, delivery=replace(settings.delivery, linger_s=0.0))
    patience = _Patience(timeout_s)
    kinds = spool.each(settings.queue)
    queue = kinds[0]
    try:
        # Half of it, so that there is time to deliver after waiting for the lock.
        timeout_s = patience.lock_timeout_s / 2
        with running(settings, lambda: settings, timeout_s, passing=True, to=to) as daemon:
            return _drain_here(daemon, kinds, patience)
    except TakenError:
        before = state_file.read(queue)
        if before is None:
            raise
    queue.request_flush()
    return _watch_drain(kinds, patience, before.failures)


@contextmanager
def running(
    settings: Settings,
    load: Callable[[], Settings],
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    passing: bool = False,
    presence: Presence | None = None,
    to: Destination = MIXPANEL,
) -> Iterator[Daemon]:
    """A daemon in this process, which has the queue and handles the signals during the block.

    It becomes the one that delivers, or has that *presence*, and releases it.

    Raises: as `run`.
    """
    presence = presence or spool.of(settings.queue).take()
    try:
        daemon = Daemon(settings, load, presence, lock_timeout_s, passing, to)
        with handled(daemon.signalled):
            try:
                daemon.start()
                yield daemon
            finally:
                daemon.close()
    finally:
        presence.release()


class _Patience:
    """When to give up: after *timeout_s*, or `NO_PROGRESS_S` without progress."""

    def __init__(self, timeout_s: float | None) -> None:
        self._ends_at = None if timeout_s is None else time.monotonic() + timeout_s
        self._left: int | None = None
        self._moved_at = time.monotonic()

    @property
    def lock_timeout_s(self) -> float:
        """How long to wait for other writers."""
        if self._ends_at is None:
            return LOCK_TIMEOUT_S
        return min(LOCK_TIMEOUT_S, max(self._ends_at - time.monotonic(), 0.0))

    def is_over(self, left: int, in_flight: int) -> bool:
        now = time.monotonic()
        if self._ends_at is not None:
            return now >= self._ends_at
        if left != self._left:
            self._left, self._moved_at = left, now
        # Requests in flight may still be answered, until their timeouts.
        return not in_flight and now >= self._moved_at + NO_PROGRESS_S

    def reason(self, trouble: str) -> str:
        """Why it gives up; *trouble* is the known problem, or ""."""
        if self._ends_at is not None:
            return trouble or "time is up"
        return f"nothing got through for {NO_PROGRESS_S:g} s" + (f": {trouble}" if trouble else "")


def _drain_here(daemon: Daemon, kinds: Sequence[Spool], patience: _Patience) -> Drained:
    was_damaged = False
    while not daemon.is_stopped:
        daemon.wait_for_locks(patience.lock_timeout_s)
        daemon.turn()
        try:
            left = _waiting(kinds, patience)
        except DamagedError:
            # The daemon itself may never get to this, or only after all is delivered.
            if was_damaged:
                daemon.set_aside()
            was_damaged = not was_damaged
            continue
        was_damaged = False
        state, reason = daemon.condition
        if left == 0 or patience.is_over(left, daemon.in_flight):
            why = patience.reason(_trouble("delivery", state, reason))
            return Drained(left, why if left else "")
        if state == "blocked":
            raise StuckError(left, f"delivery is blocked: {reason}")
        if state == "paused":
            raise StuckError(left, "delivery is paused", "`forwarder resume` continues it")
    left = _waiting(kinds, patience)
    return Drained(left, "it was stopped" if left else "")


def _waiting(kinds: Sequence[Spool], patience: _Patience) -> int:
    """How many wait in the database that is at the path now; the previous one may have been set aside."""
    return sum(figures.due for figures in _figures(kinds, patience))


def _figures(kinds: Sequence[Spool], patience: _Patience) -> list[Figures]:
    """Of each kind; none without a queue."""
    found = []
    for each in kinds:
        with suppress(NoQueueError), each.view(patience.lock_timeout_s) as view:
            found.append(view.figures())
    return found


def _watch_drain(kinds: Sequence[Spool], patience: _Patience, failures_before: int) -> Drained:
    while True:
        found = _figures(kinds, patience)
        left, paused = sum(figures.due for figures in found), any(figures.paused for figures in found)
        state = state_file.read(kinds[0])
        if left == 0:
            return Drained(0)
        if state is None:
            wait = "event waits" if left == 1 else "events wait"
            raise StuckError(left, f"the daemon has stopped; {left:,} {wait}")
        if patience.is_over(left, state.in_flight):
            return Drained(left, patience.reason(_trouble("the daemon", state.state, state.state_reason)))
        if paused:
            raise StuckError(left, "delivery is paused", "`forwarder resume` continues it")
        # What it reported before the request to try again may be fixed by now.
        if state.state == "blocked" and state.failures != failures_before:
            raise StuckError(left, f"delivery is blocked: {state.state_reason}")
        time.sleep(POLL_S)


def _trouble(who: str, state: str, reason: str) -> str:
    if state == "running":
        return reason
    return f"{who} is {state.replace('_', ' ')}: {reason}"
