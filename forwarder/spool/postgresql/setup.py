"""Stand-in: makes what a queue needs on its server."""

from __future__ import annotations

from forwarder.spool.postgresql.address import Address


def setup(address: Address) -> list[str]:
    """Make it; what was made, for people."""
    raise NotImplementedError(address)


def statements(schema: str) -> str:
    """The SQL that makes it."""
    raise NotImplementedError(schema)
