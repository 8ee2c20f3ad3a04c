"""``forwarder peek``: the next events, without touching them."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Iterator

import click

from forwarder.cli.command import Context, command, json_option, kind_option
from forwarder.cli.stored import escaped, glance, json_line, open_view
from forwarder.cli.table import PAGE, Column, print_lines, print_table
from forwarder.records.kind import Kind
from forwarder.spool import View, Waiting
from forwarder.text import duration, instant, since, size

COLUMNS = (
    Column("ID", right=True),
    Column("AGE", right=True),
    Column("EVENT", shrinks=True),
    Column("DISTINCT_ID", shrinks=True),
    Column("SIZE", right=True),
)


@command("peek", short_help="Show the next events, without touching them.")
@click.option(
    "-n", "count", metavar="N", type=click.IntRange(min=1), default=10, help="How many [default: 10]."
)
@kind_option
@json_option
def peek(context: Context, count: int, as_json: bool) -> None:
    """Show the next events in the order of delivery: id, age, name, distinct_id and size.

    Those in flight are among them, as they wait until Mixpanel has accepted them; held ones are not
    (`forwarder waiting list`).

    With --json: id, accepted_at, status and event, a line each; event is the JSON that is stored, or null
    if that is not JSON, with the bytes in base64. Rows with another status than 1 were written by plain
    persist-queue and are validated when they are delivered. Of a row over 1 MB, which is no event, only the
    first bytes are shown, with size_bytes for all of it.
    """
    with open_view(context.spool) as view:
        if view is None:
            return
        rows = _next(view, count)
        if as_json:
            print_lines(map(as_json_line, rows))
        elif not print_table(COLUMNS, (cells(row, context.kind, time.time()) for row in rows)):
            click.echo("Nothing waits.")


def _next(view: View, count: int) -> Iterator[Waiting]:
    # In short reads, so that millions neither fill the memory nor hold up a checkpoint.
    after_id = 0
    while count > 0 and (page := view.peek(min(count, PAGE), after_id)):
        yield from page
        after_id = page[-1].id
        count -= len(page)


def cells(row: Waiting, kind: Kind, now: float) -> tuple[str, ...]:
    """Its row under `COLUMNS`."""
    name, distinct_id = (f"too large: {escaped(row.data[:60])}", "") if row.is_cut else glance(row.data, kind)
    # 0: an external producer has put no time there.
    age = duration(since(row.accepted_at, now)) if row.accepted_at else "-"
    return str(row.id), age, name, distinct_id, size(row.size_bytes)


def as_json_line(row: Waiting, **more: object) -> str:
    """All of it for a program, on one line; with *more* members."""
    accepted_at = instant(row.accepted_at or None)
    values = {"id": row.id, "accepted_at": accepted_at, "status": row.status, **more}
    if row.is_cut:
        start = b64encode(row.data).decode()
        return json.dumps({**values, "event": None, "base64": start, "size_bytes": row.size_bytes})
    return json_line(values, row.data)
