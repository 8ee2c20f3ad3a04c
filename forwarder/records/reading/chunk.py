"""What reading hands out: consecutive lines, values or rows, with their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forwarder.records.event.mapping import EventMapping

# A row: JSON text of what its cells hold, by column; cells without a value are left out.
Record = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive lines of NDJSON, JSON values over several lines, or rows of a table.

    Attributes:
        numbers: The number of each line, or of the line on which the row begins, from 1.
        lines: The lines as they came, at most `CHUNK_LINES`, or rows; blank ones are b"" or white space.
        refused: (number, reason, text if it is there) of what is refused unread; in *lines* it is blank.
        mapping: Makes the events of them; None: the lines are events.
        is_cut: The input ended without a line feed after it. Then it is one line or row.
    """

    numbers: Sequence[int]
    lines: Sequence[bytes | Record]
    refused: Sequence[tuple[int, str, bytes | None]]
    mapping: EventMapping | None = None
    is_cut: bool = False
