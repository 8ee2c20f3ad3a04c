"""``forwarder pause``, ``resume`` and ``flush``: what a person asks of the daemon."""

from __future__ import annotations

import json

import click

from forwarder.cli.command import Context, command, json_option
from forwarder.errors import UnavailableError
from forwarder.service.instance import holder, named
from forwarder.spool import DamagedError, NoQueueError, View
from forwarder.spool.sqlite import control as wishes


@command("pause", short_help="Stop delivery; events are still taken in.")
@json_option
def pause(context: Context, as_json: bool) -> None:
    """Stop delivery until `forwarder resume`, over restarts too. Events are still taken in.

    What is on its way to Mixpanel at this moment is settled. Where there is no queue yet, one is made, so
    that the first daemon to come begins paused.
    """
    path = context.queue_path
    before = wishes.pause(path)
    pid = holder(path)
    first = "Delivery was paused already" if before else "Delivery is paused"
    rest = "" if pid is not None else "; no daemon runs, and one that is started will not deliver either"
    _tell(as_json, f"{first}{rest}. `forwarder resume` goes on.", True, pid)


@command("resume", short_help="Start delivery again after a pause.")
@json_option
def resume(context: Context, as_json: bool) -> None:
    """Start delivery again after `forwarder pause`."""
    path = context.queue_path
    before = wishes.resume(path) if _is_there(path) else None
    pid = holder(path)
    if before is None:
        text = f"Delivery was not paused: the forwarder has not used a queue in {path} yet"
    else:
        text = "Delivery is no longer paused" if before else "Delivery was not paused"
    rest = "" if pid is not None or before is None else "; no daemon runs: `forwarder run` starts one"
    _tell(as_json, f"{text}{rest}.", False, pid)


@command("flush", short_help="Forget the present wait and try now.")
@json_option
def flush(context: Context, as_json: bool) -> None:
    """Let the daemon forget its present wait, for company or after a failure, and try now.

    Exit code: 0 when the daemon has been told, 69 if none runs.
    """
    path = context.queue_path
    pid = holder(path)
    if pid is None:
        raise UnavailableError(
            f"no daemon delivers from {path}",
            "Start one with `forwarder run`, or deliver once with `forwarder drain`",
        )
    wishes.request_flush(path)
    with View(path) as view:
        paused = view.figures().paused
    rest = "; but delivery is paused: `forwarder resume` goes on" if paused else " and tries now"
    _tell(as_json, f"The daemon ({named(pid)}) is told{rest}.", paused, pid)


def _is_there(path: str) -> bool:
    """Whether there is a queue of ours, be it damaged."""
    try:
        View(path).close()
    except NoQueueError:
        return False
    except DamagedError:
        pass
    return True


def _tell(as_json: bool, text: str, paused: bool, pid: int | None) -> None:
    click.echo(json.dumps({"paused": paused, "pid": pid}) if as_json else text)
