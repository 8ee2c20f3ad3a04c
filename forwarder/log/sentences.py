"""What an operator reads in the journal: a sentence for each message, with its name behind it."""

from __future__ import annotations

from forwarder.errors import printable
from forwarder.log.lines import Fields, pairs

SENTENCES = {
    "batch.failed": "A batch of {sent} failed but others succeed: {reason}. It is sent again, or its parts",
    "batch.refused": "A batch of {sent} was refused: {reason}. Looking for the event that it is about",
    "batch.short": "Mixpanel counted {short} events fewer than it took, twice, as with a drop filter",
    "clock.wrong": "{detail}",
    "daemon.started": "Delivering from {queue} to {url}",
    "daemon.stopping": "Told to stop; {in_flight} events are in flight",
    "daemon.stopped": "Stopped",
    "dead_letters.expired": "{count} dead letters have passed their age, and were deleted",
    "delivery.backing_off": "Delivery waits: {reason}. Next try in {next_try_s} s; nothing is lost",
    "delivery.blocked": "Delivery is blocked: {reason}. Next try in {next_try_s} s; nothing is lost",
    "delivery.flushed": "Trying now, as told",
    "queue.replaced": "Files of the queue were moved, deleted or replaced: {detail}",
    "delivery.paused": "Delivery is paused by command; `forwarder resume` goes on",
    "delivery.recovered": "Delivery works again after {after_s} s and {failures} failures",
    "delivery.resumed": "Delivery goes on by command",
    "events.dead_lettered": "{count} events were refused, and are dead letters now; {detail}",
    "events.settled": "{delivered} events were delivered, and {dead} became dead letters",
    "library.logged": "{message}",
    "log.dropped": "{count} log lines before this one could not be written, and are missing",
    "metrics.listening": "Serving metrics at {url}",
    "queue.damaged": "A damaged database was set aside: {file}; {remedy}",
    "queue.failed": "The queue can't be read or written: {detail}",
    "queue.recovered": "The queue works again after {after_s} s and {failures} failures",
    "secret.exposed": "{detail}",
    "settings.refused": "The old settings stay in force, as the new ones can't be used: {detail}",
    "settings.reloaded": "New settings are in force, from {config}; delivering to {url}",
    "settings.restart_needed": "{key} has changed, which takes a restart; the old value stays in force",
}


def sentence(event: str, fields: Fields) -> str:
    """The message *event* as a sentence on one line; without one for it, its name and fields."""
    try:
        text = SENTENCES[event].format_map(fields)
    except KeyError:
        others = {name: value for name, value in fields.items() if name not in _HEAD}
        return printable(event) + pairs(others)
    return f"{printable(text)} [{event}]"


_HEAD = ("timestamp", "level", "event", "traceback")
