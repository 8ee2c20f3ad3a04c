"""How fast delivery goes: how many requests at once, how far apart, how large, how patient; and the breaker.

Arithmetic over plain values: no thread, and no clock of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from forwarder.config.settings import Delivery
from forwarder.delivery.rate_limit import WINDOW_S, RateLimit

# After this many failures in a row, without a success that was sent later, nothing gets through.
SEVERAL = 5
# After this many refusals without a reason since the last import, nothing is imported at all.
TOO_MANY_REFUSALS = 20
# With full batches, a fifteenth of Mixpanel's limit for a project.
NOTICED_PER_MINUTE = 60
# If the answer is slower, the next try waits longer; a repeat is harmless.
PATIENCE_S, PATIENT = 5.0, 4.0
# A batch whose upload takes this part of the timeout is large enough; with twice that it is too large.
LONG = 0.25
HOLD_S, HOLD_MOST_S = 2.0, 60.0
# More connections must bring this part of the gain that they would bring if each were as fast as before.
GAIN = 0.3
# Faster answers than this vary by chance, and delay nothing.
QUICK_S = 0.05


def delay_s(tries: int, initial_s: float, maximum_s: float, jitter: float) -> float:
    """Seconds to wait after *tries* failures in a row (1 or more).

    Mixpanel documents it: "starting with a backoff of 2s and doubling backoff until 60s, with 1-5s of
    jitter". *jitter*, from 0 to 1, says where in between. An *initial_s* or *maximum_s* below 2 shrinks the
    jitter in proportion.
    """
    first_s = min(initial_s, maximum_s)
    # 2**64 times any real delay is above any maximum; a larger power would overflow.
    wait_s = min(math.ldexp(first_s, min(max(tries - 1, 0), 64)), maximum_s)
    return wait_s + min(1.0, first_s / 2) * (1 + 4 * jitter)


class Flow:
    """How much one server can take, learned from the outcome of requests.

    Instants are the caller's (monotonic).
    Requests have numbers, in the order of sending. A failure counts only if nothing that was sent later got
    through, so one failed request does not slow down the others while they succeed. After `SEVERAL` in a row
    the breaker opens: only one request is sent at a time, after waits that double. The next success closes
    it. Not thread-safe.

    Args:
        settings: The limits.
        random: Draws from 0 to 1.

    Attributes:
        out: How many requests are in flight.
        tries: How often in a row nothing got through; requests in flight together count once.
        retry_at: When failed batches may be sent again, unless something gets through earlier.
        opens_at: When anything may be sent.
        size: How large a batch may be.
    """

    def __init__(self, settings: Delivery, random: Callable[[], float]) -> None:
        self._settings = settings
        self._random = random
        # Requests are never further apart than tries.
        self._rate_limit = RateLimit(min(WINDOW_S, settings.retry_max_s))
        self._connections = Connections(settings.connections)
        self.size = Size(settings.batch_bytes)
        self.out = self.tries = 0
        self.retry_at = self.opens_at = -math.inf
        self._sent = self._passed = self._imported = 0
        self._misses = self._missed = 0
        self._refusals = 0
        self._failing = 0.0
        self._slowest_s = 0.0
        self._state, self._reason = "running", ""

    # What is allowed

    @property
    def connections(self) -> int:
        """How many requests may be in flight at once."""
        return 1 if self.is_open else self._connections.allowed

    @property
    def is_open(self) -> bool:
        """Whether the breaker is open: nothing gets through, and one request at a time is tried."""
        return self._misses >= SEVERAL or self._refusals >= TOO_MANY_REFUSALS

    @property
    def holds_all(self) -> bool:
        """Whether everything waits, not only what failed."""
        return self.is_open or self.opens_at > -math.inf

    @property
    def trouble(self) -> tuple[str, str]:
        """``backing_off`` or ``blocked``, and the reason of the last failure; ``running`` if something got
        through since."""
        return self._state, self._reason

    @property
    def note(self) -> str:
        """For a person: the rate limit, if it is noticeable; else ""."""
        limit = self._rate_limit.per_minute
        if limit > NOTICED_PER_MINUTE:
            return ""
        return f'at most {max(limit, 1):.0f} requests a minute, because Mixpanel said "too many requests"'

    @property
    def next_at(self) -> float:
        """When the next request may start."""
        return max(self.opens_at, self._rate_limit.due_at)

    def has_passed_since(self, number: int) -> bool:
        """Whether the server has judged something sent after request *number*."""
        return self._passed > number

    def has_imported_since(self, number: int) -> bool:
        """Whether the server has imported something sent after request *number*."""
        return self._imported > number

    def is_chance(self, failures: int) -> bool:
        """Whether one batch may fail that often by chance, each time while others got through."""
        return failures < 2 or self._failing**failures > 0.05

    def patience_s(self, tries: int) -> float:
        """How long to wait for an answer to a batch that was sent *tries* times before."""
        most_s = self._settings.read_timeout_s
        if not self._slowest_s:
            return most_s
        usual_s = max(PATIENCE_S, PATIENT * self._slowest_s)
        return min(math.ldexp(usual_s, min(tries + self.tries, 64)), most_s)

    # What happens

    def tried(self, *, has_failed: bool) -> None:
        """A first try has ended. The share of failed first tries is the failure rate by chance."""
        self._failing += (has_failed - self._failing) / 8

    def sent(self, number: int, now: float) -> None:
        """Request *number* starts."""
        self._sent = number
        self.out += 1
        self._rate_limit.sent(now, self._random())

    def ended(self) -> None:
        """A request has ended, and its outcome is settled."""
        self.out -= 1

    def passed(self, number: int, now: float, imported: int = 0) -> None:
        """The server has judged request *number* event by event, and imported *imported* events."""
        self._rate_limit.succeeded(now)
        self._passed = max(self._passed, number)
        if imported:
            self._imported = max(self._imported, number)
            self._refusals = 0
        if number > self._missed and self._refusals < TOO_MANY_REFUSALS:
            self._misses = self.tries = 0
            self._state, self._reason = "running", ""
            self.retry_at = self.opens_at = -math.inf

    def timed(
        self,
        number: int,
        size_bytes: int,
        took_s: float,
        now: float,
        *,
        upload_s: float = 0.0,
        is_telling: bool = False,
    ) -> None:
        """Request *number* with a body of *size_bytes* took *took_s*, of it *upload_s* for the upload.

        Args:
            is_telling: It can be compared: the batch had full size, all connections were in use, and this
                one had served before; a new one is slow at first.
        """
        self._slowest_s = max(took_s, self._slowest_s * 0.98)
        upload = upload_s / self._settings.read_timeout_s
        self.size.passed(size_bytes, upload)
        # A saturated uplink is no faster with more connections.
        if upload <= LONG and self.out >= self._connections.allowed and now >= self.next_at:
            speed = size_bytes / took_s if is_telling and took_s > QUICK_S else 0.0
            self._connections.succeeded(number, self._sent, speed, now)

    def refused(self, number: int, words: str, now: float) -> None:
        """Request *number*, of one event, was refused without a reason."""
        self._rate_limit.succeeded(now)
        self._refusals += 1
        self._missed = max(self._missed, number)
        self._back_off("blocked", f"every event tried since the last import is refused: {words}", now)
        if self.is_open:
            self.opens_at = max(self.opens_at, self.retry_at)

    def failed(
        self, number: int, state: str, words: str, now: float, floor_s: float = 0.0, *, is_news: bool = True
    ) -> None:
        """Request *number* got no answer from Mixpanel; *state*: ``backing_off``, or ``blocked`` by settings.

        *is_news*: the batch had not failed before while others got through.
        """
        self._rate_limit.failed(now)
        if number < self._passed:
            return
        self._missed = max(self._missed, number)
        self._back_off(state, words, now, floor_s)
        self._misses += is_news
        if self.is_open:
            self.opens_at = max(self.opens_at, self.retry_at)
            self._connections.failed(self._sent)
            self.size.reset()

    def throttled(self, number: int, words: str, now: float, floor_s: float = 0.0) -> None:
        """The server answered "too many" to request *number*: all wait, and continue slower."""
        if number > self._missed:
            self._connections.throttled(self._sent, now)
        self._back_off("backing_off", words, now, floor_s)
        self._rate_limit.throttled(now, self._random())
        self.opens_at = max(self.opens_at, self.retry_at)
        # A success of a request that was in flight already does not end the wait.
        self._missed = self._sent

    def flush(self) -> None:
        """Forget the current waits, but not their reason."""
        self.retry_at = self.opens_at = -math.inf
        self._rate_limit.flush()

    def _back_off(self, state: str, words: str, now: float, floor_s: float = 0.0) -> None:
        """Wait, longer each time, but at least *floor_s*.

        The first of the longest waits gets up to twice as long, by a minute at most: forwarders that fail in
        the same outage do not all come back together.
        """
        self._state, self._reason = state, words
        if now < self.retry_at:
            # Requests in flight together fail as one; the longest Retry-After counts.
            self.retry_at = max(self.retry_at, now + floor_s)
            return
        self.tries += 1
        # Blocked by the key or the address: after the second try a person has to act.
        blocks = state == "blocked" and not self._refusals and self.tries > 1
        wait_s = self._wait_s(64 if blocks else self.tries, self._random())
        if self._wait_s(self.tries - 1) < self._wait_s(self.tries) == self._wait_s(self.tries + 1):
            wait_s += min(self._settings.retry_max_s, WINDOW_S) * self._random()
        self.retry_at = now + max(wait_s, floor_s)

    def _wait_s(self, tries: int, jitter: float = 0.0) -> float:
        return delay_s(tries, self._settings.retry_initial_s, self._settings.retry_max_s, jitter)


class Connections:
    """How many requests may be in flight at once, from 1 to *limit*: as many as make delivery faster.

    It starts at 1 and doubles with each round trip while all are in use. If more are hardly faster than
    fewer, it goes back to fewer. Later it tries half as many more, after a wait that grows each time.

    Attributes:
        allowed: The number.
    """

    def __init__(self, limit: int) -> None:
        self._limit = max(limit, 1)
        self._speeds: dict[int, float] = {}
        self._answers = self._samples = self._since = 0
        self._is_doubling = True
        self._held_until = -math.inf
        self._hold_s = HOLD_S
        self.allowed = 1

    def succeeded(self, number: int, last_number: int, speed: float, now: float) -> None:
        """Request *number* got through at *speed* bytes/s while all were in use; 0: not comparable.

        *last_number* is that of the last request that was sent.
        """
        self._answers += 1
        if speed and number > self._since:
            self._samples += 1
            together = speed * self.allowed
            known = self._speeds.get(self.allowed, together)
            self._speeds[self.allowed] = known + (together - known) / 4
            if self._is_no_gain():
                self._hold(now)
                self._set(self._fewer, last_number)
                return
        # If nothing can be compared, twice as many answers are enough.
        is_judged = self._samples > self.allowed // 2 or self._answers >= 2 * self.allowed
        if is_judged and self._answers >= self.allowed < self._limit and now >= self._held_until:
            more = self.allowed if self._is_doubling else (self.allowed + 1) // 2
            self._set(min(self.allowed + more, self._limit), last_number)

    def throttled(self, last_number: int, now: float) -> None:
        """The server answered "too many": use half as many."""
        self._hold(now)
        self._set(max(self.allowed // 2, 1), last_number)

    def failed(self, last_number: int) -> None:
        """Nothing gets through: use one."""
        self._is_doubling = True
        self._set(1, last_number)

    @property
    def _fewer(self) -> int:
        """The best lower number; 0: none is known."""
        fewer = [level for level in self._speeds if level < self.allowed]
        return max(fewer, key=lambda level: self._speeds[level], default=0)

    def _is_no_gain(self) -> bool:
        """Whether this many are hardly faster than fewer. One answer is enough if they are no faster."""
        fewer = self._fewer
        if not fewer:
            return False
        gain = self._speeds[self.allowed] / self._speeds[fewer] - 1
        if self._samples <= self.allowed // 2:
            return gain < 0
        if gain < GAIN * (self.allowed / fewer - 1):
            return True
        self._hold_s = HOLD_S
        return False

    def _hold(self, now: float) -> None:
        self._is_doubling = False
        self._held_until = now + self._hold_s
        self._hold_s = min(2 * self._hold_s, HOLD_MOST_S)

    def _set(self, allowed: int, last_number: int) -> None:
        self._speeds = {level: speed for level, speed in self._speeds.items() if level <= allowed}
        self._answers = self._samples = 0
        self._since = last_number
        self.allowed = allowed


class Size:
    """How many bytes a batch may have: up to *most_bytes*, less if the server or the network takes less.

    A limit that the server has named holds until the server takes more. An unnamed limit is found by halving
    and raised again in small steps: it may have been temporary, or caused by one event.

    Attributes:
        allowed_bytes: The size.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = self._limit_bytes = self.allowed_bytes = most_bytes
        self._passed_bytes = 0

    def too_large(self, size_bytes: int, named_bytes: int | None = None) -> None:
        """A batch of *size_bytes* was too large; *named_bytes* is the limit that the server named."""
        if named_bytes:
            self._limit_bytes = min(self._limit_bytes, named_bytes)
        self.allowed_bytes = min(self.allowed_bytes, named_bytes or max(size_bytes // 2, 1))

    def cut(self, size_bytes: int) -> bool:
        """A batch of *size_bytes* was cut off. Whether its size may be the cause: none as large passed."""
        if size_bytes <= self._passed_bytes:
            # One has passed, but that may no longer hold.
            self._passed_bytes = self._passed_bytes * 9 // 10
            return False
        self.too_large(size_bytes)
        return True

    def passed(self, size_bytes: int, upload: float = 0.0) -> None:
        """A batch of *size_bytes* got through: the next may be a sixteenth larger, up to the limit.

        If the upload took a large part of the timeout, *upload*, it may not; or it must be half as large.
        """
        self._passed_bytes = max(self._passed_bytes, size_bytes)
        if size_bytes > self._limit_bytes:
            self._limit_bytes = self._most_bytes
            self.allowed_bytes = min(size_bytes, self._limit_bytes)
        if upload > 2 * LONG:
            self.allowed_bytes = min(self.allowed_bytes, max(size_bytes // 2, 1))
        elif upload <= LONG:
            self.allowed_bytes = min(self.allowed_bytes + self.allowed_bytes // 16 + 1, self._limit_bytes)

    def reset(self) -> None:
        """Nothing gets through, whatever its size: the size was not the cause."""
        self.allowed_bytes = self._limit_bytes
