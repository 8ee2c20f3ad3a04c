"""Dead letters put back or deleted, page by page; and what was done is told, however it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import click

from forwarder import spool
from forwarder.cli.selection import MOST_NAMED, Wanted, confirm, letters
from forwarder.cli.stored import escaped, json_text
from forwarder.errors import EventError, printable
from forwarder.spool import DeadLetter, View

REFUSED, NOT_FOUND = 65, 1

# From the stored bytes and when they were accepted to the bytes to queue.
Edit = Callable[[bytes, float], bytes]


@dataclass(slots=True)
class Tally:
    """What has been done so far: *count* of them, and (id, reason) of each that *stayed*."""

    count: int = 0
    stayed: list[tuple[int, str]] = field(default_factory=list)


def is_wanted(question: str, wanted: Wanted, view: View | None, yes: bool) -> bool:
    """Whether to go on: a person says so, or there is nothing to ask about.

    Args:
        question: With ``{}`` for how many dead letters.

    Raises:
        UsageError: there is nobody to ask.
    """
    count = wanted.count(view)
    if count == 0 or confirm(question.format(letters(count)), yes):
        return True
    click.echo("Nothing was changed.", err=True)
    return False


def put_back(path: str, wanted: Wanted, view: View | None, edit: Edit) -> Tally:
    """Put those back into the queue that *edit* does not refuse."""
    with _telling("put back into the queue") as tally:
        for page in wanted.pages(view, with_data=False):
            new_ids, stayed = spool.at(path).retry_dead_letters([letter.id for letter in page], edit)
            tally.count += len(new_ids)
            tally.stayed += stayed
    return tally


def discard(path: str, wanted: Wanted, view: View | None) -> Tally:
    """Delete them."""
    with _telling("deleted") as tally:
        for page in wanted.pages(view, with_data=False):
            tally.count += spool.at(path).delete_dead_letters([letter.id for letter in page])
    return tally


@contextmanager
def _telling(done: str) -> Iterator[Tally]:
    tally = Tally()
    try:
        yield tally
    except BaseException:
        # Each page is a transaction of its own: those before the one that failed are done.
        if tally.count:
            click.echo(f"forwarder: {letters(tally.count)} {done} before it stopped:", err=True)
        raise


def tell_stayed(stayed: list[tuple[int, str]]) -> None:
    """Name those that stay, and why, on standard error."""
    for letter_id, reason in stayed[:MOST_NAMED]:
        click.echo(f"forwarder: dead letter {letter_id} stays: {printable(reason)}", err=True)
    if len(stayed) > MOST_NAMED:
        click.echo(f"forwarder: and {len(stayed) - MOST_NAMED:,} more; --dry-run tells why.", err=True)


def rehearse(found: Iterator[DeadLetter], edit: Edit, as_json: bool) -> int:
    """Show each before and after, and change nothing; returns the exit code that doing it would have."""
    code = 0
    for letter in found:
        try:
            after, refusal = edit(letter.data, letter.accepted_at), ""
        except EventError as error:
            after, refusal, code = b"", str(error), REFUSED
        if as_json:
            before = json_text(letter.data)
            click.echo(
                f'{{"id": {letter.id}, "before": {before or "null"}, "after": {json_text(after) or "null"}, '
                f'"refused": {json.dumps(refusal or None)}}}'
            )
        else:
            click.echo(f"{letter.id}  before  {escaped(letter.data)}")
            outcome = f"refused {printable(refusal)}" if refusal else f"after   {escaped(after)}"
            click.echo(f"{' ' * len(str(letter.id))}  {outcome}")
    return code
