"""``forwarder drain``: deliver what waits, then exit; for cron."""

from __future__ import annotations

import sys

import click

from forwarder.cli.command import Context, command


@command("drain")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0), metavar="S", help="Give up after S seconds."
)
def drain(context: Context, timeout_s: float | None) -> None:
    """Deliver what waits, without lingering, then exit.

    Exits with 0 when the queue is empty, with 75 when something is left, and with 69 at once when
    delivery is blocked or paused. Without --timeout it goes on as long as it gets on, and gives up after
    a minute without progress. While a daemon runs, that one is told to try now and is waited for.
    """
    from forwarder import log
    from forwarder.service.run import drain as drain_queue

    settings = context.settings
    log.configure(settings.log.level, settings.log.format)
    left = drain_queue(settings, timeout_s)
    if left:
        click.echo(f"{left} events are left; they wait in {settings.queue.path}.")
        sys.exit(75)
    click.echo("The queue is empty.")
