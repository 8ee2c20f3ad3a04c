"""``forwarder run``: the daemon, in the foreground."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forwarder.cli.command import Context, command

if TYPE_CHECKING:
    from forwarder.config import Settings


@command("run")
def run(context: Context) -> None:
    """Deliver waiting events until stopped: the daemon, in the foreground.

    SIGTERM and SIGINT stop it once the requests in flight are finished; a second one stops it at once.
    SIGHUP reloads settings and secrets; SIGUSR1 tries now. Only one daemon per queue: a second one says
    which process delivers and exits with 75.

    On a host with a relay it delivers from the server, `queue.url`.
    """
    serve(context)


def serve(context: Context, *, relays: bool = False) -> None:
    """Run a daemon that delivers, or *relays*."""
    from forwarder.service.signals import Early, handled

    early = Early()
    with handled(early.signalled):
        import faulthandler
        from contextlib import suppress

        from forwarder import config, log
        from forwarder.service.run import run as run_daemon

        settings = context.settings
        with suppress(OSError, ValueError, RuntimeError):  # no standard error
            # Shows where it hung if systemd's watchdog ends it with SIGABRT.
            faulthandler.enable()
        log.configure(settings.log.level, settings.log.format)

        def load() -> Settings:
            return config.load(context.config_file)

        if not relays:
            run_daemon(settings, load, early)
            return
        from forwarder.service.relay import Relay

        to = Relay(settings)
        run_daemon(to.here(settings), lambda: to.here(load()), early, to)
