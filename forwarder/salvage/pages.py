"""Reading a damaged database file without SQLite, as far as it is readable.

The formats are those of sqlite.org/fileformat2.html: pages, table leaf cells, records, and the frames of the
write-ahead log. All that can be checked is checked, and nothing raises because of the content.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from forwarder.salvage.wal import DEFAULT_PAGE_BYTES, PAGE_SIZES, Log

LEAF, INTERIOR = 13, 5
# Besides leaves: interior pages, index pages, and how overflow pages and pointer maps begin.
_KINDS = frozenset({LEAF, INTERIOR, 2, 10, 0, 1, 3, 4})
MAGIC = b"SQLite format 3\x00"

Value = None | int | float | bytes | str
_INTEGER_BYTES = (0, 1, 2, 3, 4, 6, 8)


def _without_waiting(file: str, flags: int) -> int:
    fd = os.open(file, flags | os.O_NONBLOCK)
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.ESPIPE, os.strerror(errno.ESPIPE), file)
    return fd


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of some table: its rowid, and its columns as in the record."""

    rowid: int
    columns: tuple[Value, ...]


@dataclass(slots=True)
class Losses:
    """What could not be read: whole pages by number, and rows on readable pages."""

    pages: list[int] = field(default_factory=list)
    rows: int = 0


class Pages:
    """A database file with its write-ahead log, page by page; neither is changed.

    Args:
        file: The database; its log is the file with ``-wal`` appended, if it exists.

    Raises:
        OSError: the database file can't be opened.
    """

    def __init__(self, file: str) -> None:
        log = file + "-wal"
        # If the database was deleted, there may be only the log.
        is_there = os.path.exists(file) or not os.path.exists(log)
        self._file = open(file if is_there else os.devnull, "rb", 0, opener=_without_waiting)  # noqa: SIM115  closed by close()
        head = self._file.read(100)
        named = _page_bytes(head)
        self._log = Log(log, named)
        self.page_bytes = named or self._log.page_bytes or DEFAULT_PAGE_BYTES
        self._usable = self.page_bytes - (head[20] if named else 0)
        size = self._file.seek(0, 2)
        self.count = max(-(-size // self.page_bytes), max(self._log.newest, default=0))
        self.losses = Losses()

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._log.close()

    def cells(self, queues: Collection[str]) -> Iterator[Cell]:
        """Each row on a table's leaf page in use; `losses` records what can't be read.

        Pages of persist-queue's other tables than *queues* are left out, as far as the file says which they
        are. A page that no table leads to may belong to any.
        """
        left_out = self._free() | self._others(queues)
        for number in range(1, self.count + 1):
            if number not in left_out:
                page = self._page(number)
                if page is None:
                    self.losses.pages.append(number)
                else:
                    yield from self._leaf(number, page, self.losses)
        # What is behind a break in the log may exist nowhere else.
        self._log.go_on()
        self.count = max(self.count, max(self._log.newest, default=0))
        left_out = self._others(queues)
        for number, page in self._log.damaged_frames():
            if number not in left_out:
                yield from self._leaf(number, page, self.losses)

    def leaf(self, number: int) -> list[Cell]:
        """The readable rows of one page, if it is a table's leaf page."""
        page = self._page(number) if 0 < number <= self.count else None
        return [] if page is None else list(self._leaf(number, page, Losses()))

    def _others(self, queues: Collection[str]) -> set[int]:
        """The pages of other queues; none if none of *queues* is in the schema: a name may be damaged."""
        roots: dict[str, int] = {}
        for number in self._tree(1):
            for cell in self.leaf(number):
                match cell.columns:
                    case ("table", str() as name, _, int() as root, *_):
                        roots[name] = root
        others = {name for name in roots if "queue_" in name and name not in queues}
        if not others or roots.keys().isdisjoint(queues):
            return set()
        pages = {name: self._tree(root) for name, root in roots.items()}
        # A damaged number may lead from another queue into ours.
        ours = (pages[name] for name in roots.keys() - others)
        return set().union(*(pages[name] for name in others)).difference(*ours)

    def _tree(self, root: int) -> set[int]:
        """The pages that a table leads to, as far as they can be followed."""
        found: set[int] = set()
        following = [root]
        while following:
            number = following.pop()
            page = self._page(number) if 0 < number <= self.count and number not in found else None
            if page is None:
                continue
            found.add(number)
            start = 100 if number == 1 else 0
            if page[start] == INTERIOR:
                count, _, last = struct.unpack_from(">HHxI", page, start + 3)
                most = (len(page) - start - 12) // 2
                places = struct.unpack_from(f">{min(count, most)}H", page, start + 12)
                following += [struct.unpack_from(">I", page, at)[0] for at in places if at <= len(page) - 4]
                following.append(last)
        return found

    def _page(self, number: int) -> bytes | None:
        page = self._log.page(number)
        if page is None:
            self._file.seek((number - 1) * self.page_bytes)
            try:
                page = self._file.read(self.page_bytes)
            except OSError:
                return None
        return page if len(page) == self.page_bytes else None

    def _leaf(self, number: int, page: bytes, losses: Losses) -> Iterator[Cell]:
        start = 100 if number == 1 else 0
        kind = page[start]
        (count,) = struct.unpack_from(">H", page, start + 3)
        most = (len(page) - start - 8) // 2
        if kind not in _KINDS or (kind == LEAF and count > most):
            losses.pages.append(number)
        count = min(count, most)
        for (offset,) in struct.iter_unpack(">H", page[start + 8 : start + 8 + 2 * count]):
            cell = self._cell(page, offset)
            if cell is not None:
                yield cell
            elif kind == LEAF:
                losses.rows += 1
            else:
                break  # its type is right; with one flipped bit it would look like a leaf

    def _cell(self, page: bytes, offset: int) -> Cell | None:
        try:
            size, offset = varint(page, offset)
            rowid, offset = varint(page, offset)
            payload = self._payload(page, offset, size)
            return Cell(rowid, record(payload)) if payload is not None and rowid > 0 else None
        except (IndexError, struct.error, ValueError):
            return None

    def _payload(self, page: bytes, offset: int, size: int) -> bytes | None:
        most = self._usable - 35
        local = size
        if size > most:
            least = (self._usable - 12) * 32 // 255 - 23
            local = least + (size - least) % (self._usable - 4)
            local = local if local <= most else least
        payload = page[offset : offset + local]
        if size == local or size > self.count * self.page_bytes:
            return payload if len(payload) == size else None
        pieces, left = [payload], size - local
        (following,) = struct.unpack_from(">I", page, offset + local)
        while left > 0:
            more = self._page(following) if 0 < following <= self.count else None
            if more is None:
                return None
            pieces.append(more[4 : 4 + min(left, self._usable - 4)])
            left -= self._usable - 4
            (following,) = struct.unpack_from(">I", more)
        return b"".join(pieces)

    def _free(self) -> set[int]:
        """The free pages, as far as the list of them can be followed."""
        first = self._page(1)
        if first is None or first[:16] != MAGIC:
            return set()
        free: set[int] = set()
        (trunk,) = struct.unpack_from(">I", first, 32)
        while 0 < trunk <= self.count and trunk not in free:
            page = self._page(trunk)
            if page is None:
                break
            following, count = struct.unpack_from(">II", page)
            if count > self._usable // 4 - 2:
                break
            free.add(trunk)
            free.update(struct.unpack_from(f">{count}I", page, 8))
            trunk = following
        return free


def _page_bytes(head: bytes) -> int:
    """The size of a page, by the file's header; 0: not known."""
    if len(head) < 100 or head[:16] != MAGIC:
        return 0
    size = int.from_bytes(head[16:18], "big")
    size = 65536 if size == 1 else size
    return size if size in PAGE_SIZES else 0


def varint(data: bytes, offset: int) -> tuple[int, int]:
    """An integer of one to nine bytes, and where it ends."""
    value = 0
    for at in range(offset, offset + 8):
        byte = data[at]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + 1
    value = value << 8 | data[offset + 8]
    return value - (1 << 64) if value >= 1 << 63 else value, offset + 9


def record(data: bytes) -> tuple[Value, ...]:
    """The columns of a record.

    Raises:
        ValueError, IndexError, struct.error: it is not a record.
    """
    head, at = varint(data, 0)
    offset, columns = head, []
    if not 0 < head <= len(data):
        raise ValueError("no header")
    while at < head:
        kind, at = varint(data, at)
        value, offset = _value(kind, data, offset)
        columns.append(value)
    if offset != len(data):
        raise ValueError("the length does not fit")
    return tuple(columns)


def _value(kind: int, data: bytes, offset: int) -> tuple[Value, int]:
    if kind >= 12:
        end = offset + (kind - 12) // 2
        if end > len(data):
            raise ValueError("longer than the record")
        content = data[offset:end]
        # This queue is made with UTF-8; no other encoding is expected.
        return (content if kind % 2 == 0 else content.decode("utf-8", "surrogateescape")), end
    if kind == 7:
        return struct.unpack_from(">d", data, offset)[0], offset + 8
    if kind in (8, 9):
        return kind - 8, offset
    if kind in (10, 11) or kind < 0:
        raise ValueError("no such type")
    size = _INTEGER_BYTES[kind]
    if offset + size > len(data):
        raise ValueError("longer than the record")
    return (int.from_bytes(data[offset : offset + size], "big", signed=True) if kind else None), offset + size
