"""The write-ahead log, read without SQLite (sqlite.org/fileformat2.html, part 4)."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator

PAGE_SIZES = frozenset(1 << power for power in range(9, 17))
DEFAULT_PAGE_BYTES = 4096
_HEADER, _FRAME_HEADER = 32, 24
# The byte order of a checksum's words, by the log's first four bytes.
_ORDERS = {0x377F0682: "<", 0x377F0683: ">"}
_NATIVE = 0x377F0682 if sys.byteorder == "little" else 0x377F0683


class Log:
    """The newest committed version of each page in a write-ahead log, and versions that may be newer.

    Committed means the same as for SQLite: the frames up to the last commit before the first broken one.
    Later frames, up to the last commit of all, are read in addition and hide nothing. What no commit follows
    was never accepted, and is left out.

    Args:
        page_bytes: The size of the database's pages, for a log that does not say it; 0: not known.
    """

    def __init__(self, file: str, page_bytes: int) -> None:
        self.page_bytes = page_bytes
        self.newest: dict[int, int] = {}
        self._later: dict[int, int] = {}
        self._damaged: list[tuple[int, int]] = []
        self._file = None
        try:
            self._file = open(file, "rb", buffering=0)  # noqa: SIM115  closed by close()
            self._read_frames()
        except OSError:
            pass

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def page(self, number: int) -> bytes | None:
        """The newest version of a page; None: it is not in the log."""
        at = self.newest.get(number)
        return None if at is None else self._at(at)

    def go_on(self) -> None:
        """Let `page` also give what was committed after the first break."""
        self.newest.update(self._later)

    def damaged_frames(self) -> Iterator[tuple[int, bytes]]:
        """Page number and content of the frames that are broken, or after a broken one."""
        for number, at in self._damaged:
            page = self._at(at)
            if page is not None:
                yield number, page

    def _at(self, offset: int) -> bytes | None:
        assert self._file is not None
        self._file.seek(offset)
        page = self._file.read(self.page_bytes)
        return page if len(page) == self.page_bytes else None

    def _read_frames(self) -> None:
        assert self._file is not None
        head = self._file.read(_HEADER)
        if len(head) < _HEADER:
            self.page_bytes = 0
            return
        magic, _, page_bytes, _, *salts = struct.unpack_from(">6I", head)
        before = struct.unpack_from(">2I", head, 24)
        order = _ORDERS.get(magic, _ORDERS[_NATIVE])
        is_sound = magic in _ORDERS and _checksum(order, head[:24], (0, 0)) == before
        if page_bytes in PAGE_SIZES and (is_sound or not self.page_bytes):
            self.page_bytes = page_bytes
        frame_bytes = _FRAME_HEADER + (self.page_bytes or DEFAULT_PAGE_BYTES)
        self.page_bytes = frame_bytes - _FRAME_HEADER
        pending: dict[int, int] = {}
        damaged: list[tuple[int, int]] = []
        is_whole = True
        # Each frame's checksum continues the one before, as written there, so that one broken frame does not
        # spoil the next ones.
        while len(frame := self._file.read(frame_bytes)) == frame_bytes:
            number, is_commit, *frame_salts, first, second = struct.unpack_from(">6I", frame)
            if not is_sound:
                salts, is_sound = frame_salts, True
            at = self._file.tell() - self.page_bytes
            if salts[0] == frame_salts[0] or salts[1] == frame_salts[1]:
                fits = _checksum(order, frame[:8] + frame[_FRAME_HEADER:], before) == (first, second)
                is_sound_frame = fits and salts == frame_salts
                is_whole = is_whole and is_sound_frame
                if is_sound_frame:
                    pending[number] = at
                if not is_whole and 0 < number < 1 << 31:
                    damaged.append((number, at))
                if is_commit:
                    (self.newest if is_whole else self._later).update(pending)
                    if not is_whole:
                        self._damaged += [*pending.items(), *damaged]
                    pending.clear()
                    damaged.clear()
            # Otherwise it is from an earlier round of the log.
            before = (first, second)


def _checksum(order: str, data: bytes, seed: tuple[int, ...]) -> tuple[int, int]:
    first, second = seed
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for left, right in zip(words[::2], words[1::2], strict=True):
        first = (first + left + second) & 0xFFFFFFFF
        second = (second + right + first) & 0xFFFFFFFF
    return first, second
