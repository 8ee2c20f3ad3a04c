"""What passes between the queue and its consumer: plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class Claim:
    """Rows read for sending, in their order: ids and final bytes side by side.

    Since the claim before it, ``dead`` rows were no events and have gone to the dead letters, the first of
    them for ``reason``, and ``swept`` rows were acked by a plain consumer. ``kept`` such rows of this claim
    stay in the queue, for want of room on the disk. All these are in none of the lists.
    """

    ids: Sequence[int] = ()
    events: Sequence[bytes] = ()
    size_bytes: int = 0
    last_id: int = 0
    dead: int = 0
    reason: str = ""
    swept: int = 0
    kept: int = 0


@dataclass(frozen=True, slots=True)
class Dead:
    """An event that goes to the dead letters, and why."""

    event_id: int
    data: bytes | None
    reason: str
    field: str = ""
    http_status: int | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of some rows: every id in *ids* leaves the queue, delivered unless it is in *dead*.

    ``short`` of the delivered ones were not counted by the far end. ``size_bytes``, ``http_status`` and
    ``tries`` are kept in the delivery log.
    """

    ids: Sequence[int]
    dead: Sequence[Dead] = ()
    short: int = 0
    size_bytes: int = 0
    http_status: int | None = None
    tries: int = 1


@dataclass(frozen=True, slots=True)
class Control:
    """What a person has asked for."""

    paused: bool
    flush_requests: int
