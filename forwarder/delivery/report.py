"""What has come of a reply: for the log and for counting."""

from __future__ import annotations

from dataclasses import dataclass

from forwarder.delivery.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Report:
    """What one reply has led to; *delivered*, *dead* and *short* count events."""

    outcome: Outcome
    http_status: int | None
    sent: int
    delivered: int = 0
    dead: int = 0
    short: int = 0
