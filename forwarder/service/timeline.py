"""The recorded past of a range of time: in parts, with gaps and outages, and those in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from forwarder.spool import SLACK_S, Gap, Period, View, binned, gaps
from forwarder.text import duration, instant, printable, unquoted

# A shorter interruption of delivery is what retries are for.
OUTAGE_S = 30.0
MOST_OUTAGES = 20
# Hours are sums of minutes: the seconds that a restart takes are no gap between them.
HOURLY_SLACK_S = 60.0


@dataclass(frozen=True, slots=True)
class Range:
    """A range of time until now, in *count* parts of *part_s* seconds, from records by the minute or hour."""

    part_s: float
    count: int
    hourly: bool = False


RANGES = {
    "hour": Range(60.0, 60),
    "day": Range(600.0, 144),
    "week": Range(3600.0, 168, hourly=True),
    "month": Range(6 * 3600.0, 124, hourly=True),
}


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of time, in seconds since the epoch, and all that happened in it."""

    since: float
    until: float
    period: Period


@dataclass(frozen=True, slots=True)
class Outage:
    """Delivery was in *state*, which is not running, for *lasted_s* between *since* and *until*."""

    state: str
    since: float
    until: float
    lasted_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """What is known of the time from *since* until *until*.

    *gaps* are the times of which nothing is known; before *begins_at* nothing was recorded. *outages* are the
    newest `MOST_OUTAGES`. Reasons quote nothing.
    """

    since: float
    until: float
    part_s: float
    begins_at: float
    parts: Sequence[Part]
    gaps: Sequence[Gap]
    outages: Sequence[Outage]

    def as_json(self) -> dict[str, Any]:
        """Plain values; instants as ISO 8601 in UTC."""
        return {
            "since": instant(self.since),
            "until": instant(self.until),
            "part_s": self.part_s,
            "begins_at": instant(self.begins_at),
            "parts": [_plain(part) for part in self.parts],
            "gaps": [_dated(asdict(gap)) for gap in self.gaps],
            "outages": [_dated(asdict(outage)) for outage in self.outages],
        }


def read(view: View, name: str, now: float, started_at: float) -> Timeline:
    """The range called *name* until *now*, of a daemon that started at *started_at*."""
    it = RANGES[name]
    periods = recorded(view, it.part_s * it.count, hourly=it.hourly)
    if it.hourly:
        periods += of_this_hour(view, periods)
    return laid_out(periods, it, now, started_at)


def recorded(view: View, span_s: float, *, hourly: bool) -> list[Period]:
    """The minutes, or hours, of the last *span_s* seconds; some earlier ones may be with them."""
    # A daemon that starts often records more than one a minute.
    return view.history(int(span_s / (3600 if hourly else 60) * 1.5) + 100, hourly=hourly)


def of_this_hour(view: View, hours: Sequence[Period]) -> list[Period]:
    """The minutes that none of the *hours* sums up yet."""
    ended_at = hours[-1].ended_at if hours else 0.0
    return [each for each in view.history(150) if each.ended_at > ended_at]


def laid_out(periods: Sequence[Period], it: Range, now: float, started_at: float) -> Timeline:
    """*periods* in the range *it* until *now*; one that is recorded by the minute is not divided further."""
    since = now - it.part_s * it.count
    shown = [
        replace(each, reason=unquoted(each.reason))
        for each in periods
        if since < each.ended_at <= now + it.part_s
    ]
    found = gaps(periods, HOURLY_SLACK_S if it.hourly else SLACK_S)
    # As long as a daemon has not recorded anything, its predecessor's end is where the gap begins.
    if periods and started_at > periods[-1].ended_at + SLACK_S:
        found.append(Gap(periods[-1].ended_at, started_at, was_set=False))
    return Timeline(
        since,
        now,
        it.part_s,
        max(since, min((each.began_at for each in periods), default=now)),
        [Part(max(each.began_at, since), min(each.ended_at, now), each) for each in shown]
        if it.part_s <= 60
        else _parts(shown, it, now),
        [gap for gap in found if gap.until > since],
        outages(shown)[-MOST_OUTAGES:],
    )


def _parts(periods: Sequence[Period], it: Range, now: float) -> list[Part]:
    """In parts that begin on the clock, so that they hold the same until the next one begins."""
    end = (now // it.part_s + 1) * it.part_s
    first = end - it.part_s * it.count
    parts = enumerate(binned(periods, first, end, it.count))
    bounds = ((first + index * it.part_s, found) for index, found in parts)
    return [Part(at, min(at + it.part_s, now), found) for at, found in bounds if found]


def outages(periods: Iterable[Period]) -> list[Outage]:
    """When delivery was interrupted for longer than `OUTAGE_S`; neighbouring periods in one state are one."""
    found: list[Outage] = []
    for each in periods:
        states = {state: lasted_s for state, lasted_s in each.states.items() if state != "running"}
        if sum(states.values()) < OUTAGE_S:
            continue
        state = max(states, key=lambda name: states[name])
        new = Outage(state, each.began_at, each.ended_at, sum(states.values()), each.reason)
        last = found[-1] if found else None
        if last and last.state == state and abs(new.since - last.until) < OUTAGE_S:
            reason = new.reason or last.reason
            found[-1] = Outage(state, last.since, new.until, last.lasted_s + new.lasted_s, reason)
        else:
            found.append(new)
    return found


def told(what: Outage | Gap, clock: Callable[[float], str]) -> str:
    """It as a sentence, in which *clock* writes the times."""
    if isinstance(what, Outage):
        state = what.state.replace("_", " ").capitalize()
        lasted = f"{duration(what.lasted_s)} in all{': ' if what.reason else ''}{printable(what.reason)}"
        return f"{state} from {clock(what.since)} to {clock(what.until)}, {lasted}."
    for_s = abs(what.until - what.since)
    if what.was_set:
        side = "back" if what.until < what.since else "ahead"
        return f"The clock was set {side} by {duration(for_s)}, at {clock(what.since)}."
    return f"No daemon ran from {clock(what.since)} to {clock(what.until)}, for {duration(for_s)}."


def _plain(part: Part) -> dict[str, Any]:
    values = asdict(part.period)
    del values["ended_at"], values["run"]
    return {"since": instant(part.since), "until": instant(part.until), **values}


def _dated(values: dict[str, Any]) -> dict[str, Any]:
    return values | {key: instant(values[key]) for key in ("since", "until")}
