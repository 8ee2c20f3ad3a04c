"""``forwarder pause``, ``resume`` and ``flush``: a person's requests to the daemon."""

from __future__ import annotations

import json

import click

from forwarder.cli.command import Context, command, json_option
from forwarder.errors import UnavailableError
from forwarder.spool import DamagedError, Holder, NoQueueError, Spool


@command("pause", short_help="Stop delivery; new events are still accepted.")
@json_option
def pause(context: Context, as_json: bool) -> None:
    """Stop delivery until `forwarder resume`, also over restarts. New events are still accepted. On a host
    with a relay this stops the relay, and not the daemon of the server's queue.

    Requests in flight are finished. If there is no queue yet, one is created, so that the first daemon
    starts paused.
    """
    queue = context.spool
    before = queue.pause()
    daemon = queue.holder()
    first = "Delivery was already paused" if before else "Delivery is paused"
    rest = "" if daemon else "; no daemon runs, and one started now would not deliver"
    _tell(as_json, f"{first}{rest}. `forwarder resume` continues it.", True, daemon)


@command("resume", short_help="Start delivery again after a pause.")
@json_option
def resume(context: Context, as_json: bool) -> None:
    """Start delivery again after `forwarder pause`."""
    queue = context.spool
    before = queue.resume()
    is_there = before or _is_there(queue)
    daemon = queue.holder()
    if not is_there:
        text = f"Delivery was not paused: there is no queue of the forwarder in {queue.place} yet"
    else:
        text = "Delivery is no longer paused" if before else "Delivery was not paused"
    rest = "" if daemon or not is_there else f"; no daemon runs: {_starts_one(context)}"
    _tell(as_json, f"{text}{rest}.", False, daemon)


@command("flush", short_help="Forget the current wait and try now.")
@json_option
def flush(context: Context, as_json: bool) -> None:
    """Let the daemon forget its current wait, for a full batch or after a failure, and try now.

    Exit code: 0 if the daemon got the request, 69 if none runs.
    """
    queue = context.spool
    daemon = queue.holder()
    if daemon is None:
        once = "relay --drain" if context.server else "drain"
        raise UnavailableError(
            f"no daemon delivers from {queue.place}",
            f"{_starts_one(context)}; `forwarder {once}` delivers once",
        )
    queue.request_flush()
    with queue.view() as view:
        paused = view.figures().paused
    rest = "; but delivery is paused: `forwarder resume` continues it" if paused else " and tries now"
    _tell(as_json, f"The daemon ({daemon.name}) has the request{rest}.", paused, daemon)


def _starts_one(context: Context) -> str:
    unit, name = ("forwarder-relay", "relay") if context.server else ("forwarder", "run")
    return f"`systemctl start {unit}` or `forwarder {name}` starts one"


def _is_there(queue: Spool) -> bool:
    """Whether there is a queue of the forwarder, also a damaged one."""
    try:
        with queue.view():
            pass
    except NoQueueError:
        return False
    except DamagedError:
        pass
    return True


def _tell(as_json: bool, text: str, paused: bool, daemon: Holder | None) -> None:
    pid = daemon.pid if daemon else None
    click.echo(json.dumps({"paused": paused, "pid": pid}) if as_json else text)
