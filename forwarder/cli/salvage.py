"""``forwarder salvage``: recover what a damaged database contains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from forwarder import spool
from forwarder.cli.command import Context, command, json_option, print_json
from forwarder.cli.table import say
from forwarder.errors import UsageError
from forwarder.salvage import Salvage, apply, is_own, plan, set_own_aside
from forwarder.text import counted

SHOWN_PAGES = 20


@command("salvage", short_help="Recover events from a damaged database.")
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@click.option("--apply", "act", is_flag=True, help="Put what can be read into the queue.")
@json_option
def salvage(context: Context, file: str | None, act: bool, as_json: bool) -> None:
    """Read a damaged database page by page, and with --apply put its events back into the queue.

    Without FILE, list the databases that were set aside in this queue and not yet salvaged. Without --apply,
    say what can be read of FILE and what can't; nothing is changed.

    FILE may also be the queue's own database. With --apply, it is set aside first, if SQLite finds it
    damaged, and the queue continues with a fresh one.

    Events are accepted again, with the same bytes. Dead letters become dead letters again, and so do events
    with damaged content. Some events may have been delivered already: Mixpanel drops repeats. If --apply is
    interrupted, the next one continues from there.

    Rows of other queues in the file are skipped, as far as the file still says which they are. If its schema
    is unreadable, all rows that look like this queue's are taken.
    """
    path = context.directory
    if not path:
        raise UsageError(
            "the queue is on a server; its backups take salvage's place",
            "For files of a queue on this host, give queue.path too",
        )
    if file is None:
        if act:
            raise UsageError("--apply needs the FILE to salvage", "`forwarder salvage` lists the files")
        _list(spool.at(path).set_aside(), as_json)
        return
    in_use = is_own(file, path)
    if act and in_use:
        file = set_own_aside(path)
        say(f"The queue's own database is damaged, and was set aside: {file}", err=True)
    found = apply(file, path) if act else plan(file)
    for other in spool.at(path).set_aside() if act else ():
        say(f"Not recovered yet: `forwarder salvage {other} --apply`", err=True)
    if as_json:
        print_json([_as_json(file, found, act)])
        return
    for line in _told(found, act):
        say(line)
    if not act:
        if in_use:
            say("It is in use. With --apply it is set aside first, if SQLite finds it damaged.")
        click.echo(f"To put them into the queue: forwarder salvage {file} --apply")


def _list(files: list[str], as_json: bool) -> None:
    if as_json:
        print_json({"file": file} for file in files)
    elif not files:
        click.echo("No damaged database has been set aside.")
    else:
        for file in files:
            click.echo(file)
        say("`forwarder salvage FILE` says what can be read of a file.", err=True)


def _told(found: Salvage, act: bool) -> list[str]:
    events = f"{counted(found.events, 'event')} and {counted(found.dead_letters, 'dead letter')}"
    lines = [f"{events} {'are back in the queue' if act else 'can be read'}."]
    if found.before:
        lines.append(f"{found.before:,} of them were recovered by an earlier try.")
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
        yield "How many there should be is not readable."
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
