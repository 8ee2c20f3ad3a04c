"""``forwarder drain``: deliver what waits, then exit; for cron."""

from __future__ import annotations

import json

import click

from forwarder.cli.command import Context, command, json_option, printable
from forwarder.cli.table import counted
from forwarder.errors import TryAgainError


@command("drain")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0), metavar="S", help="Give up after S seconds."
)
@json_option
def drain(context: Context, timeout_s: float | None, as_json: bool) -> int:
    """Deliver what waits, without lingering, then exit.

    Exits with 0 when the queue is empty, with 75 when something is left, and with 69 at once when
    delivery is blocked or paused. Without --timeout it goes on as long as it gets on, and gives up after
    a minute without progress. While a daemon runs, that one is told to try now and is waited for.

    With --json: left, how many events are left, and reason, why; "" when none is.
    """
    from forwarder import log
    from forwarder.service.run import drain as drain_queue

    settings = context.settings
    log.configure(settings.log.level, settings.log.format)
    done = drain_queue(settings, timeout_s)
    if as_json:
        click.echo(json.dumps({"left": done.left, "reason": done.reason}))
    elif done.left:
        waits = "is left; it waits" if done.left == 1 else "are left; they wait"
        because = f": {printable(done.reason).rstrip('.')}" if done.reason else ""
        click.echo(f"{counted(done.left, 'event')} {waits} in {settings.queue.path}{because}.")
    else:
        click.echo("The queue is empty.")
    return TryAgainError.exit_code if done.left else 0
