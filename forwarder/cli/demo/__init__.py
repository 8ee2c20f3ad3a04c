"""``forwarder demo``: the way of events from end to end on this machine, in seconds."""

from __future__ import annotations

from forwarder.cli.command import Context, command


@command("demo", short_help="Show the way of events from end to end on this machine.")
def demo(_context: Context) -> None:
    """Show what the forwarder does, with real processes and a stand-in for Mixpanel.

    Several programs put events into a queue, and a daemon delivers them. The server goes down and comes back.
    Some events are refused, and one of them is fixed. Then every event is accounted for. The demo takes about
    ten seconds, needs no account, reads no settings and sends nothing beyond this machine.

    Exit code: 0 if the books balance; then nothing is left on disk. Else 70, and all files are kept.
    """
    # Here, not above: `forwarder --help` imports every command.
    from forwarder.cli.demo.acts import play
    from forwarder.cli.scratch import opened

    with opened("demo") as scratch:
        play(scratch)
