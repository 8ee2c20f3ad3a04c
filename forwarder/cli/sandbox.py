"""``forwarder sandbox``: a stand-in for Mixpanel in the foreground."""

from __future__ import annotations

import json
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import click

from forwarder.cli.command import Context, command, json_option
from forwarder.cli.completion import values
from forwarder.errors import UnavailableError, UsageError
from forwarder.sandbox.faults import NAMES
from forwarder.text import counted, printable

if TYPE_CHECKING:
    from forwarder.sandbox import Exchange, Sandbox


@command("sandbox")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8087,
    show_default=True,
    help="Port to listen on; 0: any free one.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--token", default="sandbox-token", show_default=True, help="Project token to accept.")
@click.option(
    "--project",
    type=click.Choice(["simplified", "original"]),
    default="simplified",
    show_default=True,
    help="simplified: refuses identity events; original: accepts them, and requires a distinct_id.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="NAME[:KEY=VALUE,…]",
    shell_complete=values.one_of(NAMES),
    help=f"Start with this fault, one of {', '.join(NAMES)}. A wrong KEY lists the keys of a fault.",
)
@click.option("--latency-ms", type=click.IntRange(0), default=0, help="Let each request take this long.")
@click.option(
    "--max-body-bytes",
    type=click.IntRange(1),
    default=10 * 1024 * 1024,
    show_default=True,
    help="The largest accepted request, unpacked; a larger one gets 413.",
)
@json_option
def sandbox(
    _context: Context,
    port: int,
    host: str,
    token: str,
    project: str,
    faults: tuple[str, ...],
    latency_ms: int,
    max_body_bytes: int,
    as_json: bool,
) -> None:
    """Run a stand-in for Mixpanel's /import, /track, /engage and /groups here, until interrupted.

    It checks and answers as Mixpanel does, drops repeats, and prints a line for each request. Inject faults
    with --fault, such as --fault throttle:times=3,retry_after_s=2 or --fault slow:delay_s=0.25; or while it
    runs, with POST to /sandbox/faults.
    """
    from forwarder.sandbox import Sandbox

    # Before the first line is printed: a program that waits for it may stop us at once.
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = Sandbox(
        port,
        host=host,
        token=token,
        project=project,
        max_body_bytes=max_body_bytes,
        latency_s=latency_ms / 1000,
        keep_data=False,
        on_request=_printer(as_json, stop),
    )
    try:
        server.start()
    except OSError as error:
        raise UnavailableError(
            f"can't listen on {host} port {port}: {error.strerror}",
            "Choose another --port; 0 is any free one.",
        ) from None
    try:
        _inject(server, faults)
        _say_ready(server, as_json)
        stop.wait()
    finally:
        server.close()
    _say_summary(server, as_json)


def _inject(server: Sandbox, faults: tuple[str, ...]) -> None:
    from forwarder.sandbox import control

    for text in faults:
        try:
            control.inject(server, control.parse_fault(text))
        except ValueError as error:
            raise UsageError(f"--fault {text}: {error}") from None


def _say_ready(server: Sandbox, as_json: bool) -> None:
    endpoint = server.endpoint
    username, secret, project_id = endpoint.account
    if as_json:
        ready = {"url": server.url, "token": endpoint.token, "service_account": username}
        click.echo(
            json.dumps({**ready, "secret": secret, "project_id": project_id, "project": endpoint.project})
        )
    else:
        accounts = f"service account {username}, secret {secret}, project {project_id}"
        click.echo(f"Sandbox ready at {server.url} - token {endpoint.token}, or {accounts}")


def _printer(as_json: bool, stop: threading.Event) -> Any:
    def say(exchange: Exchange) -> None:
        try:
            click.echo(json.dumps(_record(exchange)) if as_json else _line(exchange))
        except OSError:
            stop.set()  # the reader of our output is gone

    return say


def _record(exchange: Exchange) -> dict[str, Any]:
    return {name: getattr(exchange, name) for name in exchange.__slots__}


def _line(exchange: Exchange) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(exchange.at))
    outcome = str(exchange.status) if exchange.status else "---"
    words = [clock, exchange.method, printable(exchange.path.partition("?")[0]), outcome]
    if exchange.is_probe:
        return " ".join([*words, "a probe: an event without a name, refused as intended"])
    words += [f"{counted(exchange.events, 'event')},", f"{exchange.new} new, {exchange.repeats} repeated,"]
    words += [f"{exchange.failed} failed, {exchange.size_bytes} bytes, {exchange.took_s * 1000:.0f} ms"]
    return " ".join([*words, f"[{exchange.fault}]"] if exchange.fault else words)


def _say_summary(server: Sandbox, as_json: bool) -> None:
    figures = server.ledger.figures()
    del figures["version"], figures["in_progress"]
    if as_json:
        click.echo(json.dumps({"summary": figures}))
    else:
        click.echo(
            f"Stopped after {counted(figures['requests'], 'request')}: "
            f"{counted(figures['accepted'], 'event')}, {counted(figures['repeats'], 'repeat')}, "
            f"{figures['altered']:,} of them with other bytes."
        )
