"""Telling systemd how we are (sd_notify(3)): a datagram to the socket it names, if it names one."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(message: str) -> None:
    """Send *message*, like ``READY=1``; nothing happens outside of systemd."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(message.encode(), address)
