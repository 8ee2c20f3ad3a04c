"""systemd's journal protocol: an entry is a datagram of fields, each of which can be searched for.

Source: https://systemd.io/JOURNAL_NATIVE_PROTOCOL. Our fields begin with ``FORWARDER_``, and
``FORWARDER_EVENT`` is the message's ``noun.verb``. The journal itself adds what identifies the sender:
unit, process and user.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from forwarder.log.lines import INFORMATIONAL, PRIORITIES, Fields
from forwarder.log.sentences import sentence
from forwarder.text import printable

SOCKET = "/run/systemd/journal/socket"
# A journal that is stopped and takes nothing must not hold up delivery.
SEND_TIMEOUT_S = 0.005
PREFIX = "FORWARDER_"
MOST_NAME = 64  # journald drops a field with a longer name
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def send(fields: Fields) -> bool | None:
    """Send an entry to the journal. Returns whether it took it; None: this host has no journal.

    *fields* are plain, with ``timestamp``, ``level`` and ``event``.
    """
    content = entry(fields)
    is_taken = None
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(SEND_TIMEOUT_S)
        sock.connect(SOCKET)
        is_taken = False
        try:
            sock.send(content)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            _send_file(sock, content)
        is_taken = True
    return is_taken


def entry(fields: Fields) -> bytes:
    """The datagram for *fields*."""
    level, event = fields["level"], fields["event"]
    others = {name: value for name, value in fields.items() if name not in ("timestamp", "level")}
    traceback = "".join(f"\n{printable(line)}" for line in fields.get("traceback", "").splitlines())
    pairs = [
        ("PRIORITY", PRIORITIES.get(level, INFORMATIONAL)),
        ("SYSLOG_IDENTIFIER", "forwarder"),
        ("MESSAGE", sentence(event, fields) + traceback),
        *((_name(name), value) for name, value in others.items() if value is not None),
    ]
    return b"".join(piece for name, value in pairs for piece in _field(name, value))


def _name(name: str) -> str:
    return (PREFIX + re.sub("[^A-Z0-9_]", "_", name.upper()))[:MOST_NAME]


def _field(name: str, value: Any) -> Iterator[bytes]:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    content = text.encode("utf-8", "backslashreplace")
    if b"\n" in content:
        # With its length, or the text behind a line break would be taken for another field.
        yield name.encode() + b"\n" + struct.pack("<Q", len(content)) + content + b"\n"
    else:
        yield name.encode() + b"=" + content + b"\n"


def _send_file(sock: socket.socket, content: bytes) -> None:
    """Send what is too large for a datagram, as a sealed file in memory."""
    fd = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(fd, "wb", buffering=0) as file:
        file.write(content)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        socket.send_fds(sock, [], [fd])
