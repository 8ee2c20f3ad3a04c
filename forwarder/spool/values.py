"""What is read from the queue: plain values, as they stand there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Figures:
    """The durable figures, as of one instant.

    ``accepted = delivered + dead_lettered + deleted + waiting``, where a retried dead letter is accepted
    anew, and ``dead_lettered = dead_letters + retried + discarded``. Instants are seconds since the epoch.
    """

    accepted: int
    delivered: int
    dead_lettered: int
    deleted: int
    waiting: int
    dead_letters: int
    retried: int
    discarded: int
    short: int
    paused: bool
    oldest_waiting_at: float | None
    last_delivery_at: float | None
    rate_1m: float
    db_bytes: int
    wal_bytes: int
    disk_free_bytes: int
    created_at: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """A row of the queue, as it stands there; ``status`` as persist-queue numbers it.

    ``data`` is cut short where ``size_bytes`` are too many for an event.
    """

    id: int
    data: bytes
    accepted_at: float
    status: int | None
    size_bytes: int

    @property
    def is_cut(self) -> bool:
        """Whether there is more of it."""
        return len(self.data) < self.size_bytes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that was refused, why, and when."""

    id: int
    event_id: int
    data: bytes
    event: str
    insert_id: str
    reason: str
    field: str
    http_status: int | None
    accepted_at: float
    dead_at: float


class Brief(NamedTuple):
    """A dead letter in short."""

    id: int
    event: str
    reason: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters: those that fit every part that is given.

    ``reason`` is a part of the reason's text, ``event`` an event's whole name, ``since`` the earliest
    time of death in seconds since the epoch.
    """

    ids: tuple[int, ...] | None = None
    reason: str | None = None
    event: str | None = None
    since: float | None = None

    def condition(self) -> tuple[str, list[object]]:
        """As SQL, with its parameters."""
        parts: list[str] = ["1"]
        values: list[object] = []
        if self.ids is not None:
            parts.append("id IN (SELECT value FROM json_each(?))")
            values.append(str(list(self.ids)))
        if self.reason is not None:
            parts.append("instr(lower(reason), lower(?))")
            values.append(self.reason)
        if self.event is not None:
            parts.append("event = ?")
            values.append(self.event)
        if self.since is not None:
            parts.append("dead_at >= ?")
            values.append(self.since)
        return " AND ".join(parts), values


@dataclass(frozen=True, slots=True)
class Group:
    """Dead letters that died of the same cause."""

    reason: str
    field: str
    http_status: int | None
    event: str
    count: int
    first_at: float
    last_at: float
    example_id: int

    def among_others(self) -> Group:
        """This group, where it is too small to be named."""
        return replace(self, reason="other reasons", field="", http_status=None, event="")

    def merged(self, more: Group) -> Group:
        """This group and *more*, found later."""
        return replace(
            self,
            count=self.count + more.count,
            first_at=min(self.first_at, more.first_at),
            last_at=max(self.last_at, more.last_at),
        )


def as_bytes(data: object) -> bytes:
    """What stands in a row, as bytes whatever its type."""
    if isinstance(data, bytes):
        return data
    return data.encode(errors="surrogatepass") if isinstance(data, str) else repr(data).encode()
