"""Making a queue on a server, or bringing it up to date."""

from __future__ import annotations

from contextlib import closing

from forwarder.errors import ConfigError
from forwarder.spool.postgresql.address import Address
from forwarder.spool.postgresql.client import Client, Connection
from forwarder.spool.postgresql.errors import AbsentError
from forwarder.spool.postgresql.schema import LEAST_SERVER, VERSION, statements
from forwarder.spool.postgresql.tables import Tables

# A command that waits for locks on the tables, as those of a running vacuum.
PATIENCE_S = 60.0


def setup(address: Address) -> list[str]:
    """Make what is missing, in one transaction. Returns what there is now, a line each, for a person.

    Raises:
        ConfigError: the server is too old, or its database is not in UTF-8; a newer forwarder made the queue.
        NotPermittedError: this user may not create all of it.
        TryAgainError, StorageError: as `Client`.
    """
    schema = address.schema
    with closing(Client(address, PATIENCE_S)) as client:
        client.run(_must_fit)
        client.write(lambda connection: _make(connection, schema))
    return [
        f"schema {schema}: tables, triggers and functions, version {VERSION}",
        f"role {schema}_producer: may insert; GRANT it to whoever hands events over",
        f"role {schema}_viewer: may look; GRANT it to whoever watches",
        "the daemon signs in as their owner: this user, or one that is a member of it",
    ]


def must_be_current(client: Client, its: Tables) -> None:
    """Make sure that the queue has the version that this forwarder uses.

    Raises:
        AbsentError: it has another.
    """
    ((version,),) = client.rows(f"SELECT version FROM {its.control}")
    if version != VERSION:
        raise AbsentError(
            f"the queue {client.place} has version {version}; this forwarder uses {VERSION}",
            "`forwarder setup` of the newer one brings it up to date",
        )


def _must_fit(connection: Connection) -> None:
    version = connection.pgconn.server_version
    if version < LEAST_SERVER:
        raise ConfigError(
            f"the server is PostgreSQL {version // 10000}", f"Use {LEAST_SERVER // 10000} or newer"
        )
    ((encoding,),) = connection.rows("SELECT current_setting('server_encoding')")
    if encoding != "UTF8":
        raise ConfigError(f"the database's encoding is {encoding}", "Use a database in UTF8")


def _make(connection: Connection, schema: str) -> None:
    ((control,),) = connection.rows("SELECT to_regclass(%s)::text", [f"{schema}.control"])
    if control is not None:
        ((version,),) = connection.rows(f"SELECT version FROM {schema}.control")
        if version > VERSION:
            raise ConfigError(
                f"the queue has version {version}; this forwarder knows {VERSION}",
                "Nothing was changed; use the forwarder that made it",
            )
    # Several statements at once take no parameters.
    connection.execute(statements(schema).encode())
