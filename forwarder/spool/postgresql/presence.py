"""Who delivers: a lease in the row ``control``, which the daemon renews; others take over when it is over.

A row, not an advisory lock: it works through a pooler, and shows who has it.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from forwarder.errors import ForwarderError
from forwarder.spool import engine
from forwarder.spool.errors import TakenError
from forwarder.spool.postgresql import copies
from forwarder.spool.postgresql.address import Address
from forwarder.spool.postgresql.client import Client
from forwarder.spool.postgresql.errors import AbsentError
from forwarder.spool.postgresql.setup import must_be_current
from forwarder.spool.postgresql.tables import Tables
from forwarder.spool.values import Holder


class Presence(engine.Presence):
    """A lease of *address*'s ``lease_s``.

    Attributes:
        token: Distinguishes this holder from all others.

    Raises:
        TakenError: another process has it; the message says which.
        ConfigError: the queue has another version, or fewer copies than the settings ask for.
    """

    def __init__(self, address: Address, its: Tables) -> None:
        self._address, self._tables = address, its
        self._client = Client(address, address.lease_s / 3)
        self.token = uuid.uuid4().hex
        self._renewed_at = time.monotonic()
        try:
            must_be_current(self._client, its)
            self._client.run(lambda connection: copies.must_be_enough(connection, address))
            taken = self._client.rows(
                f"UPDATE {its.control} SET announced = false,"
                f" host = %s, pid = %s, holder = %s, {_RENEWED}"
                " WHERE holder IS NULL OR lease_until < clock_timestamp() RETURNING 1",
                [os.uname().nodename, os.getpid(), self.token, address.lease_s],
            )
            if not taken:
                raise _taken(address, its)
        except BaseException:
            self._client.close()
            raise

    def announce(self) -> None:
        if not self._renewed("announced = true, "):
            raise _taken(self._address, self._tables)

    def keep(self) -> None:
        if time.monotonic() < self._renewed_at + self._address.lease_s / 3:
            return
        try:
            is_ours = self._renewed()
        except ForwarderError:
            return  # whatever needs the server fails, too: nothing is sent meanwhile
        if not is_ours:
            raise _taken(self._address, self._tables)

    def _renewed(self, more: str = "") -> bool:
        started_at = time.monotonic()
        renewed = self._client.rows(
            f"UPDATE {self._tables.control} SET {more}{_RENEWED} WHERE holder = %s RETURNING 1",
            [self._address.lease_s, self.token],
        )
        if renewed:
            self._renewed_at = started_at
        return bool(renewed)

    def tell(self, state: Mapping[str, Any]) -> bool:
        try:
            self._client.rows(
                f"INSERT INTO {self._tables.daemon} (id, holder, state) VALUES (1, %s, %s::jsonb)"
                " ON CONFLICT (id) DO UPDATE SET holder = excluded.holder, state = excluded.state"
                " RETURNING 1",
                [self.token, json.dumps(state)],
            )
        except ForwarderError:
            return False
        return True

    def release(self) -> None:
        try:
            self._client.rows(
                f"UPDATE {self._tables.control} SET holder = NULL, lease_until = NULL, announced = false"
                " WHERE holder = %s RETURNING 1",
                [self.token],
            )
        except ForwarderError:
            pass  # it ends by itself
        finally:
            self._client.close()


_RENEWED = "renewed_at = clock_timestamp(), lease_until = clock_timestamp() + make_interval(secs => %s)"


def holder(address: Address, its: Tables) -> Holder | None:
    """The daemon that delivers, and its report; None: there is none."""
    try:
        with closing(Client(address)) as client:
            rows = client.rows(
                "SELECT host, pid, CASE WHEN state.holder = control.holder THEN state::text END,"
                " extract(epoch FROM clock_timestamp() - renewed_at)::float8"
                f" FROM {its.control} AS control LEFT JOIN {its.daemon} AS state ON true"
                " WHERE control.id = 1 AND announced AND lease_until >= clock_timestamp()"
            )
    except AbsentError:
        return None
    if not rows:
        return None
    host, pid, told, silent_s = rows[0]
    return Holder(pid, json.loads(told) if told else {}, host=host, halted=_halted(silent_s, address.lease_s))


def _halted(silent_s: float, lease_s: float) -> str:
    # It renews the lease after a third of it, when it looks: once a second.
    if silent_s < lease_s / 3 + 2:
        return ""
    return f"it has been silent for {silent_s:.0f} s; another daemon takes over after {lease_s:g} s"


def _taken(address: Address, its: Tables) -> TakenError:
    with closing(Client(address)) as client:
        ((host, pid),) = client.rows(f"SELECT host, pid FROM {its.control}")
    return TakenError(
        f"{host}:{pid} delivers from the queue {address.place}", "Only one may: stop that one first"
    )
