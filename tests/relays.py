"""A host with a relay: its own queue in a directory, and the queue on a server."""

from __future__ import annotations

import json
from typing import Any

from forwarder import spool
from forwarder.records import KINDS
from forwarder.spool import Figures
from forwarder.spool.postgresql.address import Address
from forwarder.spool.postgresql.engine import Spool
from forwarder.spool.postgresql.setup import setup
from tests.conftest import Daemon, Forwarder
from tests.postgres import Server


class Host(Forwarder):
    """The command with the settings of such a host; no key, and on the server the producer's role alone."""

    def __init__(self, queue_path: str, server: Server, schema: str) -> None:
        super().__init__(queue_path, "http://127.0.0.1:1")
        self.server, self.schema = server, schema
        self.owner = Address(server.url(), schema, standbys=0)
        self.user = f"{server.new_schema_name()}_shop"
        server.execute(f"CREATE USER {self.user}")
        del self.environ["FORWARDER_MIXPANEL_TOKEN"]
        self.environ |= {
            "FORWARDER_QUEUE_URL": server.url(user=self.user),
            "FORWARDER_QUEUE_SCHEMA": schema,
            "FORWARDER_QUEUE_STANDBYS": "0",
        }

    def set_up(self) -> None:
        """Make the queue on the server, or add to it that this host may hand over."""
        setup(self.owner)
        self.server.execute(f"GRANT {self.schema}_producer TO {self.user}")

    def relay(self, *, wait: bool = True) -> Daemon:
        """Start the relay; with *wait*, return once it has said that it is ready."""
        started = self.start("relay")
        if wait:
            started.wait_for("daemon.started")
        return started

    def here(self, kind: str = "event") -> Figures:
        """The books of this host's queue, once they are proven."""
        return _proven(spool.at(self.queue_path, KINDS[kind]))

    def there(self, kind: str = "event") -> Figures:
        """The books of the queue on the server, once they are proven."""
        return _proven(Spool(self.owner, KINDS[kind]))

    def arrived(self, table: str = "queue") -> list[dict[str, Any]]:
        """What waits on the server, in order."""
        rows = self.server.execute(f"SELECT data FROM {self.schema}.{table} ORDER BY id")
        return [json.loads(bytes(data)) for (data,) in rows]

    def insert_ids(self) -> list[str]:
        """Those of the events that wait on the server."""
        return [str(event["properties"]["$insert_id"]) for event in self.arrived()]

    def is_handing_over(self) -> bool:
        """Whether a batch waits for a lock on the server."""
        query = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
        return bool(self.server.execute(query, f"%{self.schema}.hand_over(%"))


def _proven(queue: spool.Spool) -> Figures:
    with queue.view() as view:
        assert [finding for finding in view.check() if not finding.ok] == []
        return view.figures()
