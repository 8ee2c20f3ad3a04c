"""``forwarder setup``: what a queue needs on its server."""

from __future__ import annotations

import click

from forwarder.cli.command import Context, command
from forwarder.cli.table import say
from forwarder.errors import UsageError


@command("setup", short_help="Make what a queue needs on its server.")
@click.option("--sql", "as_sql", is_flag=True, help="Only print the SQL, for whoever may run it.")
def setup(context: Context, as_sql: bool) -> None:
    """Make the schema, tables and roles that the queue needs on the server of `queue.url`, or bring them up
    to date. Events in it stay.

    Run it before the first daemon and after an update, as a user who may create them: nothing else creates
    anything there. A queue in a directory needs no setup.

    With --sql nothing is done, and no server is needed: the SQL for `queue.schema` is printed, for whoever
    may run it.
    """
    from forwarder import spool

    queue = context.server or context.queue
    if as_sql:
        click.echo(spool.set_up_sql(queue))
        return
    if not queue.url:
        raise UsageError(
            "queue.url is not set: only a queue on a server needs a setup",
            "Set queue.url, or $FORWARDER_QUEUE_URL; a queue in a directory is made by its first event",
        )
    for line in spool.set_up(queue):
        say(line)
