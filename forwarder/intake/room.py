"""How much of all requests may be in memory at once. Beyond it less is read, and nobody is refused."""

from __future__ import annotations

from typing import Protocol

# A connection's share that it may always have; 512 of them take 32 MiB.
SMALL_BYTES = 64 << 10
# What those with more may have together. The oldest may always go on, or all could wait for each other.
LARGE_BYTES = 12 << 20


class Reader(Protocol):
    """A connection whose reading can be paused."""

    def hold(self, held: bool) -> None:
        """Stop reading, or go on."""


class Room:
    """The bytes of requests that are being read or wait for their answer, by connection."""

    def __init__(self) -> None:
        self._sizes: dict[Reader, int] = {}
        # In the order in which they became large.
        self._large: dict[Reader, None] = {}
        self._large_bytes = 0

    def change(self, reader: Reader, size_bytes: int) -> None:
        """*reader* has *size_bytes* more, or fewer if negative. It may be held; others may go on."""
        before = self._sizes.get(reader, 0)
        size = self._sizes[reader] = before + size_bytes
        if size > SMALL_BYTES:
            self._large_bytes += size - (before if reader in self._large else 0)
            self._large[reader] = None
            if self._large_bytes > LARGE_BYTES and next(iter(self._large)) is not reader:
                reader.hold(True)
        elif reader in self._large:
            self._large_bytes -= before
            del self._large[reader]
            self._let_on()
        if not size:
            del self._sizes[reader]

    def leave(self, reader: Reader) -> None:
        """*reader* is gone."""
        if size := self._sizes.get(reader, 0):
            self.change(reader, -size)

    def _let_on(self) -> None:
        for index, reader in enumerate(self._large):
            if index == 0 or self._large_bytes <= LARGE_BYTES:
                reader.hold(False)
