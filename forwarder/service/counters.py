"""What the daemon has counted since its start, for monitoring, where such counters may restart at 0."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

from forwarder.records.verdict import Outcome, Verdict

BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
MOST_TOOK = 10_000


def quantile(durations_s: Sequence[float], part: float) -> float | None:
    """What a *part* of the sorted durations, from 0 to below 1, does not exceed; None: there is none."""
    return durations_s[int(len(durations_s) * part)] if durations_s else None


class Counters:
    """Requests by outcome, their durations, and the clock's error; several threads count.

    Attributes:
        retries: How many requests were for events that had been sent before.
        clock_skew_s: How far this host's clock is ahead of Mixpanel's; None: not known yet.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = dict.fromkeys(Verdict, 0)
        self.retries = 0
        self._durations = [0] * (len(BUCKETS_S) + 1)
        self._durations_s = 0.0
        self._took_s: deque[float] = deque(maxlen=MOST_TOOK)
        self._sent_bytes = 0
        self.clock_skew_s: float | None = None

    def timed(self, duration_s: float) -> None:
        """A request has ended, with or without an answer."""
        with self._lock:
            self._durations[bisect_left(BUCKETS_S, duration_s)] += 1
            self._durations_s += duration_s
            self._took_s.append(duration_s)

    def settled(self, outcome: Outcome, *, is_retry: bool, sent_bytes: int = 0) -> None:
        """A reply was settled; *is_retry*: its events had been sent before. *sent_bytes* were delivered."""
        with self._lock:
            self._requests[outcome.verdict] += 1
            self.retries += is_retry
            self._sent_bytes += sent_bytes
            if outcome.clock_skew_s is not None:
                self.clock_skew_s = outcome.clock_skew_s

    def requests(self) -> dict[Verdict, int]:
        """How many requests have ended, by outcome."""
        with self._lock:
            return dict(self._requests)

    def by_outcome(self) -> dict[str, int]:
        """The same in words, without what has not happened."""
        return {verdict.value: count for verdict, count in self.requests().items() if count}

    def take_took_s(self) -> list[float]:
        """The durations since the last call, sorted; the newest `MOST_TOOK` at most."""
        with self._lock:
            found, self._took_s = self._took_s, deque(maxlen=MOST_TOOK)
        return sorted(found)

    def take_sent_bytes(self) -> int:
        """The bytes of what was delivered since the last call."""
        with self._lock:
            found, self._sent_bytes = self._sent_bytes, 0
        return found

    def durations(self) -> tuple[list[int], float]:
        """How many requests are in each bucket, the last for all longer ones; and their sum in seconds."""
        with self._lock:
            return list(self._durations), self._durations_s
