"""Deliberate faults, each of which the days must find: ``python -m simulation.faults``.

A fault is a change to the product's code while it is in force. How many days it took is printed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from forwarder.delivery import dispatcher, flow
from forwarder.delivery.backlog import Backlog
from forwarder.delivery.batch import Batch
from forwarder.delivery.deferred import Deferred
from forwarder.delivery.dispatcher import Dispatcher
from forwarder.delivery.flow import Flow
from forwarder.delivery.rate_limit import RateLimit
from forwarder.records.verdict import Verdict
from simulation.days import day

MOST_DAYS = 2000


def _forgets_failed(_self: Deferred, batch: Batch) -> Batch:
    return batch


def _loses_the_middle(batch: Batch) -> tuple[Batch, Batch]:
    middle = len(batch) // 2
    return batch.part(range(middle)), batch.part(range(middle + (len(batch) > 3), len(batch)))


def _overlaps(batch: Batch) -> tuple[Batch, Batch]:
    middle = len(batch) // 2
    return batch.part(range(min(middle + 1, len(batch) - 1))), batch.part(range(middle, len(batch)))


def _stays_open(self: Flow, number: int, now: float, imported: int = 0) -> None:
    if not self.is_open:
        _PASSED(self, number, now, imported)


def _never_opens(self: Flow, *_: Any, **__: Any) -> None:
    self.tries = 0


def _acks_what_failed(self: Dispatcher, batch: Batch, outcome: Any, sent: Any, now: float) -> Any:
    if outcome.status == 503:
        return self._delivered(batch, outcome, sent, now)
    return _FAILED(self, batch, outcome, sent, now)


def _forgets_the_rest(self: Dispatcher, batch: Batch, outcome: Any, sent: Any, now: float) -> Any:
    report = _SHORT(self, batch, outcome, sent, now)
    self._deferred.ready.clear()
    return report


def _blames_the_next(batch: Batch, outcome: Any) -> Any:
    shifted = (
        [replace(said, index=(said.index + 1) % len(batch)) for said in outcome.rejections]
        if batch.ids
        else ()
    )
    return _DEAD(batch, replace(outcome, rejections=tuple(shifted)))


def _skips_one(self: Backlog, max_events: int, max_bytes: int) -> Batch | None:
    self._cursor += self._cursor > 100
    return _CLAIM(self, max_events, max_bytes)


def _never_ends_a_turn(_self: Deferred, _now: float, *, has_failed: bool) -> None:
    del has_failed


def _paced_for_ever(self: RateLimit, now: float, draw: float) -> None:
    del draw
    self.due_at = now + 1e9


_PASSED, _FAILED, _SHORT = Flow.passed, Dispatcher._failed, Dispatcher._short
_DEAD, _CLAIM = Batch.dead, Backlog.claim
_RULES = dispatcher._RULES

# What is changed, by its owner and name, and what it is then.
FAULTS: dict[str, tuple[Any, str, Any]] = {
    "a failed batch is forgotten": (Deferred, "add_failed", _forgets_failed),
    "a halved batch loses its middle": (Batch, "halves", _loses_the_middle),
    "the halves overlap": (Batch, "halves", _overlaps),
    "a breaker that never closes": (Flow, "passed", _stays_open),
    "a breaker that never opens": (Flow, "failed", _never_opens),
    "a 503 is taken for a success": (
        dispatcher,
        "_RULES",
        {**_RULES, Verdict.UNREACHABLE: _acks_what_failed},
    ),
    "the rest of a short count is forgotten": (
        dispatcher,
        "_RULES",
        {**_RULES, Verdict.SHORT: _forgets_the_rest},
    ),
    "the neighbour of a named event dies": (Batch, "dead", _blames_the_next),
    "a claim skips an event": (Backlog, "claim", _skips_one),
    "one refusal kills": (dispatcher, "REFUSALS", 1),
    "a turn that never ends": (Deferred, "end_turn", _never_ends_a_turn),
    "no wait between tries": (flow, "delay_s", lambda *_: 0.0),
    "a pace for ever": (RateLimit, "throttled", _paced_for_ever),
}


@contextmanager
def in_force(name: str) -> Iterator[None]:
    """The fault of that name, for the time of the block."""
    owner, attribute, wrong = FAULTS[name]
    right = getattr(owner, attribute)
    setattr(owner, attribute, wrong)
    try:
        yield
    finally:
        setattr(owner, attribute, right)


def days_to_find(name: str, first: int = 1, live: Callable[[int], object] = day) -> int | None:
    """How many days it took to find a fault; None: it was not found in `MOST_DAYS`."""
    with in_force(name):
        for number in range(MOST_DAYS):
            try:
                live(first + number)
            except Exception:
                return number + 1
    return None


def main() -> None:
    """Look for each fault."""
    missed = 0
    for name in FAULTS:
        found = days_to_find(name)
        missed += found is None
        print(f"{name}: {'not found' if found is None else f'found on day {found}'}", flush=True)
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
