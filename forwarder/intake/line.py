"""The socket in the queue's directory: one event a connection, answered in one line after the commit.

Whoever may write in that directory may write the queue, so there are no tokens. For ``forwarder enqueue``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

from forwarder.errors import EventError, ForwarderError
from forwarder.intake.writer import Batch, Writer
from forwarder.records import EVENTS


class Line(asyncio.Protocol):
    """One connection.

    Args:
        lost: Called when it is gone.
    """

    def __init__(self, writer: Writer, lost: Callable[[Line], None]) -> None:
        self._writer = writer
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._text = b""
        self._batch: Batch | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._text += data
        line, end, _ = self._text.partition(b"\n")
        if end and self._transport:
            self._transport.pause_reading()
            self._take(line)
        elif len(self._text) > EVENTS.max_bytes:
            self._answer(f"refused longer than {EVENTS.max_bytes} bytes")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._transport = None
        self._lost(self)

    def end(self) -> None:
        """Close, once what has come is answered."""
        if not self._batch:
            self.abort()

    def abort(self) -> None:
        """Close without an answer."""
        if self._transport:
            self._transport.abort()

    def _take(self, line: bytes) -> None:
        try:
            record = EVENTS.accept(line, time.time_ns() // 1_000_000)
        except EventError as error:
            # Not counted: the command checks it as well, and counts it.
            self._answer(f"refused {error}")
        else:
            self._batch = Batch(EVENTS.name, [record], (), {}, self._settle, size_bytes=len(record))
            self._writer.submit(self._batch)

    def _settle(self, error: ForwarderError | None) -> None:
        assert self._batch
        self._answer(f"later {error}" if error else str(self._batch.ids[0]))

    def _answer(self, text: str) -> None:
        if self._transport:
            self._transport.write(f"{text}\n".encode(errors="replace"))
            self._transport.close()
