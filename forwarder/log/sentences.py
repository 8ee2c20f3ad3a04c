"""What an operator reads in the journal: a sentence for each message, and its name after it."""

from __future__ import annotations

from forwarder.log.lines import Fields, pairs
from forwarder.text import printable

SENTENCES = {
    "alert.failed": "The command of alerts.command did not tell of {alert}: {detail}",
    "alert.sent": "Told by alerts.command: {text}",
    "batch.failed": "A batch of {sent} failed but others succeed: {reason}. It is sent again, or its parts",
    "batch.refused": "A batch of {sent} was refused: {reason}. Looking for the bad event",
    "batch.short": "Mixpanel counted {short} events fewer than it took, twice; drop filters do this",
    "clock.wrong": "{detail}",
    "daemon.standing_by": "Standing by, to take over: {detail}",
    "daemon.started": "Delivering from {queue} to {url}",
    "daemon.stopping": "Stopping; events in flight: {in_flight}",
    "daemon.stopped": "Stopped",
    "daemon.takes_over": "Nobody delivers any more; this daemon does",
    "dead_letters.expired": "Dead letters deleted, older than dead_letters.max_age_days: {count}",
    "delivery.backing_off": "Delivery waits: {reason}. Next try in {next_try_s} s; nothing is lost",
    "delivery.blocked": "Delivery is blocked: {reason}. Next try in {next_try_s} s; nothing is lost",
    "delivery.flushed": "Trying now, as requested",
    "queue.replaced": "Files of the queue were moved, deleted or replaced: {detail}",
    "delivery.paused": "Delivery is paused by command; `forwarder resume` continues it",
    "delivery.recovered": "Delivery works again after {after_s} s; failures: {failures}",
    "delivery.resumed": "Delivery is resumed by command",
    "events.dead_lettered": "Events refused, and dead letters now: {count}; {detail}",
    "events.settled": "Events delivered: {delivered}; new dead letters: {dead}",
    "intake.failed": "A request could not be answered because of a bug: {detail}",
    "intake.full": "No connection can be accepted at the moment: {detail}",
    "intake.no_socket": "`forwarder enqueue` has to open the queue itself each time: {detail}",
    "intake.reloaded": "New settings are in force from {config}",
    "intake.started": "Taking events into {queue} at {places}",
    "intake.stopped": "Stopped",
    "intake.stopping": "Stopping; open connections: {connections}",
    "items.malformed": "Items of {path} from {peer} were no records: {count}, the first because of {reason}",
    "library.logged": "{message}",
    "log.dropped": "Log lines missing before this one, because they could not be written: {count}",
    "metrics.listening": "Serving metrics at {url}",
    "queue.damaged": "A damaged database was set aside: {file}; {remedy}",
    "queue.failed": "The queue can't be read or written: {detail}",
    "queue.recovered": "The queue works again after {after_s} s; failures: {failures}",
    "request.refused": "Refused {path} from {peer} with {code}: {reason}",
    "secret.exposed": "{detail}",
    "settings.refused": "The new settings can't be used; the old ones stay in force: {detail}",
    "settings.reloaded": "New settings are in force from {config}; delivering to {url}",
    "settings.restart_needed": "{key} has changed and needs a restart; the old value stays in force",
}


def sentence(event: str, fields: Fields) -> str:
    """The message *event* as a sentence on one line; its name and fields if it has no sentence."""
    try:
        text = SENTENCES[event].format_map(fields)
    except KeyError:
        others = {name: value for name, value in fields.items() if name not in _HEAD}
        return printable(event) + pairs(others)
    about = f"{str(fields['kind']).capitalize()} updates: " if "kind" in fields else ""
    return f"{about}{printable(text)} [{event}]"


_HEAD = ("timestamp", "level", "event", "traceback")
