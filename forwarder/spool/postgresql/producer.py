"""Appending rows to the queue's table on the server."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing

from forwarder.spool import engine
from forwarder.spool.errors import BookmarkMovedError, SpoolFullError
from forwarder.spool.postgresql.address import Address
from forwarder.spool.postgresql.client import Client, Connection
from forwarder.spool.postgresql.tables import Tables
from forwarder.spool.postgresql.text import fit
from forwarder.spool.refused import PATIENCE_S, Refused
from forwarder.spool.values import Bookmark, Move

SIZE_EACH_S = 1.0


class Producer(engine.Producer):
    """Appends rows to the queue at *address*.

    Args:
        max_bytes: Refuse rows if the queue's tables would be larger than this.
        lock_timeout_s: How long a call may take in all.
        tables: Those of the rows' kind.

    Raises: as `Client`.
    """

    def __init__(self, address: Address, max_bytes: int, lock_timeout_s: float, tables: Tables) -> None:
        self._address = address
        self._tables = tables
        self._max_bytes = max_bytes
        self._client = Client(address, lock_timeout_s, is_patient=True)
        self._refused = Refused(self._save_refused)
        self._sized_at = float("-inf")

    def append(
        self, records: Sequence[bytes], dead: Sequence[tuple[bytes, str]] = (), move: Move | None = None
    ) -> list[int]:
        its = self._tables

        def put(connection: Connection) -> list[int]:
            self._check_room(connection)
            ((ids,),) = connection.rows(f"SELECT {its.put}(%b::bytea[])", [[*records]])
            return list(ids)

        def put_all(connection: Connection) -> list[int]:
            if move:
                self._move(connection, move)
            if records:
                ids = put(connection)
            else:
                self._check_room(connection)
                ids = []
            return ids + refuse(connection) if dead else ids

        def refuse(connection: Connection) -> list[int]:
            names = [[fit(word) for word in its.kind.name_of(data)] for data, _ in dead]
            columns = [
                [data for data, _ in dead],
                [event for event, _ in names],
                [insert_id for _, insert_id in names],
                [fit(reason) for _, reason in dead],
            ]
            query = f"SELECT {its.refuse}(%b::bytea[], %s::text[], %s::text[], %s::text[])"
            ((dead_ids,),) = connection.rows(query, columns)
            return list(dead_ids)

        return self._client.write(put_all) if dead or move else self._client.run(put)

    def bookmarks(self, path: str, file: str) -> list[Bookmark]:
        found = self._client.rows(f"SELECT * FROM {self._tables.bookmarks_of}(%s, %s)", [path, file])
        return [Bookmark(*row) for row in found]

    def _move(self, connection: Connection, move: Move) -> None:
        its = self._tables
        for function, bookmark in [
            *((its.remove_bookmark, one) for one in move.old),
            (its.add_bookmark, move.new),
        ]:
            ((is_done,),) = connection.rows(f"SELECT {function}(%s, %s, %s::bigint, %s)", bookmark)
            if not is_done:
                raise BookmarkMovedError(move.new.path)

    def refuse(self, counts: Mapping[str, int]) -> None:
        self._refused.add(counts)

    def close(self) -> None:
        self._refused.write()
        self._client.close()

    def _save_refused(self, counts: Mapping[str, int]) -> None:
        query = f"SELECT {self._tables.count_refused}(%s::text[], %s::bigint[])"
        with closing(Client(self._address, PATIENCE_S)) as client:
            client.rows(query, [[*counts], [*counts.values()]])

    def _check_room(self, connection: Connection) -> None:
        if time.monotonic() < self._sized_at + SIZE_EACH_S:
            return
        used = used_bytes(connection, self._tables)
        if used >= self._max_bytes:
            raise SpoolFullError(
                f"the queue {self._address.place} takes {used:,} bytes, as much as max_bytes allows "
                f"({self._max_bytes:,})",
                "Nothing was stored; try again when the daemon has delivered some events",
            )
        self._sized_at = time.monotonic()


def used_bytes(connection: Connection, tables: Tables) -> int:
    """The bytes that all kinds' tables and indexes take on the server."""
    query = (
        "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relkind = 'r'"
    )
    ((used,),) = connection.rows(query, [tables.schema])
    return int(used)
