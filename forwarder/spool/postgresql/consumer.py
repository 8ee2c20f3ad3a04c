"""The daemon's side of the queue: claim what waits in sets, settle it in sets.

Claiming writes nothing. A settlement has the row of the ledger locked, and is refused if another consumer has
started meanwhile: that is the fence against a daemon that was thought dead.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from forwarder.errors import ForwarderError, StorageError
from forwarder.spool import engine
from forwarder.spool.errors import TakenError
from forwarder.spool.history import Period
from forwarder.spool.origin import Origin
from forwarder.spool.postgresql import control, dead_letters, history, settling, tables
from forwarder.spool.postgresql.address import Address
from forwarder.spool.postgresql.claiming import RowReader, Rows, Which, must_be_ours
from forwarder.spool.postgresql.client import Client, Connection
from forwarder.spool.postgresql.gaps import Gaps, between
from forwarder.spool.postgresql.tables import KEPT_ENTRIES, Tables
from forwarder.spool.values import Claim, Control, Settlement

GATHER_S = 1.0
SHORTEN_S = 60.0
# A row may be committed and not counted as claimed only while a claim is on its way.
MISSED_S = 5.0
_HIGHEST = 2**63 - 1

_T = TypeVar("_T")


class Consumer(engine.Consumer):
    """Reads and settles the records of a kind, those of *tables*; see `engine.Consumer`.

    Args:
        token: Of the presence; "": the caller keeps others out.

    Raises:
        TakenError: the presence of *token* is over.
        ForwarderError: as `Client`.
    """

    queue_id = orphaned = ""

    def __init__(self, address: Address, timeout_s: float, its: Tables, token: str = "") -> None:
        self._tables = its
        self._client = Client(address, timeout_s)
        self._openings = 0
        self._gaps = Gaps()
        self._position = self._newest = 0
        self._gathered_at = self._shortened_at = self._searched_at = float("-inf")
        self._missed_since: float | None = None
        self._is_all_claimed = False
        self._is_stirred = True
        try:
            self._client.write(lambda connection: self._begin(connection, token))
        except BaseException:
            self._client.close()
            raise

    def _begin(self, connection: Connection, token: str) -> None:
        its = self._tables
        ((queue_id, created_at, holder),) = connection.rows(
            f"SELECT queue_id::text, {tables.EPOCH.format('created_at')}, holder FROM {its.control} FOR SHARE"
        )
        if token and holder != token:
            raise TakenError("another daemon delivers from this queue")
        ((low_id,),) = connection.rows(
            f"UPDATE {its.ledger} SET consumer = %s RETURNING low_id", [uuid.uuid4().hex]
        )
        ((self._mark,),) = connection.rows(its.consumer)
        self._position = self._newest = max(low_id - 1, 0)
        self.queue_id = queue_id + its.suffix
        self._reader = RowReader(its, Origin(its.kind, self.queue_id, created_at), self._mark)

    # Looking

    def arrivals(self) -> int:
        self._is_stirred = True
        self._newest, late = self._client.run(self._look)
        count = max(self._newest - self._position, 0) + late
        self._is_all_claimed = not count
        return count

    def _look(self, connection: Connection) -> tuple[int, int]:
        """The largest id that was ever given, and how many rows have come in the gaps."""
        its, late = self._tables, 0
        ((newest, consumer),) = connection.rows(
            f"SELECT (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {its.sequence}),"
            f" ({its.consumer})"
        )
        must_be_ours(consumer, self._mark, its)
        if self._gaps:
            oldest = _oldest(connection)
            source, values = self._reader.between(*self._gaps.bounds)
            ((late,),) = connection.rows(f"SELECT count(*) FROM {source}", values)
            if not late:
                self._gaps.close(oldest)
        return newest, late

    def changed_mark(self) -> object:
        try:
            return self._asked()
        except ForwarderError:
            return None

    def control(self) -> Control:
        row = self._asked()
        paused, flushes, consumer, place, *totals = row
        must_be_ours(consumer, self._mark, self._tables)
        return Control(paused, flushes, place, (self._openings, bool(self._gaps), *totals))

    def _asked(self) -> tuple[Any, ...]:
        (row,) = self._client.rows(control.asked(self._tables))
        return row

    # Claiming

    def claim(self, max_events: int, max_bytes: int) -> Claim:
        rows, horizon = self._client.run(lambda c: self._claim(c, max_events, max_bytes))
        ids = rows.all_ids
        self._cleared(rows)
        # Only now, when nothing can fail: what is not handed over is claimed again.
        if rows.last_id > self._position:
            self._gaps.add(between(ids, self._position), horizon)
            self._position = rows.last_id
            rows.left = max(self._newest - self._position, 0)
        elif rows.last_id:
            self._gaps.fill(ids)
            rows.left = max(self._newest - self._position, 0) + 1
        # Also if it is empty: what is not visible yet is news when it comes.
        self._is_all_claimed = not rows.left
        return rows

    def _claim(self, connection: Connection, max_events: int, max_bytes: int) -> tuple[Rows, int]:
        """The next rows, with the number of a transaction that began after they were read, if there are gaps
        between them."""
        if self._gaps:
            oldest = _oldest(connection)
            which = self._reader.between(*self._gaps.bounds)
            rows = self._reader.read(connection, which, max_events, max_bytes)
            if rows.last_id:
                return rows, 0
            self._gaps.close(oldest)
        which = self._reader.behind(self._position)
        rows = self._reader.read(connection, which, max_events, max_bytes)
        passed = rows.last_id and between(rows.all_ids, self._position)
        return rows, _next(connection) if passed else 0

    def _cleared(self, rows: Rows) -> Rows:
        """Settle what is not a record."""
        if dead := rows.letters:
            self.settle(Settlement([each.event_id for each in dead], dead, tries=0))
            rows.dead, rows.reason = len(dead), dead[0].reason
        return rows

    def sample(self, place: float) -> Claim:
        ahead = max(self._newest - self._position - 1, 0)
        which = self._reader.behind(self._position + int(place * ahead))
        found = self._client.run(lambda connection: self._reader.read(connection, which, 1, 0))
        if not found.last_id:
            found = self._client.run(
                lambda connection: self._reader.read(connection, self._newest_row(), 1, 0)
            )
        return self._cleared(found)

    def _newest_row(self) -> Which:
        queue = self._tables.queue
        newest = f"(SELECT * FROM {queue} WHERE id > %s ORDER BY id DESC LIMIT 1) AS newest"
        return Which(newest, [self._position])

    def read_again(self, ids: Sequence[int], size_bytes: int) -> Claim:  # noqa: ARG002  the ids say it
        which = self._reader.of(ids)
        return self._cleared(
            self._client.run(lambda connection: self._reader.read(connection, which, len(ids), _HIGHEST))
        )

    # Settling

    def _fenced(self, step: Callable[[Connection], _T]) -> _T:
        """Take a step in a transaction in which no other consumer can start."""

        def whole(connection: Connection) -> _T:
            ((consumer,),) = connection.rows(f"{self._tables.consumer} FOR UPDATE")
            must_be_ours(consumer, self._mark, self._tables)
            return step(connection)

        return self._client.write(whole)

    def settle(self, settlement: Settlement) -> None:
        self._is_stirred = True
        self._fenced(lambda connection: settling.settle(connection, self._tables, settlement))

    def mark_sent(self, ids: Sequence[int], *, sent: bool = True) -> int:
        return self._fenced(lambda connection: settling.mark_sent(connection, self._tables, ids, sent))

    def record(self, period: Period) -> None:
        self._fenced(lambda connection: history.add(connection, self._tables, period))

    def discard_dead_letters(self, before: float) -> int:
        """In steps, so that each is a short transaction."""
        count = 0
        while done := self._fenced(lambda c: dead_letters.discard_old(c, self._tables, before)):
            count += done
        return count

    # Maintenance

    def maintain(self, *, at_rest: bool) -> bool:
        now = time.monotonic()
        if self._is_stirred and now >= self._gathered_at + GATHER_S:
            self._gathered_at, self._is_stirred = now, False
            self._fenced(self._gather)
            if now >= self._shortened_at + SHORTEN_S:
                self._shortened_at = now
                self._fenced(self._shorten)
        if self._gaps and now >= self._searched_at + GATHER_S:
            # When the last one is given up, that is news, and leads to the search for what was missed.
            self._searched_at = now
            self._client.run(self._look)
        return not at_rest or self._find_missed(now)

    def _gather(self, connection: Connection) -> None:
        """Add up what the producers have counted, and note below which id nothing waits."""
        its = self._tables
        connection.execute(
            f"WITH gone AS (DELETE FROM {its.intake} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {its.intake}"
            " LIMIT 10000 FOR UPDATE SKIP LOCKED)) RETURNING n, dead)"
            f" UPDATE {its.ledger} SET accepted = accepted + more.n,"
            " dead_lettered = dead_lettered + more.dead FROM (SELECT sum(n)::bigint AS n,"
            " sum(dead)::bigint AS dead FROM gone) AS more WHERE more.n > 0"
        )
        lowest = self._gaps.lowest
        # Behind the position, rows may be on their way that have no gap yet.
        bound = self._position + 1 if lowest is None else lowest
        connection.execute(
            f"UPDATE {its.ledger} SET low_id = found.low FROM (SELECT least(%s, (SELECT id FROM {its.queue}"
            f" WHERE id >= (SELECT low_id FROM {its.ledger}) ORDER BY id LIMIT 1)) AS low) AS found"
            " WHERE found.low > low_id",
            [bound],
        )

    def _shorten(self, connection: Connection) -> None:
        its = self._tables
        for table in (its.deliveries, its.retries):
            connection.execute(
                f"DELETE FROM {table} WHERE id <= (SELECT max(id) FROM {table}) - %s", [KEPT_ENTRIES]
            )

    def _find_missed(self, now: float) -> bool:
        """With nothing in flight: count as deleted what others have deleted, and read all again if rows wait
        that no claim has found. Returns whether it has to look once more.

        Raises:
            StorageError: there are such rows, for the log to say so.
        """
        its = self._tables
        if self._gaps or not self._is_all_claimed:
            return False
        ((missing, first_id),) = self._client.rows(
            f"SELECT total - baseline - delivered - deleted - held - dead, (SELECT min(id) FROM {its.queue})"
            f" FROM {its.ledger}, ({its.totals}) AS totals (total, dead) WHERE id = 1"
        )
        if missing <= 0 or first_id is None:
            self._missed_since = None
            if missing > 0:
                self._fenced(self._account_missing)
            return False
        if self._missed_since is None:
            self._missed_since = now
        elif now >= self._missed_since + MISSED_S:
            self._missed_since = None
            self._position, self._is_all_claimed = 0, False
            self._openings += 1
            raise StorageError("rows wait that no claim has found", "The queue is read again from its start")
        return True

    def _account_missing(self, connection: Connection) -> None:
        its = self._tables
        connection.execute(
            f"UPDATE {its.ledger} SET deleted = deleted + missing FROM (SELECT total - baseline - delivered"
            f" - deleted - held - dead AS missing FROM {its.ledger}, ({its.totals}) AS totals (total, dead)"
            f" WHERE id = 1 AND NOT EXISTS (SELECT 1 FROM {its.queue})) AS found WHERE missing > 0"
        )

    def wait_for_locks(self, timeout_s: float) -> None:
        self._client.timeout_s = timeout_s

    def reopen(self) -> None:
        self._client.close()
        self._openings += 1

    def set_aside(self) -> None:
        """Nothing: what is damaged on a server is its administrator's."""

    def close(self) -> None:
        self._client.close()


def _oldest(connection: Connection) -> int:
    """Below which number no transaction is open."""
    ((oldest,),) = connection.rows("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
    return int(oldest)


def _next(connection: Connection) -> int:
    """The number of a transaction that begins now. Not the snapshot's xmax: others run above that."""
    ((number,),) = connection.rows("SELECT pg_current_xact_id()::text::bigint")
    return int(number)
