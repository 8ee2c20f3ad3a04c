"""A daemon that waits for its turn to deliver, as logs and systemd see it."""

from __future__ import annotations

import time

from forwarder import log
from forwarder.service.notify import Supervisor, notify
from forwarder.text import printable


class Standing:
    """Standing by.

    Attributes:
        why: What it waits for, for a person; "": it does not wait.
    """

    def __init__(self) -> None:
        self.why = ""
        self._log = log.get("daemon")
        self._supervisor = Supervisor(lambda: f"standing by: {printable(self.why)}")

    def turned(self, why: str) -> None:
        """It still waits."""
        if not self.why:
            notify("READY=1")
        if why != self.why:
            self._log.info("daemon.standing_by", detail=why)
        self.why = why
        self._supervisor.turned(time.monotonic(), has_news=True)

    def ended(self) -> None:
        """It is the one that delivers."""
        if self.why:
            self._log.info("daemon.takes_over")
