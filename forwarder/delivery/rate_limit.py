"""How far apart requests start after the server's first "too many": one forwarder's share of a limit."""

from __future__ import annotations

import math
from collections import deque

# Mixpanel's limit is "measured on a rolling 1 minute basis": the cause of a 429 may be a minute old.
WINDOW_S = 60.0
KEPT = 0.9
MORE = 0.05
# Windows without a "too many" after which a success adds twice as much; after twice as many, nine times.
EAGER = 3.0
FORGOTTEN = 20.0
OWED = 1 / 30
# This many requests in a window show how much the server takes from one that sends all it can.
TELLING = 30
# Requests per second, if nothing was taken; and by how much a success raises a mere guess.
TRIED, RAISED = 1.5, 1.05


class RateLimit:
    """A rate in requests per second, found as TCP finds its own; unlimited until the first "too many".

    Then the rate is what the server took within the minute before. So it fits one forwarder that has the
    limit for itself, and a thousand that share it with one request a minute each. If little was sent in that
    minute, it shows little: it takes a second "too many" in a row, and the rate is a guess that each success
    raises quickly. The next "too many" shows how much is taken in a minute. From then on each "too many"
    takes a tenth away, but once a minute if nothing else comes in between, and each success adds a twentieth
    of a request a minute. Forwarders with a higher rate lose more, so all get the same rate, whatever their
    latency. The longer there is no "too many", the more a success adds: the rate recovers within minutes
    when others leave, and after twenty minutes it is unlimited again.

    It never falls below one request a minute. Each request starts at a random instant around its time, so
    that forwarders do not send in step.

    Not thread-safe. Instants are the caller's (monotonic), and so is the random number *draw*, from 0 to 1.

    Args:
        window_s: The window of the server's limit.

    Attributes:
        due_at: When the next request may start.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._rate = math.inf
        self._is_guess = False
        self._taken: deque[float] = deque()
        self._quiet_s = 0.0
        self._heard_at = 0.0
        self._slowed_at = -math.inf
        self._is_refused = False
        self._mean_at = -math.inf
        self.due_at = -math.inf

    @property
    def per_minute(self) -> float:
        """Requests a minute; infinite: no limit."""
        return self._rate * 60

    def sent(self, now: float, draw: float) -> None:
        """A request starts."""
        interval_s = 1 / self._rate
        self._mean_at = max(self._mean_at, now - OWED * self._window_s) + interval_s
        self.due_at = max(self._mean_at + (draw - 0.5) * interval_s, now + interval_s / 2)

    def succeeded(self, now: float) -> None:
        """The server took a request."""
        self._quiet_s += now - self._heard_at
        self._heard_at = now
        self._is_refused = False
        if self._is_guess:
            self._rate *= RAISED
            self.due_at = min(self.due_at, now + 1 / self._rate)
            self._mean_at = min(self._mean_at, now)
        if self._quiet_s > FORGOTTEN * self._window_s:
            self._rate = math.inf
        self._rate += MORE / self._window_s * (1 + (self._quiet_s / self._window_s / EAGER) ** 3)
        self._taken.append(now)
        self._forget_taken(now)

    def throttled(self, now: float, draw: float) -> None:
        """The server answered "too many"."""
        is_first = self._rate == math.inf
        self._forget_taken(now)
        self._quiet_s = 0.0
        taken, is_second = len(self._taken), self._is_refused
        self._is_refused = True
        if is_first and taken >= TELLING:
            self._rate, self._is_guess = taken / self._window_s * KEPT, False
            # The time before the start is unknown: what was taken may be far below the share.
            self._quiet_s = 2 * EAGER * self._window_s
            self._slowed_at = now
        elif is_first and not is_second:
            return
        elif is_first:
            self._rate, self._is_guess = taken / self._window_s or TRIED, True
        elif self._is_guess and not is_second:
            self._rate, self._is_guess = taken / self._window_s * KEPT, False
        elif not self._is_guess and (not is_second or now >= self._slowed_at + self._window_s):
            self._rate *= KEPT
            self._slowed_at = now
        self._rate = max(self._rate, 1 / self._window_s)
        self._heard_at = now
        if not (is_first or self._is_guess):
            self._mean_at = max(self._mean_at, now + 1 / self._rate)
            self.due_at = now + (0.5 + draw) / self._rate

    def failed(self, now: float) -> None:
        """There was no answer. The rate stays, and this does not count as time without "too many"."""
        self._heard_at = now

    def flush(self) -> None:
        """Let the next request start now."""
        self.due_at = self._mean_at = -math.inf

    def _forget_taken(self, now: float) -> None:
        while self._taken and self._taken[0] <= now - self._window_s:
            self._taken.popleft()
