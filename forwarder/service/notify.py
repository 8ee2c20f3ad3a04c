"""Notifying systemd (sd_notify(3)): a datagram to the socket that it names, if any."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable

STATUS_S = 2.0
IDLE_STATUS_S = 15.0
# systemd.service(5), WatchdogSec=: it is notified well before it would act.
PINGS = 4


def notify(message: str) -> None:
    """Send *message*, such as ``READY=1``; does nothing without systemd."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(message.encode(), address)


class Supervisor:
    """Tells systemd, while the loop turns and only then, that it turns, and the status.

    Args:
        status: Gives the line that ``systemctl status`` shows.
    """

    def __init__(self, status: Callable[[], str]) -> None:
        self._status = status
        self._interval_s = _watchdog_s() / PINGS
        self._is_heard = bool(os.environ.get("NOTIFY_SOCKET"))
        self._fed_at = self._told_at = float("-inf")
        self._told = ""
        self._has_news = False

    def turned(self, now: float, has_news: bool) -> None:
        """The loop has turned.

        Args:
            now: Any clock that doesn't go back, in seconds.
            has_news: Whether the status has probably changed; if not, it is asked for only rarely.
        """
        if not self._is_heard:
            return
        if now >= self._fed_at + self._interval_s:
            self._fed_at = now
            notify("WATCHDOG=1")
        self._has_news |= has_news
        if now >= self._told_at + (STATUS_S if self._has_news else IDLE_STATUS_S):
            self._told_at, self._has_news = now, False
            self.tell()

    def tell(self) -> None:
        """Send the status if it has changed."""
        status = self._status() if self._is_heard else ""
        if status != self._told:
            self._told = status
            notify(f"STATUS={status}")


def _watchdog_s() -> float:
    """How long systemd waits for a sign of life; infinite: it does not, or waits for another process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return float("inf")
    try:
        return int(os.environ["WATCHDOG_USEC"]) / 1_000_000
    except (KeyError, ValueError):
        return float("inf")
