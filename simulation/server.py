"""What Mixpanel, and all that is between, may answer. Each behaviour has its say until one decides."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from forwarder.delivery.wire.outcome import Reply

HTML = {"content-type": "text/html"}
NAMED, POISON, WALLED = b"named", b"poison", b"walled"


def answer(code: int, **said: object) -> Reply:
    """A reply in Mixpanel's JSON."""
    return Reply(code, {}, json.dumps({"code": code, **said}).encode())


def imported(count: int) -> Reply:
    """The yes to so many events."""
    return Reply(200, {}, b'{"code":200,"num_records_imported":%d,"status":"OK"}' % count)


TOO_MANY = answer(429, error="Project exceeded rate limits.")
UNEXPLAINED = answer(400, error="Bad Request", status="Bad Request")
CUT = Reply(None, {}, b"", "the connection was cut", is_cut=True)
AWAY = Reply(None, {}, b"", "the connection was refused")
FAILURES = [
    AWAY,
    CUT,
    Reply(500, HTML, b"<title>oops</title>"),
    Reply(503, {"retry-after": "3"}, b""),
    Reply(200, HTML, b"<title>Sign in</title>"),
    Reply(400, HTML, b"<title>Bad Request</title>"),
    answer(401, error="Invalid credentials"),
    Reply(403, HTML, b"<title>Forbidden</title>"),
    Reply(404, HTML, b"<title>Not Found</title>"),
    Reply(302, {"location": "https://login.example.invalid/"}, b""),
    TOO_MANY,
    UNEXPLAINED,
    Reply(413, HTML, b"<title>Too large</title>"),
]

# What a request meets, at an instant and with its events. It gives a reply, or None: the next has its say.
Behaviour = Callable[["Mixpanel", float, Sequence[bytes]], Reply | None]


@dataclass
class Mixpanel:
    """A server with behaviours in force, and what it has imported by the events' bytes.

    Attributes:
        latency_s: Of an answer; behaviours may change it, for the request at hand.
    """

    random: Random
    usual_s: float = 0.25
    behaviours: list[Behaviour] = field(default_factory=list)
    imported: set[bytes] = field(default_factory=set)
    latency_s: float = 0.0
    requests: int = 0
    _out: list[float] = field(default_factory=list)

    def at_once(self, now: float) -> int:
        """How many requests are in progress, this one included."""
        self._out = [until for until in self._out if until > now]
        return len(self._out) + 1

    def arrive(self, now: float, events: Sequence[bytes], patience_s: float) -> tuple[float, Reply]:
        """How long the answer takes, and what it is; after *patience_s* nobody waits for it."""
        self.requests += 1
        self.latency_s = self.usual_s * self.random.uniform(0.8, 1.2)
        reply = None
        for behave in self.behaviours:
            reply = behave(self, now, events)
            if reply is not None:
                break
        if reply is None:
            reply = self.judged(events)
        took_s = self.latency_s
        if took_s > patience_s:
            took_s, reply = patience_s, Reply(None, {}, b"", "no answer in time", is_cut=True)
        self._out.append(now + took_s)
        return took_s, reply

    def judged(self, events: Sequence[bytes]) -> Reply:
        """Mixpanel's own judgement, event by event."""
        if any(event.startswith(POISON) for event in events):
            return UNEXPLAINED
        named = [index for index, event in enumerate(events) if event.startswith((NAMED, b'{"event":""'))]
        self.imported.update(event for index, event in enumerate(events) if index not in named)
        if not named:
            return imported(len(events))
        records = [{"index": index, "field": "event", "message": "is invalid"} for index in named]
        return answer(
            400,
            error="some data points in the request failed validation",
            num_records_imported=len(events) - len(named),
            failed_records=records,
        )


# Behaviours


def failing(reply: Reply, share: float = 1.0, taken: bool = False) -> Behaviour:
    """A *share* of the requests meets *reply*; what is *taken* was imported nevertheless."""

    def behave(server: Mixpanel, _now: float, events: Sequence[bytes]) -> Reply | None:
        if server.random.random() >= share:
            return None
        if taken:
            server.judged(events)
        return reply

    return behave


def hanging(share: float) -> Behaviour:
    """A *share* of the requests gets no answer."""

    def behave(server: Mixpanel, _now: float, _events: Sequence[bytes]) -> Reply | None:
        if server.random.random() < share:
            server.latency_s = 1e9
        return None

    return behave


def crowded(least_s: float, power: float) -> Behaviour:
    """Answers take *least_s* and grow with the requests at once, to a power."""

    def behave(server: Mixpanel, now: float, _events: Sequence[bytes]) -> Reply | None:
        server.latency_s = least_s * server.at_once(now) ** power
        return None

    return behave


def walled(reply: Reply) -> Behaviour:
    """A firewall answers in place of Mixpanel where it does not like an event."""

    def behave(_server: Mixpanel, _now: float, events: Sequence[bytes]) -> Reply | None:
        return reply if any(event.startswith(WALLED) for event in events) else None

    return behave


def limited(most_bytes: int, reply: Reply) -> Behaviour:
    """Bodies above a limit meet *reply*."""

    def behave(_server: Mixpanel, _now: float, events: Sequence[bytes]) -> Reply | None:
        return reply if sum(map(len, events)) + len(events) > most_bytes else None

    return behave


def short(share: float) -> Behaviour:
    """A *share* of the batches is imported, and counted one short."""

    def behave(server: Mixpanel, _now: float, events: Sequence[bytes]) -> Reply | None:
        if server.random.random() >= share or server.judged(events).status != 200:
            return None
        return imported(len(events) - 1)

    return behave


class Rolling:
    """A limit of events in any minute, "measured on a rolling 1 minute basis"; *others* use a part of it.

    *refused_cost* is what a 429 uses up of the limit, in parts of what it was for.
    """

    WINDOW_S = 60.0

    def __init__(self, events_per_s: float, refused_cost: float = 0.0, others: float = 0.0) -> None:
        self._most = events_per_s * self.WINDOW_S * (1 - others)
        self._refused_cost = refused_cost
        self._taken: deque[tuple[float, float]] = deque()
        self._used = 0.0

    def __call__(self, _server: Mixpanel | None, now: float, events: Sequence[bytes]) -> Reply | None:
        """429 to what is above the limit."""
        while self._taken and self._taken[0][0] <= now - self.WINDOW_S:
            self._used -= self._taken.popleft()[1]
        fits = self._used + len(events) <= self._most
        cost = len(events) * (1.0 if fits else self._refused_cost)
        if cost:
            self._taken.append((now, cost))
            self._used += cost
        return None if fits else TOO_MANY
