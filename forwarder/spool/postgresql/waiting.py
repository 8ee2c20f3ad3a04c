"""Waiting events for a person: listed, held back from delivery, released, deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from forwarder.spool.origin import Origin
from forwarder.spool.postgresql.address import Address
from forwarder.spool.postgresql.client import Client, Connection
from forwarder.spool.postgresql.dead_letters import lock
from forwarder.spool.postgresql.reader import Reader, matching
from forwarder.spool.postgresql.tables import EPOCH, Tables
from forwarder.spool.statuses import READY, SENT
from forwarder.spool.values import DUE, Selection, Waiting

_START_BYTES = 4096


class WaitingEvents(Reader):
    """Reading waiting events, for `view.View`."""

    def peek(self, count: int, after_id: int = 0, where: Selection = DUE) -> list[Waiting]:
        """A row that is too large for an event has only its first bytes."""
        found = [row for rows in self._selected(where) for row in self._read(rows, where, after_id, count)]
        return sorted(found, key=lambda row: row.id)[:count]

    def newest_waiting(self) -> int:
        tables = self.tables
        query = (
            f"SELECT greatest((SELECT max(id) FROM {tables.queue}), (SELECT max(id) FROM {tables.held}), 0)"
        )
        return int(self.client.rows(query)[0][0])

    def count_waiting(self, where: Selection) -> int:
        if self._fits(where):
            return sum(1 for rows in self._selected(where) for _ in self._read(rows, where, 0, None))
        condition, values = _condition(where)
        return sum(
            int(self.client.rows(f"SELECT count(*) FROM ({rows}) AS rows WHERE {condition}", values)[0][0])
            for rows in self._selected(where)
        )

    def _selected(self, where: Selection) -> Iterator[str]:
        """The rows of the tables that may have such ones."""
        if where.held is not False:
            yield self.tables.held_row
        if where.held is not True:
            # Vacuum may not be able to remove what is below; see `Tables`.
            yield f"{self.tables.row} WHERE id >= (SELECT low_id FROM {self.tables.ledger})"

    def _read(self, rows: str, where: Selection, after_id: int, limit: int | None) -> Iterator[Waiting]:
        condition, values = _condition(where)
        most = self.tables.kind.max_bytes
        query = (
            f"SELECT id, CASE WHEN octet_length(data) > {most} THEN substring(data, 1, {_START_BYTES})"
            f" ELSE data END, put_at, status, octet_length(data) FROM ({rows}) AS all_rows"
        )
        fits = self._fits(where)
        for row in self._parts(query, condition, values, after_id, fits, limit):
            yield Waiting(*row)

    def _fits(self, where: Selection) -> Callable[[tuple[int, bytes, float, int, int]], bool] | None:
        if where.event is None and where.user is None and where.insert_id is None:
            return None
        kind = self.tables.kind

        def fits(row: tuple[int, bytes, float, int, int]) -> bool:
            _, data, _, _, size = row
            # A row that is too large is in no selection by its content.
            return (
                size == len(data)
                and (where.event is None or kind.name_of(data)[0] == where.event)
                and (where.user is None or kind.concerns(data, where.user))
                and (where.insert_id is None or kind.name_of(data)[1] == where.insert_id)
            )

        return fits


def _condition(where: Selection) -> tuple[str, list[object]]:
    """What the server can decide of the selection, as SQL with its parameters."""
    parts = {
        "id = ANY(%s::bigint[])": None if where.ids is None else [*where.ids],
        "put_at >= %s": where.since,
        "put_at < %s": where.before,
    }
    return matching(parts)


def hold(address: Address, its: Tables, ids: Sequence[int]) -> int:
    """See `engine.Spool.hold`. Rows that are not events stay in the queue, for delivery to judge; so do those
    that must not be repeated blindly and may have been sent: released, they would be sent again."""
    return _changed(address, lambda connection: _hold(connection, its, ids))


def release(address: Address, its: Tables, ids: Sequence[int]) -> int:
    """See `engine.Spool.release`."""
    return _changed(address, lambda connection: _release(connection, its, ids))


def delete(address: Address, its: Tables, ids: Sequence[int]) -> int:
    """See `engine.Spool.delete_waiting`."""
    return _changed(address, lambda connection: _delete(connection, its, ids))


def _changed(address: Address, change: Callable[[Connection], int]) -> int:
    with closing(Client(address)) as client:
        return client.write(change)


def _hold(connection: Connection, its: Tables, ids: Sequence[int]) -> int:
    lock(connection, its)
    origin = origin_of(connection, its)
    rows = connection.rows(
        f"SELECT id, data, {EPOCH.format('put_at')}, status FROM {its.queue}"
        f" WHERE id = ANY(%s::bigint[]) AND status <> {SENT}",
        [[*ids]],
    )
    # Completed now, because what completes it comes from its row, which it leaves.
    read = {row[0]: origin.read(row[0], row[1], row[2], row[3] if row[3] == READY else None) for row in rows}
    final = {row_id: data for row_id, data in read.items() if isinstance(data, bytes)}
    count = connection.execute(
        f"WITH gone AS (DELETE FROM {its.queue} USING unnest(%s::bigint[], %b::bytea[])"
        " AS given (row_id, final) WHERE id = row_id RETURNING id, put_at, final)"
        f" INSERT INTO {its.held} (id, put_at, data) SELECT * FROM gone",
        [list(final), list(final.values())],
    ).rowcount
    connection.execute(f"UPDATE {its.ledger} SET held = held + %s", [count])
    return count


def _release(connection: Connection, its: Tables, ids: Sequence[int]) -> int:
    lock(connection, its)
    # Rows with new ids, because the daemon has passed the old ones, that wait from now on. They are not
    # accepted once more: the baseline moves.
    count = connection.execute(
        f"WITH gone AS (DELETE FROM {its.held} USING unnest(%s::bigint[]) WITH ORDINALITY"
        " AS given (row_id, n) WHERE id = row_id RETURNING id, n, data),"
        f" renewed AS (SELECT nextval('{its.sequence}') AS new_id, id, data"
        " FROM (SELECT * FROM gone ORDER BY n) AS ordered),"
        f" put AS (INSERT INTO {its.queue} (id, data, status) OVERRIDING SYSTEM VALUE"
        f" SELECT new_id, data, {READY} FROM renewed)"
        f" INSERT INTO {its.retries} (dead_letter_id, event_id, new_event_id)"
        " SELECT 0, id, new_id FROM renewed",
        [[*dict.fromkeys(ids)]],
    ).rowcount
    connection.execute(f"UPDATE {its.ledger} SET held = held - %s, baseline = baseline + %s", [count, count])
    return count


def _delete(connection: Connection, its: Tables, ids: Sequence[int]) -> int:
    lock(connection, its)
    held, queued = (
        connection.execute(f"DELETE FROM {table} WHERE id = ANY(%s::bigint[])", [[*ids]]).rowcount
        for table in (its.held, its.queue)
    )
    connection.execute(
        f"UPDATE {its.ledger} SET held = held - %s, deleted = deleted + %s", [held, held + queued]
    )
    return held + queued


def origin_of(connection: Connection, its: Tables) -> Origin:
    """Of the rows of *its* queue."""
    ((queue_id, created_at),) = connection.rows(
        f"SELECT queue_id::text, {EPOCH.format('created_at')} FROM {its.control}"
    )
    return Origin(its.kind, queue_id + its.suffix, created_at)
