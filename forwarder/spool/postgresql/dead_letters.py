"""Dead letters: a person lists, summarises, retries and deletes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from itertools import islice

from forwarder.errors import EventError
from forwarder.spool import engine
from forwarder.spool.dead_letters import Groups, beginning_so
from forwarder.spool.postgresql.address import Address
from forwarder.spool.postgresql.client import Client, Connection
from forwarder.spool.postgresql.reader import Reader, matching
from forwarder.spool.postgresql.tables import EPOCH, Tables
from forwarder.spool.postgresql.text import fit
from forwarder.spool.values import Brief, DeadLetter, Group, Selection

STEP_LETTERS = 1000


class DeadLetters(Reader, engine.DeadLetters):
    """Reading dead letters, for `view.View`."""

    def newest_dead_letter(self) -> int:
        ((newest,),) = self.client.rows(f"SELECT coalesce(max(id), 0) FROM {self.tables.dead_letters}")
        return int(newest)

    def count_dead_letters(self, where: Selection) -> int:
        if where.user is not None:
            return sum(1 for _ in self._found(where, 0, None))
        condition, values = _condition(where)
        query = f"SELECT count(*) FROM ({self._letters()}) AS letters WHERE {condition}"
        return int(self.client.rows(query, values)[0][0])

    def _letters(self, data: str = "NULL AS data") -> str:
        return (
            f"SELECT id, event_id, {data}, event, insert_id, reason, field, http_status,"
            f" {EPOCH.format('accepted_at')} AS accepted_at, {EPOCH.format('dead_at')} AS dead_at"
            f" FROM {self.tables.dead_letters}"
        )

    def dead_letters(
        self, where: Selection, after_id: int = 0, limit: int = 1000, with_data: bool = True
    ) -> list[DeadLetter]:
        return list(self._found(where, after_id, limit, with_data))

    def _found(
        self, where: Selection, after_id: int, limit: int | None, with_data: bool = True
    ) -> Iterable[DeadLetter]:
        condition, values = _condition(where)
        user, concerns = where.user, self.tables.kind.concerns
        rows = self._letters("data" if with_data or user is not None else "''::bytea AS data")
        fits = None if user is None else lambda row: concerns(row[2], user)
        for row in self._parts(rows, condition, values, after_id, fits, limit):
            letter_id, event_id, stored, *more = row
            yield DeadLetter(letter_id, event_id, stored if with_data else b"", *more)

    def latest_dead_letters(self, limit: int, digits: str = "") -> list[Brief]:
        query = (
            f"SELECT id, event, reason, field FROM {self.tables.dead_letters}"
            " WHERE id BETWEEN %s AND %s ORDER BY id DESC LIMIT %s"
        )
        found: list[Brief] = []
        for first, last in beginning_so(digits, self.newest_dead_letter()):
            found += [Brief(*row) for row in self.client.rows(query, [first, last, limit - len(found)])]
        return found

    def summary(self, where: Selection) -> list[Group]:
        groups = Groups()
        if where.user is not None:
            groups.add(map(Group.of, self._found(where, 0, None)))
        else:
            condition, values = _condition(where)
            query = (
                "SELECT reason, field, http_status, event, count(*), min(dead_at), max(dead_at), min(id)"
                f" FROM ({self._letters()}) AS letters WHERE {condition} GROUP BY 1, 2, 3, 4"
            )
            groups.add(Group(*row) for row in self.client.rows(query, values))
        return groups.by_size()


def retry(
    address: Address, its: Tables, ids: Iterable[int], edit: Callable[[bytes, float], bytes]
) -> tuple[dict[int, int], list[tuple[int, str]]]:
    """See `engine.Spool.retry_dead_letters`; each gets a new row, which ``retries`` records."""
    wanted = list(dict.fromkeys(ids))
    with closing(Client(address)) as client:
        return client.write(lambda connection: _retry(connection, its, wanted, edit))


def _retry(
    connection: Connection, its: Tables, ids: Sequence[int], edit: Callable[[bytes, float], bytes]
) -> tuple[dict[int, int], list[tuple[int, str]]]:
    lock(connection, its)
    stayed: list[tuple[int, str]] = []
    new_ids: dict[int, int] = {}
    left = iter(ids)
    while part := list(islice(left, STEP_LETTERS)):
        rows = connection.rows(
            f"SELECT id, data, {EPOCH.format('accepted_at')} FROM {its.dead_letters}"
            " WHERE id = ANY(%s::bigint[])",
            [part],
        )
        found = {letter_id: (data, accepted_at) for letter_id, data, accepted_at in rows}
        edited: dict[int, bytes] = {}
        for letter_id in part:
            if letter_id in found:
                try:
                    edited[letter_id] = edit(*found[letter_id])
                except EventError as error:
                    stayed.append((letter_id, str(error)))
        # The rows get their ids in the order in which they are selected.
        rows = connection.rows(
            f"INSERT INTO {its.queue} (data, status) SELECT data, 1 FROM unnest(%b::bytea[])"
            " WITH ORDINALITY AS given (data, n) ORDER BY n RETURNING id",
            [list(edited.values())],
        )
        new_ids |= zip(edited, sorted(row[0] for row in rows), strict=True)
        connection.execute(
            f"WITH gone AS (DELETE FROM {its.dead_letters} USING unnest(%s::bigint[], %s::bigint[])"
            " AS given (letter, new_id) WHERE id = letter RETURNING id, event_id, new_id)"
            f" INSERT INTO {its.retries} (dead_letter_id, event_id, new_event_id) SELECT * FROM gone",
            [list(edited), [new_ids[letter_id] for letter_id in edited]],
        )
    connection.execute(f"UPDATE {its.ledger} SET retried = retried + %s", [len(new_ids)])
    return new_ids, stayed


def delete(address: Address, its: Tables, ids: Sequence[int]) -> int:
    """See `engine.Spool.delete_dead_letters`."""
    with closing(Client(address)) as client:
        return client.write(
            lambda connection: _discard(connection, its, "id = ANY(%s::bigint[])", [list(ids)])
        )


def discard_old(connection: Connection, its: Tables, before: float) -> int:
    """Delete some that died before *before* (seconds since the epoch); 0: there is none left.

    Inside a transaction that has the ledger's row locked.
    """
    old = (
        f"id = ANY(ARRAY(SELECT id FROM {its.dead_letters} WHERE dead_at < to_timestamp(%s)"
        f" ORDER BY id LIMIT {STEP_LETTERS}))"
    )
    return _discard(connection, its, old, [before])


def _discard(connection: Connection, its: Tables, which: str, values: Sequence[object]) -> int:
    lock(connection, its)
    count = connection.execute(f"DELETE FROM {its.dead_letters} WHERE {which}", values).rowcount
    connection.execute(f"UPDATE {its.ledger} SET discarded = discarded + %s", [count])
    return count


def lock(connection: Connection, its: Tables) -> None:
    """Lock the totals first, as all do who change them: so nobody waits in a circle."""
    connection.execute(f"SELECT 1 FROM {its.ledger} FOR UPDATE")


def _condition(where: Selection) -> tuple[str, list[object]]:
    """The selection without the user as SQL, with its parameters."""
    parts = {
        "id = ANY(%s::bigint[])": None if where.ids is None else [*where.ids],
        "position(lower(%s::text) in lower(reason)) > 0": None if where.reason is None else fit(where.reason),
        "event = %s::text": None if where.event is None else fit(where.event),
        "dead_at >= %s": where.since,
        "dead_at < %s": where.before,
        "insert_id = %s::text": None if where.insert_id is None else fit(where.insert_id),
    }
    return matching(parts)
