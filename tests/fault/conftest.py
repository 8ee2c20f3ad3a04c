"""What the fault tests of a queue on a server share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing

import pytest

from forwarder.sandbox import Sandbox
from forwarder.spool.postgresql.address import Address
from forwarder.spool.postgresql.setup import setup
from tests.on_server import Proxy, Remote
from tests.postgres import Server
from tests.postgres_cluster import Cluster

LEASE_S = 3
# A server's own count would begin again on each new primary.
_schemas = itertools.count(1)


@pytest.fixture
def remote(postgres: Server, server: Sandbox) -> Iterator[Remote]:
    """The command, for an empty queue of its own on one fast server."""
    yield from _remote(
        Address(postgres.url(), postgres.new_schema_name(), standbys=0, lease_s=LEASE_S), server
    )


@pytest.fixture
def replicated(cluster: Cluster, server: Sandbox) -> Iterator[Remote]:
    """The command, for an empty queue of its own on three servers, all of which run."""
    cluster.mend()
    yield from _remote(Address(cluster.url(), f"fault_{next(_schemas)}", lease_s=LEASE_S), server)


@pytest.fixture
def proxy(postgres: Server) -> Iterator[Proxy]:
    """A proxy before the fast server."""
    with closing(Proxy(postgres.url())) as proxy:
        yield proxy


def _remote(address: Address, server: Sandbox) -> Iterator[Remote]:
    setup(address)
    command = Remote(address, server.url)
    yield command
    command.close()
