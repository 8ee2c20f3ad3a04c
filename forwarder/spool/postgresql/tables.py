"""The tables of one kind of records, in the queue's schema.

Each kind has its own set. The names of events are bare; those of the others end in the name of their queue,
such as ``ledger_engage``:

- ``queue``: one row per waiting record. A program in any language may insert one, by its ``data`` alone, in a
  transaction of its own: the record is accepted if that commits;
- ``intake``: one row per statement that inserted; append-only, because a counter would make the producers
  wait for each other. The daemon adds them up in the ledger;
- ``ledger``: one row, the durable totals, the consumer that has started last, and ``low_id``, below which
  nothing waits;
- ``held``, ``dead_letters``, ``deliveries``, ``retries``, ``refusals``, ``history``, ``bookmarks``: as in the
  embedded engine;
- ``sources``: what each relay's queue has handed over last, see `handover`.

Beside them ``control``, one row: what a person requests, and who delivers; and ``daemon``, unlogged: what the
daemon reports about itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forwarder.records import KINDS

if TYPE_CHECKING:
    from forwarder.records.kind import Kind

KEPT_ENTRIES = 100_000

# An instant, in seconds since the epoch.
EPOCH = "extract(epoch FROM {})::float8"


class Tables:
    """The names, with the schema; they need no quoting, see `config.addresses.Identifier`.

    Attributes:
        row: Selects waiting records: id, data, put_at (seconds since the epoch), status.
        put, refuse, count_refused, handed_over, hand_over, bookmarks_of, remove_bookmark, add_bookmark: The
            functions of a producer.
        consumer: Selects the consumer that has started last, and when the server did: a standby that was
            promoted may give ids again that only the old primary had, which mean other records now.
        totals: Selects all records ever accepted (also what an intake row counts), and those of them that
            were dead letters at once.
    """

    def __init__(self, schema: str, kind: Kind) -> None:
        suffix = "" if kind.queue == "default" else f"_{kind.queue}"
        self.schema, self.kind, self.suffix = schema, kind, suffix
        self.control, self.daemon = f"{schema}.control", f"{schema}.daemon"

        def named(name: str) -> str:
            return f"{schema}.{name}{suffix}"

        self.queue, self.intake, self.ledger = named("queue"), named("intake"), named("ledger")
        self.held, self.dead_letters, self.deliveries = (
            named("held"),
            named("dead_letters"),
            named("deliveries"),
        )
        self.retries, self.refusals, self.history = named("retries"), named("refusals"), named("history")
        self.sequence = f"{schema}.queue{suffix}_id_seq"
        self.put, self.refuse = named("put_all"), named("refuse_all")
        self.count_refused = named("count_refused")
        self.handed_over, self.hand_over = named("handed_over"), named("hand_over")
        self.bookmarks_of = named("bookmarks_of")
        self.remove_bookmark, self.add_bookmark = named("remove_bookmark"), named("add_bookmark")
        self.row = f"SELECT id, data, {EPOCH.format('put_at')} AS put_at, status FROM {self.queue}"
        self.held_row = (
            f"SELECT id, data, {EPOCH.format('put_at')} AS put_at, 7::smallint AS status FROM {self.held}"
        )
        self.consumer = (
            f"SELECT consumer || ' ' || extract(epoch FROM pg_postmaster_start_time()) FROM {self.ledger}"
        )
        self.totals = (
            f"SELECT accepted + (SELECT coalesce(sum(n), 0)::bigint FROM {self.intake}),"
            f" dead_lettered + (SELECT coalesce(sum(dead), 0)::bigint FROM {self.intake})"
            f" FROM {self.ledger} WHERE id = 1"
        )


def each(schema: str) -> list[Tables]:
    """The tables of all kinds."""
    return [Tables(schema, kind) for kind in KINDS.values()]
