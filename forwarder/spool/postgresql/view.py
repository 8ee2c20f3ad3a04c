"""Looking at the queue without changing it, in short reads on the primary."""

from __future__ import annotations

import re
from typing import Self

from forwarder.spool import engine
from forwarder.spool.errors import NoQueueError
from forwarder.spool.findings import UNBALANCED
from forwarder.spool.history import Period
from forwarder.spool.postgresql import history, producer
from forwarder.spool.postgresql.address import Address
from forwarder.spool.postgresql.client import Client, Connection
from forwarder.spool.postgresql.dead_letters import DeadLetters
from forwarder.spool.postgresql.errors import AbsentError
from forwarder.spool.postgresql.places import Places
from forwarder.spool.postgresql.setup import must_be_current
from forwarder.spool.postgresql.tables import EPOCH, Tables
from forwarder.spool.postgresql.waiting import WaitingEvents
from forwarder.spool.values import FAIL, OK, Figures, Finding

RATE_WINDOW_S = 60.0
_NEWEST_DELIVERIES, _NEWEST_REQUESTS = 20_000, 1000
# As ``1-2000,2003``.
_last_id = re.compile(r"\d+$").search


class View(DeadLetters, WaitingEvents, Places, engine.View):
    """The records of a kind in the queue at *address*, those of *tables*.

    A step waits *timeout_s* at most.

    Raises:
        NoQueueError: there is none yet.
        ForwarderError: as `Client`.
    """

    def __init__(self, address: Address, timeout_s: float, tables: Tables) -> None:
        self.tables = tables
        self.client = Client(address, timeout_s)
        try:
            must_be_current(self.client, tables)
        except AbsentError as error:
            self.client.close()
            raise NoQueueError(error.what, error.remedy) from None
        except BaseException:
            self.client.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def figures(self) -> Figures:
        return self.client.run(self._figures)

    def _figures(self, connection: Connection) -> Figures:
        its, at = self.tables, EPOCH
        (row,) = connection.rows(
            "SELECT total, dead, delivered, deleted, held, retried, discarded, short,"
            f" {at.format('last_delivery_at')}, baseline, paused,"
            f" (SELECT {at.format('put_at')} FROM {its.queue} WHERE id >= low_id ORDER BY id LIMIT 1),"
            f" {at.format('clock_timestamp()')}"
            f" FROM {its.ledger}, {its.control}, ({its.totals}) AS totals (total, dead)"
            f" WHERE ledger{its.suffix}.id = 1 AND control.id = 1"
        )
        total, dead, delivered, deleted, held, retried, discarded, short = row[:8]
        last_delivery_at, baseline, paused, oldest_at, now = row[8:]
        accepted = total - baseline
        since = now - RATE_WINDOW_S
        requests = connection.rows(
            f"SELECT delivered, took_s, http_status FROM (SELECT * FROM {its.deliveries} ORDER BY id DESC"
            f" LIMIT {_NEWEST_DELIVERIES}) AS newest WHERE settled_at >= to_timestamp(%s) ORDER BY id DESC",
            [since],
        )
        took_s = sorted(took for _, took, status in requests[:_NEWEST_REQUESTS] if status is not None)
        return Figures(
            accepted=accepted,
            delivered=delivered,
            dead_lettered=dead,
            deleted=deleted,
            waiting=accepted - delivered - dead - deleted,
            held=held,
            dead_letters=dead - retried - discarded,
            retried=retried,
            discarded=discarded,
            short=short,
            paused=paused,
            oldest_waiting_at=oldest_at,
            last_delivery_at=last_delivery_at,
            rate_1m=sum(count for count, _, _ in requests) / RATE_WINDOW_S,
            accepted_1m=self._accepted_since(connection, since) / RATE_WINDOW_S,
            took_s=took_s,
            db_bytes=producer.used_bytes(connection, its),
            wal_bytes=None,
            disk_free_bytes=None,
        )

    def _accepted_since(self, connection: Connection, since: float) -> int:
        """Counts all ids above the newest one accepted before: from the delivery log, or the waiting rows."""
        its = self.tables
        ((newest, low_id, ids),) = connection.rows(
            f"SELECT (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {its.sequence}),"
            f" (SELECT low_id FROM {its.ledger}),"
            f" (SELECT ids FROM {its.deliveries} WHERE put_at < to_timestamp(%s) ORDER BY id DESC LIMIT 1)",
            [since],
        )
        written = _last_id(ids or "")
        last = min(int(written[0]) if written else 0, newest)
        query = f"SELECT id, {EPOCH.format('put_at')} FROM {its.queue} WHERE id >= %s ORDER BY id LIMIT 1"
        # Where vacuum can't work, each look at ids that have left goes through all of them.
        oldest = connection.rows(query, [max(last + 1, low_id)])
        end = newest if oldest and oldest[0][1] < since else last
        while last < end:
            middle = (last + end + 1) // 2
            found = connection.rows(query, [middle])
            row_id, put_at = found[0] if found else (0, None)
            if put_at is not None and put_at < since:
                last = row_id
            else:
                end = middle - 1
        return int(newest - last)

    def refused(self) -> dict[str, int]:
        return dict(self.client.rows(f"SELECT reason, count FROM {self.tables.refusals} ORDER BY reason"))

    def history(self, count: int, *, hourly: bool = False) -> list[Period]:
        return self.client.run(lambda connection: history.read(connection, self.tables, hourly, count))

    def used_bytes(self) -> int:
        return self.client.run(lambda connection: producer.used_bytes(connection, self.tables))

    def check(self) -> list[Finding]:
        """One finding: the totals against the rows, in one snapshot."""
        its = self.tables
        ((total, baseline, delivered, dead, deleted, held, retried, discarded, *rows),) = self.client.rows(
            "SELECT total, baseline, delivered, dead, deleted, held, retried, discarded,"
            f" (SELECT count(*) FROM {its.queue}), (SELECT count(*) FROM {its.held}),"
            f" (SELECT count(*) FROM {its.dead_letters})"
            f" FROM {its.ledger}, ({its.totals}) AS totals (total, dead) WHERE id = 1"
        )
        accepted = total - baseline
        waiting = accepted - delivered - dead - deleted
        faults = [
            f"{counted:,} {noun} are counted, and {there:,} rows are there"
            for noun, counted, there in (
                ("waiting ones", waiting - held, rows[0]),
                ("held ones", held, rows[1]),
                ("dead letters", dead - retried - discarded, rows[2]),
            )
            if counted != there
        ]
        detail = (
            f"{accepted:,} accepted = {delivered:,} delivered + {dead:,} dead-lettered + {deleted:,} deleted"
            f" + {waiting:,} waiting"
        )
        name = "books" if not its.suffix else f"books: {its.kind.noun}"
        return [
            Finding(name, FAIL if faults else OK, "\n".join((*faults, detail)), UNBALANCED if faults else 0)
        ]
