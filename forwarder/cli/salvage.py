"""``forwarder salvage``: bring back what a damaged database holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from forwarder import spool
from forwarder.cli.command import Context, command, json_option, print_json
from forwarder.cli.table import counted
from forwarder.errors import UsageError
from forwarder.salvage import Salvage, apply, is_own, plan, set_own_aside

SHOWN_PAGES = 20


@command("salvage", short_help="Bring back what a damaged database holds.")
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@click.option("--apply", "act", is_flag=True, help="Put what is found into the queue.")
@json_option
def salvage(context: Context, file: str | None, act: bool, as_json: bool) -> None:
    """Read a damaged database page by page, and with --apply put its events back into the queue.

    Without FILE: the databases that were set aside in this queue and not salvaged yet. Without --apply: what
    can be read of FILE, and what can't; nothing is changed. FILE may be the queue's own database, too: with
    --apply it is set aside first, if SQLite finds it damaged, and the queue goes on with a fresh one.

    Events are accepted anew, with the same bytes; dead letters become dead letters again, and so do events
    whose content is damaged. Some may have been delivered before: Mixpanel drops repeats. An --apply that is
    broken off goes on where it was, the next time.

    Rows of other queues in the file are left, as far as it still says which these are; if its schema can't be
    read, all rows are taken that look like this queue's.
    """
    if file is None:
        if act:
            raise UsageError("--apply needs the FILE to salvage", "`forwarder salvage` lists those there are")
        _list(spool.at(context.queue_path).set_aside(), as_json)
        return
    in_use = is_own(file, context.queue_path)
    if act and in_use:
        file = set_own_aside(context.queue_path)
        click.echo(f"The queue's own database is damaged, and was set aside: {file}", err=True)
    found = apply(file, context.queue_path) if act else plan(file)
    for other in spool.at(context.queue_path).set_aside() if act else ():
        click.echo(f"Not brought back yet: `forwarder salvage {other} --apply`", err=True)
    if as_json:
        print_json([_as_json(file, found, act)])
        return
    for line in _told(found, act):
        click.echo(line)
    if not act:
        if in_use:
            click.echo("It is in use: with --apply it is set aside first, if SQLite finds it damaged.")
        click.echo(f"To put them into the queue: forwarder salvage {file} --apply")


def _list(files: list[str], as_json: bool) -> None:
    if as_json:
        print_json({"file": file} for file in files)
    elif not files:
        click.echo("No damaged database has been set aside.")
    else:
        for file in files:
            click.echo(file)
        click.echo("`forwarder salvage FILE` says what can be read of one.", err=True)


def _told(found: Salvage, act: bool) -> list[str]:
    events = f"{counted(found.events, 'event')} and {counted(found.dead_letters, 'dead letter')}"
    lines = [f"{events} {'are back in the queue' if act else 'can be read'}."]
    if found.before:
        lines.append(f"{found.before:,} of them were brought back by an earlier try.")
    lines += _by_its_books(found)
    if found.losses.rows:
        lines.append(f"{counted(found.losses.rows, 'row')} can't be read.")
    if found.losses.pages:
        shown = ", ".join(map(str, found.losses.pages[:SHOWN_PAGES]))
        more = ", …" if len(found.losses.pages) > SHOWN_PAGES else ""
        lines.append(f"{counted(len(found.losses.pages), 'page')} can't be read: {shown}{more}.")
    return lines


def _by_its_books(found: Salvage) -> Iterator[str]:
    if found.waiting is None or found.dead_lettered is None:
        yield "How many there should be can't be read."
        return
    there = f"{counted(found.waiting, 'event')} and {counted(found.dead_lettered, 'dead letter')}"
    missing = f"{found.missing:,} of these can't be read" if found.missing else "none of these is missing"
    yield f"By its own books there should be {there}: {missing}."


def _as_json(file: str, found: Salvage, act: bool) -> dict[str, Any]:
    return {
        "file": file,
        "applied": act,
        "events": found.events,
        "dead_letters": found.dead_letters,
        "waiting_by_books": found.waiting,
        "dead_letters_by_books": found.dead_lettered,
        "missing": found.missing,
        "brought_back_before": found.before,
        "unreadable_rows": found.losses.rows,
        "unreadable_pages": found.losses.pages,
    }
