"""The input: bytes from a descriptor, in large blocks from a file, at once from a live stream."""

from __future__ import annotations

import os
import select
import time

from forwarder.errors import InputError

BLOCK_BYTES = 2 << 20
# A slow stream is committed 25 times a second, and within 0.1 s of a pause.
GATHER_S = 0.04


class StoppedError(Exception):
    """Reading was asked to stop; each block that was read has been returned."""


class BrokenInputError(InputError):
    """From here on the input can't be read; what came before is good.

    Args:
        line: The number of the line where that is; 0: the one after the last good one.
    """

    exit_code = 65

    def __init__(self, what: str, remedy: str = "", line: int = 0) -> None:
        super().__init__(what, remedy)
        self.line = line


class Source:
    """The bytes of a file, pipe, FIFO, socket or terminal.

    Args:
        fd: The descriptor to read, also an attribute; the caller closes it.
        wake_fd: A descriptor that becomes readable to stop reading; -1 for none.
        gather_s: How long to wait for more after the first bytes of a block.
    """

    def __init__(self, fd: int, wake_fd: int = -1, gather_s: float = GATHER_S) -> None:
        self.read_bytes = 0
        self.fd = fd
        self._wake_fd = wake_fd
        self._gather_s = gather_s
        self._ended = self._woken = False
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        if wake_fd >= 0:
            self._poll.register(wake_fd, select.POLLIN)

    def read_block(self) -> bytes:
        """The next bytes, up to `BLOCK_BYTES`, fewer when the input pauses; b"" at its end.

        Once woken, it returns what is there without waiting, one block at most, and then stops: a producer
        can't take back what it has written to a pipe.

        Raises:
            InputError: the descriptor can't be read.
            StoppedError: woken, and all that was read before has been returned.
        """
        pieces: list[bytes] = []
        missing, timeout_s, deadline = BLOCK_BYTES, -1.0, 0.0
        last = self._woken  # the block before this was the last one
        while not last and missing and not self._ended and timeout_s != 0.0:
            piece = self._read(missing) if self._wait(timeout_s) else None
            if piece is not None:
                self._ended = not piece
                pieces.append(piece)
                missing -= len(piece)
            elif pieces or self._woken:
                break
            deadline = deadline or time.monotonic() + self._gather_s
            if pieces:
                timeout_s = max(0.0, deadline - time.monotonic())
        block = b"".join(pieces)
        if not block:
            # An end that comes together with a signal may be caused by it, in the middle of a line; and the
            # wait that found the end may have looked before the signal came.
            self.raise_if_stopped()
        self.read_bytes += len(block)
        return block

    def raise_if_stopped(self) -> None:
        """Raise `StoppedError` if reading was asked to stop."""
        self._wait(0.0)
        if self._woken:
            raise StoppedError

    def _wait(self, timeout_s: float) -> bool:
        """Wait for input or until woken (-1: for ever). Returns whether there is input."""
        found = {fd for fd, _ in self._poll.poll(None if timeout_s < 0 else timeout_s * 1000)}
        self._woken = self._woken or self._wake_fd in found
        return self.fd in found

    def _read(self, size: int) -> bytes | None:
        try:
            return os.read(self.fd, size)
        except BlockingIOError:
            return None
        except OSError as error:
            raise InputError(f"can't be read: {error.strerror}") from None
