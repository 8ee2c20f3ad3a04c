"""Who may use a database just now: one thread at a time, and no signal handler amid what it interrupts."""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from forwarder.errors import ForwarderError, TryAgainError
from forwarder.spool import forks
from forwarder.spool.sqlite_errors import translated


class Access(ABC):
    """Access to the database in the directory *path*, waited for up to *timeout* seconds.

    A call is made up of steps: opening, writing, closing. A signal handler that comes amid one, or amid a
    fork, is to try again: it would work with what is half done.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self.path = path
        self.timeout = timeout
        self._begin()

    def renew(self) -> None:
        """Begin anew if this is a forked child, with locks that nobody holds."""
        if self._pid != os.getpid():
            self._begin()

    def _begin(self) -> None:
        self.tran_lock = threading.RLock()
        self._deadline: float | None = None
        self._is_busy = self._is_to_close = False
        self._pid = os.getpid()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep the other threads out.

        Raises:
            TryAgainError: one of them has not gone within the time limit, which goes on counting inside.
        """
        self.renew()
        deadline = time.monotonic() + self.timeout
        held: list[threading.RLock] = []
        try:
            forks.acquire(self.tran_lock, held, self.timeout)
            if not held:
                raise TryAgainError(
                    f"the queue in {self.path} has been in use by another thread for {self.timeout:g} s",
                    "Nothing was stored; try again",
                )
            outer, self._deadline = self._deadline, self._deadline or deadline
            try:
                yield
            finally:
                self._deadline = outer
        finally:
            forks.release(held)

    @contextmanager
    def _step(self) -> Iterator[None]:
        """Keep out the other threads, and what a signal handler does while this one is inside or forks.

        Raises:
            TryAgainError: it is such a handler that calls.
        """
        with self.alone(), translated(self.path):
            if self._is_interrupted:
                raise TryAgainError(
                    f"this thread forks, or is opening, closing or writing to the queue in {self.path} now",
                    "Nothing was stored; call again when it has done so",
                )
            try:
                self._is_busy = True
                yield
            finally:
                self._is_busy = False
                if self._is_to_close:
                    self._is_to_close = False
                    # What this step has done is done; the files stay open then.
                    with suppress(ForwarderError):
                        self._close_all()

    @property
    def _is_interrupted(self) -> bool:
        """Whether it is a signal handler that asks, amid a step; inside `alone`."""
        return self._is_busy or forks.is_under_way()

    def _left_s(self) -> float:
        """How long may still be waited; inside `alone`."""
        return max((self._deadline or 0.0) - time.monotonic(), 0.0)

    @abstractmethod
    def _close_all(self) -> None:
        """Close all files."""
