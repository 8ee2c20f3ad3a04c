"""How far apart requests start, once the server has said "too many": one forwarder's share of a limit."""

from __future__ import annotations

import math
from collections import deque

# Mixpanel's limit is "measured on a rolling 1 minute basis": what a 429 is for may be a minute old.
WINDOW_S = 60.0
KEPT = 0.9
MORE = 0.05
# In windows without a "too many": after so many a success adds twice as much, after twice as many nine times.
EAGER = 3.0
FORGOTTEN = 20.0
OWED = 1 / 30
# So many requests in a window tell what the server takes of one who sends all it can.
TELLING = 30
# Requests per second, where nothing was taken; and how a success raises what is but a guess.
TRIED, RAISED = 1.5, 1.05


class RateLimit:
    """A rate in requests per second, found as TCP finds its own; without limit until the first "too many".

    Then it is what the server took within the minute before: be it that one forwarder has the limit for
    itself, or that a thousand share it and have one request a minute each. Where little was sent in it, that
    tells little: it takes a second "too many" in a row, and the rate is a guess, which each success raises
    quickly. The next "too many" shows what is taken in a minute. From there on each takes a tenth away, but
    once a minute when there is nothing else in between, and each success adds a twentieth of a request a
    minute. As this is the same for all, those that have more lose more, and all come to have the same,
    whatever their latency. The longer nobody has said "too many", the more a success adds: a rate comes back
    within minutes when others go, and after twenty it has no limit again.

    It never falls below one request a minute. When exactly a request starts is drawn from the interval
    around its time, so that nobody is in step with others.

    Not thread-safe. Instants are the caller's (monotonic), and so is chance: *draw*, from 0 to 1.

    Args:
        window_s: What the server's limit is counted over.

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
        """Requests a minute; infinite: as many as there are connections for."""
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
        """The server said "too many"."""
        is_first = self._rate == math.inf
        self._forget_taken(now)
        self._quiet_s = 0.0
        taken, is_second = len(self._taken), self._is_refused
        self._is_refused = True
        if is_first and taken >= TELLING:
            self._rate, self._is_guess = taken / self._window_s * KEPT, False
            # Of the time before a start nothing is known: what was taken may be far below the share.
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
        """There was no answer: no reason for less, and no time in which nobody said "too many"."""
        self._heard_at = now

    def flush(self) -> None:
        """Let the next request start now."""
        self.due_at = self._mean_at = -math.inf

    def _forget_taken(self, now: float) -> None:
        while self._taken and self._taken[0] <= now - self._window_s:
            self._taken.popleft()
