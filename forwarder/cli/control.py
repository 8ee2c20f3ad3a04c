"""``forwarder pause``, ``resume`` and ``flush``: what a person asks of the daemon."""

from __future__ import annotations

import json

import click

from forwarder import spool
from forwarder.cli.command import Context, command, json_option
from forwarder.errors import UnavailableError
from forwarder.spool import DamagedError, Holder, NoQueueError, Spool


@command("pause", short_help="Stop delivery; events are still taken in.")
@json_option
def pause(context: Context, as_json: bool) -> None:
    """Stop delivery until `forwarder resume`, over restarts too. Events are still taken in.

    What is on its way to Mixpanel at this moment is settled. Where there is no queue yet, one is made, so
    that the first daemon to come begins paused.
    """
    queue = spool.at(context.queue_path)
    before = queue.pause()
    daemon = queue.holder()
    first = "Delivery was paused already" if before else "Delivery is paused"
    rest = "" if daemon else "; no daemon runs, and one that is started will not deliver either"
    _tell(as_json, f"{first}{rest}. `forwarder resume` goes on.", True, daemon)


@command("resume", short_help="Start delivery again after a pause.")
@json_option
def resume(context: Context, as_json: bool) -> None:
    """Start delivery again after `forwarder pause`."""
    queue = spool.at(context.queue_path)
    before = queue.resume()
    is_there = before or _is_there(queue)
    daemon = queue.holder()
    if not is_there:
        text = f"Delivery was not paused: the forwarder has not used a queue in {queue.place} yet"
    else:
        text = "Delivery is no longer paused" if before else "Delivery was not paused"
    rest = "" if daemon or not is_there else "; no daemon runs: `forwarder run` starts one"
    _tell(as_json, f"{text}{rest}.", False, daemon)


@command("flush", short_help="Forget the present wait and try now.")
@json_option
def flush(context: Context, as_json: bool) -> None:
    """Let the daemon forget its present wait, for company or after a failure, and try now.

    Exit code: 0 when the daemon has been told, 69 if none runs.
    """
    queue = spool.at(context.queue_path)
    daemon = queue.holder()
    if daemon is None:
        raise UnavailableError(
            f"no daemon delivers from {queue.place}",
            "Start one with `forwarder run`, or deliver once with `forwarder drain`",
        )
    queue.request_flush()
    with queue.view() as view:
        paused = view.figures().paused
    rest = "; but delivery is paused: `forwarder resume` goes on" if paused else " and tries now"
    _tell(as_json, f"The daemon ({daemon.name}) has the request{rest}.", paused, daemon)


def _is_there(queue: Spool) -> bool:
    """Whether there is a queue of ours, be it damaged."""
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
