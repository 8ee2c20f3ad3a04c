"""What a reply led to: for the log and for counting."""

from __future__ import annotations

from dataclasses import dataclass

from forwarder.records.verdict import Outcome


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
