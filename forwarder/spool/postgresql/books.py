"""Whether the books balance: the durable totals against the stored rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forwarder.spool.values import FAIL, OK, Finding

if TYPE_CHECKING:
    from forwarder.spool.postgresql.view import View

UNBALANCED = 1  # the exit code if the books do not balance


def check(view: View) -> list[Finding]:
    """One finding: the totals against the rows, in one snapshot."""
    its = view.tables
    ((total, baseline, delivered, dead, deleted, held, retried, discarded, *rows),) = view.client.rows(
        "SELECT total, baseline, delivered, dead, deleted, held, retried, discarded,"
        f" (SELECT count(*) FROM {its.queue}), (SELECT count(*) FROM {its.held}),"
        f" (SELECT count(*) FROM {its.dead_letters})"
        f" FROM {its.ledger}, ({its.totals}) AS totals (total, dead) WHERE id = 1"
    )
    accepted = total - baseline
    waiting = accepted - delivered - dead - deleted
    faults = [
        f"{counted:,} {noun} are counted, and {there:,} rows are there"
        for noun, counted, there in (
            ("waiting ones", waiting - held, rows[0]),
            ("held ones", held, rows[1]),
            ("dead letters", dead - retried - discarded, rows[2]),
        )
        if counted != there
    ]
    detail = (
        f"{accepted:,} accepted = {delivered:,} delivered + {dead:,} dead-lettered + {deleted:,} deleted"
        f" + {waiting:,} waiting"
    )
    name = "books" if not its.suffix else f"books: {its.kind.noun}"
    return [Finding(name, FAIL if faults else OK, "\n".join((*faults, detail)), UNBALANCED if faults else 0)]
