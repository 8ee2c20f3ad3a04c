"""What all who look into the queue need: short reads of a part at a time, by ids and by content."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from forwarder.spool.postgresql.client import Client
from forwarder.spool.postgresql.tables import Tables

PART_ROWS = 1000


class Reader:
    """The base of all readers.

    Attributes:
        tables: The kind's tables.
        client: Its connection.
    """

    tables: Tables
    client: Client

    def _parts(
        self,
        rows: str,
        condition: str,
        values: Sequence[object],
        after_id: int = 0,
        fits: Callable[[Any], bool] | None = None,
        limit: int | None = None,
    ) -> Iterator[Any]:
        """The rows behind *after_id* that match, in the order of their ids, in short reads.

        Args:
            rows: A query of rows, id first.
            fits: What the server can't decide about a row.
            limit: The most to find.
        """
        found = 0
        while limit is None or found < limit:
            count = PART_ROWS if fits or limit is None else min(PART_ROWS, limit - found)
            part = self.client.rows(
                f"SELECT * FROM ({rows}) AS rows WHERE id > %s AND {condition} ORDER BY id LIMIT %s",
                [after_id, *values, count],
            )
            for row in part:
                if fits is None or fits(row):
                    found += 1
                    yield row
                    if found == limit:
                        return
            if len(part) < count:
                return
            after_id = part[-1][0]


def matching(parts: Mapping[str, object]) -> tuple[str, list[object]]:
    """The conditions that have a value, as SQL with its parameters."""
    given = {part: value for part, value in parts.items() if value is not None}
    return " AND ".join(("true", *given)), list(given.values())
