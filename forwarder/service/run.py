"""Running the daemon in this process: until it is stopped, or until the queue is drained."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from forwarder.config import Settings
from forwarder.errors import TryAgainError, UnavailableError
from forwarder.service import state as state_file
from forwarder.service.daemon import POLL_S, Daemon
from forwarder.service.instance import InstanceLock
from forwarder.spool import NoQueueError, View, control, prepare_directory

NO_PROGRESS_S = 60.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def run(settings: Settings, load: Callable[[], Settings]) -> None:
    """Deliver until SIGTERM or SIGINT. SIGHUP reloads by *load*, SIGUSR1 flushes.

    Raises:
        TryAgainError: another daemon has this queue.
        ConfigError, NotPermittedError: no usable credentials, or no usable queue.
    """
    with _daemon(settings, load) as daemon:
        while not daemon.is_stopped:
            daemon.turn()


def drain(settings: Settings, timeout_s: float | None) -> int:
    """Deliver what waits, without lingering; with a daemon running, have it do so and wait.

    Args:
        timeout_s: The most it may take. None: as long as it gets on, and `NO_PROGRESS_S` when it does not.

    Returns:
        how many events are left, for want of time.

    Raises:
        UnavailableError: delivery is blocked, or paused; says why.
    """
    try:
        with _daemon(settings, lambda: settings, lingering=False) as daemon:
            return _drain_here(daemon, settings.queue.path, timeout_s)
    except TryAgainError:
        before = state_file.read(settings.queue.path)
        if before is None:
            raise
    control.request_flush(settings.queue.path)
    return _watch_drain(settings.queue.path, timeout_s, before.failures)


@contextmanager
def _daemon(settings: Settings, load: Callable[[], Settings], lingering: bool = True) -> Iterator[Daemon]:
    prepare_directory(settings.queue.path)
    lock = InstanceLock(settings.queue.path)
    try:
        daemon = Daemon(settings, load)
        if not lingering:
            daemon.courier.backlog.linger_s = 0.0
        before = {number: signal.signal(number, daemon.signalled) for number in _SIGNALS}
        try:
            daemon.start()
            yield daemon
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            daemon.close()
    finally:
        lock.release()


class _Progress:
    """When to give up: after *timeout_s*, or `NO_PROGRESS_S` without a step ahead."""

    def __init__(self, timeout_s: float | None) -> None:
        self._ends_at = None if timeout_s is None else time.monotonic() + timeout_s
        self._left: int | None = None
        self._moved_at = time.monotonic()

    def is_over(self, left: int) -> bool:
        now = time.monotonic()
        if self._ends_at is not None:
            return now >= self._ends_at
        if left != self._left:
            self._left, self._moved_at = left, now
        return now >= self._moved_at + NO_PROGRESS_S


def _drain_here(daemon: Daemon, path: str, timeout_s: float | None) -> int:
    progress = _Progress(timeout_s)
    with View(path) as view:
        while not daemon.is_stopped:
            daemon.turn()
            left = view.figures().waiting
            if left == 0 or progress.is_over(left):
                return left
            if daemon.courier.gate.state == "blocked":
                raise UnavailableError(f"delivery is blocked: {daemon.courier.gate.reason}")
            if daemon.courier.paused:
                raise UnavailableError("delivery is paused", "`forwarder resume` goes on")
        return view.figures().waiting


def _watch_drain(path: str, timeout_s: float | None, failures_before: int) -> int:
    progress = _Progress(timeout_s)
    while True:
        try:
            with View(path) as view:
                figures = view.figures()
                left, paused = figures.waiting, figures.paused
        except NoQueueError:
            left, paused = 0, False
        state = state_file.read(path)
        if left == 0 or progress.is_over(left):
            return left
        if state is None:
            raise UnavailableError(f"the daemon has stopped; {left} events wait")
        if paused:
            raise UnavailableError("delivery is paused", "`forwarder resume` goes on")
        # What it said before it was told to try again may be mended by now.
        if state.state == "blocked" and state.failures != failures_before:
            raise UnavailableError(f"delivery is blocked: {state.state_reason}")
        time.sleep(POLL_S)
