"""Which faults are in force, for how long, and which apply to a request."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from forwarder.sandbox.answers import Answer
from forwarder.sandbox.faults import Ending, Fault


class Injection:
    """One fault, and how often and for how long it is in force.

    Attributes:
        fault: The fault.
        used: To how many requests it applied.
    """

    def __init__(
        self, fault: Fault, times: int | None, for_s: float | None, chance: float, seed: int | None
    ) -> None:
        self.fault = fault
        self.used = 0
        self._times = times
        self._until = None if for_s is None else time.monotonic() + for_s
        self._chance = chance
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._lock = threading.Lock()
        self._allowance = fault.events_per_s or 0.0
        self._filled_at = time.monotonic()

    @property
    def left(self) -> int | None:
        """To how many more requests it may apply; None: no limit."""
        return None if self._times is None else self._times - self.used

    @property
    def over(self) -> bool:
        """Whether it is spent."""
        return self.left == 0 or (self._until is not None and time.monotonic() >= self._until)

    def falls(self) -> bool:
        """Throw the dice."""
        if self._chance >= 1.0:
            return True
        with self._lock:
            return self._random.random() < self._chance

    def use(self) -> bool:
        """Count a request; False if it is spent."""
        with self._lock:
            if self.over:
                return False
            self.used += 1
            return True

    def exceeds(self, events: int) -> bool:
        """Whether *events* events now are above the rate. One batch may exceed what a second allows."""
        rate = self.fault.events_per_s
        if rate is None:
            return False
        with self._lock:
            now = time.monotonic()
            self._allowance = min(rate, self._allowance + (now - self._filled_at) * rate)
            self._filled_at = now
            if self._allowance <= 0:
                return True
            self._allowance -= events
            return False


@dataclass(slots=True)
class Plan:
    """The combined faults for one request.

    `conditional` are those that depend on the events: each counts as used when it applies.
    """

    names: list[str] = field(default_factory=list)
    delay_s: float = 0.0
    skew_s: float = 0.0
    instead: Answer | None = None
    ending: Ending = Ending.ANSWER
    taken: bool = True
    distortions: list[Callable[[Answer], Answer]] = field(default_factory=list)
    conditional: list[Injection] = field(default_factory=list)

    def add(self, fault: Fault) -> None:
        """Add *fault*."""
        self.names.append(fault.name)
        self.delay_s += fault.delay_s
        self.skew_s += fault.skew_s
        if fault.distort is not None:
            self.distortions.append(fault.distort)
        if fault.final:
            self.instead, self.ending, self.taken = fault.instead, fault.ending, fault.taken


class Schedule:
    """The faults in force, in the order in which they were injected.

    Of the faults that decide how a request ends, the first applies until it is spent, then the next. All
    others apply together.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._injections: list[Injection] = []

    def inject(
        self,
        fault: Fault,
        times: int | None = None,
        for_s: float | None = None,
        chance: float = 1.0,
        seed: int | None = None,
    ) -> Injection:
        """Put *fault* in force: for the next *times* requests, for *for_s* seconds, or without limit; for
        each request with a *chance* between 0 and 1.

        Raises:
            ValueError: a number is invalid.
        """
        if times is not None and times < 1:
            raise ValueError(f"times must be 1 or more, not {times}")
        if not 0 < chance <= 1:
            raise ValueError(f"chance must be above 0 and at most 1, not {chance}")
        injection = Injection(fault, times, for_s, chance, seed)
        with self._lock:
            self._injections.append(injection)
        return injection

    def clear(self) -> None:
        """Clear all faults."""
        with self._lock:
            self._injections.clear()

    @property
    def in_force(self) -> list[Injection]:
        """The faults that are not spent."""
        with self._lock:
            self._injections = [injection for injection in self._injections if not injection.over]
            return list(self._injections)

    def plan(self) -> Plan:
        """The faults for a new request."""
        plan = Plan()
        if not self._injections:
            return plan
        decided = False
        for injection in self.in_force:
            fault = injection.fault
            if (fault.final and decided) or not injection.falls():
                continue
            if fault.alter is not None or fault.events_per_s is not None:
                plan.conditional.append(injection)
            elif injection.use():
                plan.add(fault)
                decided = decided or fault.final
        return plan
