"""``forwarder status``: how the queue and the daemon are."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from forwarder import spool
from forwarder.cli.command import Context, command, json_option
from forwarder.cli.completion import values
from forwarder.cli.conditions import Condition, beginnings, understand
from forwarder.cli.stored import as_sentence
from forwarder.cli.table import counted, duration, instant, say, since, styled, terminal_width, wrapped
from forwarder.errors import ForwarderError, printable, size
from forwarder.records import EVENTS, KINDS
from forwarder.service import state as daemon_state
from forwarder.service.state import DaemonState
from forwarder.spool import Figures, Holder, NoQueueError, Spool, UnusedQueueError

if TYPE_CHECKING:
    from forwarder.config.settings import Queue

WATCH_S = 1.0
# A backlog, and not what is on its way: as many as go into one request.
MANY = 2000
# On fewer columns each figure stands below its name.
NARROW = 50

# Every key, in the order of printing, at its value while there is no queue.
NOTHING: Mapping[str, Any] = {
    "accepted": 0,
    "delivered": 0,
    "dead_lettered": 0,
    "deleted": 0,
    "waiting": 0,
    "in_flight": 0,
    "oldest_waiting_s": 0.0,
    "state": "stopped",
    "state_reason": "",
    "last_delivery_at": "",
    "last_error": "",
    "rate_1m": 0.0,
    "eta_s": 0.0,
    "db_bytes": 0,
    "wal_bytes": 0,
    "disk_free_bytes": 0,
    "dead_letters": 0,
    "retried": 0,
    "discarded": 0,
    "short": 0,
    "refused": 0,
    "last_error_at": "",
    "set_aside": 0,
    "orphaned": "",
    "paused": False,
    "pid": 0,
    "host": "",
    "connections": 0,
    "queue_path": "",
    "exists": False,
    "known": True,
    "held": 0,
    "accepted_1m": 0.0,
    "request_p50_s": 0.0,
    "request_p95_s": 0.0,
}
# The same of each other kind of records, in an object by the name of its queue.
_OF_KIND = (
    "accepted", "delivered", "dead_lettered", "deleted", "waiting", "in_flight", "oldest_waiting_s", "state",
    "state_reason", "last_delivery_at", "rate_1m", "dead_letters", "retried", "discarded", "refused", "held",
    "accepted_1m",
)  # fmt: skip
_KINDS = {kind.queue: kind for kind in KINDS.values() if kind is not EVENTS}
# What is unknown, or has never been, is null; --fail-if compares with the value in `NOTHING`.
_NULL_WHEN_EMPTY = (
    "last_delivery_at",
    "last_error",
    "last_error_at",
    "pid",
    "host",
    "request_p50_s",
    "request_p95_s",
)
STATES = ("running", "backing_off", "blocked", "paused", "stopped")
# Every key of --fail-if.
KEYS: Mapping[str, Any] = {
    **NOTHING,
    **{f"{queue}.{key}": NOTHING[key] for queue in _KINDS for key in _OF_KIND},
}
CHOICES = {key: STATES for key in KEYS if key.rpartition(".")[2] == "state"}
_COLOURS = {"running": "green", "backing_off": "yellow", "blocked": "red", "paused": "yellow"}


@command("status", short_help="How the queue and the daemon are.")
@json_option
@click.option("--watch", is_flag=True, help="Refresh every second, until interrupted.")
@click.option(
    "--fail-if",
    "expressions",
    metavar="EXPRESSION",
    shell_complete=values.one_of(beginnings(KEYS, CHOICES)),
    multiple=True,
    help="Exit with 1 if this holds, such as 'oldest_waiting_s>10m' or 'state==blocked'. Repeatable.",
)
def status(context: Context, as_json: bool, watch: bool, expressions: tuple[str, ...]) -> int:
    """Say whether events are being delivered, how many wait, and whether the books balance.

    The state is one of running, backing_off (Mixpanel can't be reached, or asks to slow down), blocked
    (a person has to fix something), paused and stopped (no daemon runs). waiting counts all events in the
    queue, also those in flight and those held; dead_lettered counts all that were ever refused, dead_letters
    those that are kept now. Durations are in seconds, sizes in bytes. rate_1m and accepted_1m are the events
    a second delivered and accepted over the last minute; eta_s follows from both, and is null while the
    queue does not get shorter. request_p50_s and request_p95_s are of the requests whose events were settled
    in the last minute; requests counts all since the daemon's start by their outcome.

    All figures are of events; engage and groups have those of profile and group updates. The state is the
    worst of all kinds. Of a queue on a server, queue_path names the server, host is the host of the daemon,
    standbys is the setting (null of a directory), and wal_bytes and disk_free_bytes are null. On a host with
    a relay all this is of the host's own queue, where delivered means handed over; server has the same keys
    for the queue on the server, its state_reason says why they are not known, and it is null on other hosts.

    Exit code: 0, or 1 if a condition of --fail-if is true. A condition is a key of --json, one of > >= < <=
    == !=, and a number or text. A number of seconds may end in s, m, h or d, one of bytes in KiB, MiB or
    GiB. An eta_s or a disk_free_bytes that is null counts as endless. Where nothing is known, as of a queue
    not adopted yet, every condition is true. With --watch, the first condition that is true ends it.
    """
    conditions = [understand(expression, KEYS, CHOICES) for expression in expressions]
    if not watch:
        return _show_once(gather(context.queue, context.server), as_json, conditions)
    try:
        return _watch(context, as_json, conditions)
    except KeyboardInterrupt:
        return 0


def nothing() -> dict[str, Any]:
    """All keys, at their values while there is no queue."""
    kinds = {name: _nothing_of_kind() for name in _KINDS}
    return {**NOTHING, "requests": {}, **kinds, "standbys": None, "server": None}


def gather(queue: Queue, server: Queue | None = None) -> dict[str, Any]:
    """All keys of ``status --json`` for the *queue* of the settings, and for the *server* of a relay."""
    found = _gather(queue, "relay" if server else "daemon")
    if server:
        try:
            found["server"] = _gather(server)
        except ForwarderError as error:
            place = spool.of(server).place
            found["server"] = _unknown(place, f"the queue on the server can't be seen: {error}", known=False)
    return found


def _unknown(place: str, reason: str, *, known: bool) -> dict[str, Any]:
    """All keys where there is no queue to look at."""
    found = {**nothing(), "queue_path": place, "state_reason": reason, "known": known}
    return found | dict.fromkeys(_NULL_WHEN_EMPTY)


def _gather(queue: Queue, who: str = "daemon") -> dict[str, Any]:
    events, *others = spool.each(queue)
    found = {**nothing(), "queue_path": events.place, "set_aside": len(events.set_aside())}
    try:
        with events.view() as view:
            figures, refused = view.figures(), view.refused()
    except NoQueueError as error:
        is_known = not isinstance(error, UnusedQueueError)
        return _unknown(events.place, str(error), known=is_known) | {"set_aside": found["set_aside"]}
    found |= _durable(figures, refused)
    found["exists"] = True
    found["standbys"] = queue.standbys if queue.url else None
    daemon = daemon_state.read(events)
    if daemon:
        for key in found.keys() & set(daemon.__slots__):
            found[key] = getattr(daemon, key)
        found["last_error_at"] = instant(daemon.last_error_at or None)
        # What the daemon says of itself may be a moment older than the figures.
        found["in_flight"] = min(found["in_flight"], figures.due)
    elif figures.paused:
        found["state_reason"] = f"no {who} runs, and delivery is paused (`forwarder resume`)"
    else:
        found["state_reason"] = f"no {who} runs"
    found |= {other.kind.queue: _of_kind(other, daemon, found) for other in others}
    if figures.took_s:
        for key, part in (("request_p50_s", 0.5), ("request_p95_s", 0.95)):
            found[key] = round(figures.took_s[int(len(figures.took_s) * part)], 3)
    if figures.due:
        net = figures.rate_1m - figures.accepted_1m
        found["eta_s"] = round(figures.due / net, 1) if net > 0 and found["state"] == "running" else None
    return found | {key: found[key] or None for key in _NULL_WHEN_EMPTY}


def _durable(figures: Figures, refused: Mapping[str, int]) -> dict[str, Any]:
    """What the queue's figures say, under the keys of `NOTHING`."""
    found = {key: getattr(figures, key) for key in NOTHING.keys() & set(figures.__slots__)}
    found["refused"] = sum(refused.values())
    found["last_delivery_at"] = instant(figures.last_delivery_at)
    found["rate_1m"], found["accepted_1m"] = round(figures.rate_1m, 2), round(figures.accepted_1m, 2)
    if figures.due:
        oldest_at = figures.oldest_waiting_at
        waited_s = since(oldest_at, time.time()) if oldest_at is not None else 0.0
        found["oldest_waiting_s"] = round(waited_s, 3)
    return found


def _nothing_of_kind() -> dict[str, Any]:
    return {key: None if key in _NULL_WHEN_EMPTY else NOTHING[key] for key in _OF_KIND}


def _of_kind(queue: Spool, daemon: DaemonState | None, whole: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of one kind, besides those of all."""
    found = _nothing_of_kind()
    with queue.view() as view:
        figures = view.figures()
        durable = _durable(figures, view.refused())
    found |= {key: durable[key] for key in _OF_KIND if key in durable}
    told = daemon.kinds.get(queue.kind.name) if daemon else None
    told = told or {key: whole[key] for key in ("state", "state_reason")}
    found |= {key: told[key] for key in _OF_KIND if key in told}
    found["in_flight"] = min(found["in_flight"], figures.due)
    return found


def sentence(found: Mapping[str, Any]) -> str:
    """In one sentence how things are; and a second one where a person has to act on damage."""
    text = _condition(found)
    if found["set_aside"]:
        damaged = counted(found["set_aside"], "damaged database")
        were, them = ("was", "it") if found["set_aside"] == 1 else ("were", "them")
        text += f" {damaged} {were} set aside with events in {them}: `forwarder salvage` brings them back."
    if found["orphaned"]:
        text += (
            " Files of the queue were moved, deleted or replaced under the daemon, and only the old ones hold"
            f" {found['orphaned']}: put them back, or read them with `forwarder salvage`."
        )
    return text


def _condition(found: Mapping[str, Any]) -> str:
    if not found["exists"]:
        return as_sentence(printable(found["state_reason"]))
    state, reason = found["state"], printable(found["state_reason"]).rstrip(".")
    waiting, waits = _waits(found)
    because = f": {reason}" if reason else ""
    if state == "running":
        working = "Handing over" if found.get("server") else "Delivering"
        return f"{working if waiting else 'Running'}: {waits}{'; ' if reason else ''}{reason}."
    if state in ("backing_off", "blocked"):
        return f"{'Blocked' if state == 'blocked' else 'Backing off'}{because}; nothing is lost, {waits}."
    if state == "paused":
        return f"Paused: {waits}. `forwarder resume` goes on."
    return f"{state.capitalize()}{because}; {waits}."


def _waits(found: Mapping[str, Any]) -> tuple[int, str]:
    """How many records of all kinds wait that are not held; and that in words."""
    nouns = {"event": found} | {kind.noun.removesuffix("s"): found.get(name) for name, kind in _KINDS.items()}
    some = {noun: each for noun, each in nouns.items() if each and each["waiting"] > each["held"]}
    counts = {noun: each["waiting"] - each["held"] for noun, each in some.items()}
    waiting = sum(counts.values())
    if not waiting:
        return 0, "nothing waits"
    *others, named = (counted(count, noun) for noun, count in counts.items())
    named = f"{', '.join(others)} and {named}" if others else named
    oldest_s = max(each["oldest_waiting_s"] for each in some.values())
    if waiting == 1:
        return 1, f"{named} waits, for {duration(oldest_s)}"
    return waiting, f"{named} wait, the oldest for {duration(oldest_s)}"


def describe(found: Mapping[str, Any], width: int | None) -> Iterator[str]:
    """The lines for a person, of *width* columns at most: a sentence, the table, the books."""
    first, *others = wrapped(sentence(found), width)
    if colour := _COLOURS.get(found["state"]):
        head = first.partition(":")[0]
        first = styled(head, fg=colour, bold=True) + first[len(head) :]
    yield from (first, *others)
    if found["exists"]:
        yield from _figures(found, width)
    if found.get("server"):
        yield from ("", "On the server:", *describe(found["server"], width))


def _figures(found: Mapping[str, Any], width: int | None) -> Iterator[str]:
    yield ""
    for name, text in _table(found):
        if width is None or width >= NARROW:
            yield from wrapped(f"{name:<14} {text}", width, " " * 15)
        else:
            yield name
            yield from wrapped(f"  {text}", width, "  ")
    yield ""
    yield from wrapped(
        f"accepted {found['accepted']:,} = {_passed(found)} {found['delivered']:,} + dead-lettered "
        f"{found['dead_lettered']:,} + deleted {found['deleted']:,} + waiting {found['waiting']:,}",
        width,
    )


def _passed(found: Mapping[str, Any]) -> str:
    return "relayed" if found.get("server") else "delivered"


def _table(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    now = time.time()
    held = f", {found['held']:,} held (`forwarder waiting list --held`)" if found["held"] else ""
    yield "waiting", f"{counted(found['waiting'], 'event')}, {found['in_flight']:,} of them in flight{held}"
    rates = f"{_rate(found['rate_1m'])} {_passed(found)}, {_rate(found['accepted_1m'])} accepted"
    yield "last minute", f"{rates}{_trend(found)}"
    for name, kind in _KINDS.items():
        if any(found[name][key] for key in ("accepted", "refused")):
            yield kind.noun, _line_of_kind(found[name], _passed(found))
    if found["requests"]:
        took = ""
        if found["request_p50_s"] is not None:
            took = f"; half took up to {found['request_p50_s']:g} s, 95 % up to {found['request_p95_s']:g} s"
        by_outcome = ", ".join(f"{count:,} {outcome}" for outcome, count in found["requests"].items())
        yield "requests", f"{by_outcome}{took}"
    yield "last relayed" if found.get("server") else "last delivery", _when(found["last_delivery_at"], now)
    if found["last_error"]:
        yield "last error", f"{printable(found['last_error'])}{_ago(found['last_error_at'], now)}"
    dead = f"{found['dead_letters']:,}"
    if found["dead_letters"]:
        dead += " (`forwarder dead-letters summary`)"
    if found["retried"] or found["discarded"]:
        were = "was" if found["retried"] == 1 else "were"
        dead += f"; {found['retried']:,} {were} retried, {found['discarded']:,} discarded"
    yield "dead letters", dead
    if found["refused"]:
        yield "refused", f"{counted(found['refused'], 'event')} that producers offered, and were not accepted"
    if found["short"]:
        yield "short", f"{counted(found['short'], 'event')} delivered that Mixpanel did not count"
    sizes = {"database": "db_bytes", "its log": "wal_bytes", "free": "disk_free_bytes"}
    known = (f"{name} {size(found[key])}" for name, key in sizes.items() if found[key] is not None)
    yield "disk", ", ".join(known)
    if found["set_aside"]:
        found_damaged = counted(found["set_aside"], "damaged database")
        yield "set aside", f"{found_damaged} (`forwarder salvage`)"
    who = "relay" if found.get("server") else "daemon"
    if found["state"] != "stopped":
        process = Holder(found["pid"] or 0, host=found["host"] or "")
        yield who, f"{process.name}, {counted(found['connections'], 'connection')}"
    else:
        yield who, "none runs"
    alone = "; one copy is enough (queue.standbys is 0)" if found["standbys"] == 0 else ""
    yield "queue", f"{printable(found['queue_path'])}{alone}"


def _line_of_kind(of_kind: Mapping[str, Any], passed: str) -> str:
    text = f"{of_kind['waiting']:,} waiting, {of_kind['delivered']:,} {passed}"
    if of_kind["oldest_waiting_s"]:
        text += f"; the oldest waits for {duration(of_kind['oldest_waiting_s'])}"
    for key, words in (("dead_letters", "dead letters"), ("held", "held"), ("refused", "refused")):
        if of_kind[key]:
            text += f"; {of_kind[key]:,} {words}"
    return text


def _when(at: str | None, now: float) -> str:
    if at is None:
        return "never"
    return f"{at}{_ago(at, now)}"


def _ago(at: str | None, now: float) -> str:
    from datetime import datetime

    return f" ({duration(since(datetime.fromisoformat(at).timestamp(), now))} ago)" if at else ""


def _rate(rate: float) -> str:
    if rate < 1:
        return counted(round(rate * 60), "event")
    return f"{rate:,.{0 if rate >= 10 else 1}f} events/s"


def _trend(found: Mapping[str, Any]) -> str:
    """Where it goes with what waits; "" where that is only what is on its way."""
    net = found["rate_1m"] - found["accepted_1m"]
    if found["waiting"] - found["held"] < MANY or found["state"] == "stopped":
        return ""
    if found["eta_s"]:
        return f"; done in about {duration(found['eta_s'])}"
    return "; the queue grows" if net < 0 else ""


def _show_once(found: Mapping[str, Any], as_json: bool, conditions: list[Condition]) -> int:
    click.echo(json.dumps(found) if as_json else "\n".join(describe(found, terminal_width())))
    return _judge(found, conditions)


def _judge(found: Mapping[str, Any], conditions: list[Condition]) -> int:
    if conditions and not found["known"]:
        say(f"forwarder: --fail-if can't be decided: {found['state_reason']}", err=True)
        return 1
    flat = _flat(found)
    held = [condition for condition in conditions if condition.holds(flat)]
    for condition in held:
        say(f"forwarder: {condition.text} holds: {condition.key} is {_value(flat[condition.key])}", err=True)
    return 1 if held else 0


def _flat(found: Mapping[str, Any]) -> dict[str, Any]:
    """With the keys of each kind as ``engage.waiting``."""
    return {**found, **{f"{name}.{key}": value for name in _KINDS for key, value in found[name].items()}}


def _value(value: object) -> str:
    if value is None:
        return "unknown, or has never been"
    return printable(value) if isinstance(value, str) else json.dumps(value)


def _watch(context: Context, as_json: bool, conditions: list[Condition]) -> int:
    if as_json or not sys.stdout.isatty():
        while True:
            found = gather(context.queue, context.server)
            click.echo(json.dumps(found) if as_json else f"{instant(time.time())}  {sentence(found)}")
            if _judge(found, conditions):
                return 1
            time.sleep(WATCH_S)
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as live:
        while True:
            found = gather(context.queue, context.server)
            live.update(Text.from_ansi("\n".join(describe(found, terminal_width()))), refresh=True)
            if conditions and (not found["known"] or any(one.holds(_flat(found)) for one in conditions)):
                break
            time.sleep(WATCH_S)
    return _judge(found, conditions)
