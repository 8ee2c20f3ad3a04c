"""``forwarder run``: the daemon, in the foreground."""

from __future__ import annotations

from forwarder.cli.command import Context, command


@command("run")
def run(context: Context) -> None:
    """Deliver what waits, until stopped: the daemon, in the foreground.

    SIGTERM and SIGINT let requests in flight finish and end it, a second one hurries; SIGHUP reloads
    settings and secrets; SIGUSR1 tries now. One daemon per queue: a second one says who has it and
    exits with 75.
    """
    from forwarder.service.signals import Early, handled

    early = Early()
    with handled(early.signalled):
        import faulthandler
        from contextlib import suppress

        from forwarder import config, log
        from forwarder.service.run import run as run_daemon

        settings = context.settings
        with suppress(OSError, ValueError, RuntimeError):  # no standard error
            # Where it hung, when systemd's watchdog ends it by SIGABRT.
            faulthandler.enable()
        log.configure(settings.log.level, settings.log.format)
        run_daemon(settings, lambda: config.load(context.config_file), early)
