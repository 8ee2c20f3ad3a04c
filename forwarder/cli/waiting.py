"""``forwarder waiting``: list, export, hold, release and delete events that wait for delivery."""

from __future__ import annotations

import time
from dataclasses import replace

import click

from forwarder.cli.bulk import NOT_FOUND, REFUSED, change
from forwarder.cli.command import Context, Group, config_option, yes_option
from forwarder.cli.peek import COLUMNS, as_json_line, cells
from forwarder.cli.selection import WAITING, Wanted, flat, selecting
from forwarder.cli.stored import export_lines, open_view
from forwarder.cli.table import Column, print_lines, print_table, say
from forwarder.service import state as daemon_state
from forwarder.spool import Waiting
from forwarder.text import counted

held_option = click.option("--held", "only_held", is_flag=True, help="Those that are held.")


@click.group("waiting", cls=Group)
@config_option
def waiting() -> None:
    """List, export, hold, release and delete events that wait for delivery.

    Select events by ids, as arguments or with - on standard input, or by options; an event has to fit all of
    them. A held event stays in the queue and is not sent until it is released. Deleted events count as
    deleted in `forwarder status`.

    \b
      forwarder waiting list --user 1042
      forwarder waiting hold --event Purchase --since 1h
      forwarder waiting delete --before 30d

    An event that is being sent at this moment may be delivered although it is held or deleted. To rule that
    out, `forwarder pause` first, and wait until `forwarder status` says that none is in flight.

    Ids that do not wait are named on standard error; the rest is done, and the exit code is 1.
    """


@waiting.subcommand("list")
@selecting(WAITING)
@held_option
def list_(context: Context, wanted: Wanted[Waiting], as_json: bool) -> int:
    """List waiting events, oldest first: all, or those selected. Each line begins with the id.

    With --json as `forwarder peek`, and held.
    """
    with open_view(context.spool) as view:
        found = flat(wanted.pages(view))
        if as_json:
            print_lines(as_json_line(row, held=row.is_held) for row in found)
            return NOT_FOUND if wanted.missing() else 0
        now = time.time()
        columns = (*COLUMNS[:2], Column("STATE"), *COLUMNS[2:])
        rows = ((cells(row, context.kind, now), "held" if row.is_held else "due") for row in found)
        if not print_table(columns, ((*row[:2], held, *row[2:]) for row, held in rows)) and view:
            wanted.say_none()
    return NOT_FOUND if wanted.missing() else 0


@waiting.subcommand("export")
@selecting(WAITING)
@held_option
def export(context: Context, wanted: Wanted[Waiting], as_json: bool) -> int:
    """Write waiting events to standard output, one a line, byte by byte as they are stored.

    They stay where they are. `forwarder enqueue` takes the lines. What makes no line is named and left out,
    with exit code 65; `forwarder waiting list --json` shows it, and so does --json here.
    """
    wanted.require("export")
    left_out = False
    with open_view(context.spool) as view:
        pages = wanted.pages(view)
        if as_json:
            print_lines(as_json_line(row, held=row.is_held) for row in flat(pages))
        else:
            left_out = export_lines(pages, "waiting event", "`forwarder waiting list --json` shows it")
    missing = wanted.missing()
    return REFUSED if left_out else NOT_FOUND if missing else 0


@waiting.subcommand("hold")
@selecting(WAITING, held=False)
def hold(context: Context, wanted: Wanted[Waiting], as_json: bool) -> int:
    """Keep waiting events from delivery until they are released. They still count as waiting."""
    return _act(context, wanted, "hold", "held", as_json)


@waiting.subcommand("release")
@selecting(replace(WAITING, name="held event"), held=True)
def release(context: Context, wanted: Wanted[Waiting], as_json: bool) -> int:
    """Let held events be delivered. They go to the end of the queue and get new ids."""
    return _act(context, wanted, "release", "released", as_json)


@waiting.subcommand("delete")
@selecting(WAITING)
@held_option
@yes_option
def delete(context: Context, wanted: Wanted[Waiting], as_json: bool, yes: bool) -> int:
    """Delete waiting events for good, held ones too."""
    return _act(context, wanted, "delete", "deleted", as_json, yes)


def _act(
    context: Context, wanted: Wanted[Waiting], verb: str, done: str, as_json: bool, yes: bool = True
) -> int:
    wanted.require(verb)
    queue = context.spool
    act = {"hold": queue.hold, "release": queue.release, "delete": queue.delete_waiting}[verb]
    with open_view(context.spool) as view:
        if wanted.is_broad and not wanted.is_confirmed("Delete {} for good?", view, yes):
            return NOT_FOUND
        daemon = daemon_state.read(queue)
        count = daemon.kinds.get(context.kind_name, {}).get("in_flight", 0) if daemon else 0
        if count and verb != "release":
            one = context.kind.noun.removesuffix("s")
            sent = f"{counted(count, one)} {'is' if count == 1 else 'are'} being sent"
            such = f"such {'an' if one == 'event' else 'a'} {one}"
            say(f"forwarder: warning: {sent}; {such} may be delivered although {done}.", err=True)
        return change(wanted, view, done, act, as_json)
