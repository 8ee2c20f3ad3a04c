"""Reading rows for a claim: in one piece if all are our own, else one by one. Rows of external producers are
completed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from forwarder.errors import TryAgainError
from forwarder.records import Lines
from forwarder.spool.errors import QueueReplacedError
from forwarder.spool.origin import Origin
from forwarder.spool.postgresql.client import Connection
from forwarder.spool.postgresql.tables import Tables
from forwarder.spool.statuses import READY, SENT
from forwarder.spool.values import Claim, Dead


class Which(NamedTuple):
    """Rows of the queue, as what stands behind FROM, with its parameters."""

    source: str
    values: Sequence[object]


@dataclass(slots=True)
class Rows(Claim):
    """A claim, with those of the rows read for it that are not records, and the last one's id; 0: none."""

    letters: Sequence[Dead] = ()
    last_id: int = 0

    @property
    def all_ids(self) -> Sequence[int]:
        """Of all rows that were read."""
        return sorted([*self.ids, *(each.event_id for each in self.letters)]) if self.letters else self.ids


class RowReader:
    """Reads rows for the consumer *mark*, up to a number and a size with line ends; one may be larger.

    Reading them as one piece costs the client a third of reading them one by one.
    """

    def __init__(self, tables: Tables, origin: Origin, mark: str) -> None:
        self._tables = tables
        self._origin = origin
        self._mark = mark

    def behind(self, after_id: int) -> Which:
        """Those with larger ids."""
        return Which(f"{self._tables.queue} WHERE id > %s", [after_id])

    def between(self, firsts: Sequence[int], lasts: Sequence[int]) -> Which:
        """Those in ranges of ids."""
        return Which(
            f"unnest(%s::bigint[], %s::bigint[]) AS gap (first, last) CROSS JOIN LATERAL"
            f" (SELECT * FROM {self._tables.queue} WHERE id BETWEEN gap.first AND gap.last"
            " ORDER BY id OFFSET 0) AS q",
            [[*firsts], [*lasts]],
        )

    def of(self, ids: Sequence[int]) -> Which:
        """Those with these ids."""
        return Which(f"{self._tables.queue} WHERE id = ANY(%s::bigint[])", [[*ids]])

    def read(self, connection: Connection, which: Which, max_events: int, max_bytes: int) -> Rows:
        """Such rows, the smallest ids first.

        Raises:
            QueueReplacedError: another consumer has started.
        """
        kind = self._tables.kind
        bounded = (
            "(SELECT *, row_number() OVER (ORDER BY id) AS n,"
            " sum(octet_length(data) + 1) OVER (ORDER BY id) AS total"
            f" FROM (SELECT id, data, put_at, status FROM {which.source} ORDER BY id LIMIT %s) AS first) AS r"
            " WHERE n = 1 OR total <= %s"
        )
        values = [*which.values, max_events, max_bytes]
        brace = "substring(data, 1, 1) = decode('7b', 'hex')"
        own = f"status = {READY} AND octet_length(data) <= {kind.max_bytes} AND {brace}"
        ((count, first_id, last_id, ids, all_own, text, consumer),) = connection.rows(
            "SELECT count(*), min(id), max(id),"
            " CASE WHEN max(id) - min(id) + 1 <> count(*) THEN array_agg(id) END,"
            f" bool_and({own}), string_agg(data, decode('0a', 'hex')),"
            f" ({self._tables.consumer}) FROM {bounded}",
            values,
        )
        must_be_ours(consumer, self._mark, self._tables)
        if not count:
            return Rows()
        if all_own:
            text += b"\n"
            if kind.are_final(text, count):
                ids = ids or range(first_id, last_id + 1)
                return Rows(ids, Lines(text, count), len(text), last_id=last_id)
        return self._one_by_one(
            connection.rows(
                f"SELECT id, data, extract(epoch FROM put_at)::float8, status FROM {bounded} ORDER BY id",
                values,
            ),
            max_bytes,
        )

    def _one_by_one(self, found: Sequence[tuple[Any, ...]], max_bytes: int) -> Rows:
        ids: list[int] = []
        events: list[bytes] = []
        dead: list[Dead] = []
        doubtful: list[int] = []
        claim = Rows(ids, events, doubtful=doubtful, letters=dead)
        read_bytes = 0
        for row_id, data, put_at, status in found:
            final = self._origin.read(row_id, data, put_at, status if status in (READY, SENT) else None)
            assert final is not None
            size_bytes = len(final if isinstance(final, bytes) else data) + 1
            if read_bytes + size_bytes > max_bytes and claim.last_id:
                break  # what was completed has grown
            read_bytes += size_bytes
            claim.last_id = row_id
            if isinstance(final, Dead):
                dead.append(final)
                continue
            ids.append(row_id)
            events.append(final)
            claim.size_bytes += size_bytes
            if status == SENT:
                doubtful.append(row_id)
        return claim


def must_be_ours(consumer: str | None, mark: str, tables: Tables) -> None:
    """Make sure that the *consumer* that has started last is that of *mark*, on the same server.

    Raises:
        QueueReplacedError, TryAgainError: it is not; there is no row of totals.
    """
    if consumer is None:
        raise TryAgainError(f"the totals of the queue are missing from {tables.ledger}", "Restore a backup")
    if consumer != mark:
        is_same = consumer.split()[0] == mark.split()[0]
        raise QueueReplacedError(
            "the server has started again, or another is the primary: the queue is read again"
            if is_same
            else "another daemon has started to deliver from this queue"
        )
