"""How a fault can change a judged batch.

An alteration gets the verdict. It returns another one, or an answer (then nothing is taken), or None: it does
not apply to this batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from forwarder.sandbox import answers, rules
from forwarder.sandbox.answers import Answer
from forwarder.sandbox.rules import Event, Failure, Verdict

Alteration = Callable[[Verdict], Verdict | Answer | None]
Predicate = Callable[[Mapping[str, Any]], bool]

_MESSAGE = "'properties.time' is invalid: must be specified as seconds since epoch"


def chosen(name: str | None, where: Predicate | None) -> Callable[[Event], bool]:
    """Whether an event has that name, or satisfies the predicate when parsed.

    Raises:
        ValueError: both are missing.
    """
    if name is None and where is None:
        raise ValueError("say which events: by name (event) or by predicate (where)")

    def is_chosen(event: Event) -> bool:
        if name is not None and event.name == name:
            return True
        return where is not None and where(rules.parse(event.data))

    return is_chosen


def reject(is_chosen: Callable[[Event], bool], field: str, message: str) -> Alteration:
    """The chosen events fail, with the given field and message."""

    def alter(verdict: Verdict) -> Verdict | None:
        picked = [event for event in verdict.events if is_chosen(event)]
        if not picked:
            return None
        failures = [Failure(event.index, event.insert_id, field, message) for event in picked]
        return _without(verdict, picked, sorted([*verdict.failures, *failures]))

    return alter


def poison(is_chosen: Callable[[Event], bool]) -> Alteration:
    """A chosen event makes the batch fail without a reason."""

    def alter(verdict: Verdict) -> Answer | None:
        return answers.bad_request("Bad Request") if any(map(is_chosen, verdict.events)) else None

    return alter


def drop(name: str | None, by: int) -> Alteration:
    """Events of that name and the last *by* events are neither taken nor failed.

    Raises:
        ValueError: both are missing.
    """
    if name is None and by < 1:
        raise ValueError("say which events: by name (event) or how many (by)")

    def alter(verdict: Verdict) -> Verdict | None:
        first_dropped = len(verdict.events) - by
        picked = [
            event
            for position, event in enumerate(verdict.events)
            if event.name == name or position >= first_dropped
        ]
        return _without(verdict, picked, verdict.failures) if picked else None

    return alter


def fail_first(field: str, message: str) -> Alteration:
    """The first event of the batch fails, with the given field and message."""
    return _replace_first(lambda first, _sent: [Failure(first.index, first.insert_id, field, message)])


def odd_failed_records(kind: str) -> Alteration:
    """``failed_records`` that can't be trusted; see `Fault.failed_records`.

    Raises:
        ValueError: there is no such kind.
    """
    field = "properties.time"
    match kind:
        case "strings":
            return lambda _verdict: answers.strict_failed(0, ["some events were not valid"])
        case "out_of_range":
            return _replace_first(lambda first, sent: [Failure(sent, first.insert_id, field, _MESSAGE)])
        case "repeated":
            return _replace_first(
                lambda first, _sent: [
                    Failure(first.index, first.insert_id, field, _MESSAGE),
                    Failure(first.index, first.insert_id, "event", "'event' must not be missing or blank"),
                ]
            )
        case "contradicting":
            return _replace_first(lambda first, _sent: [Failure(first.index, "not-yours", field, _MESSAGE)])
        case _:
            raise ValueError(f"no kind {kind!r}; there are strings, out_of_range, repeated, contradicting")


@lru_cache(maxsize=2)
def many_failed_records(count: int) -> Answer:
    """A 400 with *count* failed records; 100 bytes each."""
    empty = answers.strict_failed(0, ()).body.removesuffix(b"]}")
    rest = f'","field":"properties.time","message":"{_MESSAGE}"}}'
    # Written directly: the JSON encoder takes three times longer.
    records = ",".join(f'{{"index":{n},"insert_id":"id-{n}{rest}' for n in range(count))
    return Answer(400, empty + records.encode() + b"]}")


def _replace_first(failures: Callable[[Event, int], list[Failure]]) -> Alteration:
    def alter(verdict: Verdict) -> Verdict | None:
        if not verdict.events:
            return None
        first = verdict.events[0]
        return _without(verdict, [first], [*failures(first, verdict.sent), *verdict.failures])

    return alter


def _without(verdict: Verdict, picked: list[Event], failures: list[Failure]) -> Verdict:
    gone = {event.index for event in picked}
    kept = [event for event in verdict.events if event.index not in gone]
    return replace(verdict, events=kept, failures=failures)
