"""The way in for records that wait in a relay's own queue: each once, whatever ends in between.

The server notes in the same transaction which rows it has taken over, by id and content. After a crash or a
lost answer the relay asks what came last, and removes from its own queue what is still the same there. By
content, because a queue that was restored from an older copy gives the same ids to other records.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forwarder.errors import NotPermittedError, TryAgainError
from forwarder.spool import engine
from forwarder.spool.postgresql import copies
from forwarder.spool.postgresql.address import Address
from forwarder.spool.postgresql.client import Client, Connection
from forwarder.spool.postgresql.tables import Tables
from forwarder.spool.values import HandedOver, digest

TIMEOUT_S = 10.0


class Handover(engine.Handover):
    """Into the queue at *address*, records of the kind of *tables*; for several threads."""

    def __init__(self, address: Address, its: Tables) -> None:
        self._address, self._tables = address, its
        self._client = Client(address, TIMEOUT_S)

    def check(self) -> None:
        self._client.run(self._check)

    def _check(self, connection: Connection) -> None:
        function = f"{self._tables.hand_over}(text, bigint, bigint[], bigint[], bytea[])"
        ((may,),) = connection.rows("SELECT has_function_privilege(%s, 'EXECUTE')", [function])
        if not may:
            role = f"{self._tables.schema}_producer"
            raise NotPermittedError(
                f"this user may not hand events over to {self._address.place}", f"GRANT it the role {role}"
            )
        copies.must_be_enough(connection, self._address)

    def last(self, source: str) -> HandedOver:
        query = f"SELECT * FROM {self._tables.handed_over}(%s)"

        def ask(connection: Connection) -> list[tuple[Any, ...]]:
            copies.must_be_enough(connection, self._address)
            return connection.rows(query, [source])

        ((turn, ids, digests),) = self._client.write(ask)
        return HandedOver(turn, dict(zip(ids, digests, strict=True)))

    def hand_over(self, source: str, turn: int, ids: Sequence[int], records: Sequence[bytes]) -> None:
        query = f"SELECT {self._tables.hand_over}(%s, %s, %s::bigint[], %s::bigint[], %b::bytea[])"
        values = [source, turn, [*ids], [digest(record) for record in records], [*records]]
        ((is_done,),) = self._client.write(lambda connection: connection.rows(query, values))
        if not is_done:
            raise TryAgainError("another turn to hand over from this queue has begun", "Nothing was stored")

    def close(self) -> None:
        self._client.close()
