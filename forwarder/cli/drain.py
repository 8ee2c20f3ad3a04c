"""``forwarder drain``: deliver waiting events, then exit; for cron."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from forwarder import spool
from forwarder.cli.command import Context, command, json_option
from forwarder.cli.stored import open_view
from forwarder.cli.table import say
from forwarder.errors import TryAgainError
from forwarder.text import counted, printable

if TYPE_CHECKING:
    from forwarder.config import Settings
    from forwarder.config.settings import Queue
    from forwarder.service.destination import Destination


@command("drain")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0), metavar="S", help="Give up after S seconds."
)
@json_option
def drain(context: Context, timeout_s: float | None, as_json: bool) -> int:
    """Deliver waiting events, without lingering, then exit.

    If a daemon runs, drain asks it to try now and waits for it. Without --timeout, drain runs while events
    are being delivered. It gives up after a minute in which nothing got through, but not while a request in
    flight may still be answered.

    Exit code: 0 if nothing is left but held events (`forwarder waiting`), 75 if events are left, 69 at once
    if delivery is blocked or paused. 74 if the queue is empty but damaged databases with events were set
    aside: `forwarder salvage` recovers them.

    With --json: left, how many events are left; reason, why, "" if none is; and held. Also with exit code 69
    or 74.

    On a host with a relay it delivers from the server; `forwarder relay --drain` empties this host's queue.
    """
    return finish(context.settings, timeout_s, as_json)


def finish(settings: Settings, timeout_s: float | None, as_json: bool, to: Destination | None = None) -> int:
    """Drain the queue of *settings*, to Mixpanel or *to* there, and say what came of it. Returns the exit
    code."""
    from forwarder import log
    from forwarder.service.destination import MIXPANEL
    from forwarder.service.run import SetAsideError, StuckError
    from forwarder.service.run import drain as drain_queue

    is_auto = settings.log.format == "auto"
    if is_auto and not as_json and log.style("auto", sys.stderr, os.environ) == "json":
        # In a pipe, such as cron's mail, the log speaks as the result does: to a person.
        settings = replace(settings, log=replace(settings.log, format="console"))
    log.configure(settings.log.level, settings.log.format)
    try:
        done = drain_queue(settings, timeout_s, to or MIXPANEL)
    except (StuckError, SetAsideError) as error:
        if as_json:
            _print_json(error.left, str(error), settings.queue)
        raise
    if as_json:
        _print_json(done.left, done.reason, settings.queue)
    elif done.left:
        waits = "is left; it waits" if done.left == 1 else "are left; they wait"
        because = f": {printable(done.reason).rstrip('.')}" if done.reason else ""
        say(f"{counted(done.left, 'event')} {waits} in {spool.of(settings.queue).place}{because}.")
    else:
        held = _held(settings.queue)
        rest = f"{counted(held, 'event')} {'is' if held == 1 else 'are'} held"
        say(f"Nothing is left to deliver; {rest} (`forwarder waiting`)." if held else "The queue is empty.")
    return TryAgainError.exit_code if done.left else 0


def _held(queue: Queue) -> int:
    count = 0
    for each in spool.each(queue):
        with open_view(each) as view:
            count += view.figures().held if view else 0
    return count


def _print_json(left: int, reason: str, queue: Queue) -> None:
    click.echo(json.dumps({"left": left, "reason": reason, "held": _held(queue)}))
