"""Where records are or were, by their ids: what the database has of each place, in short reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from forwarder.spool import receipts
from forwarder.spool.ids import Run
from forwarder.spool.receipts import KNOWN_DEAD, PAGE_ENTRIES, PAGE_IDS, Entry, Letter, Oldest, Renewal, Row
from forwarder.spool.sqlite.reader import Reader
from forwarder.spool.sqlite.tables import PUT_AT
from forwarder.spool.values import Receipt

# Of a table's rows, those in the runs of a JSON array. The cross join keeps SQLite from reading all rows.
_IN_RUNS = (
    "json_each(?) AS run CROSS JOIN {0} WHERE {0}.{1}"
    " BETWEEN json_extract(run.value, '$[0]') AND json_extract(run.value, '$[1]')"
)


class Places(Reader, receipts.Source):
    """Reads where records are."""

    def receipts(self, runs: Sequence[Run]) -> list[Receipt]:
        """See `engine.View.receipts`."""
        return receipts.find(self, runs)

    def waits(self, runs: Sequence[Run]) -> bool:
        """See `engine.View.waits`."""
        # In the order in which a row moves that is held meanwhile.
        return any(
            self._rows(f"SELECT EXISTS (SELECT 1 FROM {_IN_RUNS.format(table, '_id')})", (_json(runs),))[0][0]
            for table in (self.tables.queue, self.tables.held)
        )

    def newest_id(self) -> int:
        return int(self._rows(f"SELECT {self.tables.sequence}")[0][0])

    def rows(self, runs: Sequence[Run]) -> tuple[list[Row], list[Row]]:
        waiting, held = (
            [
                Row(*found)
                for found in self._rows(
                    f"SELECT _id, {PUT_AT} FROM {_IN_RUNS.format(table, '_id')} ORDER BY _id", (_json(runs),)
                )
            ]
            for table in (self.tables.queue, self.tables.held)
        )
        return waiting, held

    def count_rows(self, first: int, end: int, most: int) -> int:
        query = f"SELECT count(*) FROM (SELECT 1 FROM {self.tables.queue} WHERE _id >= ? AND _id < ? LIMIT ?)"
        return int(self._rows(query, (first, end, most))[0][0])

    def letters(self, runs: Sequence[Run]) -> list[Letter]:
        table = self.tables.dead_letters
        query = (
            f"SELECT event_id, {table}.id, reason, field, http_status, event, dead_at"
            f" FROM {_IN_RUNS.format(table, 'event_id')} ORDER BY event_id"
        )
        return [Letter(*found) for found in self._rows(query, (_json(runs),))]

    def renewals(self, first: int, last: int) -> Iterator[Renewal]:
        table = self.tables.retries
        ends = f"SELECT (SELECT min(id) FROM {table}), (SELECT max(id) FROM {table})"
        start, end = self._rows(ends)[0]
        query = (
            f"SELECT event_id, dead_letter_id, new_event_id, at FROM {table}"
            " WHERE id BETWEEN ? AND ? AND event_id BETWEEN ? AND ?"
        )
        for page in range(start, end + 1, PAGE_IDS) if end else ():
            for found in self._rows(query, (page, page + PAGE_IDS - 1, first, last)):
                yield Renewal(*found)

    def entries(self, before: int) -> list[Entry]:
        query = (
            f"SELECT id, ids, {KNOWN_DEAD}, http_status, tries, took_s, settled_at, put_at"
            f" FROM {self.tables.deliveries} WHERE id < ? ORDER BY id DESC LIMIT {PAGE_ENTRIES}"
        )
        return [Entry(*found) for found in self._rows(query, (before,))]

    def oldest_renewal(self) -> Oldest | None:
        return self._oldest(self.tables.retries, "at")

    def oldest_entry(self) -> Oldest | None:
        return self._oldest(self.tables.deliveries, "settled_at")

    def _oldest(self, table: str, at: str) -> Oldest | None:
        rows = self._rows(f"SELECT id, {at} FROM {table} ORDER BY id LIMIT 1")
        return Oldest(*rows[0]) if rows else None


def _json(runs: Sequence[Run]) -> str:
    return str([list(run) for run in runs])
