"""What a person requests from the daemon, in the row ``control``; for all kinds."""

from __future__ import annotations

from contextlib import closing

from forwarder.spool.postgresql.address import Address
from forwarder.spool.postgresql.client import Client
from forwarder.spool.postgresql.tables import Tables, each


def asked(its: Tables) -> str:
    """The query of what is requested now, and of what shows that a queue has changed:

    paused, flushes, the consumer of *its* kind, the queue's identity, then totals of every kind.
    """
    totals = ", ".join(
        f"(SELECT accepted FROM {one.ledger}) + (SELECT coalesce(sum(n), 0)::bigint FROM {one.intake})"
        for one in each(its.schema)
    )
    return f"SELECT paused, flushes, ({its.consumer}), queue_id::text, {totals} FROM {its.control}"


def pause(address: Address, its: Tables) -> bool:
    """See `engine.Spool.pause`."""
    return _change(address, its, "paused = true")


def resume(address: Address, its: Tables) -> bool:
    """See `engine.Spool.resume`."""
    return _change(address, its, "paused = false, flushes = flushes + 1")


def request_flush(address: Address, its: Tables) -> None:
    """See `engine.Spool.request_flush`."""
    _change(address, its, "flushes = flushes + 1")


def _change(address: Address, its: Tables, change: str) -> bool:
    """Make the change. Returns whether it was paused before."""
    with closing(Client(address)) as client:
        ((paused,),) = client.rows(
            f"UPDATE {its.control} SET {change} FROM (SELECT paused FROM {its.control} FOR UPDATE)"
            " AS before (was_paused) RETURNING was_paused"
        )
    return bool(paused)
