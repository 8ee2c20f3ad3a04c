"""What a reply led to, and what is still to be sent again: for people, the log and for counting."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from forwarder.records.verdict import Outcome
from forwarder.spool import runs_of, text_of

# As much is reported of what is deferred: so many batches, and of each so many runs of ids.
MOST_POSTPONED, MOST_RUNS = 20, 100


@dataclass(frozen=True, slots=True)
class Report:
    """What one reply led to; *delivered*, *dead* and *short* count events.

    *is_stale*: the request was sent before the settings changed. *state* and *reason* are those of delivery
    now, as `Dispatcher.condition`; *wait_s* is the time until the next try.
    """

    outcome: Outcome
    sent: int
    is_retry: bool
    is_stale: bool = False
    delivered: int = 0
    dead: int = 0
    short: int = 0
    state: str = "running"
    reason: str = ""
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Postponed:
    """Records that were sent without success, and will be again: their *ids*, as ``1-2000,2003``.

    *reason* is that of the last time, *tries* how often they were sent, and *next_s* in how many seconds they
    are sent again; None: after others have succeeded, or had their turn.
    """

    ids: str
    reason: str
    tries: int
    next_s: float | None

    @classmethod
    def until(cls, at: float, now: float, ids: Iterable[int], reason: str, tries: int) -> Self:
        """Sent again *at* an instant; infinite: it is not known when."""
        next_s = round(max(at - now, 0.0), 1) if at < math.inf else None
        return cls(text_of(runs_of(sorted(ids))[:MOST_RUNS]), reason, tries, next_s)
