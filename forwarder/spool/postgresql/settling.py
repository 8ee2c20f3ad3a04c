"""How settled rows leave the queue: rows out, dead letters in, totals, delivery log, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from forwarder.spool.postgresql.client import Connection
from forwarder.spool.postgresql.tables import Tables
from forwarder.spool.postgresql.text import fit
from forwarder.spool.statuses import READY, SENT
from forwarder.spool.values import Settlement


def settle(connection: Connection, its: Tables, settlement: Settlement) -> None:
    """Settle, inside a transaction that has the ledger's row locked.

    Counted is what was there: a repeat after a lost answer counts nothing, and what a person has deleted or
    held meanwhile is counted as deleted or held.
    """
    runs = settlement.runs
    dead = settlement.dead
    names = [its.kind.name_of(letter.data) for letter in dead]
    gone = (
        f"DELETE FROM {its.queue} WHERE id BETWEEN %s AND %s"
        if len(runs) == 1
        else f"DELETE FROM {its.queue} USING unnest(%s::bigint[], %s::bigint[]) AS run (first, last)"
        " WHERE id BETWEEN run.first AND run.last"
    )
    bounds = runs[0] if len(runs) == 1 else ([first for first, _ in runs], [last for _, last in runs])
    ((delivered, letters),) = connection.rows(
        f"WITH gone AS ({gone} RETURNING id, put_at), letters AS ("
        f" INSERT INTO {its.dead_letters} (event_id, data, event, insert_id, reason, field, http_status,"
        " accepted_at) SELECT gone.id, given.data, given.event, given.insert_id, given.reason, given.field,"
        " given.http_status, gone.put_at"
        " FROM unnest(%s::bigint[], %b::bytea[], %s::text[], %s::text[], %s::text[], %s::text[], %s::int[])"
        " WITH ORDINALITY AS given (id, data, event, insert_id, reason, field, http_status, n)"
        " JOIN gone USING (id) ORDER BY n RETURNING 1),"
        " counted AS (SELECT (SELECT count(*) FROM gone) AS gone, (SELECT count(*) FROM letters) AS letters),"
        f" log AS (INSERT INTO {its.deliveries} (delivered, dead, short, size_bytes, http_status, tries,"
        " took_s, ids, dead_ids, put_at) SELECT gone - letters, letters, %s, %s, %s, %s, %s, %s, %s,"
        " (SELECT put_at FROM gone ORDER BY id DESC LIMIT 1) FROM counted"
        " WHERE gone > 0) SELECT gone - letters, letters FROM counted",
        [
            *bounds,
            [letter.event_id for letter in dead],
            [letter.data or b"" for letter in dead],
            [fit(event) for event, _ in names],
            [fit(insert_id) for _, insert_id in names],
            [fit(letter.reason) for letter in dead],
            [fit(letter.field) for letter in dead],
            [letter.http_status for letter in dead],
            settlement.short,
            settlement.size_bytes,
            settlement.http_status,
            settlement.tries,
            settlement.took_s,
            settlement.id_list,
            settlement.dead_id_list,
        ],
    )
    connection.execute(
        f"UPDATE {its.ledger} SET delivered = delivered + %s, dead_lettered = dead_lettered + %s,"
        " short = short + %s,"
        " last_delivery_at = CASE WHEN %s THEN clock_timestamp() ELSE last_delivery_at END",
        [delivered, letters, settlement.short if delivered else 0, delivered > 0],
    )


def mark_sent(connection: Connection, its: Tables, ids: Sequence[int], sent: bool) -> int:
    """Mark rows as being sent, or no longer. Returns how many there are."""
    status = SENT if sent else READY
    query = f"UPDATE {its.queue} SET status = {status} WHERE id = ANY(%s::bigint[])"
    return connection.execute(query, [[*ids]]).rowcount
