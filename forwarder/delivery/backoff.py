"""How long to wait, how many connections to use and how much to send, after what the far end did.

All are arithmetic over plain values, without a clock: the schedule that Mixpanel documents ("starting
with a backoff of 2s and doubling backoff until 60s, with 1-5s of jitter"), and increase in small steps
with decrease by half, as TCP finds its rate.
"""

import math


def delay_s(tries: int, initial_s: float, maximum_s: float, jitter: float) -> float:
    """Seconds to wait after *tries* failures in a row (1 or more).

    *initial_s*, doubled with each failure until *maximum_s*, plus 1 to 5 seconds: *jitter*, from 0 to 1,
    says where in between. An *initial_s* or *maximum_s* below 2 shrinks the jitter in proportion.
    """
    first_s = min(initial_s, maximum_s)
    # 2**64 times any delay worth the name is past any maximum; a larger power would overflow.
    wait_s = min(math.ldexp(first_s, min(max(tries - 1, 0), 64)), maximum_s)
    return wait_s + min(1.0, first_s / 2) * (1 + 4 * jitter)


class Connections:
    """How many connections may be used at once: from 1 to *limit* (1 or more), as the far end bears them.

    It starts at 1 and doubles each round trip until the far end first says "too many"; from there on
    one more each round trip. Only a success with all connections in use is a reason for more.

    Each request takes a *ticket* when it is sent and hands it back with what came of it. The number
    changes downwards at most once for all requests that were in flight together, and what they still
    bring in afterwards counts for nothing: a reply to a request from before says nothing about now.

    Not thread-safe: the caller holds its own lock.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._doubling_below = self._limit
        self._successes = 0
        self.allowed = 1
        self.ticket = 0

    def succeeded(self, ticket: int, *, saturated: bool) -> None:
        """A request came through; *saturated*: all allowed connections were in use meanwhile."""
        if ticket != self.ticket or not saturated or self.allowed >= self._limit:
            return
        self._successes += 1
        if self.allowed < self._doubling_below or self._successes >= self.allowed:
            self._set(self.allowed + 1)

    def throttled(self, ticket: int) -> None:
        """The far end said "too many": half as many, once a round trip."""
        if ticket == self.ticket:
            self._doubling_below = max(self.allowed // 2, 1)
            self.ticket += 1
            self._set(self._doubling_below)

    def failed(self, ticket: int) -> None:
        """No answer, or none from Mixpanel: one connection is enough to ask again."""
        if ticket == self.ticket:
            self.ticket += 1
            self._set(1)

    def _set(self, allowed: int) -> None:
        self.allowed = allowed
        self._successes = 0


class BatchSize:
    """How many bytes a batch may have: up to *limit_bytes*, as the far end bears them.

    A limit that it names is kept until it takes more than that itself. One that it does not name is found by
    halving, and tried again in small steps: it may have been a moment's, or another event's.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._most_bytes = self._limit_bytes = self.allowed_bytes = limit_bytes

    def too_large(self, size_bytes: int, named_bytes: int | None) -> None:
        """A batch of *size_bytes* was too large; the limit is *named_bytes*, if it said so."""
        if named_bytes:
            self._limit_bytes = min(self._limit_bytes, named_bytes)
        self.allowed_bytes = min(self.allowed_bytes, named_bytes or max(size_bytes // 2, 1))

    def succeeded(self, size_bytes: int) -> None:
        """A batch of *size_bytes* came through: a sixteenth more, until the limit."""
        if size_bytes > self._limit_bytes:
            self._limit_bytes = self._most_bytes
            self.allowed_bytes = min(size_bytes, self._limit_bytes)
        self.allowed_bytes = min(self.allowed_bytes + self.allowed_bytes // 16 + 1, self._limit_bytes)
