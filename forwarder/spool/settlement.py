"""What passes between the queue and its consumer: plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class Claim:
    """Rows read for sending, in their order: ids and final bytes side by side.

    ``dead`` rows between them were no events and have gone to the dead letters, the first of them for
    ``reason``.
    """

    ids: Sequence[int] = ()
    events: Sequence[bytes] = ()
    size_bytes: int = 0
    last_id: int = 0
    dead: int = 0
    reason: str = ""


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

    ``short`` of the delivered ones were not counted by the far end. ``size_bytes``, ``http_status``,
    ``tries`` and ``took_s``, how long the request took, are kept in the delivery log.
    """

    ids: Sequence[int]
    dead: Sequence[Dead] = ()
    short: int = 0
    size_bytes: int = 0
    http_status: int | None = None
    tries: int = 1
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Control:
    """What a person has asked for: ``flush`` is another each time it was asked for, ``place`` in another
    directory."""

    paused: bool
    flush: object
    place: object
