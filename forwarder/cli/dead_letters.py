"""``forwarder dead-letters``: look at refused events, put them back, take them out, delete them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import click

from forwarder.cli import edits as editing
from forwarder.cli.bulk import NOT_FOUND, REFUSED, change, put_back, rehearse, tell_stayed
from forwarder.cli.command import (
    Context,
    Group,
    config_option,
    kind_option,
    print_json,
    yes_option,
)
from forwarder.cli.completion import values as completions
from forwarder.cli.letter import (
    LIST,
    SUMMARY,
    cells,
    fields,
    full_line,
    group_cells,
    group_fields,
    portrait,
)
from forwarder.cli.selection import DEAD_LETTERS, Wanted, flat, read_ids, selecting
from forwarder.cli.stored import export_lines, open_view
from forwarder.cli.table import print_lines, print_table
from forwarder.errors import UsageError
from forwarder.spool import DeadLetter, Selection, View


@click.group("dead-letters", cls=Group)
@config_option
def dead_letters() -> None:
    """Look at refused events, and retry, export or delete them.

    A dead letter is an event that was refused, kept with the reason until a person decides. Select some by
    ids, as arguments or with - on standard input, or by options; those that fit every part are meant.

    \b
      forwarder dead-letters summary
      forwarder dead-letters list --reason time --since 1h
      forwarder dead-letters retry --event Signup --set event="Signed Up" --dry-run
      forwarder dead-letters list --json --event Test | jq .id | forwarder dead-letters delete -

    An id that is not there is named, the others are done, and the exit code is 1.
    """


@dead_letters.subcommand("list")
@selecting(DEAD_LETTERS)
def list_(context: Context, wanted: Wanted[DeadLetter], as_json: bool) -> int:
    """List dead letters, oldest first: all, or those selected. Each line begins with the id."""
    with open_view(context.spool) as view:
        found = flat(wanted.pages(view, with_data=False))
        if as_json:
            print_lines(json.dumps(fields(letter)) for letter in found)
        elif not print_table(LIST, map(cells, found)) and view:
            wanted.say_none()
    return NOT_FOUND if wanted.missing() else 0


@dead_letters.subcommand("summary")
@selecting(DEAD_LETTERS)
def summary(context: Context, wanted: Wanted[DeadLetter], as_json: bool) -> None:
    """Count dead letters by what they died of, the most frequent first.

    The 10,000 most frequent causes are named; the rest is summed up as "other reasons".
    """
    with open_view(context.spool) as view:
        groups = view.summary(wanted.where) if view else []
    now = time.time()
    if as_json:
        print_json(group_fields(group) for group in groups)
    elif not print_table(SUMMARY, (group_cells(group, now) for group in groups)) and view:
        wanted.say_none()


@dead_letters.subcommand("show")
@kind_option
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=completions.dead_letter_ids)
def show(context: Context, ids: tuple[str, ...], as_json: bool) -> int:
    """Show dead letters whole, each with its cause."""
    wanted = Wanted(DEAD_LETTERS, Selection(read_ids(ids)))
    with open_view(context.spool) as view:
        found = flat(wanted.pages(view))
        print_lines(map(full_line, found) if as_json else ("\n".join(portrait(letter)) for letter in found))
    return NOT_FOUND if wanted.missing() else 0


@dead_letters.subcommand("export")
@selecting(DEAD_LETTERS)
@click.option("--with-reason", is_flag=True, help="Wrap each event: id, reason and all else that is known.")
def export(context: Context, wanted: Wanted[DeadLetter], with_reason: bool, as_json: bool) -> int:
    """Write dead letters to standard output, one a line.

    Each is written byte by byte as it is stored. They stay where they are. `forwarder enqueue` takes the
    lines; with --with-reason (or --json, which is the same) it does not. Bytes that are not JSON and have
    line breaks in them make no line: they are named and left out, with exit code 65, unless wrapped, which
    gives them in base64.
    """
    wanted.require("export")
    left_out = False
    with open_view(context.spool) as view:
        pages = wanted.pages(view)
        if with_reason or as_json:
            for page in pages:
                print_lines(map(full_line, page))
        else:
            left_out = export_lines(pages, "dead letter", "--with-reason exports it")
    missing = wanted.missing()
    return REFUSED if left_out else NOT_FOUND if missing else 0


@dead_letters.subcommand("retry")
@selecting(DEAD_LETTERS)
@click.option(
    "--set", "sets", metavar="PATH=TEXT", multiple=True, help="Give a member a text; PATH:=JSON any value."
)
@click.option("--unset", "unsets", metavar="PATH", multiple=True, help="Take a member away.")
@click.option("--dry-run", is_flag=True, help="Only show each event before and after.")
@click.option("--no-check", is_flag=True, help="Check the structure only; Mixpanel judges the rest.")
@yes_option
def retry(
    context: Context,
    wanted: Wanted[DeadLetter],
    sets: tuple[str, ...],
    unsets: tuple[str, ...],
    dry_run: bool,
    no_check: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Put dead letters back into the queue, edited if asked.

    $insert_id stays as it is, so that nothing counts twice at Mixpanel. A PATH is event, or properties. and
    a name; properties.a.b is b in the object a, and a dot in a name is written \\. :

    \b
      --set properties.plan=pro --set properties.seats:=3 --set event="Signed Up"
      --unset properties.time              the time it was accepted is filled in
      --unset 'properties.$insert_id'      a new one is filled in
      --unset time                         the time beside properties, where it is refused

    Each event is checked again; one that is refused stays a dead letter, and the exit code is 65.
    """
    wanted.require("retry")
    edits = editing.understand(sets, unsets, context.kind)
    now_ms = time.time_ns() // 1_000_000

    def edit(data: bytes, accepted_at: float) -> bytes:
        return editing.renew(data, accepted_at, edits, now_ms, not no_check, context.kind)

    with open_view(context.spool) as view:
        _forbid_same_id(edits, wanted, view)
        if dry_run:
            code = rehearse(flat(wanted.pages(view)), edit, as_json)
            return NOT_FOUND if wanted.missing() and not code else code
        if wanted.everything and not wanted.is_confirmed("Put {} back into the queue?", view, yes):
            return NOT_FOUND
        done = put_back(context.spool, wanted, view, edit)
    tell_stayed(done.stayed)
    missing = wanted.missing()
    if as_json:
        refused = [{"id": letter_id, "reason": reason} for letter_id, reason in done.stayed]
        click.echo(json.dumps({"retried": done.count, "refused": refused, "missing": missing}))
    elif done.count or done.stayed or not wanted.say_none():
        rest = f", {len(done.stayed):,} stayed" if done.stayed else ""
        click.echo(f"{DEAD_LETTERS.counted(done.count)} put back into the queue{rest}.")
    return REFUSED if done.stayed else NOT_FOUND if missing else 0


@dead_letters.subcommand("delete")
@selecting(DEAD_LETTERS)
@yes_option
def delete(context: Context, wanted: Wanted[DeadLetter], yes: bool, as_json: bool) -> int:
    """Delete dead letters for good. To keep a copy, `forwarder dead-letters export` them first."""
    wanted.require("delete")
    with open_view(context.spool) as view:
        if wanted.is_broad and not wanted.is_confirmed("Delete {} for good?", view, yes):
            return NOT_FOUND
        return change(wanted, view, "deleted", context.spool.delete_dead_letters, as_json)


def _forbid_same_id(edits: Sequence[editing.Edit], wanted: Wanted[DeadLetter], view: View | None) -> None:
    gives_id = any(edit.path == editing.INSERT_ID and edit.value is not None for edit in edits)
    if gives_id and wanted.count(view) > 1:
        raise UsageError(
            "--set properties.$insert_id would give several events the same one",
            "Mixpanel would keep one of them: --unset it, and each gets a new one",
        )
