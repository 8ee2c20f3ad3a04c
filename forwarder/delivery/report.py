"""What has come of a reply: for the log and for counting."""

from __future__ import annotations

from dataclasses import dataclass

from forwarder.records.verdict import Outcome


@dataclass(frozen=True, slots=True)
class Report:
    """What one reply has led to; *delivered*, *dead* and *short* count events.

    *is_stale*: it was sent before the settings changed, and has come back. *state* and *reason* are those of
    delivery now, as `Dispatcher.condition`; *wait_s* is how long the next try is away.
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
