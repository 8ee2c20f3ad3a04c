"""The rows of a damaged database: events, dead letters and totals."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from forwarder.salvage.pages import Cell, Pages
from forwarder.spool.sqlite import schema, tables
from forwarder.spool.sqlite.dead_letters import NewDeadLetter
from forwarder.spool.sqlite.tables import ID_LENGTH
from forwarder.spool.statuses import ACK_FAILED, ACKED, HELD, INITED, READY, SENT, UNACK

_STATUSES = frozenset({INITED, READY, UNACK, ACKED, SENT, ACK_FAILED, HELD})
_QUEUES = {each.queue: each.suffix for each in tables.each()}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the queue; ``put_at`` in seconds since the epoch, None: not known."""

    id: int
    data: bytes
    put_at: float | None
    status: int


@dataclass(slots=True)
class Books:
    """The totals of the database, as far as they can be read, of all kinds together.

    Attributes:
        acked: How many rows a plain consumer has acked; the totals count them as waiting.
    """

    queue_id: str = ""
    created_at: float | None = None
    acked: int = 0
    # By the suffix of their tables' names.
    settled: dict[str, int] = field(default_factory=dict)
    dead: dict[str, int] = field(default_factory=dict)
    sequence: dict[str, int] = field(default_factory=dict)

    @property
    def dead_letters(self) -> int | None:
        """How many there should be; None: not known."""
        return sum(self.dead.values()) if self.dead else None

    @property
    def waiting(self) -> int | None:
        """How many records should be waiting; None: not known."""
        # A kind that was never used has no sequence.
        used = {kind for kind, settled in self.settled.items() if settled} | self.sequence.keys()
        if not used or not used <= self.settled.keys() & self.sequence.keys():
            return None
        if max(self.sequence.values()) > schema.MOST_ID:
            return None
        return max(sum(self.sequence[kind] - self.settled[kind] for kind in used) - self.acked, 0)


def found(pages: Pages, books: Books) -> Iterator[Row | NewDeadLetter]:
    """What can be recovered, each row once; the totals go into *books* on the way."""
    seen = _Seen()
    for cell in pages.cells(_QUEUES):
        item = None if _noted(cell, books) else _row(cell) or _dead_letter(cell)
        if item and seen.add(cell.rowid, isinstance(item, Row), item.data or b""):
            if isinstance(item, Row) and item.status == ACKED:
                books.acked += 1
            else:
                yield item


def _row(cell: Cell) -> Row | None:
    match cell.columns:
        # A person may have added columns.
        case (None, bytes() | str() as data, put_at, int() as status, *_) if status in _STATUSES:
            at = float(put_at) if isinstance(put_at, int | float) and 0 <= put_at <= 1e11 else None
            return Row(cell.rowid, _bytes(data), at, status)
    return None


def _dead_letter(cell: Cell) -> NewDeadLetter | None:
    match cell.columns:
        case (
            None,
            int() as event_id,
            str() as event,
            str() as insert_id,
            str() as reason,
            str() as field,
            int() | None as http_status,
            int() | float() as accepted_at,
            int() | float() as dead_at,
            bytes() | str() | None as data,
        ):
            stored = None if data is None else _bytes(data)
            return NewDeadLetter(
                event_id, stored, event, insert_id, reason, field, http_status, accepted_at, dead_at
            )
    return None


def _noted(cell: Cell, books: Books) -> bool:
    match cell.columns:
        case (str() as queue, int() as sequence) if queue in _QUEUES:
            books.sequence[_QUEUES[queue]] = sequence
        case (
            None,
            str() as queue_id,
            int() | float() as created_at,
            int() as baseline,
            int() as delivered,
            int() as dead_lettered,
            int() as deleted,
            int() as retried,
            int() as discarded,
            *_,
        ) if queue_id[ID_LENGTH:] in _QUEUES.values() and len(queue_id) >= ID_LENGTH:
            kind = queue_id[ID_LENGTH:]
            books.queue_id, books.created_at = queue_id[:ID_LENGTH], created_at
            books.settled[kind] = baseline + delivered + dead_lettered + deleted
            books.dead[kind] = max(dead_lettered - retried - discarded, 0)
        case _:
            return False
    return True


def _bytes(data: bytes | str) -> bytes:
    return data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data


class _Seen:
    """The rows so far, in 4 bytes each.

    If a row number comes again with other bytes, it is another row: one of the two numbers is damaged.
    """

    def __init__(self) -> None:
        self._blocks: dict[tuple[bool, int], array[int]] = {}

    def add(self, rowid: int, kind: bool, data: bytes) -> bool:
        """False: it was added before."""
        block = self._blocks.get((kind, rowid >> 10))
        if block is None:
            block = self._blocks[kind, rowid >> 10] = array("I", bytes(4096))
        mark = zlib.crc32(data) or 1
        before = block[rowid & 1023]
        block[rowid & 1023] = before or mark
        return before != mark
