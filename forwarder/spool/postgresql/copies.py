"""Whether an acknowledgement of the server means a second copy."""

from __future__ import annotations

import re

from forwarder.errors import ConfigError
from forwarder.spool.postgresql.address import Address
from forwarder.spool.postgresql.client import Connection

# https://www.postgresql.org/docs/current/runtime-config-replication.html#GUC-SYNCHRONOUS-STANDBY-NAMES
_COUNTED = re.compile(r"\s*(?:(?:ANY|FIRST)\s+)?(\d+)\s*\(", re.IGNORECASE)


def asked_for(names: str) -> int:
    """How many copies a commit waits for, by ``synchronous_standby_names``."""
    if not names.strip():
        return 0
    counted = _COUNTED.match(names)
    return int(counted[1]) if counted else 1


def fault(connection: Connection, address: Address) -> str:
    """Why one lost disk may be enough to lose events, though the settings ask for more; "": it is not."""
    ((names, fsync, pages),) = connection.rows(
        "SELECT current_setting('synchronous_standby_names'), current_setting('fsync'),"
        " current_setting('full_page_writes')"
    )
    if not address.standbys:
        return ""
    if asked_for(names) < address.standbys:
        return (
            f"the server waits for {asked_for(names)} standbys (synchronous_standby_names is {names!r}), "
            f"and queue.standbys is {address.standbys}"
        )
    for name, value in (("fsync", fsync), ("full_page_writes", pages)):
        if value != "on":
            return f"the server's {name} is {value}"
    return ""


def must_be_enough(connection: Connection, address: Address) -> None:
    """Raise `ConfigError` for a `fault`."""
    if found := fault(connection, address):
        raise ConfigError(
            found,
            "Set synchronous_standby_names, such as 'ANY 1 (*)'; or queue.standbys = 0, "
            "if the storage below the server has the copies, or one disk is enough",
        )
