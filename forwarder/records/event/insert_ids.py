"""Digests of an event without an ``$insert_id``, of which one is made that is the same each time.

Mixpanel drops an event as a repeat if name, ``distinct_id``, ``time`` and ``$insert_id`` are those of another
("Event Deduplication" in Mixpanel's docs). So such an event must have a ``time``: what is filled in differs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b

from forwarder.errors import EventError

# 32 digits in hexadecimal: Mixpanel takes 36 characters at most ("Import Events").
DIGEST_BYTES = 16
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def digest_of(line: bytes, fields: Sequence[str] = ()) -> bytes | None:
    """A digest of the event in *line*; the order of its keys and the spacing do not matter.

    Args:
        fields: It is made of these members of ``properties``, or ``event``; if empty, of name and properties.

    Returns:
        None: it is not one event. b"": it needs no ``$insert_id``.

    Raises:
        EventError: the event lacks what it must have.
    """
    try:
        event = json.loads(line.strip().decode())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        return None
    except ValueError as error:  # digits without end, which Python does not convert
        raise EventError(f"'properties.$insert_id' can't be made: {error}") from None
    if not isinstance(event, dict) or not isinstance(properties := event.get("properties"), dict):
        return None
    if "$insert_id" in properties:
        return b""
    if "time" not in properties:
        raise EventError(
            "'properties.time' must not be missing where '$insert_id' is made of the event: Mixpanel drops a "
            "repeat only if its time is the same"
        )
    known = {**properties, "event": event.get("event")}
    for field in fields:
        if known.get(field) is None:
            raise EventError(f"'properties.$insert_id' can't be made: the event has no {field!r}")
    values = {field: known[field] for field in fields} if fields else [event.get("event"), properties]
    return blake2b(_canonical(values).encode(), digest_size=DIGEST_BYTES).digest()


def insert_id_of(digest: bytes, position: int) -> str:
    """The ``$insert_id`` of the event with that *digest* which comes after *position* equal ones."""
    return blake2b(b"%b%d" % (digest, position), digest_size=DIGEST_BYTES).hexdigest()
