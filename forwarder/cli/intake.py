"""``forwarder intake``: the HTTP door for SDKs, in the foreground."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forwarder.cli.command import Context, command
from forwarder.cli.table import say

if TYPE_CHECKING:
    from forwarder.config import Settings

# A mistake in other settings is no reason to turn producers away.
USED = ("intake", "queue", "log")


@command("intake")
def intake(context: Context) -> None:
    """Take events and updates from Mixpanel's SDKs over HTTP, into the queue, until stopped.

    It serves /track, /import, /engage and /groups on the Unix socket `intake.socket`, or on the sockets that
    systemd passes, and on `intake.listen` if that is set. It answers once a request is committed to disk, so
    it needs neither the network nor the daemon. Events with the token of another project are refused.

    SIGTERM and SIGINT stop it once all requests are answered. SIGHUP reloads all settings of [intake] but the
    sockets. /healthz answers while it lives; /metrics has figures for Prometheus.
    """
    from forwarder.service.signals import Early, handled

    early = Early()
    with handled(early.signalled):
        from forwarder import config, log
        from forwarder.intake.server import run

        def load() -> Settings:
            return config.load(context.config_file, used=USED, warn=_warn)

        settings = load()
        log.configure(settings.log.level, settings.log.format)
        run(settings, load, early)


def _warn(text: str) -> None:
    say(f"forwarder: warning: {text}", err=True)
