"""What the verbs take and return: plain values, the same for every engine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from forwarder.spool.ids import Run, runs_of, text_of
from forwarder.spool.statuses import HELD
from forwarder.text import since

OK, WARNING, FAIL = "ok", "warning", "FAIL"


@dataclass(slots=True)
class Claim:
    """Rows read for sending, in order: ids and final bytes side by side.

    At most ``left`` rows are still behind it. ``dead`` rows between them were not records and are now dead
    letters, the first for ``reason``. ``doubtful`` are those of the ids that were marked as being sent, see
    `Consumer.mark_sent`. Only the engine knows what an id means.
    """

    ids: Sequence[int] = ()
    events: Sequence[bytes] = ()
    size_bytes: int = 0
    left: int = 0
    dead: int = 0
    reason: str = ""
    doubtful: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Dead:
    """An event that becomes a dead letter, and why."""

    event_id: int
    data: bytes | None
    reason: str
    field: str = ""
    http_status: int | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """The outcome of some rows: every id in *ids* leaves the queue, as delivered unless it is in *dead*.

    ``short`` of the delivered ones were not counted by Mixpanel. ``size_bytes``, ``http_status``,
    ``tries`` and ``took_s``, the request's duration, are kept in the delivery log.
    """

    ids: Sequence[int]
    dead: Sequence[Dead] = ()
    short: int = 0
    size_bytes: int = 0
    http_status: int | None = None
    tries: int = 1
    took_s: float = 0.0

    @property
    def runs(self) -> list[Run]:
        """The ids as ranges, from and to; rows in the gaps belong to others."""
        return runs_of(self.ids)

    @property
    def id_list(self) -> str:
        """The ids for the delivery log, as ``1-2000,2003``."""
        return text_of(self.runs)

    @property
    def dead_id_list(self) -> str:
        """Those of them that were refused, likewise."""
        return text_of(runs_of(sorted(each.event_id for each in self.dead)))


@dataclass(frozen=True, slots=True)
class HandedOver:
    """What a server has taken over last from another queue: of each row, by its id there, the `digest`.

    ``turn`` is what the next batch is handed over with.
    """

    turn: int
    digests: Mapping[int, int]

    def has(self, row_id: int, record: bytes) -> bool:
        """Whether that *record* of that row is among it."""
        return self.digests.get(row_id) == digest(record)


class Bookmark(NamedTuple):
    """How far a file of records is in the queue: its first *done* lines or elements, and their *digest*.

    Where the last of them had no line feed yet, the digest of the others follows, after a space. A file may
    be found again by its *path*, or by *file*, what it is to the system.
    """

    path: str
    file: str
    done: int
    digest: str


class Move(NamedTuple):
    """A bookmark that takes the place of *old* ones."""

    old: tuple[Bookmark, ...]
    new: Bookmark


def digest(record: bytes) -> int:
    """Tells the contents of a row apart, in 64 bits of SHA-256."""
    return int.from_bytes(hashlib.sha256(record).digest()[:8], "big", signed=True)


@dataclass(frozen=True, slots=True)
class Control:
    """What a person has requested, and whether there is news.

    ``flush`` changes with each request for one, ``place`` if another directory is at the queue's path, and
    ``version`` when another process has written.
    """

    paused: bool
    flush: object
    place: object
    version: object = None


@dataclass(frozen=True, slots=True)
class Holder:
    """The daemon that delivers from a queue: its process, and its last report about itself.

    ``pid`` is 0 if the process is not visible, as in another container. ``told`` is the report; empty before
    the first one. ``halted`` says why the process can't report, and what to do; "" if it can. ``host`` is the
    name of the process's host, where others may be; "" if it is this one.
    """

    pid: int
    told: Mapping[str, Any] = field(default_factory=dict)
    halted: str = ""
    host: str = ""

    @property
    def name(self) -> str:
        """The process, for people."""
        if self.host and self.host != os.uname().nodename:
            return f"{self.host}:{self.pid}"
        if self.pid:
            return f"process {self.pid}"
        return "a process that is not visible from here, as in another container"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has found. ``detail`` has a line for each fault, and then what was checked.

    ``result`` is `OK`, `WARNING` or `FAIL`; ``exit_code`` is 0 unless it fails.
    """

    name: str
    result: str
    detail: str
    exit_code: int = 0

    @property
    def ok(self) -> bool:
        """Whether there is nothing to do."""
        return self.result == OK


@dataclass(frozen=True, slots=True)
class Figures:
    """The durable figures, as of one instant.

    ``accepted = delivered + dead_lettered + deleted + waiting``, where a retried dead letter is accepted
    again, and ``dead_lettered = dead_letters + retried + discarded``. ``held`` of the waiting ones are
    held back by a person; ``oldest_waiting_at`` is that of the others. Instants are seconds since the epoch.

    For the last minute: ``rate_1m`` is delivered events per second, ``accepted_1m`` accepted ones, and
    ``took_s`` the sorted durations of settled requests, the newest thousand at most.

    ``wal_bytes`` and ``disk_free_bytes`` are None where the engine can't know them.
    """

    accepted: int
    delivered: int
    dead_lettered: int
    deleted: int
    waiting: int
    held: int
    dead_letters: int
    retried: int
    discarded: int
    short: int
    paused: bool
    oldest_waiting_at: float | None
    last_delivery_at: float | None
    rate_1m: float
    accepted_1m: float
    took_s: Sequence[float]
    db_bytes: int
    wal_bytes: int | None
    disk_free_bytes: int | None

    @property
    def due(self) -> int:
        """How many wait for delivery."""
        return self.waiting - self.held

    def oldest_waiting_s(self, now: float) -> float:
        """How long the oldest of those has waited *now*; 0: there is none."""
        return since(self.oldest_waiting_at, now) if self.due else 0.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A waiting event as stored; ``status`` as persist-queue numbers it, or `HELD` by a person.

    ``data`` is cut short if ``size_bytes`` is too large for an event.
    """

    id: int
    data: bytes
    accepted_at: float
    status: int | None
    size_bytes: int

    @property
    def is_held(self) -> bool:
        """Whether a person holds it back."""
        return self.status == HELD

    @property
    def is_cut(self) -> bool:
        """Whether there is more of it."""
        return len(self.data) < self.size_bytes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused event, with the reason and the time."""

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


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of the records with the ids from *first* to *last*; what does not apply is None.

    Attributes:
        state: Where they are:

            - ``waiting``: since *at*, the first of them behind *ahead* others (`MOST_AHEAD` is that many or
              more);
            - ``held`` by a person; accepted *at*;
            - ``delivered``: *at*, by the request that is entry *request* of the delivery log, with *events*
              records, at try number *tries*, with *http_status*, which took *took_s* seconds;
            - ``dead``: *dead_letter* is the id of the dead letter; refused *at* for *reason*, with *field*,
              *http_status* and the name *event*;
            - ``retried``: the dead letter *dead_letter* was put back *at*, as the row *new_id*;
            - ``released``: a held one that was let go *at*, as the row *new_id*;
            - ``deleted`` by a person; if it was a dead letter, *request* is the one that it was refused in;
            - ``unknown``: the delivery log goes back to *at* only;
            - ``absent``: never accepted; *newest* is the newest id that was given.
    """

    first: int
    last: int
    state: str
    at: float | None = None
    ahead: int | None = None
    request: int | None = None
    events: int | None = None
    tries: int | None = None
    http_status: int | None = None
    took_s: float | None = None
    dead_letter: int | None = None
    reason: str | None = None
    field: str | None = None
    event: str | None = None
    new_id: int | None = None
    newest: int | None = None

    @property
    def count(self) -> int:
        """How many records."""
        return self.last - self.first + 1


class Brief(NamedTuple):
    """A dead letter in brief."""

    id: int
    event: str
    reason: str
    field: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters or waiting events: those that match every given part.

    ``reason`` is a part of a dead letter's reason, ``event`` an event's whole name, ``user`` any id of the
    user that it belongs to. It was refused or accepted from ``since`` until before ``before``, in seconds
    since the epoch. ``held``: only held waiting events, or only others. ``insert_id`` is its identity.
    """

    ids: tuple[int, ...] | None = None
    reason: str | None = None
    event: str | None = None
    user: str | None = None
    since: float | None = None
    before: float | None = None
    held: bool | None = None
    insert_id: str | None = None


# To count more rows before a waiting one would be a long read.
MOST_AHEAD = 100_000
# What waits for delivery.
DUE = Selection(held=False)


@dataclass(frozen=True, slots=True)
class Group:
    """Dead letters with the same cause."""

    reason: str
    field: str
    http_status: int | None
    event: str
    count: int
    first_at: float
    last_at: float
    example_id: int

    @classmethod
    def of(cls, letter: DeadLetter) -> Group:
        """The group that one dead letter makes."""
        at = letter.dead_at
        return cls(letter.reason, letter.field, letter.http_status, letter.event, 1, at, at, letter.id)

    def among_others(self) -> Group:
        """This group as part of the other, smaller ones."""
        return replace(self, reason="other reasons", field="", http_status=None, event="")

    def merged(self, more: Group) -> Group:
        """This group with *more*, found later."""
        return replace(
            self,
            count=self.count + more.count,
            first_at=min(self.first_at, more.first_at),
            last_at=max(self.last_at, more.last_at),
        )
