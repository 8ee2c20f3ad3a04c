"""The socket in the queue's directory: an event a line, answered a line each, in order, after the commit.

Whoever may write in that directory may write the queue, so there are no tokens. For ``forwarder enqueue``.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

from forwarder.errors import EventError, ForwarderError
from forwarder.intake.writer import Batch, Writer
from forwarder.records import EVENTS

# Beyond it no more is read until some are answered.
_MOST_UNANSWERED_BYTES = 4 << 20


@dataclass(slots=True)
class _Answer:
    """What a line gets. *size_bytes*: of the line; *text*: None until it is known."""

    size_bytes: int
    text: str | None = None


class Lines(asyncio.Protocol):
    """One connection.

    Args:
        lost: Called when it is gone.
    """

    def __init__(self, writer: Writer, lost: Callable[[Lines], None]) -> None:
        self._writer = writer
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        # In the order of their lines.
        self._answers: deque[_Answer] = deque()
        self._unanswered_bytes = 0
        self._is_ending = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line)
        if len(self._rest) > EVENTS.max_bytes:
            self._answers.append(_Answer(0, f"refused longer than {EVENTS.max_bytes} bytes"))
            self._is_ending = True
        self._send()

    def eof_received(self) -> bool:
        self.end()
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._transport = None
        self._lost(self)

    def end(self) -> None:
        """Read no more, answer what has come, and close."""
        self._is_ending = True
        self._send()

    def abort(self) -> None:
        """Close without an answer."""
        if self._transport:
            self._transport.abort()

    def _take(self, line: bytes) -> None:
        answer = _Answer(len(line))
        self._answers.append(answer)
        self._unanswered_bytes += len(line)
        try:
            record = EVENTS.accept(line, time.time_ns() // 1_000_000)
        except EventError as error:
            # Not counted: the command checks it as well, and counts it.
            answer.text = f"refused {error}"
            return
        batch = Batch(EVENTS.name, [record], (), {}, size_bytes=len(record))
        batch.done = partial(self._settle, answer, batch)
        self._writer.submit(batch)

    def _settle(self, answer: _Answer, batch: Batch, error: ForwarderError | None) -> None:
        answer.text = f"later {error}" if error else str(batch.ids[0])
        self._send()

    def _send(self) -> None:
        said: list[str] = []
        while self._answers and (text := self._answers[0].text) is not None:
            said.append(f"{text}\n")
            self._unanswered_bytes -= self._answers.popleft().size_bytes
        if not self._transport or self._transport.is_closing():
            return
        self._transport.write("".join(said).encode(errors="replace"))
        if self._is_ending and not self._answers:
            self._transport.close()
        elif self._is_ending or self._unanswered_bytes > _MOST_UNANSWERED_BYTES:
            self._transport.pause_reading()
        elif not self._transport.is_reading():
            self._transport.resume_reading()
