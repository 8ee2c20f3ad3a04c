"""Changing many dead letters or waiting events, page by page, with a report however it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import click

from forwarder.cli.selection import MOST_NAMED, Row, Wanted
from forwarder.cli.stored import escaped, json_text
from forwarder.cli.table import say
from forwarder.errors import EventError
from forwarder.spool import DeadLetter, Spool, View
from forwarder.text import printable

REFUSED, NOT_FOUND = 65, 1

# Takes the stored bytes and the time of acceptance, and returns the bytes to queue.
Edit = Callable[[bytes, float], bytes]


@dataclass(slots=True)
class Done:
    """What has been done so far: *count* of them, and (id, reason) of each that *stayed*."""

    count: int = 0
    stayed: list[tuple[int, str]] = field(default_factory=list)


def put_back(queue: Spool, wanted: Wanted[DeadLetter], view: View | None, edit: Edit) -> Done:
    """Put dead letters back into the queue, unless *edit* refuses them."""
    with _reporting(wanted, "put back into the queue") as done:
        for page in wanted.pages(view, with_data=False):
            new_ids, stayed = queue.retry_dead_letters([letter.id for letter in page], edit)
            done.count += len(new_ids)
            done.stayed += stayed
    return done


def change(
    wanted: Wanted[Row], view: View | None, verb: str, act: Callable[[list[int]], int], as_json: bool
) -> int:
    """Apply *act* to all wanted rows. It takes some ids, and returns how many of them existed.

    Args:
        verb: The action in one word, such as "deleted".

    Returns:
        the exit code.
    """
    with _reporting(wanted, verb) as done:
        left = 0
        for page in wanted.pages(view, with_data=False):
            count = act([row.id for row in page])
            done.count, left = done.count + count, left + len(page) - count
    missing = wanted.missing()
    if left:
        why = "gone meanwhile, being sent, or no event"
        say(f"forwarder: {wanted.noun.counted(left)} could not be {verb}: {why}.", err=True)
    if as_json:
        click.echo(json.dumps({verb: done.count, "missing": missing}))
    elif done.count or not wanted.say_none():
        click.echo(f"{wanted.noun.counted(done.count)} {verb}.")
    return NOT_FOUND if missing or left else 0


@contextmanager
def _reporting(wanted: Wanted[Row], verb: str) -> Iterator[Done]:
    done = Done()
    try:
        yield done
    except BaseException:
        # Each page is its own transaction: the pages before the failed one are done.
        if done.count:
            say(f"forwarder: {wanted.noun.counted(done.count)} {verb} before it stopped:", err=True)
        raise


def tell_stayed(stayed: list[tuple[int, str]]) -> None:
    """Print the dead letters that stay, and why, on standard error."""
    for letter_id, reason in stayed[:MOST_NAMED]:
        say(f"forwarder: dead letter {letter_id} stays: {printable(reason)}", err=True)
    if len(stayed) > MOST_NAMED:
        say(f"forwarder: and {len(stayed) - MOST_NAMED:,} more; --dry-run shows why.", err=True)


def rehearse(found: Iterator[DeadLetter], edit: Edit, as_json: bool) -> int:
    """Show each before and after; nothing is changed. Returns the exit code that a real run would have."""
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
