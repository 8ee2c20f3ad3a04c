"""``forwarder drain``: deliver what waits, then exit; for cron."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace

import click

from forwarder import spool
from forwarder.cli.command import Context, command, json_option
from forwarder.cli.table import counted
from forwarder.errors import TryAgainError, printable
from forwarder.spool import NoQueueError


@command("drain")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0), metavar="S", help="Give up after S seconds."
)
@json_option
def drain(context: Context, timeout_s: float | None, as_json: bool) -> int:
    """Deliver what waits, without lingering, then exit.

    Exits with 0 when the queue is empty, with 75 when something is left, and with 69 at once when
    delivery is blocked or paused. With 74 when nothing is left but in damaged databases that were set
    aside: `forwarder salvage` brings it back. Without --timeout it gives up after a minute in which
    nothing got through, but not while a request is out that may still be answered. While a daemon runs,
    that one is told to try now and is waited for.

    With --json: left, how many events are left, and reason, why, also when it exits with 69 or 74; ""
    when none is.
    """
    from forwarder import log
    from forwarder.service.run import SetAsideError, StuckError
    from forwarder.service.run import drain as drain_queue

    settings = context.settings
    is_auto = settings.log.format == "auto"
    if is_auto and not as_json and log.style("auto", sys.stderr, os.environ) == "json":
        # In a pipe, such as cron's mail, the log speaks as the result does: to a person.
        settings = replace(settings, log=replace(settings.log, format="console"))
    log.configure(settings.log.level, settings.log.format)
    try:
        done = drain_queue(settings, timeout_s)
    except (StuckError, SetAsideError) as error:
        if as_json:
            _print_json(error.left, str(error))
        raise
    if as_json:
        _print_json(done.left, done.reason)
    elif done.left:
        waits = "is left; it waits" if done.left == 1 else "are left; they wait"
        because = f": {printable(done.reason).rstrip('.')}" if done.reason else ""
        click.echo(f"{counted(done.left, 'event')} {waits} in {settings.queue.path}{because}.")
    else:
        held = _held(settings.queue.path)
        rest = f"{counted(held, 'event')} {'is' if held == 1 else 'are'} held"
        click.echo(f"Nothing is left to deliver; {rest}." if held else "The queue is empty.")
    return TryAgainError.exit_code if done.left else 0


def _held(path: str) -> int:
    try:
        with spool.at(path).view() as view:
            return view.figures().held
    except NoQueueError:
        return 0


def _print_json(left: int, reason: str) -> None:
    click.echo(json.dumps({"left": left, "reason": reason}))
