"""``forwarder salvage``: bring back what a damaged database holds."""

from __future__ import annotations

from typing import Any

import click

from forwarder.cli.command import Context, command, json_option, print_json
from forwarder.cli.table import counted
from forwarder.errors import UsageError
from forwarder.spool import set_aside
from forwarder.spool.salvage import Salvage, apply, plan

SHOWN_PAGES = 20


@command("salvage", short_help="Bring back what a damaged database holds.")
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@click.option("--apply", "act", is_flag=True, help="Put what is found into the queue.")
@json_option
def salvage(context: Context, file: str | None, act: bool, as_json: bool) -> None:
    """Read a damaged database page by page, and with --apply put its events back into the queue.

    Without FILE: the databases that were set aside in this queue and not salvaged yet. Without --apply: what
    can be read of FILE, and what can't; nothing is changed.

    Events are accepted anew, with the same bytes; dead letters become dead letters again, and so do events
    whose content is damaged. Some may have been delivered before: Mixpanel drops repeats. An --apply that is
    broken off goes on where it was, the next time.
    """
    if file is None:
        if act:
            raise UsageError("--apply needs the FILE to salvage", "`forwarder salvage` lists those there are")
        _list(set_aside.damaged(context.queue_path), as_json)
        return
    found = apply(file, context.queue_path) if act else plan(file)
    if as_json:
        print_json([_as_json(file, found, act)])
        return
    for line in _told(file, found, act):
        click.echo(line)


def _list(files: list[str], as_json: bool) -> None:
    if as_json:
        print_json({"file": file} for file in files)
    elif not files:
        click.echo("No damaged database has been set aside.")
    else:
        for file in files:
            click.echo(file)
        click.echo("`forwarder salvage FILE` says what can be read of one.", err=True)


def _told(file: str, found: Salvage, act: bool) -> list[str]:
    events = f"{counted(found.events, 'event')} and {counted(found.dead_letters, 'dead letter')}"
    lines = [f"{events} {'are back in the queue' if act else 'can be read'}."]
    if found.before:
        lines.append(f"{found.before:,} of them were brought back by an earlier try.")
    if found.waiting is not None:
        lines.append(f"By its own books {counted(found.waiting, 'event')} waited there.")
    if found.losses.rows:
        lines.append(f"{counted(found.losses.rows, 'row')} can't be read.")
    if found.losses.pages:
        shown = ", ".join(map(str, found.losses.pages[:SHOWN_PAGES]))
        more = ", …" if len(found.losses.pages) > SHOWN_PAGES else ""
        lines.append(f"{counted(len(found.losses.pages), 'page')} can't be read: {shown}{more}.")
    if not act:
        lines.append(f"To put them into the queue: forwarder salvage {file} --apply")
    return lines


def _as_json(file: str, found: Salvage, act: bool) -> dict[str, Any]:
    return {
        "file": file,
        "applied": act,
        "events": found.events,
        "dead_letters": found.dead_letters,
        "waiting_by_books": found.waiting,
        "brought_back_before": found.before,
        "unreadable_rows": found.losses.rows,
        "unreadable_pages": found.losses.pages,
    }
