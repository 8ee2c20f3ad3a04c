"""``forwarder relay``: from this host's queue to the one on a server."""

from __future__ import annotations

import click

from forwarder.cli.command import Context, command
from forwarder.errors import UsageError


@command("relay")
@click.option("--drain", "drains", is_flag=True, help="Hand over what waits, then exit, as drain does.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0), metavar="S", help="Drain for S seconds at most."
)
def relay(context: Context, drains: bool, timeout_s: float | None) -> int:
    """Hand this host's events over to the queue on the server, each once, until stopped.

    It needs `queue.path`, the queue of this host, and `queue.url`, the server's. While the server is away,
    events are accepted as ever, and wait here. An event is handed over once, whatever is killed or cut off in
    between. Signals are as for `forwarder run`. It needs no key of Mixpanel, and on the server only the role
    of a producer.

    With --drain it ends when nothing waits here; the exit codes are those of `forwarder drain`.
    """
    if not drains:
        if timeout_s is not None:
            raise UsageError("--timeout is for --drain", "Without it, the relay runs until it is stopped")
        from forwarder.cli.run import serve

        serve(context, relays=True)
        return 0
    from forwarder.cli.drain import finish
    from forwarder.service.relay import Relay

    to = Relay(context.settings)
    return finish(to.here(context.settings), timeout_s, as_json=False, to=to)
