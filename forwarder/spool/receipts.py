"""What became of records, by their ids; for every engine alike.

The places are looked at in the order in which a record moves, so that one that moves meanwhile is found in
the next: its row, its dead letter, what was put back, the delivery log. What is in none of them was deleted,
if they go back far enough to say so.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from forwarder.spool.ids import Run, count_of, joined, runs_in, runs_of
from forwarder.spool.values import MOST_AHEAD, Receipt

# Of one read.
PAGE_IDS, PAGE_RUNS, PAGE_ENTRIES = 10_000, 1000, 500
# As SQL: which of an entry's records were refused, unless that is not known.
KNOWN_DEAD = "CASE WHEN dead = 0 OR dead_ids <> '' THEN dead_ids END"
_NEWEST = (1 << 63) - 1


class Row(NamedTuple):
    """A waiting row, and when it was added; None: not known."""

    id: int
    put_at: float | None


class Letter(NamedTuple):
    """A dead letter."""

    event_id: int
    id: int
    reason: str
    field: str
    http_status: int | None
    event: str
    dead_at: float


class Renewal(NamedTuple):
    """A record that has got another id: a dead letter that was retried, or a held one that was released."""

    event_id: int
    dead_letter_id: int
    new_id: int
    at: float


class Entry(NamedTuple):
    """An entry of the delivery log.

    *put_at*: when its last record was added. *dead_ids*: those that were refused; None: some were, and which
    is not known, as of tables of before.
    """

    id: int
    ids: str
    dead_ids: str | None
    http_status: int | None
    tries: int
    took_s: float
    settled_at: float
    put_at: float | None


class Oldest(NamedTuple):
    """The oldest entry of a log: its number, from 1 if none was removed before it; and its time."""

    id: int
    at: float


class Source(Protocol):
    """What an engine has of each place, in short reads. Rows come in the order of their ids."""

    def newest_id(self) -> int:
        """The newest id that was ever given."""

    def rows(self, runs: Sequence[Run]) -> tuple[list[Row], list[Row]]:
        """The rows in *runs* that wait for delivery, then those that are held, read later or at once."""

    def count_rows(self, first: int, end: int, most: int) -> int:
        """How many rows wait for delivery from the id *first* to before *end*; *most* at most."""

    def letters(self, runs: Sequence[Run]) -> list[Letter]:
        """The dead letters of the records in *runs*."""

    def renewals(self, first: int, last: int) -> Iterator[Renewal]:
        """The known ones of records from the id *first* to *last*."""

    def entries(self, before: int) -> list[Entry]:
        """The newest `PAGE_ENTRIES` of the delivery log before the entry *before*, newest first."""

    def oldest_renewal(self) -> Oldest | None:
        """The oldest that is known; None: there is none."""

    def oldest_entry(self) -> Oldest | None:
        """The oldest of the delivery log; None: there is none."""


class Left:
    """Ids that are still looked for.

    Attributes:
        runs: They, in ascending order.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = joined(runs)

    def _touched(self, first: float, last: float) -> slice:
        start = bisect_left(self.runs, first, key=lambda run: run[1])
        return slice(start, bisect_right(self.runs, last, start, key=lambda run: run[0]))

    def has(self, first: float, last: float) -> bool:
        """Whether an id from *first* to *last* is among them."""
        return bool(self.runs[self._touched(first, last)])

    def take(self, first: float, last: float) -> list[Run]:
        """Take out those from *first* to *last*."""
        touched = self._touched(first, last)
        runs = self.runs[touched]
        if not runs:
            return []
        taken = [(int(max(low, first)), int(min(high, last))) for low, high in runs]
        rest = [(runs[0][0], taken[0][0] - 1), (taken[-1][1] + 1, runs[-1][1])]
        self.runs[touched] = [(low, high) for low, high in rest if low <= high]
        return taken

    def pages(self) -> Iterator[list[Run]]:
        """They, as many at a time as one read takes."""
        page: list[Run] = []
        room = PAGE_IDS
        for first, last in list(self.runs):
            while first <= last:
                end = min(last, first + room - 1)
                page.append((first, end))
                room -= end - first + 1
                first = end + 1
                if not room or len(page) == PAGE_RUNS:
                    yield page
                    page, room = [], PAGE_IDS
        if page:
            yield page


def find(source: Source, runs: Sequence[Run]) -> list[Receipt]:
    """See `engine.View.receipts`."""
    newest, left = source.newest_id(), Left(runs)
    never = [*left.take(-math.inf, 0), *left.take(newest + 1, math.inf)]
    found = [Receipt(*run, "absent", newest=newest) for run in never]
    for page in left.pages():
        for state, rows in zip(("waiting", "held"), source.rows(page), strict=True):
            put_at = dict(rows)
            for run in runs_of([*put_at]):
                found += [Receipt(*each, state, put_at[each[0]]) for each in left.take(*run)]
    for page in left.pages():
        for letter in source.letters(page):
            found += [_dead(letter) for _ in left.take(letter.event_id, letter.event_id)]
    if left.runs:
        for renewal in source.renewals(left.runs[0][0], left.runs[-1][1]):
            found += [_renewed(renewal) for _ in left.take(renewal.event_id, renewal.event_id)]
    found += _settled(source, left)
    return _counted(source, _merged(found))


def _dead(letter: Letter) -> Receipt:
    return Receipt(
        letter.event_id,
        letter.event_id,
        "dead",
        letter.dead_at,
        http_status=letter.http_status,
        dead_letter=letter.id,
        reason=letter.reason,
        field=letter.field,
        event=letter.event,
    )


def _renewed(renewal: Renewal) -> Receipt:
    row_id, letter_id, new_id, at = renewal
    if not letter_id:
        return Receipt(row_id, row_id, "released", at, new_id=new_id)
    return Receipt(row_id, row_id, "retried", at, dead_letter=letter_id, new_id=new_id)


def _settled(source: Source, left: Left) -> Iterator[Receipt]:
    """What the delivery log says, and of the rest, how far it can be known."""
    renewals_from = _begins(source.oldest_renewal())
    newest_of: list[tuple[float, int]] = []
    before = _NEWEST
    while left.runs and (page := source.entries(before)):
        for entry in page:
            before = entry.id
            try:
                runs = runs_in(entry.ids)
                dead = runs_in(entry.dead_ids) if entry.dead_ids else []
            except ValueError:  # damaged
                continue
            newest_of.append((entry.put_at or 0.0, runs[-1][1]))
            if left.has(runs[0][0], runs[-1][1]):
                yield from _in_entry(entry, runs, dead, left, renewals_from)
    # Read after the entries: those that have been removed meanwhile may be some that were not seen.
    known_from = max(_begins(source.oldest_entry()), _begins(source.oldest_renewal()))
    if known_from > -math.inf:
        # What was accepted later has not been delivered or put back before the logs begin.
        later = min((last for put_at, last in newest_of if put_at > known_from), default=math.inf)
        for run in left.take(-math.inf, later - 1):
            yield Receipt(*run, "unknown", known_from)
    for run in left.take(-math.inf, math.inf):
        yield Receipt(*run, "deleted")


def _in_entry(
    entry: Entry, runs: list[Run], dead: list[Run], left: Left, renewals_from: float
) -> Iterator[Receipt]:
    for one in dead:
        for run in left.take(*one):
            # There is no dead letter any more.
            if entry.settled_at < renewals_from:
                yield Receipt(*run, "unknown", renewals_from)
            else:
                yield Receipt(*run, "deleted", request=entry.id)
    count = count_of(runs)
    for one in runs:
        for run in left.take(*one):
            if entry.dead_ids is None:
                yield Receipt(*run, "unknown", entry.settled_at)
                continue
            yield Receipt(
                *run,
                "delivered",
                entry.settled_at,
                request=entry.id,
                events=count,
                tries=entry.tries,
                http_status=entry.http_status,
                took_s=entry.took_s,
            )


def _begins(oldest: Oldest | None) -> float:
    """Since when a log is whole."""
    return -math.inf if oldest is None or oldest.id == 1 else oldest.at


def _merged(found: list[Receipt]) -> list[Receipt]:
    """In the order of ids; consecutive ones of which the same is to be told are one."""
    merged: list[Receipt] = []
    for receipt in sorted(found, key=lambda receipt: receipt.first):
        before = merged[-1] if merged else None
        if before and receipt.first == before.last + 1 and _fate(receipt) == _fate(before):
            merged[-1] = replace(before, last=receipt.last)
        else:
            merged.append(receipt)
    return merged


def _fate(receipt: Receipt) -> tuple[object, ...]:
    return receipt.state, receipt.request, receipt.dead_letter, receipt.new_id


def _counted(source: Source, found: list[Receipt]) -> list[Receipt]:
    """With *ahead* for those that wait."""
    ahead = counted_to = 0
    for index, receipt in enumerate(found):
        if receipt.state == "waiting":
            if ahead < MOST_AHEAD:
                ahead += source.count_rows(counted_to, receipt.first, MOST_AHEAD - ahead)
                counted_to = receipt.first
            found[index] = replace(receipt, ahead=ahead)
    return found
