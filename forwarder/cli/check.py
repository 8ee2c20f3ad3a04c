"""``forwarder check``: what is in order, and what is not."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from forwarder import spool
from forwarder.cli.command import Context, command, json_option
from forwarder.cli.table import styled, terminal_width, wrapped
from forwarder.errors import (
    ConfigError,
    ForwarderError,
    NotPermittedError,
    StorageError,
    TryAgainError,
    UnavailableError,
    UsageError,
)
from forwarder.records import KINDS
from forwarder.spool import FAIL, OK, WARNING, Finding, Holder, Spool
from forwarder.text import printable

if TYPE_CHECKING:
    from forwarder.config import Settings

_COLOURS = {OK: "green", WARNING: "yellow", FAIL: "red"}
_PRIORITIES = {OK: 6, WARNING: 4, FAIL: 3}


@command("check", short_help="Check settings, permissions, disk, database and books.")
@click.option(
    "--online", is_flag=True, help="Also ask Mixpanel whether it accepts the key; nothing is stored."
)
@click.option("--settings", "briefly", is_flag=True, help="Quick check: only what `run` needs to start.")
@click.option("--alert", is_flag=True, help="Also run alerts.command, with a text that says it is a test.")
@json_option
def check(context: Context, online: bool, briefly: bool, alert: bool, as_json: bool) -> int:
    """Check settings, key, permissions, disk, database and books, and whether a daemon runs.

    Each check is a line: ok, warning or FAIL, then its name. Nothing is changed, and the daemon keeps
    running. The database is read as a whole. If millions of events wait, what takes too long is left out; the
    line says so.

    With --settings only settings, key and permissions are checked. A systemd unit does this before it starts
    or reloads the daemon; it passes even if the queue is full or damaged.

    Exit code: 0 if nothing fails, else that of the first failure: 78 settings or key, 77 permissions, 75 no
    room, 74 a damaged database, 1 books that do not balance. With --online: 78 if Mixpanel does not accept
    the key or the address is wrong, 69 if it is not reachable. With --alert: 69 if the command fails, which
    runs as this user, and not within the limits of the service.

    On a host with a relay this is about the host's own queue, and whether the relay can hand over; then about
    the queue on the server, if this user may look at it.
    """
    if briefly and (online or alert):
        raise UsageError("--settings and --online or --alert exclude each other", "Use one of them")
    code = 0
    for found in examine(context, online, briefly, alert):
        code = code or found.exit_code
        if as_json:
            click.echo(json.dumps({"name": found.name, "result": found.result, "detail": found.detail}))
        else:
            click.echo(_line(found))
    return code


def _line(found: Finding) -> str:
    from forwarder import log

    lines = (printable(line).strip() for line in found.detail.splitlines())
    if log.style("auto", sys.stdout, os.environ) == "journal":
        # In the journal each line is an entry, with the priority in front of it.
        return f"<{_PRIORITIES[found.result]}>{found.result} {found.name}: {' '.join(lines)}"
    width = terminal_width()
    text = f"{found.name}: " + "\n".join(lines)
    parts = (part for line in text.split("\n") for part in wrapped(line, width and width - 8))
    word = styled(f"{found.result:<7}", fg=_COLOURS[found.result])
    return f"{word} " + "\n        ".join(parts)


def examine(context: Context, online: bool, briefly: bool = False, alert: bool = False) -> Iterator[Finding]:
    """Check one thing after the other. Without valid settings nothing else can be checked."""
    try:
        settings = context.settings
    except ForwarderError as error:
        yield _failed("settings", error)
        return
    yield Finding("settings", OK, settings.file or "no settings file; defaults and environment")
    yield from _check_listen(settings.metrics.listen)
    yield from _check_intake(settings)
    try:
        queue = spool.of(settings.door)
    except ForwarderError as error:
        yield _failed("queue", error)
        return
    key = list(_check_key(settings, queue, online))
    # A relay needs none; beside it a daemon may deliver from the server.
    yield from (found for found in key if not (settings.is_relay and found.exit_code))
    yield from queue.findings(**_limits(settings), briefly=briefly)
    if briefly:
        return
    yield _check_daemon(queue, "relay" if settings.is_relay else "daemon")
    if settings.is_relay:
        yield from _check_server(settings)
    if online and not any(found.exit_code for found in key):
        yield _ask_mixpanel(settings)
    if alert:
        yield _try_alert(settings)


def _limits(settings: Settings) -> dict[str, Any]:
    return {"max_bytes": settings.queue.max_bytes, "min_free_bytes": settings.queue.min_free_bytes}


def _failed(name: str, error: ForwarderError) -> Finding:
    return Finding(name, FAIL, str(error), error.exit_code)


def _check_listen(listen: str) -> Iterator[Finding]:
    from forwarder.config.addresses import host_and_port, is_loopback

    if listen and not is_loopback(host_and_port(listen)[0]):
        detail = f"metrics.listen is {listen}: anyone who reaches it over the network can read the figures"
        yield Finding("metrics", WARNING, f"{detail}; 127.0.0.1 is for this host only")


def _check_intake(settings: Settings) -> Iterator[Finding]:
    """The HTTP intake, where its settings say that it is used."""
    import urllib.request

    from forwarder.config import find_secret
    from forwarder.config.addresses import host_and_port, is_loopback

    said, name = settings.intake, "intake"
    if said == type(said)():
        return
    has_token = said.tokens or (not settings.mixpanel.service_account and find_secret(settings, "token"))
    if not (has_token or os.environ.get("MAINPID")):  # as for the key
        what = "intake.tokens is not set, and no project's token signs in"
        detail = f'{what}: `forwarder intake` would end. Give the token of the project: tokens = ["..."]'
        yield Finding(name, WARNING, detail)
    if not said.listen:
        return
    host = host_and_port(said.listen)[0]
    who = "any user of this host" if is_loopback(host) else "anyone who reaches it over the network"
    yield Finding(name, WARNING, f"intake.listen is {said.listen}: {who} can write events through it")
    proxies = urllib.request.getproxies_environment()
    bypasses = urllib.request.proxy_bypass_environment(host, proxies)  # type: ignore[attr-defined]
    if "http" in proxies and not bypasses:
        detail = f"http_proxy is set, and no_proxy does not name {host}: programs would ask the proxy for it"
        yield Finding(name, WARNING, detail)


def _check_key(settings: Settings, queue: Spool, online: bool) -> Iterator[Finding]:
    from forwarder.config import find_secret, load_credentials

    try:
        credentials, warnings = load_credentials(settings)
    except ForwarderError as error:
        given = any(find_secret(settings, kind) for kind in ("secret", "token"))
        is_hidden = not given or isinstance(error, NotPermittedError)
        # systemd.exec(5): set for commands beside the daemon, as in a reload, which get no credentials.
        if is_hidden and not online and (os.environ.get("MAINPID") or _is_held(queue)):
            yield Finding("key", OK, "not checked here: only the running daemon can read it")
        else:
            yield _failed("key", error)
        return
    for warning in warnings:
        yield Finding("key", WARNING, warning)
    if not warnings:
        yield Finding("key", OK, "a service account" if credentials.project_id else "a project's token")


def _is_held(queue: Spool) -> bool:
    try:
        return queue.holder() is not None
    except ForwarderError:
        return False


def _check_server(settings: Settings) -> Iterator[Finding]:
    """Where the relay takes this host's queue: whether it can, and the rest as far as this user may look."""
    queue = spool.of(settings.queue)
    try:
        for kind in KINDS.values():
            with closing(spool.handover(settings.queue, kind)) as way:
                way.check()
    except (TryAgainError, StorageError) as error:
        yield Finding("handover", WARNING, f"{error}; events are accepted here, and wait")
        return
    except ForwarderError as error:
        yield _failed("handover", error)
        return
    yield Finding("handover", OK, f"possible, to {queue.place}")
    try:
        with queue.view():
            pass
    except ForwarderError:
        return  # a producer's role may not look
    for found in (*queue.findings(**_limits(settings)), _check_daemon(queue, "daemon")):
        yield replace(found, name=f"server: {found.name}")


def _check_daemon(queue: Spool, name: str) -> Finding:
    from forwarder.service import state

    try:
        daemon = state.read(queue)
    except NotPermittedError:
        return Finding(name, WARNING, "this user can't see whether one runs")
    except ForwarderError as error:
        return Finding(name, WARNING, str(error))
    if daemon is None:
        return Finding(name, WARNING, "none runs; new events are accepted and wait")
    if daemon.orphaned:
        detail = (
            f"files of the queue were moved or replaced under it; only the old ones hold {daemon.orphaned}"
        )
        return Finding(name, FAIL, detail, StorageError.exit_code)
    reason = f": {daemon.state_reason}" if daemon.state_reason else ""
    detail = f"{Holder(daemon.pid, host=daemon.host).name}, {daemon.state}{reason}"
    return Finding(name, OK if daemon.state == "running" else WARNING, detail)


def _ask_mixpanel(settings: Settings) -> Finding:
    from forwarder.delivery.wire.credential_check import check_credentials
    from forwarder.records import EVENTS

    try:
        found = check_credentials(settings, EVENTS)
    except ForwarderError as error:
        return _failed("Mixpanel", error)
    if found.taken:
        return Finding("Mixpanel", OK, found.detail)
    kind = ConfigError if found.misconfigured else UnavailableError
    return Finding("Mixpanel", FAIL, found.detail, kind.exit_code)


def _try_alert(settings: Settings) -> Finding:
    from forwarder.service.alerts import Alert, Command, message
    from forwarder.service.status import gather

    name, command = "alerts", settings.alerts.command
    if not command:
        return Finding(name, FAIL, "alerts.command is not set: it alerts nobody", ConfigError.exit_code)
    alert = Alert("test", "this is a test, nothing has happened")
    try:
        why = Command().run(command, alert, message(alert, gather(settings.door)))
    except ForwarderError as error:
        return _failed(name, error)
    if why:
        return Finding(name, FAIL, f"alerts.command failed: {why}", UnavailableError.exit_code)
    return Finding(name, OK, "alerts.command has read a test text, and ended with exit code 0")
