"""The daemon's signals before there is a daemon. They are caught first, because their default is to kill.

Fast to import: the rest of the daemon takes a fifth of a second.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
Handler = Callable[[int, FrameType | None], object]


class Early:
    """Signals that came too early, for later; one that ends a daemon ends the program at once."""

    def __init__(self) -> None:
        self._noted: list[int] = []

    def signalled(self, number: int, _frame: object = None) -> None:
        """A signal handler.

        Raises:
            SystemExit: there is nothing to finish.
        """
        # Noted as well: where Python can't raise, as in a destructor, the daemon still gets it.
        self._noted.append(number)
        if number in (signal.SIGTERM, signal.SIGINT):
            raise SystemExit(0)

    def hand_over(self, to: Handler) -> None:
        """Pass the noted signals to *to*, each once."""
        while self._noted:
            to(self._noted.pop(0), None)


@contextmanager
def handled(by: Handler) -> Iterator[None]:
    """Handle the signals during the block."""
    before = {number: signal.signal(number, by) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
