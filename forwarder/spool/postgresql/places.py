"""Where records are or were, by their ids: what the server has of each place, in short reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from forwarder.spool import receipts
from forwarder.spool.ids import Run
from forwarder.spool.postgresql.reader import Reader
from forwarder.spool.postgresql.tables import EPOCH
from forwarder.spool.receipts import KNOWN_DEAD, PAGE_ENTRIES, PAGE_IDS, Entry, Letter, Oldest, Renewal, Row
from forwarder.spool.values import Receipt

# Of a table's rows, those in runs of ids. A plain join may read the whole table: its planner does not know
# that the runs are short.
_IN_RUNS = (
    "unnest(%s::bigint[], %s::bigint[]) AS run (first, last), LATERAL (SELECT * FROM {0}"
    " WHERE {1} BETWEEN greatest(run.first, {2}) AND run.last ORDER BY {1} LIMIT {3}) AS found"
)


class Places(Reader, receipts.Source):
    """Reads where records are."""

    @property
    def _low(self) -> str:
        # Vacuum may not be able to remove what is below; see `Tables`.
        return f"(SELECT low_id FROM {self.tables.ledger})"

    def receipts(self, runs: Sequence[Run]) -> list[Receipt]:
        """See `engine.View.receipts`."""
        return receipts.find(self, runs)

    def waits(self, runs: Sequence[Run]) -> bool:
        """See `engine.View.waits`."""
        its, ends = self.tables, _ends(runs)
        waiting, held = _IN_RUNS.format(its.queue, "id", self._low, 1), _IN_RUNS.format(its.held, "id", 0, 1)
        query = f"SELECT EXISTS (SELECT 1 FROM {waiting}) OR EXISTS (SELECT 1 FROM {held})"
        return bool(self.client.rows(query, [*ends, *ends])[0][0])

    def newest_id(self) -> int:
        query = f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {self.tables.sequence}"
        return int(self.client.rows(query)[0][0])

    def rows(self, runs: Sequence[Run]) -> tuple[list[Row], list[Row]]:
        waiting, held = (
            [
                Row(*found)
                for found in self.client.rows(
                    f"SELECT id, {EPOCH.format('put_at')}"
                    f" FROM {_IN_RUNS.format(table, 'id', low, PAGE_IDS)} ORDER BY id",
                    _ends(runs),
                )
            ]
            for table, low in ((self.tables.queue, self._low), (self.tables.held, 0))
        )
        return waiting, held

    def count_rows(self, first: int, end: int, most: int) -> int:
        query = (
            f"SELECT count(*) FROM (SELECT 1 FROM {self.tables.queue}"
            f" WHERE id >= greatest(%s, {self._low}) AND id < %s LIMIT %s) AS rows"
        )
        return int(self.client.rows(query, [first, end, most])[0][0])

    def letters(self, runs: Sequence[Run]) -> list[Letter]:
        query = (
            f"SELECT event_id, id, reason, field, http_status, event, {EPOCH.format('dead_at')}"
            f" FROM {_IN_RUNS.format(self.tables.dead_letters, 'event_id', 0, PAGE_IDS)} ORDER BY event_id"
        )
        return [Letter(*found) for found in self.client.rows(query, _ends(runs))]

    def renewals(self, first: int, last: int) -> Iterator[Renewal]:
        table = self.tables.retries
        ((start, end),) = self.client.rows(f"SELECT min(id), max(id) FROM {table}")
        query = (
            f"SELECT event_id, dead_letter_id, new_event_id, {EPOCH.format('at')} FROM {table}"
            " WHERE id BETWEEN %s AND %s AND event_id BETWEEN %s AND %s"
        )
        for page in range(start, end + 1, PAGE_IDS) if end else ():
            for found in self.client.rows(query, [page, page + PAGE_IDS - 1, first, last]):
                yield Renewal(*found)

    def entries(self, before: int) -> list[Entry]:
        query = (
            f"SELECT id, ids, {KNOWN_DEAD}, http_status, tries, took_s,"
            f" {EPOCH.format('settled_at')}, {EPOCH.format('put_at')}"
            f" FROM {self.tables.deliveries} WHERE id < %s ORDER BY id DESC LIMIT {PAGE_ENTRIES}"
        )
        return [Entry(*found) for found in self.client.rows(query, [before])]

    def oldest_renewal(self) -> Oldest | None:
        return self._oldest(self.tables.retries, "at")

    def oldest_entry(self) -> Oldest | None:
        return self._oldest(self.tables.deliveries, "settled_at")

    def _oldest(self, table: str, at: str) -> Oldest | None:
        rows = self.client.rows(f"SELECT id, {EPOCH.format(at)} FROM {table} ORDER BY id LIMIT 1")
        return Oldest(*rows[0]) if rows else None


def _ends(runs: Sequence[Run]) -> list[list[int]]:
    return [[first for first, _ in runs], [last for _, last in runs]]
