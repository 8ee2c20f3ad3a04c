"""The daemon's signals before there is a daemon: taken first of all, as their default is to kill.

Light to import, as the rest of the daemon takes a fifth of a second.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
Handler = Callable[[int, FrameType | None], object]


class Early:
    """Those that came too early, to be acted upon later; one that ends a daemon ends the program."""

    def __init__(self) -> None:
        self._noted: list[int] = []

    def signalled(self, number: int, _frame: object = None) -> None:
        """A signal handler.

        Raises:
            SystemExit: there is nothing to finish yet.
        """
        # Noted as well: where Python can't raise, in a destructor say, the daemon still hears of it.
        self._noted.append(number)
        if number in (signal.SIGTERM, signal.SIGINT):
            raise SystemExit(0)

    def hand_over(self, to: Handler) -> None:
        """Have *to* act on what was noted, and on nothing twice."""
        while self._noted:
            to(self._noted.pop(0), None)


@contextmanager
def handled(by: Handler) -> Iterator[None]:
    """Have the signals handled for the time of the block."""
    before = {number: signal.signal(number, by) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
