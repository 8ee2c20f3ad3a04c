"""Waiting until what was accepted has left the queue: ``forwarder enqueue --wait``."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import click

from forwarder import spool
from forwarder.cli.command import Context
from forwarder.cli.receipt import Standing, named
from forwarder.cli.selection import MOST_NAMED
from forwarder.cli.table import say
from forwarder.errors import TryAgainError
from forwarder.spool import Receipt, Run, count_of, joined
from forwarder.text import counted, printable

NOT_DELIVERED, INTERRUPTED = 65, 130
_GONE = {
    "deleted": "deleted by a person",
    "unknown": "no longer in the delivery log",
    "absent": "not in the database that is there now; `forwarder check` says whether one was set aside",
}


def await_delivery(context: Context, runs: Sequence[Run], timeout_s: float | None, as_json: bool) -> int:
    """Wait until none of the records with these ids waits, or the time is up, and say what became of them.

    What is retried or released meanwhile is waited for under its new id.

    Returns:
        the exit code.

    Raises:
        ForwarderError: the queue can't be read.
    """
    deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
    try:
        standing = Standing(context)
        if standing.is_alone:
            say(f"forwarder: {standing.trouble} What was accepted waits until one does.", err=True)
        found = _left(context, runs, deadline)
    except KeyboardInterrupt:
        say("Interrupted: what was accepted stays in the queue.", err=True)
        return INTERRUPTED
    return _judge(context, found, count_of(runs), as_json)


def _left(context: Context, runs: Sequence[Run], deadline: float) -> list[Receipt]:
    while True:
        spool.wait(context.spool, runs, None if deadline == math.inf else deadline - time.monotonic())
        with context.spool.view() as view:
            found = view.receipts(runs)
        new = [(each.new_id, each.new_id) for each in found if each.new_id]
        if not new:
            return found
        runs = joined([*((each.first, each.last) for each in found if not each.new_id), *new])


def _judge(context: Context, found: Sequence[Receipt], total: int, as_json: bool) -> int:
    noun = context.kind.noun.removesuffix("s")
    by_state: dict[str, list[Receipt]] = {}
    for receipt in found:
        by_state.setdefault(receipt.state, []).append(receipt)

    def count(*states: str) -> int:
        return sum(each.count for state in states for each in by_state.get(state, ()))

    for receipt in by_state.get("dead", ())[:MOST_NAMED]:
        reason = printable(receipt.reason or "")
        say(f"forwarder: {receipt.first} is dead letter {receipt.dead_letter}: {reason}", err=True)
    if count("dead") > MOST_NAMED:
        say(f"forwarder: and {counted(count('dead') - MOST_NAMED, 'dead letter')} more.", err=True)
    for state, words in _GONE.items():
        if state in by_state:
            ids = named([(each.first, each.last) for each in by_state[state]], MOST_NAMED)
            say(f"forwarder: {counted(count(state), noun)} {words}: {ids}", err=True)
    if waiting := count("waiting", "held"):
        held = f", {count('held'):,} of them held" if count("held") else ""
        trouble = Standing(context).trouble
        of_all = f"{waiting:,} of {counted(total, noun)} still {'waits' if waiting == 1 else 'wait'}{held}."
        say(f"forwarder: {of_all} {trouble}".rstrip(), err=True)
        return TryAgainError.exit_code
    if not as_json:
        passed = "handed over" if context.server else "delivered"
        click.echo(f"{passed} {counted(count('delivered'), noun)}")
    return 0 if count("delivered") == count(*by_state) else NOT_DELIVERED
