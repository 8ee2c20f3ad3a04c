"""What Mixpanel's strict mode checks of an event; pure functions over bytes.

The rules and the messages are those of Mixpanel's docs ("Import Events") unless another source is named.
What no public source says is marked *assumed*; a program must not depend on it.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgspec

# "Original ID Merge" projects require distinct_id, "Simplified ID Merge" projects don't (mixpanel-import,
# validateToken, tells the two apart by that).
ORIGINAL = "original"
SIMPLIFIED = "simplified"

MAX_EVENT_BYTES = 1_000_000  # "smaller than 1MB of uncompressed JSON"
MAX_MEMBERS = 255  # "up to 255 properties" (events and properties); import-events says "fewer than 255"
EARLIEST_S = 31_536_000  # 1971-01-01
AHEAD_S = 3600  # "more than 1 hour in the future as measured on our servers"
# "seconds or milliseconds since epoch"; the boundary is assumed: 10**11 s is the year 5138.
MILLISECONDS_FROM = 10**11
# Disallowed for distinct_id and $insert_id; lmy47d and case-insensitivity: mixpanel-import, transforms.
BAD_IDS = frozenset(
    {"00000000-0000-0000-0000-000000000000", "anon", "anonymous", "nil", "none", "null", "n/a", "na"}
    | {"undefined", "unknown", "<nil>", "0", "-1", "true", "false", "[]", "{}", "lmy47d"}
)
INSERT_ID = re.compile(r"[A-Za-z0-9-]{1,36}")
TRACKED_S = 5 * 86400
IDENTITY_EVENTS = frozenset({"$identify", "$create_alias", "$merge"})

# A container of more than 255 members needs 511 bytes.
_SURELY_SMALL_BYTES = 510
_is_insert_id = INSERT_ID.fullmatch
# Half the time of a named tuple's own constructor.
_new = tuple.__new__


class Event(NamedTuple):
    """An event that passed: what the ledger and the faults need to know of it.

    ``identity`` stands for (event, distinct_id, time): with ``$insert_id`` the key by which Mixpanel drops
    repeats (Mixpanel docs, event deduplication).
    """

    index: int  # type: ignore[assignment]  # hides tuple.index(), which is not needed here
    insert_id: str
    data: bytes
    name: str
    identity: int


class Failure(NamedTuple):
    """One of ``failed_records``."""

    index: int  # type: ignore[assignment]  # hides tuple.index(), which is not needed here
    insert_id: str
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict about a batch: its events that pass, those that fail, and how many identity events it
    has that a Simplified project does not accept."""

    sent: int
    events: list[Event] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    identity_events: int = 0


class _Properties(msgspec.Struct, gc=False):
    time: int | float
    distinct_id: str
    insert_id: str = msgspec.field(name="$insert_id")


class _Shape(msgspec.Struct, gc=False):
    event: str
    properties: _Properties


_decode = msgspec.json.Decoder(_Shape).decode


def judge(batch: Sequence[bytes], now_s: float, project: str = SIMPLIFIED) -> Verdict:
    """Check a batch as ``strict=1`` does.

    Args:
        batch: The events, one JSON text each.
        now_s: The server's time.
        project: `ORIGINAL` or `SIMPLIFIED`.
    """
    verdict = Verdict(len(batch))
    passed, identity_events = verdict.events, 0
    latest_s = now_s + AHEAD_S
    for index, data in enumerate(batch):
        event = _clean(index, data, latest_s)
        if event is not None:
            passed.append(event)
            continue
        found = _examine(index, data, latest_s, project)
        if found is None:
            identity_events += 1
        elif isinstance(found, Event):
            passed.append(found)
        else:
            verdict.failures.append(found)
    return replace(verdict, identity_events=identity_events) if identity_events else verdict


def judge_leniently(batch: Sequence[bytes]) -> Verdict:
    """Take all events that have a name, as for requests without ``strict=1``.

    The server generates a missing ``$insert_id`` (Mixpanel docs, event deduplication).
    """
    verdict = Verdict(len(batch))
    for index, data in enumerate(batch):
        event = parse(data)
        if isinstance(event, dict) and isinstance(event.get("event"), str) and event["event"].strip():
            verdict.events.append(_unchecked(index, data, event))
    return verdict


def judge_tracked(batch: Sequence[bytes], token: str, now_s: float) -> tuple[int, Verdict]:
    """As ``/track`` does: how many events have a name and a token, and those of them that are stored.

    Events of another project's *token*, or of more than five days ago, are acknowledged and dropped
    (Mixpanel docs, Track Events, and the page on historical events).
    """
    valid, verdict = 0, Verdict(len(batch))
    for event in judge_leniently(batch).events:
        properties = parse(event.data).get("properties")
        known = properties if isinstance(properties, dict) else {}
        if not known.get("token"):
            continue
        valid += 1
        at = known.get("time", now_s)
        at_s = (at / 1000 if at >= MILLISECONDS_FROM else at) if type(at) in (int, float) else now_s
        if known["token"] == token and at_s > now_s - TRACKED_S:
            verdict.events.append(event)
    return valid, verdict


def _clean(index: int, data: bytes, latest_s: float) -> Event | None:
    """The fast reading: an event that certainly passes, or None. 1 µs where `_examine` takes 10."""
    try:
        shape = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    properties = shape.properties
    name, time = shape.event, properties.time
    insert_id, distinct_id = properties.insert_id, properties.distinct_id
    if (
        (len(data) <= _SURELY_SMALL_BYTES or _is_surely_small(data))
        and (MILLISECONDS_FROM <= time <= latest_s * 1000 or EARLIEST_S <= time <= latest_s)
        and _is_insert_id(insert_id)
        and insert_id.lower() not in BAD_IDS
        and distinct_id.lower() not in BAD_IDS
        and name not in IDENTITY_EVENTS
        and name
        and not name.isspace()
        # The decoder skips other properties without checking their UTF-8.
        and (data.isascii() or not _has_broken_text(data))
    ):
        return _new(Event, (index, insert_id, data, name, hash((name, distinct_id, time))))
    return None


def _is_surely_small(data: bytes) -> bool:
    # A container with more members has at least this many commas.
    return len(data) <= MAX_EVENT_BYTES and data.count(b",") < MAX_MEMBERS


def _examine(index: int, data: bytes, latest_s: float, project: str) -> Event | Failure | None:
    """The careful reading; None: an identity event that the project does not accept."""
    event = parse(data)
    name = event.get("event") if isinstance(event, dict) else None
    properties = event.get("properties", {}) if isinstance(event, dict) else {}
    insert_id = properties.get("$insert_id") if isinstance(properties, dict) else None
    shown_id = insert_id if isinstance(insert_id, str) else ""
    if not isinstance(name, str) or not name.strip():
        return Failure(index, shown_id, "event", "'event' must not be missing or blank")
    if name in IDENTITY_EVENTS:
        # $merge is documented without time and $insert_id (Mixpanel docs, identity), so it must be exempt.
        return None if project == SIMPLIFIED else _unchecked(index, data, event)
    if not isinstance(properties, dict):
        return Failure(index, "", "properties", "'properties' is invalid: must be an object")  # assumed
    for where, what in _complaints(properties, data, latest_s, project):
        return Failure(index, shown_id, where, what)
    return _unchecked(index, data, event)


def _complaints(
    properties: dict[str, Any], data: bytes, latest_s: float, project: str
) -> Iterator[tuple[str, str]]:
    """The mistakes in order, as field and message."""
    yield from _time_complaints(properties.get("time"), latest_s)
    distinct_id = properties.get("distinct_id", "")
    if "distinct_id" not in properties:
        if project == ORIGINAL:
            # Mixpanel's live answer to mixpanel-import's validateToken.
            yield "properties.distinct_id", "'properties.distinct_id' is invalid: must not be missing"
    elif _as_text(distinct_id).lower() in BAD_IDS:
        yield "properties.distinct_id", "'properties.distinct_id' is invalid: disallowed value"  # assumed
    yield from _insert_id_complaints(properties.get("$insert_id"))
    if len(data) > MAX_EVENT_BYTES:
        yield "", f"event is invalid: must be smaller than {MAX_EVENT_BYTES} bytes"  # assumed
    if len(properties) > MAX_MEMBERS:
        yield (
            "properties",
            f"'properties' is invalid: must not have more than {MAX_MEMBERS} properties",
        )  # assumed
    is_broken = _has_broken_text(data)
    for name, value in properties.items():
        if is_broken and _any_broken(value):
            yield f"properties.{name}", f"properties.{name} is invalid: string should be valid utf8"
        if _is_overfull(value):
            what = f"'properties.{name}' is invalid: must not have more than {MAX_MEMBERS} members"  # assumed
            yield f"properties.{name}", what


def _time_complaints(time: Any, latest_s: float) -> Iterator[tuple[str, str]]:
    where, prefix = "properties.time", "'properties.time' is invalid: "
    if time is None:
        # Mixpanel's live answer, in krenalis' badrequest_test.go.
        yield where, prefix + "must not be missing"
    elif isinstance(time, bool) or not isinstance(time, (int, float)):
        yield where, prefix + "must be specified as seconds since epoch"
    else:
        # Multiplied, not divided: an integer may be too large for a float.
        if time > (latest_s * 1000 if time >= MILLISECONDS_FROM else latest_s):
            # Mixpanel's live answer, in Segment's e2e fixtures for trackEvent.
            yield where, prefix + "must not be in the future"
        elif time < EARLIEST_S:
            yield where, prefix + "must not be before 1971-01-01"  # assumed


def _insert_id_complaints(insert_id: Any) -> Iterator[tuple[str, str]]:
    # The field is named without "properties." in Mixpanel's live answer, mixpanel-utils issue 40.
    where, prefix = "$insert_id", "'$insert_id' is invalid: "
    if insert_id is None or insert_id == "":
        yield where, prefix + "must not be missing"  # assumed
    elif not isinstance(insert_id, str) or not re.fullmatch(r"[A-Za-z0-9-]+", insert_id):
        yield where, prefix + "must only contain alphanumeric or hyphen '-' characters"
    elif not INSERT_ID.fullmatch(insert_id):
        yield where, prefix + "must not be longer than 36 bytes"  # assumed
    elif insert_id.lower() in BAD_IDS:
        yield where, prefix + "disallowed value"  # assumed


def parse(data: bytes) -> Any:
    """The event, with broken UTF-8 as surrogates; None: it is not JSON."""
    try:
        return json.loads(data.decode("utf-8", "surrogateescape"), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unchecked(index: int, data: bytes, event: dict[str, Any]) -> Event:
    properties = event.get("properties")
    known = properties if isinstance(properties, dict) else {}
    insert_id = known.get("$insert_id")
    if not isinstance(insert_id, str) or not insert_id:
        insert_id = uuid.uuid4().hex
    distinct_id, time = known.get("distinct_id"), known.get("time")
    if not isinstance(distinct_id, str) or isinstance(time, (dict, list)):
        distinct_id, time = repr(distinct_id), repr(time)
    return Event(index, insert_id, data, event["event"], hash((event["event"], distinct_id, time)))


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _is_overfull(value: Any) -> bool:
    if isinstance(value, (dict, list)):
        members = value.values() if isinstance(value, dict) else value
        return len(value) > MAX_MEMBERS or any(map(_is_overfull, members))
    return False


def _has_broken_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return True
    return False


def _any_broken(value: Any) -> bool:
    if isinstance(value, str):
        return any("\udc80" <= character <= "\udcff" for character in value)
    if isinstance(value, dict):
        return any(_any_broken(key) or _any_broken(member) for key, member in value.items())
    return isinstance(value, list) and any(map(_any_broken, value))
