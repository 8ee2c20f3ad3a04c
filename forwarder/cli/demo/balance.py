"""The demo's oracle: what became of every event, by its content and not by counting."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from forwarder.cli.demo.programs import Event, Key

FILLED_IN = {"time", "$insert_id"}
PLACES = ("delivered", "dead", "waiting")


@dataclass(frozen=True, slots=True)
class Balance:
    """The result of the comparison.

    Attributes:
        places: For each of `PLACES` the keys of the events found there.
        lost: Accepted, and nowhere to be found.
        faults: Everything that is wrong, as sentences; empty if the books balance.
    """

    places: Mapping[str, Collection[Key]]
    lost: Collection[Key]
    faults: list[str]


def compare(accepted: Mapping[Key, Event], found: Mapping[str, Iterable[bytes]]) -> Balance:
    """Compare the *accepted* events, as reported to the programs, with those *found* in `PLACES`.

    Each must be in exactly one place, once, and as it was offered. ``time`` and ``$insert_id`` may be filled
    in; if it is delivered, they must be. There must be no other event anywhere.
    """
    faults: list[str] = []
    places: dict[str, set[Key]] = {}
    for place in PLACES:
        events = [_parse(data) for data in found[place]]
        counts = Counter(map(_key, events))
        places[place] = set(counts)
        twice = [key for key, count in counts.items() if count > 1]
        _complain(faults, f"{place} twice, under different ids", twice)
        _complain(faults, f"{place}, but never accepted", set(counts) - accepted.keys())
        changed = [
            key for event in events if (key := _key(event)) in accepted and not _is_same(accepted[key], event)
        ]
        _complain(faults, f"{place}, but not as it was offered", changed)
        if place == "delivered":
            bare = [_key(event) for event in events if not event["properties"].keys() >= FILLED_IN]
            _complain(faults, "delivered without time or $insert_id", bare)
    delivered, dead, waiting = (places[place] for place in PLACES)
    _complain(faults, "in two places", (delivered & dead) | (delivered & waiting) | (dead & waiting))
    lost = accepted.keys() - delivered - dead - waiting
    _complain(faults, "lost", lost)
    return Balance(places, lost, faults)


def _parse(data: bytes) -> Event:
    event = json.loads(data)
    assert isinstance(event, dict)
    return event


def _key(event: Event) -> Key:
    properties = event["properties"]
    return properties["program"], properties["number"]


def _is_same(offered: Event, found: Event) -> bool:
    filled_in = found["properties"].keys() - offered["properties"].keys()
    if not filled_in <= FILLED_IN:
        return False
    rest = {name: value for name, value in found["properties"].items() if name not in filled_in}
    return {**found, "properties": rest} == offered


def _complain(faults: list[str], what: str, keys: Collection[Key]) -> None:
    if keys:
        example = " ".join(map(str, min(keys)))
        faults.append(
            f"{len(keys)} {'event is' if len(keys) == 1 else 'events are'} {what}, such as {example}"
        )
