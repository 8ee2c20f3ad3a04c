"""Checks of the server, the queue's schema, its room and its books."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from forwarder.errors import ConfigError, ForwarderError
from forwarder.spool.findings import room
from forwarder.spool.postgresql import copies, producer, tables
from forwarder.spool.postgresql.address import Address
from forwarder.spool.postgresql.client import Client
from forwarder.spool.postgresql.tables import Tables
from forwarder.spool.postgresql.view import View
from forwarder.spool.values import FAIL, OK, WARNING, Finding

OLD_SNAPSHOT_S = 600


def findings(address: Address, its: Tables, max_bytes: int, briefly: bool) -> Iterator[Finding]:
    """Check one thing after the other; *briefly*, nothing: a daemon sees for itself if the server is fit,
    and a reload may have no password for it."""
    if briefly:
        return
    try:
        with closing(Client(address)) as client:
            yield _server(client, address, its)
            yield _copies(client, address)
            yield from _triggers(client, its)
            yield from _old_snapshots(client)
            used = client.run(lambda connection: producer.used_bytes(connection, its))
            yield room(used, max_bytes)
            for each in tables.each(its.schema):
                with View(address, client.timeout_s, each) as view:
                    yield from view.check()
    except ForwarderError as error:
        yield Finding("queue", FAIL, str(error), error.exit_code)


def _server(client: Client, address: Address, its: Tables) -> Finding:
    View(address, client.timeout_s, its).client.close()
    ((server,),) = client.rows("SELECT current_setting('server_version')")
    return Finding("server", OK, f"{address.place}, PostgreSQL {server}")


def _copies(client: Client, address: Address) -> Finding:
    name = "copies"
    fault = client.run(lambda connection: copies.fault(connection, address))
    if fault:
        return Finding(name, FAIL, fault, ConfigError.exit_code)
    if not address.standbys:
        return Finding(name, OK, "not asked for: queue.standbys is 0")
    # Most users see only that there are standbys, and not which (pg_read_all_stats does).
    connected = len(
        client.rows("SELECT 1 FROM pg_stat_replication WHERE sync_state IS DISTINCT FROM 'async'")
    )
    if connected < address.standbys:
        detail = f"{connected} of {address.standbys} standbys are connected: no event is accepted meanwhile"
        return Finding(name, WARNING, detail)
    return Finding(name, OK, f"a commit waits for {address.standbys}; {connected} connected")


def _triggers(client: Client, its: Tables) -> Iterator[Finding]:
    rows = client.rows(
        "SELECT c.relname || '.' || t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND NOT t.tgisinternal AND t.tgenabled NOT IN ('O', 'A')",
        [its.schema],
    )
    if rows:
        detail = f"disabled: {', '.join(name for (name,) in rows)}; nothing counts what is inserted"
        yield Finding("triggers", FAIL, detail, ConfigError.exit_code)


def _old_snapshots(client: Client) -> Iterator[Finding]:
    """Transactions that keep vacuum from removing what has left."""
    rows = client.rows(
        "SELECT pid, usename, application_name, extract(epoch FROM clock_timestamp() - xact_start)::float8"
        " FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND xact_start < clock_timestamp()"
        " - make_interval(secs => %s) ORDER BY xact_start LIMIT 3",
        [OLD_SNAPSHOT_S],
    )
    for pid, user, application, age_s in rows:
        detail = (
            f"a transaction of {user} ({application or 'no name'}, process {pid}) has been open for"
            f" {age_s:.0f} s, and keeps vacuum from removing rows that have left"
        )
        yield Finding("snapshots", WARNING, detail)
