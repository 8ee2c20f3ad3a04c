"""HTTP/1.1 on one connection: requests out of bytes, one answer at a time, and limits on all of it.

llhttp, under httptools, reads strictly: what two programs could read differently, such as two lengths of a
body, is refused. What it doesn't do is here: sizes and times, ``Expect``, and ends that lose no answer.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, cast

import httptools

from forwarder.intake.access import UNIX
from forwarder.intake.answers import KEEP_ALIVE_S, Answer
from forwarder.intake.door import Door, Request
from forwarder.intake.payload import too_large
from forwarder.intake.room import SMALL_BYTES, Room

# An event in base64 in a GET is a long line.
MOST_LINE_BYTES = 3 << 19
MOST_HEAD_BYTES = 64 << 10
HEAD_S = 10.0
REQUEST_S = 30.0
# Longer than clients hear, which then close first: a request that crosses our close would be lost.
IDLE_S = KEEP_ALIVE_S + 10.0
# How long the other side may take to read the last answer.
LINGER_S = 5.0
# struct ucred (unix(7), SO_PEERCRED): pid, uid, gid.
_UCRED = "3i"


# What is read of a head. The rest, which may hold secrets, is not kept.
_READ = {
    name.encode(): name
    for name in (
        "host", "origin", "referer", "sec-fetch-site", "x-forwarded-for", "expect", "transfer-encoding",
        "content-encoding", "content-length", "content-type",
    )
}  # fmt: skip


class Phase(Enum):
    """What the other side does, or what it waits for."""

    FRESH = "nothing has come yet"
    HEAD = "a request's head comes"
    BODY = "its body comes"
    ANSWERING = "an answer is being made"
    IDLE = "between two requests"
    CLOSING = "the last answer is sent"


class _Pending(NamedTuple):
    """A request to be answered, or in *refusal* its answer. *closing*: it is the last one."""

    request: Request
    size_bytes: int
    refusal: Answer | None
    closing: bool


class House(NamedTuple):
    """What all connections share."""

    door: Door
    room: Room
    is_stopping: Callable[[], bool]
    lost: Callable[[Connection], None]


# Of all connections, because each empties it at once: one made for each read takes longer than the reading.
_buffer = bytearray(256 << 10)


class Connection(asyncio.BufferedProtocol):
    """One connection.

    Attributes:
        phase: See `Phase`.
    """

    def __init__(self, house: House) -> None:
        self._house = house
        self._transport: asyncio.Transport | None = None
        self._peer = UNIX
        self.phase = Phase.FRESH
        self._since = time.monotonic()
        self._pending: deque[_Pending] = deque()
        self._is_pumping = self._is_deaf = self._is_ended = self._can_write_not = False
        self._is_held = self._is_paused = False
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._unread_bytes = 0
        self._clear()

    def _clear(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}
        # The second is what `Room` counts: the line and the body.
        self._head_bytes = self._size_bytes = self._body_bytes = 0
        self._body: list[bytes] = []
        self._is_reading = self._has_head = self._owes_continue = False

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        name = transport.get_extra_info("peername")
        self._peer = name[0] if isinstance(name, tuple) else UNIX

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.received(bytes(memoryview(_buffer)[:nbytes]))

    def received(self, data: bytes) -> None:
        """Read on: *data* has come."""
        if self._is_deaf or self._transport is None:
            return
        self._unread_bytes += len(data)
        self._feed(data)
        # Bytes that the parser holds back: a line or a header without an end.
        if self._unread_bytes > MOST_LINE_BYTES + MOST_HEAD_BYTES:
            self._refuse(431, f"request exceeds max limit of {MOST_HEAD_BYTES} bytes")
        if self.phase in (Phase.FRESH, Phase.IDLE) and self._is_reading:
            self._enter(Phase.BODY if self._has_head else Phase.HEAD)
        elif self.phase is Phase.HEAD and self._has_head:
            self.phase = Phase.BODY
        self._pump()

    def eof_received(self) -> bool:
        self._is_ended = True
        if self._is_reading and not self._is_deaf:
            self._refuse(400, "the request is cut short")
        self._pump()
        # A client that has sent its last request may still read.
        return self.phase is not Phase.CLOSING and bool(self._pending or self.phase is Phase.ANSWERING)

    def pause_writing(self) -> None:
        self._can_write_not = True
        self._since = time.monotonic()

    def resume_writing(self) -> None:
        self._can_write_not = False
        self._pump()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._transport = None
        self._pending.clear()
        self._house.room.leave(self)
        self._house.lost(self)

    # What the parser calls

    def on_message_begin(self) -> None:
        if not self._is_deaf:
            self._clear()
            self._is_reading = True

    def on_url(self, url: bytes) -> None:
        if self._is_deaf:
            return
        self._target += url
        self._count(len(url))
        if len(self._target) > MOST_LINE_BYTES:
            self._refuse(414, f"request exceeds max limit of {MOST_LINE_BYTES} bytes in its first line")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._is_deaf or self._has_head:  # a trailer behind a body in chunks
            return
        if self._head_bytes > MOST_HEAD_BYTES:
            self._refuse(431, f"request exceeds max limit of {MOST_HEAD_BYTES} bytes in its head")
            return
        key = _READ.get(name.lower())
        if key is None:
            return
        text = value.decode("latin-1").strip()
        if key in self._headers:
            if key == "host":
                self._refuse(400, "there is more than one Host")
            text = f"{self._headers[key]}, {text}"
        self._headers[key] = text

    def on_headers_complete(self) -> None:
        if self._is_deaf:
            return
        self._has_head = True
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self._refuse(505, "only HTTP/1.1 and HTTP/1.0 are served")
        elif version == "1.1" and "host" not in self._headers:
            self._refuse(400, "there is no Host")
        elif int(self._headers.get("content-length", "0")) > self._most_body_bytes:
            self._refuse_large()
        elif "100-continue" in self._headers.get("expect", "").lower() and version == "1.1":
            self._owes_continue = True

    def on_chunk_header(self) -> None:
        self._unread_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        if self._is_deaf:
            return
        self._owes_continue = False
        self._body_bytes += len(body)
        self._body.append(body)
        self._count(len(body))
        if self._body_bytes > self._most_body_bytes:
            self._refuse_large()

    def on_message_complete(self) -> None:
        self._unread_bytes = 0
        if self._is_deaf or self._parser.should_upgrade():
            return
        is_last = not self._parser.should_keep_alive()
        self._is_reading, self._owes_continue, self._is_deaf = False, False, is_last
        self._pending.append(_Pending(self._request(), self._size_bytes, None, is_last))
        self._body = []

    # Inside

    @property
    def _most_body_bytes(self) -> int:
        return self._house.door.rules.max_body_bytes

    def _count(self, size_bytes: int) -> None:
        self._size_bytes += size_bytes
        self._house.room.change(self, size_bytes)

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._read_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if not self._is_deaf:
                self._refuse(400, f"not HTTP/1.1: {error}")

    def _read_without_upgrade(self, rest: bytes) -> None:
        """Read a request that offers another protocol, as Java's clients do, as one that doesn't."""
        method, version, target = self._parser.get_method(), self._parser.get_http_version(), self._target
        if method == b"CONNECT":
            self._refuse(405, "only GET and POST are served")
        if self._is_deaf:
            return
        lines = [b"%s %s HTTP/%s" % (method, target, version.encode())]
        lines += [f"{name}: {value}".encode("latin-1") for name, value in self._headers.items()]
        lines.append(b"Connection: " + (b"keep-alive" if self._parser.should_keep_alive() else b"close"))
        self._house.room.change(self, -self._size_bytes)
        self._begin()
        self._feed(b"\r\n".join([*lines, b"", b""]) + rest)

    def _request(self) -> Request:
        target = self._target
        if not target.startswith(b"/") and b"://" in target:  # as clients write it to a proxy
            target = b"/" + target.partition(b"://")[2].partition(b"/")[2]
        path, _, query = target.partition(b"?")
        method = self._parser.get_method().decode("latin-1")
        text = path.partition(b"#")[0].decode("latin-1")
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        return Request(method, text, query, self._headers, body, self._peer, self._who)

    def _refuse_large(self) -> None:
        self._refuse(413, too_large(self._most_body_bytes).words)

    def _refuse(self, status: int, words: str) -> None:
        """Answer what is being read, and read no more."""
        if self._is_deaf:
            return
        self._is_deaf, self._is_reading = True, False
        self._body = []
        request = self._request()
        if not request.path:  # the parser still has the method of the request before
            request = request._replace(method="")
        answer = self._house.door.refuse(request, status, words)
        self._pending.append(_Pending(request, self._size_bytes, answer, True))

    def _pump(self) -> None:
        """Answer what can be answered now, one after the other."""
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            while self._pending and self._is_free:
                self._enter(Phase.ANSWERING)
                pending = self._pending[0]
                if pending.refusal:
                    self._respond(pending.refusal)
                else:
                    if pending.size_bytes > SMALL_BYTES:  # the door lets go of it before it answers
                        self._pending[0] = pending._replace(request=pending.request._replace(body=b""))
                    self._house.door.answer(pending.request, self._respond)
                    del pending
        finally:
            self._is_pumping = False
        self._continue()
        # More than one request at once is not read.
        self._pause(self._is_held or len(self._pending) > 1)

    @property
    def _is_free(self) -> bool:
        return self.phase not in (Phase.ANSWERING, Phase.CLOSING) and not self._can_write_not

    def _continue(self) -> None:
        if self._owes_continue and self._is_free and self._transport and not self._is_deaf:
            self._owes_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _respond(self, answer: Answer) -> None:
        if self._transport is None:
            return
        pending = self._pending.popleft()
        self._house.room.change(self, -pending.size_bytes)
        closing = pending.closing or (self._is_ended and not self._pending) or self._house.is_stopping()
        self._transport.write(answer.encoded(closing=closing, without_body=pending.request.method == "HEAD"))
        if closing:
            self._close(is_wanted=pending.closing and not pending.refusal)
        else:
            self._enter((Phase.BODY if self._has_head else Phase.HEAD) if self._is_reading else Phase.IDLE)
            self._pump()

    def _close(self, is_wanted: bool) -> None:
        """End the connection behind what was written."""
        assert self._transport is not None
        self._enter(Phase.CLOSING)
        self._is_deaf = True
        self._pending.clear()
        if is_wanted or self._is_ended:
            self._transport.close()
            return
        # With unread bytes, closing at once could destroy the answer on its way.
        self._pause(False)
        self._transport.write_eof()

    def _enter(self, phase: Phase) -> None:
        self.phase, self._since = phase, time.monotonic()

    def _pause(self, paused: bool) -> None:
        if paused != self._is_paused and self._transport and not self._transport.is_closing():
            self._is_paused = paused
            if paused:
                self._transport.pause_reading()
            elif not self._is_ended:
                self._transport.resume_reading()

    def _who(self) -> str:
        if self._peer != UNIX:
            return self._peer
        try:
            assert self._transport is not None
            ours = self._transport.get_extra_info("socket")
            raw = ours.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(_UCRED))
        except (OSError, AssertionError):  # it is gone
            return UNIX
        pid, uid, _ = struct.unpack(_UCRED, raw)
        return f"unix: pid {pid}, uid {uid}"

    # What the server calls

    def hold(self, held: bool) -> None:
        """Stop reading, or go on, because of what all connections hold."""
        self._is_held = held
        self._pause(held or len(self._pending) > 1)

    def check_time(self, now: float) -> None:
        """End what takes too long; *now* is that of `time.monotonic`."""
        took_s = now - self._since
        if self._transport is None:
            return
        if self._can_write_not or self.phase is Phase.CLOSING:
            if took_s > (LINGER_S if self.phase is Phase.CLOSING else REQUEST_S):
                self._transport.abort()
        elif self.phase is Phase.HEAD and took_s > HEAD_S:
            self._time_out(f"the head of the request took longer than {HEAD_S:g} s")
        elif self.phase is Phase.BODY and took_s > REQUEST_S:
            self._time_out(f"the request took longer than {REQUEST_S:g} s")
        elif (self.phase is Phase.IDLE and took_s > IDLE_S) or (
            self.phase is Phase.FRESH and took_s > HEAD_S
        ):
            self.end()

    def _time_out(self, words: str) -> None:
        self._refuse(408, words)
        self._pump()

    def end(self) -> None:
        """Close it, if it is idle."""
        if self.phase in (Phase.IDLE, Phase.FRESH) and self._transport:
            self._close(is_wanted=False)

    @property
    def waits_for(self) -> tuple[bool, float] | None:
        """If no whole request is there: whether it is idle between two, and since when; else None."""
        if self._transport is None or self.phase not in (Phase.FRESH, Phase.HEAD, Phase.IDLE):
            return None
        return self.phase is Phase.IDLE, self._since

    def drop(self) -> None:
        """Close it, because others need its place."""
        if self._transport:
            self._transport.close() if self.phase is Phase.IDLE else self._transport.abort()

    def abort(self) -> None:
        """Close it at once."""
        if self._transport:
            self._transport.abort()
