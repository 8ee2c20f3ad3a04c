"""How the queue and the daemon are: what `status`, the web page and a report say alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from forwarder import spool
from forwarder.config.settings import Alerts, Queue
from forwarder.errors import ForwarderError
from forwarder.records import EVENTS, KINDS
from forwarder.service import state as daemon_state
from forwarder.service.counters import quantile
from forwarder.service.forecast import FORECAST_MINUTES, forecast
from forwarder.service.state import DaemonState
from forwarder.spool import Figures, NoQueueError, Spool, UnusedQueueError
from forwarder.text import as_sentence, counted, duration, instant, printable, seconds_of, unquoted

TIMEOUT_S = 10.0
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
    "used_bytes": 0,
    "max_bytes": 0,
    "full_in_s": 0.0,
    "disk_full_in_s": 0.0,
    "oldest_late_in_s": 0.0,
    "state_since": "",
    "next_try_at": "",
}
# The same of each other kind of records, in an object by the name of its queue.
_OF_KIND = (
    "accepted", "delivered", "dead_lettered", "deleted", "waiting", "in_flight", "oldest_waiting_s", "state",
    "state_reason", "last_delivery_at", "rate_1m", "dead_letters", "retried", "discarded", "refused", "held",
    "accepted_1m",
)  # fmt: skip
OTHER_KINDS = {kind.queue: kind for kind in KINDS.values() if kind is not EVENTS}
# What is unknown, or has never been, is null; --fail-if compares with the value in `NOTHING`.
_NULL_WHEN_EMPTY = (
    "last_delivery_at",
    "last_error",
    "last_error_at",
    "pid",
    "host",
    "request_p50_s",
    "request_p95_s",
    "state_since",
    "next_try_at",
)
# A backlog, and not what is on its way: as many as go into one request.
MANY = 2000
# Nobody has to act yet on what comes later.
FAR_S = 30 * 86400.0
FORECASTS = {
    "eta_s": "nothing waits",
    "full_in_s": "queue full",
    "disk_full_in_s": "disk full",
    "oldest_late_in_s": "oldest late",
}
STATES = ("running", "backing_off", "blocked", "paused", "stopped")
# Every key of --fail-if.
KEYS: Mapping[str, Any] = {
    **NOTHING,
    **{f"{queue}.{key}": NOTHING[key] for queue in OTHER_KINDS for key in _OF_KIND},
}
CHOICES = {key: STATES for key in KEYS if key.rpartition(".")[2] == "state"}


LATE_S = Alerts().oldest_s
Read = Callable[[Spool], DaemonState | None]


def nothing() -> dict[str, Any]:
    """All keys, at their values while there is no queue."""
    kinds = {name: _nothing_of_kind() for name in OTHER_KINDS}
    never = dict.fromkeys(("full_in_s", "disk_full_in_s", "oldest_late_in_s"))
    return {**NOTHING, **never, "requests": {}, **kinds, "standbys": None, "server": None}


def gather(
    queue: Queue,
    server: Queue | None = None,
    read: Read | None = None,
    late_s: float = LATE_S,
    timeout_s: float = TIMEOUT_S,
) -> dict[str, Any]:
    """All keys of ``status --json``.

    Args:
        queue: That of the settings.
        server: That of the server, on a relay's host.
        read: Gives the state of the daemon that delivers from *queue*, if not as others see it. A daemon
            gives its own: by looking, it would lose its lock.
        late_s: After which time an event that still waits is late.
        timeout_s: How long to wait for other users of a queue, at each look.
    """
    found = _gather(queue, late_s, timeout_s, "relay" if server else "daemon", read)
    if server:
        try:
            found["server"] = _gather(server, late_s, timeout_s)
        except ForwarderError as error:
            place = spool.of(server).place
            found["server"] = unknown(place, f"the queue on the server can't be seen: {error}")
    return found


def unknown(place: str, reason: str, *, known: bool = False) -> dict[str, Any]:
    """All keys where there is no queue to look at, or where it is not *known* whether there is one."""
    found = {**nothing(), "queue_path": place, "state_reason": reason, "known": known}
    return found | dict.fromkeys(_NULL_WHEN_EMPTY)


def _gather(
    queue: Queue, late_s: float, timeout_s: float, who: str = "daemon", read: Read | None = None
) -> dict[str, Any]:
    events, *others = spool.each(queue)
    found = {**nothing(), "queue_path": events.place, "set_aside": len(events.set_aside())}
    try:
        with events.view(timeout_s) as view:
            figures, refused, used_bytes = view.figures(), view.refused(), view.used_bytes()
            minutes = view.history(FORECAST_MINUTES)
    except NoQueueError as error:
        is_known = not isinstance(error, UnusedQueueError)
        return unknown(events.place, str(error), known=is_known) | {"set_aside": found["set_aside"]}
    found |= _durable(figures, refused)
    found["exists"] = True
    found["standbys"] = queue.standbys if queue.url else None
    found |= {"used_bytes": used_bytes, "max_bytes": queue.max_bytes}
    daemon = (read or daemon_state.read)(events)
    if daemon:
        for key in found.keys() & set(daemon.__slots__):
            found[key] = getattr(daemon, key)
        for key in ("last_error_at", "state_since", "next_try_at"):
            found[key] = instant(getattr(daemon, key) or None)
        # What the daemon says of itself may be a moment older than the figures.
        found["in_flight"] = min(found["in_flight"], figures.due)
    else:
        found["state_reason"] = not_running(who, figures)
    found |= {other.kind.queue: _of_kind(other, daemon, found, timeout_s) for other in others}
    for key, part in (("request_p50_s", 0.5), ("request_p95_s", 0.95)):
        found[key] = round(quantile(figures.took_s, part) or 0.0, 3)
    found |= asdict(forecast(figures, used_bytes, minutes, found["state"], queue, late_s, time.time()))
    return found | {key: found[key] or None for key in _NULL_WHEN_EMPTY}


def not_running(who: str, figures: Figures) -> str:
    """That there is no daemon, or relay: *who*; and whether delivery is paused."""
    return f"no {who} runs{', and delivery is paused (`forwarder resume`)' if figures.paused else ''}"


def _durable(figures: Figures, refused: Mapping[str, int]) -> dict[str, Any]:
    """What the queue's figures say, under the keys of `NOTHING`."""
    found = {key: getattr(figures, key) for key in NOTHING.keys() & set(figures.__slots__)}
    found["refused"] = sum(refused.values())
    found["last_delivery_at"] = instant(figures.last_delivery_at)
    found["rate_1m"], found["accepted_1m"] = round(figures.rate_1m, 2), round(figures.accepted_1m, 2)
    found["oldest_waiting_s"] = round(figures.oldest_waiting_s(time.time()), 3)
    return found


def _nothing_of_kind() -> dict[str, Any]:
    return {key: None if key in _NULL_WHEN_EMPTY else NOTHING[key] for key in _OF_KIND}


def _of_kind(
    queue: Spool, daemon: DaemonState | None, whole: Mapping[str, Any], timeout_s: float
) -> dict[str, Any]:
    """The keys of one kind, besides those of all."""
    found = _nothing_of_kind()
    with queue.view(timeout_s) as view:
        figures = view.figures()
        durable = _durable(figures, view.refused())
    found |= {key: durable[key] for key in _OF_KIND if key in durable}
    told = daemon.kinds.get(queue.kind.name) if daemon else None
    told = told or {key: whole[key] for key in ("state", "state_reason")}
    found |= {key: told[key] for key in _OF_KIND if key in told}
    found["in_flight"] = min(found["in_flight"], figures.due)
    return found


def without_quotes(found: Mapping[str, Any]) -> dict[str, Any]:
    """*found* without what its reasons and errors quote, which may be a value of an event."""
    return {key: _without_quotes(key, value) for key, value in found.items()}


def _without_quotes(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_quotes(value)
    return unquoted(value) if key in ("state_reason", "last_error") and value else value


def sentence(found: Mapping[str, Any]) -> str:
    """In one sentence how things are; and more where a person has to act on a lack of room, or on damage."""
    text = _condition(found)
    for key, what in (("full_in_s", "queue"), ("disk_full_in_s", "disk")):
        if found[key] == 0:
            text += f" The {what} is full: new events are refused."
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


def outlook(found: Mapping[str, Any]) -> str:
    """What comes before long, if it goes on like this; "" where nothing is foretold."""
    soon = {key: in_s for key, in_s in foretold(found).items() if in_s is not None and in_s < FAR_S}
    return "; ".join(f"{FORECASTS[key]} {coming(in_s)}" for key, in_s in soon.items())


def foretold(found: Mapping[str, Any]) -> dict[str, float | None]:
    """The forecasts that can be made, by their keys: none of a server's disk, or of what is on its way."""
    unknown = {"disk_full_in_s": found["disk_free_bytes"] is None}
    unknown["eta_s"] = found["waiting"] - found["held"] < MANY
    return {key: found[key] for key in FORECASTS if not unknown.get(key)}


def coming(in_s: float | None) -> str:
    """When that is which is foretold, in words."""
    if in_s is None:
        return "never, at this rate"
    return f"in about {duration(in_s)}" if in_s else "now"


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
    nouns = {"event": found} | {
        kind.noun.removesuffix("s"): found.get(name) for name, kind in OTHER_KINDS.items()
    }
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


def next_try(found: Mapping[str, Any], now: float) -> str:
    """When a request is sent again, where that is planned: ``in 8 s``."""
    return f"in {duration(max(seconds_of(found['next_try_at']) - now, 0.0))}"


def passed(found: Mapping[str, Any]) -> str:
    """What became of the delivered records, in a word: a relay has handed them over."""
    return "relayed" if found.get("server") else "delivered"


def line_of_kind(of_kind: Mapping[str, Any], passed: str) -> str:
    """The figures of one of the other kinds, in words."""
    text = f"{of_kind['waiting']:,} waiting, {of_kind['delivered']:,} {passed}"
    if of_kind["oldest_waiting_s"]:
        text += f"; the oldest waits for {duration(of_kind['oldest_waiting_s'])}"
    for key, words in (("dead_letters", "dead letters"), ("held", "held"), ("refused", "refused")):
        if of_kind[key]:
            text += f"; {of_kind[key]:,} {words}"
    return text
