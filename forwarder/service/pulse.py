"""What the loop says of itself at each turn, for other threads to read."""

from __future__ import annotations

import time
from dataclasses import dataclass

from forwarder.config import Settings
from forwarder.service.state import DaemonState

# A turn that has to wait for locks, for 10 s each, is no hanging one.
STALLED_S = 60.0


@dataclass(frozen=True, slots=True)
class Pulse:
    """One beat: how things were at *beat_at* (monotonic).

    Attributes:
        trouble: Why the daemon can't take part: the queue can't be used, or it is about to end; "": it can.
    """

    state: DaemonState
    settings: Settings
    trouble: str
    beat_at: float

    @property
    def stall(self) -> str:
        """Why the loop must be taken for hanging; "": it has turned lately."""
        age_s = time.monotonic() - self.beat_at
        return f"the loop has not turned for {age_s:.0f} s" if age_s > STALLED_S else ""
