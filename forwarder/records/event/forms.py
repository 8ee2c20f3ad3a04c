"""What is nearly an event: data beside ``properties``, other trackers' events, lists of events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from forwarder.records.likeness import other_kind

# Never beside `properties`: Mixpanel would give the event the present time, no user and no id.
NEVER_BESIDE = frozenset(["time", "distinct_id", "$insert_id"])
_MOST_NAMED = 5

# The tracker whose events have one of these keys.
_TRACKERS = (
    (
        "Segment or RudderStack",
        frozenset(["userId", "anonymousId", "messageId", "originalTimestamp", "sentAt"]),
    ),
    ("Amplitude", frozenset(["event_type", "event_properties", "user_properties"])),
    ("Snowplow", frozenset(["collector_tstamp", "event_vendor", "v_tracker", "tv", "schema"])),
    ("PostHog", frozenset(["api_key"])),
    ("Google Analytics", frozenset(["client_id", "app_instance_id"])),
    ("CloudEvents", frozenset(["specversion"])),
)

_BELONGS = {
    **dict.fromkeys(("event_type", "event_name", "eventName", "name", "Event"), "event"),
    **dict.fromkeys(("event_properties", "params", "props", "data", "Properties"), "properties"),
    **dict.fromkeys(("timestamp", "originalTimestamp", "dtm", "collector_tstamp"), "properties.time"),
    **dict.fromkeys(
        ("userId", "user_id", "anonymousId", "distinctId", "uid", "client_id"), "properties.distinct_id"
    ),
    **dict.fromkeys(("messageId", "insert_id", "insertId", "eid"), "properties.$insert_id"),
}


def data_beside(event: dict[str, Any], rules: bool) -> str:
    """What is wrong with the members beside ``event`` and ``properties``; "": nothing.

    Without *rules* only `NEVER_BESIDE` is wrong.
    """
    keys = [key for key in event if key not in ("event", "properties")]
    wrong = keys if rules else [key for key in keys if key in NEVER_BESIDE]
    if not wrong:
        return ""
    places, one = [_BELONGS.get(key, f"properties.{key}") for key in wrong], len(wrong) == 1
    return (
        f"{_listed(wrong)} beside 'properties' would be ignored by Mixpanel: move {'it' if one else 'them'} "
        f"to {_listed(places)}{_likeness(event)}"
    )


def guess(event: dict[str, Any]) -> str:
    """What an object without ``event`` or ``properties`` looks like, and what to do; "": nothing known.

    It is appended to a reason."""
    for key, value in event.items():
        if isinstance(value, list) and value and all(_is_like_an_event(member) for member in value):
            path = f".{key}" if key.isidentifier() else f'."{key}"'
            return f". It looks like a list of events: make it one event per line with jq -c '{path}[]'"
    if update := other_kind(event, "event"):
        return update
    moves = [
        f"{key!r} to '{_BELONGS[key]}'" for key in event if key in _BELONGS and _BELONGS[key] not in event
    ]
    likeness = _likeness(event)
    if moves:
        likeness += f"; move {', '.join(moves[:_MOST_NAMED])}"
    return likeness


def _likeness(event: dict[str, Any]) -> str:
    for tracker, keys in _TRACKERS:
        if keys & event.keys():
            return f". It looks like an event of {tracker}"
    return ""


def _is_like_an_event(value: Any) -> bool:
    return isinstance(value, dict) and bool(value.keys() & {"event", "properties", *_BELONGS})


def _listed(names: Iterable[str]) -> str:
    shown = [f"{name!r}" for name in names]
    if len(shown) > _MOST_NAMED:
        shown[_MOST_NAMED:] = [f"{len(shown) - _MOST_NAMED:,} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
