"""``forwarder where``: what became of events, by their ids."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import click

from forwarder.cli.command import Context, command, json_option, kind_option
from forwarder.cli.completion import values as completions
from forwarder.cli.receipt import Standing
from forwarder.cli.selection import DEAD_LETTERS, WAITING, Wanted, flat
from forwarder.cli.stored import open_view
from forwarder.cli.table import print_lines, say
from forwarder.errors import UsageError
from forwarder.records import EVENTS
from forwarder.spool import MOST_AHEAD, Receipt, Run, Selection, View, count_of, joined, runs_in
from forwarder.text import printable

NOT_KNOWN = 1
MOST_IDS = 100_000


@command("where", short_help="What became of events, by their ids.")
@click.argument("ids", metavar="[ID]...", nargs=-1, shell_complete=completions.waiting_ids)
@click.option(
    "--insert-id",
    "insert_ids",
    metavar="X",
    multiple=True,
    help="Those that wait or are dead letters, of this $insert_id. Repeatable.",
)
@kind_option
@json_option
def where(context: Context, ids: tuple[str, ...], insert_ids: tuple[str, ...], as_json: bool) -> int:
    """Say what became of events: whether they wait, were delivered, or are dead letters.

    An ID is a number as `forwarder enqueue --json` prints it, or a range such as 5-9, or several with commas
    between them; - reads them from standard input. At most 100,000 events in one call.

    \b
      forwarder where 17 20-25
      forwarder enqueue --json events.ndjson | jq -r '.ids // empty' | forwarder where -

    Consecutive ids of which the same is to be said are one line. An event that was retried or released has
    another id since; what became of that follows. The newest 100,000 requests are kept: what was delivered
    before is not known any more. Of delivered events only the ids are kept, so --insert-id finds only those
    that wait or are dead letters; it looks through all of them.

    With --json: first and last, the ids; state: waiting, held, delivered, dead, retried, released, deleted,
    unknown or absent (never accepted); at, when that was, or since when; ahead, how many wait before it, at
    most 100000; deferred, what was sent without success: ids, reason, tries, and next_s, in how many seconds
    it is sent again, null for when others have succeeded; request, the number in the delivery log, with
    events, tries, http_status and took_s; dead_letter, with reason, field and event; new_id; newest, the
    newest id of all. What does not apply is null.

    Exit code: 0; 1 if an id is not known or was never accepted, or an $insert_id is not found.
    """
    runs = _read(ids)
    if not (runs or insert_ids):
        raise UsageError("no event is named", "Give ids, - to read ids from standard input, or --insert-id")
    if insert_ids and context.kind is not EVENTS:
        raise UsageError("an update has no $insert_id", "Give ids")
    with open_view(context.spool) as view:
        if view is None:
            return NOT_KNOWN
        code = 0
        for insert_id in insert_ids:
            found = list(_of_insert_id(view, insert_id))
            if not found:
                code = NOT_KNOWN
                say(
                    f"forwarder: no event of the $insert_id {printable(insert_id)} waits or is a dead letter."
                    " Of delivered ones only the ids are kept, which `forwarder enqueue --json` prints.",
                    err=True,
                )
            runs += found
        receipts = view.receipts(runs)
        standing = Standing(context)
        if as_json:
            print_lines(json.dumps(standing.fields(receipt)) for receipt in receipts)
        else:
            print_lines(_lines(view, receipts, standing))
    if any(receipt.state in ("unknown", "absent") for receipt in receipts):
        return NOT_KNOWN
    return code


def _read(words: Sequence[str]) -> list[Run]:
    """The ids that are given; those on standard input for a ``-``."""
    runs: list[Run] = []
    for word in words:
        for each in sys.stdin.read().split() if word == "-" else [word]:
            try:
                runs += runs_in(each)
            except ValueError:
                raise UsageError(
                    f"{printable(each[:40])!r} is no id", "An id is a number, and a range two, as 5-9"
                ) from None
    if (count := count_of(joined(runs))) > MOST_IDS:
        raise UsageError(f"{count:,} ids are given", f"Give {MOST_IDS:,} at most in one call")
    return runs


def _of_insert_id(view: View, insert_id: str) -> Iterator[Run]:
    # In the order in which an event moves.
    selected = Selection(insert_id=insert_id)
    for row in flat(Wanted(WAITING, selected).pages(view)):
        yield row.id, row.id
    for letter in flat(Wanted(DEAD_LETTERS, selected).pages(view, with_data=False)):
        yield letter.event_id, letter.event_id


def _lines(view: View, receipts: Sequence[Receipt], standing: Standing) -> Iterator[str]:
    """A line for each receipt, and for each that one leads to."""
    followed = _followed(view, receipts)
    for receipt in receipts:
        yield standing.line(receipt)
        while receipt.new_id:
            receipt = followed[receipt.new_id]
            yield f"  {standing.line(receipt)}"
    if standing.trouble and any(each.state == "waiting" for each in (*receipts, *followed.values())):
        yield standing.trouble


def _followed(view: View, receipts: Sequence[Receipt]) -> dict[int, Receipt]:
    """The receipts of all new ids that *receipts* lead to, each of one id."""
    found: dict[int, Receipt] = {}
    while new := [(each.new_id, each.new_id) for each in receipts if each.new_id]:
        receipts = view.receipts(new)
        for each in receipts:
            for place, row_id in enumerate(range(each.first, each.last + 1)):
                ahead = None if each.ahead is None else min(each.ahead + place, MOST_AHEAD)
                found[row_id] = replace(each, first=row_id, last=row_id, ahead=ahead)
    return found
