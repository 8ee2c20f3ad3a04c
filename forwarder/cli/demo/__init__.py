"""``forwarder demo``: the whole way of an event on this machine, in seconds."""

from __future__ import annotations

from forwarder.cli.command import Context, command


@command("demo", short_help="Show the whole way of an event on this machine.")
def demo(_context: Context) -> None:
    """Show what the forwarder does, with real processes and a stand-in for Mixpanel.

    Several programs put events into a queue, a daemon delivers them, the far end goes down and comes back,
    some events are refused, one of those is repaired; then every event is accounted for. It takes about
    ten seconds, needs no account, reads no settings and sends nothing beyond this machine.

    Exit code: 0 if the books balance, else 70, and all files are kept to look at. Otherwise nothing is
    left behind.
    """
    # Here, not above: `forwarder --help` imports every command.
    from forwarder.cli.demo.acts import play
    from forwarder.cli.scratch import opened

    with opened("demo") as scratch:
        play(scratch)
