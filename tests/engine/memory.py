"""An engine that keeps everything in this process's memory: proof that the verbs ask for nothing else."""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field, replace

from forwarder.errors import EventError
from forwarder.records import EVENTS
from forwarder.spool import (
    DUE,
    FAIL,
    OK,
    Bookmark,
    BookmarkMovedError,
    Brief,
    Claim,
    Control,
    Dead,
    DeadLetter,
    Figures,
    Finding,
    Group,
    Holder,
    NoQueueError,
    Period,
    QueueReplacedError,
    SpoolFullError,
    TakenError,
    Waiting,
    receipts,
)
from forwarder.spool import engine as verbs
from forwarder.spool.history import merged
from forwarder.spool.receipts import Entry, Letter, Renewal, Row
from forwarder.spool.statuses import HELD


@dataclass
class Store:
    """All there is of a queue."""

    rows: dict[int, tuple[bytes, float]] = field(default_factory=dict)
    letters: dict[int, DeadLetter] = field(default_factory=dict)
    exists: bool = False
    held: dict[int, tuple[bytes, float]] = field(default_factory=dict)
    sent: set[int] = field(default_factory=set)
    accepted: int = 0
    baseline: int = 0
    deleted: int = 0
    dead_lettered: int = 0
    delivered: int = 0
    retried: int = 0
    discarded: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    log: list[Entry] = field(default_factory=list)
    renewals: list[Renewal] = field(default_factory=list)
    short: int = 0
    last_delivery_at: float | None = None
    paused: bool = False
    flushes: int = 0
    consumer: object = None
    minutes: list[Period] = field(default_factory=list)
    hours: list[Period] = field(default_factory=list)
    summed: int = 0
    holder: Presence | None = None
    bookmarks: list[Bookmark] = field(default_factory=list)

    def put(self, data):
        self.exists = True
        self.accepted += 1
        self.rows[self.accepted] = data, time.time()
        return self.accepted

    def refuse(self, why, now):
        data, accepted_at = self.rows.pop(why.event_id)
        self.dead_lettered += 1
        self.letters[self.dead_lettered] = DeadLetter(
            self.dead_lettered, why.event_id, data, *EVENTS.name_of(data), why.reason, why.field,
            why.http_status, accepted_at, now,
        )  # fmt: skip

    @property
    def used_bytes(self):
        return sum(len(data) for data, _ in self.rows.values())


class Producer:
    def __init__(self, store, max_bytes):
        self._store, self._max_bytes = store, max_bytes
        store.exists = True

    def append(self, records, dead=(), move=None):
        if self._store.used_bytes >= self._max_bytes:
            raise SpoolFullError("it is full")
        if move:
            kept = [one for one in self._store.bookmarks if one not in move.old]
            if len(kept) + len(move.old) != len(self._store.bookmarks) or any(
                one[:2] == move.new[:2] for one in kept
            ):
                raise BookmarkMovedError(move.new.path)
            self._store.bookmarks = [*kept, move.new][-verbs.KEPT_BOOKMARKS :]
        for data in records:
            self._store.put(data)
        for data, reason in dead:
            row_id = self._store.put(data)
            self._store.refuse(Dead(row_id, data, reason), time.time())
        last = self._store.accepted + 1
        return range(last - len(records) - len(dead), last)

    def bookmarks(self, path, file):
        return [one for one in self._store.bookmarks if one.path == path or one.file == file]

    def refuse(self, counts):
        self._store.refused.update(counts)

    def close(self):
        pass


class Consumer:
    queue_id = "in memory"
    orphaned = ""

    def __init__(self, store):
        self._store = store
        store.exists, store.consumer = True, self
        self._position = 0

    def _behind(self):
        if self._store.consumer is not self:
            raise QueueReplacedError("another consumer has begun")
        return [row_id for row_id in self._store.rows if row_id > self._position]

    def arrivals(self):
        return len(self._behind())

    def claim(self, max_events, max_bytes):
        claim = self._read(self._behind(), max_events, max_bytes)
        if claim.ids:
            self._position = claim.ids[-1]
        return replace(claim, left=len(self._behind()))

    def sample(self, place):
        behind = self._behind()
        return self._read(behind[int(place * (len(behind) - 1)) :], 1, 0) if behind else Claim()

    def read_again(self, ids, size_bytes):
        return self._read([row_id for row_id in ids if row_id in self._store.rows], len(ids), size_bytes)

    def _read(self, ids, max_events, max_bytes):
        taken, size_bytes = [], 0
        for row_id in ids[:max_events]:
            row_bytes = len(self._store.rows[row_id][0]) + 1
            if taken and size_bytes + row_bytes > max_bytes:
                break
            taken.append(row_id)
            size_bytes += row_bytes
        doubtful = [row_id for row_id in taken if row_id in self._store.sent]
        events = [self._store.rows[row_id][0] for row_id in taken]
        return Claim(taken, events, size_bytes, doubtful=doubtful)

    def mark_sent(self, ids, *, sent=True):
        self._behind()
        (self._store.sent.update if sent else self._store.sent.difference_update)(ids)
        return len(self._store.rows.keys() & set(ids))

    def settle(self, settlement):
        self._behind()
        store, now = self._store, time.time()
        dead = {each.event_id: each for each in settlement.dead}
        for row_id in settlement.ids:
            if row_id not in store.rows:
                continue
            if row_id in dead:
                store.refuse(dead[row_id], now)
            else:
                del store.rows[row_id]
                store.delivered += 1
                store.last_delivery_at = now
        store.short += settlement.short
        done = settlement.id_list, settlement.dead_id_list, settlement.http_status, settlement.tries
        store.log.append(Entry(len(store.log) + 1, *done, settlement.took_s, now, None))

    def record(self, period):
        self._behind()
        store = self._store
        if store.minutes and store.minutes[-1].hour != period.hour:
            store.hours.append(merged(store.minutes[store.summed :]))
            store.summed = len(store.minutes)
        store.minutes.append(period)

    def discard_dead_letters(self, before):
        old = [each.id for each in self._store.letters.values() if each.dead_at < before]
        return _delete(self._store, old)

    def maintain(self, *, at_rest):
        return not at_rest

    def changed_mark(self):
        return self.control()

    def control(self):
        self._behind()
        return Control(self._store.paused, self._store.flushes, None, self._store.accepted)

    def wait_for_locks(self, timeout_s):
        pass

    def reopen(self):
        pass

    def set_aside(self):
        pass

    def close(self):
        pass


class View:
    def __init__(self, store):
        self._store = store
        if not store.exists:
            raise NoQueueError("there is no queue yet")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def figures(self):
        store = self._store
        oldest = next(iter(store.rows.values()), (b"", None))[1]
        return Figures(
            accepted=store.accepted - store.baseline, delivered=store.delivered,
            dead_lettered=store.dead_lettered, deleted=store.deleted, held=len(store.held),
            waiting=len(store.rows) + len(store.held), dead_letters=len(store.letters), retried=store.retried,
            discarded=store.discarded, short=store.short, paused=store.paused, oldest_waiting_at=oldest,
            last_delivery_at=store.last_delivery_at, rate_1m=0.0,
            accepted_1m=store.accepted / 60, took_s=(), db_bytes=0, wal_bytes=0, disk_free_bytes=0,
        )  # fmt: skip

    def refused(self):
        return dict(self._store.refused)

    def history(self, count, *, hourly=False):
        return (self._store.hours if hourly else self._store.minutes)[-count:]

    def used_bytes(self):
        return self._store.used_bytes

    def peek(self, count, after_id=0, where=DUE):
        return [row for row in self._waiting(where) if row.id > after_id][:count]

    def newest_waiting(self):
        return max([*self._store.rows, *self._store.held], default=0)

    def count_waiting(self, where):
        return len(self._waiting(where))

    def _waiting(self, where):
        rows = {(row_id, 1): row for row_id, row in self._store.rows.items()}
        rows |= {(row_id, HELD): row for row_id, row in self._store.held.items()}
        return [
            Waiting(row_id, data, at, status, len(data))
            for (row_id, status), (data, at) in sorted(rows.items())
            if where.held in (None, status == HELD)
            and (where.ids is None or row_id in where.ids)
            and (where.event is None or where.event == EVENTS.name_of(data)[0])
            and (where.insert_id is None or where.insert_id == EVENTS.name_of(data)[1])
            and _is_between(where, data, at)
        ]

    def receipts(self, runs):
        return receipts.find(Places(self._store), runs)

    def waits(self, runs):
        return any(_is_in(runs, row_id) for row_id in (*self._store.rows, *self._store.held))

    def newest_dead_letter(self):
        return max(self._store.letters, default=0)

    def count_dead_letters(self, where):
        return len(self._fitting(where))

    def dead_letters(self, where, after_id=0, limit=1000, with_data=True):
        found = [each for each in self._fitting(where) if each.id > after_id][:limit]
        return found if with_data else [replace(each, data=b"") for each in found]

    def latest_dead_letters(self, limit, digits=""):
        found = [each for each in self._store.letters.values() if str(each.id).startswith(digits)]
        return [Brief(each.id, each.event, each.reason, each.field) for each in found[: -limit - 1 : -1]]

    def summary(self, where):
        groups = {}
        for each in self._fitting(where):
            key = each.reason, each.field, each.http_status, each.event
            new = Group(*key, 1, each.dead_at, each.dead_at, each.id)
            groups[key] = groups[key].merged(new) if key in groups else new
        return sorted(groups.values(), key=lambda group: (-group.count, group.example_id))

    def check(self):
        found = self.figures()
        balances = found.accepted == found.delivered + found.dead_lettered + found.deleted + found.waiting
        return [Finding("books", OK if balances else FAIL, "")]

    def _fitting(self, where):
        return [
            each
            for each in self._store.letters.values()
            if (where.ids is None or each.id in where.ids)
            and (where.reason is None or where.reason.lower() in each.reason.lower())
            and (where.event is None or where.event == each.event)
            and (where.insert_id is None or where.insert_id == each.insert_id)
            and _is_between(where, each.data, each.dead_at)
        ]


class Places(receipts.Source):
    def __init__(self, store):
        self._store = store

    def newest_id(self):
        return self._store.accepted

    def rows(self, runs):
        waiting, held = (
            [Row(row_id, at) for row_id, (_, at) in sorted(rows.items()) if _is_in(runs, row_id)]
            for rows in (self._store.rows, self._store.held)
        )
        return waiting, held

    def count_rows(self, first, end, most):
        return min(sum(first <= row_id < end for row_id in self._store.rows), most)

    def letters(self, runs):
        return [
            Letter(
                each.event_id, each.id, each.reason, each.field, each.http_status, each.event, each.dead_at
            )
            for each in self._store.letters.values()
            if _is_in(runs, each.event_id)
        ]

    def renewals(self, first, last):
        return [each for each in self._store.renewals if first <= each.event_id <= last]

    def entries(self, before):
        return [entry for entry in self._store.log if entry.id < before][::-1]

    def oldest_renewal(self):
        return None

    def oldest_entry(self):
        return None


def _is_in(runs, row_id):
    return any(first <= row_id <= last for first, last in runs)


class Presence:
    def __init__(self, store):
        if store.holder is not None:
            raise TakenError("it is taken")
        self.token, self.is_announced, self.told, self.pid = uuid.uuid4().hex, False, {}, os.getpid()
        self._store, store.holder = store, self

    def announce(self):
        self.is_announced = True

    keep = announce

    def tell(self, state):
        self.told = dict(state)
        return True

    def release(self):
        self._store.holder = None


class Spool(verbs.Spool):
    place = "memory"
    stands_by = False

    def __init__(self):
        self._store = Store()

    def producer(self, *, max_bytes, min_free_bytes, lock_timeout_s):
        return Producer(self._store, max_bytes)

    def consumer(self, lock_timeout_s=10.0, token=""):
        return Consumer(self._store)

    def view(self, timeout_s=10.0):
        return View(self._store)

    def pause(self):
        before, self._store.paused = self._store.paused, True
        self._store.exists = True
        return before

    def resume(self):
        before, self._store.paused = self._store.paused, False
        self.request_flush()
        return before

    def request_flush(self):
        self._store.flushes += 1

    def retry_dead_letters(self, ids, edit):
        store, new_ids, stayed = self._store, {}, []
        for letter_id in ids:
            if letter_id in store.letters:
                letter = store.letters[letter_id]
                try:
                    data = edit(letter.data, letter.accepted_at)
                except EventError as error:
                    stayed.append((letter_id, str(error)))
                    continue
                new_ids[letter_id] = new_id = store.put(data)
                store.renewals.append(Renewal(letter.event_id, letter_id, new_id, time.time()))
                del store.letters[letter_id]
        store.retried += len(new_ids)
        return new_ids, stayed

    def delete_dead_letters(self, ids):
        return _delete(self._store, ids)

    def hold(self, ids):
        may_be = [row_id for row_id in ids if row_id not in self._store.sent]
        return self._move(may_be, self._store.rows, self._store.held.__setitem__)

    def release(self, ids):
        def put(row_id, row):
            new_id = self._store.put(row[0])
            self._store.renewals.append(Renewal(row_id, 0, new_id, time.time()))
            self._store.baseline += 1

        return self._move(ids, self._store.held, put)

    def delete_waiting(self, ids):
        count = sum(self._move(ids, rows, lambda *_: None) for rows in (self._store.rows, self._store.held))
        self._store.deleted += count
        return count

    def _move(self, ids, rows, put):
        found = [row_id for row_id in dict.fromkeys(ids) if row_id in rows]
        for row_id in found:
            put(row_id, rows.pop(row_id))
        return len(found)

    def take(self):
        return Presence(self._store)

    def holder(self):
        found = self._store.holder
        return Holder(found.pid, found.told) if found and found.is_announced else None

    def set_aside(self):
        return []

    def findings(self, *, max_bytes, min_free_bytes, briefly=False):
        if not briefly:
            yield from self.view().check()


def _is_between(where, data, at):
    return (
        (where.user is None or EVENTS.concerns(data, where.user))
        and (where.since is None or at >= where.since)
        and (where.before is None or at < where.before)
    )


def _delete(store, ids):
    count = sum(store.letters.pop(letter_id, None) is not None for letter_id in ids)
    store.discarded += count
    return count
