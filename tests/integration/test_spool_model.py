"""The spool against a model of a few lines: whatever producers of any kind, the daemon, people and crashes do
to it in whatever order, its rows, its dead letters and its books are those that the model foresees.

``FORWARDER_CRASH_S=600`` goes on for so many seconds; ``FORWARDER_TEST_SEED=7`` repeats the run of that seed.
"""

import json
import os
import random
import shutil
import signal
import sqlite3
import tempfile
import time
import warnings
from collections import Counter

import persistqueue
import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from persistqueue.serializers import json as plain_json

from forwarder import spool
from forwarder.records.event import accept
from forwarder.spool import Dead, EventQueue, Selection, Settlement
from forwarder.spool.sqlite import books, control
from forwarder.spool.sqlite.consumer import Consumer
from forwarder.spool.sqlite.view import View

# Read before the tests take this host's settings away.
LONG_S = float(os.environ.get("FORWARDER_CRASH_S") or 0)
SEED = int(os.environ.get("FORWARDER_TEST_SEED") or random.SystemRandom().randrange(2**32))

NOW_MS = 1_700_000_000_000
RUBBISH = [b'"text"', b"17", b"null", b'{"event": 3, "properties": {}}', b'{"properties": {}}']
picks = st.integers(0, 9)
seen = Counter()  # what has happened, over all runs


def complete(data, at):
    """What a person's retry makes of a dead letter, without edits."""
    return accept(data, NOW_MS, rules=False)


class Spool(RuleBasedStateMachine):
    """What really is there, and beside it what should be."""

    def __init__(self):
        super().__init__()
        self.home, self.lives, self.number = tempfile.mkdtemp(), 0, 0
        # The model: rows by id as stored, the bytes in which external ones go out, what externals have
        # acked or deleted, letters by id, totals.
        self.rows, self.final, self.acked, self.missing, self.letters = {}, {}, set(), set(), {}
        self.last_id = self.last_letter = self.delivered = self.dead = self.deleted = 0
        self.retried = self.discarded = self.short = self.paused = 0
        self.start()

    def start(self):
        """Open the queue as a new producer and a new daemon do."""
        self.path = f"{self.home}/{self.lives}"
        self.queue = EventQueue(self.path, min_free_bytes=0)
        self.consumer = Consumer(self.path)
        self.watch = sqlite3.connect(f"{self.path}/data.db", isolation_level=None)
        self.flight, self.cursor, self.plain, self.taken = [], 0, None, []

    def close(self):
        self.close_plain()
        self.watch.close()
        self.queue.close()
        self.consumer.close()

    def close_plain(self):
        if self.plain is not None:
            self.plain.close()
        self.plain, self.taken = None, []

    def teardown(self):
        self.close()
        shutil.rmtree(self.home)

    def events(self, count):
        self.number += count
        first = self.number - count
        texts = [f'{{"event":"é","properties":{{"n":{first + n},"x":1.10}}}}' for n in range(count)]
        return [accept(text.encode(), NOW_MS) for text in texts]

    def added(self, rows):
        for data in rows:
            self.last_id += 1
            self.rows[self.last_id] = data

    # Producers

    @rule(count=st.integers(1, 6))
    def append(self, count):
        events = self.events(count)
        assert self.queue.append(events) == count
        self.added(events)

    @rule(count=st.integers(1, 3))
    def put_many(self, count):
        items = [json.loads(data) for data in self.events(count)]
        assert self.queue.put_many(items) == count
        self.added(json.dumps(item, separators=(",", ":"), ensure_ascii=False).encode() for item in items)

    @rule()
    def put(self):
        item = json.loads(self.events(1)[0])
        assert self.queue.put(item) == self.last_id + 1
        self.added([json.dumps(item, separators=(",", ":"), ensure_ascii=False).encode()])

    # Strangers

    def external(self):
        if self.plain is None:
            self.plain = persistqueue.SQLiteAckQueue(self.path, auto_resume=False, serializer=plain_json)
        return self.plain

    @rule()
    def put_by_a_stranger(self):
        self.number += 1
        item = {"event": "s", "properties": {"n": self.number}}
        assert self.external().put(item) == self.last_id + 1
        self.added([plain_json.dumps(item)])
        self.final[self.last_id] = None  # not known before it is claimed

    @rule(data=st.sampled_from(RUBBISH))
    def put_rubbish(self, data):
        assert self.external().put(json.loads(data)) == self.last_id + 1
        self.added([data])

    @rule()
    def reopen_by_a_stranger(self):
        self.close_plain()
        self.plain = persistqueue.SQLiteAckQueue(self.path, serializer=plain_json)  # resumes what was taken

    @rule(count=st.integers(1, 4))
    def get_by_a_stranger(self, count):
        for _ in range(count):
            try:
                self.taken.append(self.external().get(block=False, raw=True)["pqid"])
            except persistqueue.Empty:
                assert self.rows.keys() <= {*self.taken, *self.acked, *self.untold()}

    def untold(self):
        """Rows that an external producer took, or gave up, before."""
        return [row for (row,) in self.watch.execute("SELECT _id FROM ack_queue_default WHERE status > 1")]

    @precondition(lambda self: self.taken)
    @rule(pick=picks, word=st.sampled_from(["ack", "ack", "nack", "ack_failed"]))
    def settle_by_a_stranger(self, pick, word):
        row_id = self.taken.pop(pick % len(self.taken))
        getattr(self.plain, word)(id=row_id)
        if word == "ack" and row_id in self.rows:
            self.acked.add(row_id)
            seen["acked"] += 1
        elif word != "ack":
            self.acked.discard(row_id)

    @rule(count=st.integers(1, 4))
    def consume_by_a_stranger(self, count):
        self.get_by_a_stranger(count)
        while self.taken:
            self.settle_by_a_stranger(0, "ack")

    @rule(count=st.integers(1, 3))
    def clear_by_a_stranger(self, count):
        self.consume_by_a_stranger(count)
        self.external().clear_acked_data(max_delete=count, keep_latest=0)
        for row_id in sorted(self.acked, reverse=True)[:count]:
            self.acked.remove(row_id)
            self.missing.add(row_id)
            del self.rows[row_id]

    # The daemon

    @rule(most=st.integers(1, 8), max_bytes=st.sampled_from([1, 250, 10**6]))
    def claim(self, most, max_bytes):
        ahead = [row_id for row_id in sorted(self.rows) if row_id > self.cursor]
        claim = self.consumer.claim_behind(self.cursor, most, max_bytes)
        read = [row_id for row_id in ahead if row_id <= claim.last_id]
        assert len(read) <= most
        assert claim.last_id == (read[-1] if read else self.cursor)
        assert bool(read) == bool(ahead)
        assert max_bytes < 10**6 or len(read) == min(most, len(ahead))
        acked = [row_id for row_id in read if row_id in self.acked]
        dead = [row_id for row_id in read if row_id not in self.acked and self.rows[row_id] in RUBBISH]
        assert list(claim.ids) == [row_id for row_id in read if row_id not in {*acked, *dead}]
        assert claim.dead == len(dead)
        assert claim.size_bytes == sum(map(len, claim.events)) + len(claim.events)
        assert claim.size_bytes <= max_bytes or len(read) == 1
        for row_id, data in zip(claim.ids, claim.events, strict=True):
            self.learn(row_id, data)
        self.dead_letter([(row_id, self.rows[row_id]) for row_id in dead])
        self.gone(acked)
        self.deleted += len(acked)
        seen["deleted acked"] += len(acked)
        self.cursor = claim.last_id
        if claim.ids:
            self.flight.append((claim.ids, claim.events))

    def learn(self, row_id, data):
        """An external producer's event is completed when claimed, and has the same bytes from then on."""
        if self.final.get(row_id, b"") is None:
            found = json.loads(data)
            assert found["properties"].pop("time") > 0
            assert len(found["properties"].pop("$insert_id")) == 32
            assert found == json.loads(self.rows[row_id])
            self.final[row_id] = data
        else:
            seen["claimed again"] += row_id in self.final
        assert data == self.final.get(row_id, self.rows[row_id])

    def gone(self, ids):
        for row_id in ids:
            self.rows.pop(row_id, None)
            self.acked.discard(row_id)
            self.missing.discard(row_id)

    def dead_letter(self, dead):
        for row_id, data in dead:
            self.last_letter += 1
            self.letters[self.last_letter] = (row_id, data)
        self.dead += len(dead)
        self.gone(row_id for row_id, _ in dead)
        seen["dead"] += len(dead)

    @precondition(lambda self: self.flight)
    @rule(pick=picks, bad=st.sets(st.integers(0, 7)), is_short=st.booleans())
    def settle(self, pick, bad, is_short):
        settlement = self.settlement(pick, bad, is_short)
        self.consumer.settle(settlement)
        self.settled(settlement)

    def settlement(self, pick, bad, is_short):
        ids, events = self.flight.pop(pick % len(self.flight))
        dead = [Dead(ids[n], events[n], "bad") for n in sorted(bad) if n < len(ids)]
        return Settlement(ids, dead, short=int(is_short and len(dead) < len(ids)))

    def settled(self, settlement):
        # What was deleted while it was being sent counts as deleted.
        there = [row_id for row_id in settlement.ids if row_id in self.rows]
        dead = [(letter.event_id, letter.data) for letter in settlement.dead if letter.event_id in there]
        self.dead_letter(dead)
        self.gone(there)
        self.delivered += len(there) - len(dead)
        self.short += settlement.short

    @precondition(lambda self: any(len(ids) > 1 for ids, _ in self.flight))
    @rule()
    def halve(self):
        ids, events = max(self.flight, key=lambda batch: len(batch[0]))
        self.flight.remove((ids, events))
        middle = len(ids) // 2
        self.flight += [(ids[:middle], events[:middle]), (ids[middle:], events[middle:])]

    @rule()
    def drain(self):
        self.claim(1000, 10**6)
        while self.flight:
            self.settle(0, (), False)
        self.tidy()

    @precondition(lambda self: not self.flight)
    @rule()
    def tidy(self):
        self.consumer.maintain(at_rest=True)
        if not self.rows:
            self.deleted += len(self.missing)
            seen["missing"] += len(self.missing)
            self.missing.clear()

    # People

    @precondition(lambda self: self.rows)
    @rule(pick=picks)
    def delete_waiting(self, pick):
        row_id = sorted(self.rows)[pick % len(self.rows)]
        assert spool.at(self.path).delete_waiting([row_id]) == 1
        self.gone([row_id])
        self.deleted += 1
        seen["deleted by a person"] += any(row_id in ids for ids, _ in self.flight)

    @rule(paused=st.booleans())
    def pause_or_resume(self, paused):
        (control.pause if paused else control.resume)(self.path)
        self.paused = paused

    @rule(picked=st.sets(picks, min_size=1, max_size=3))
    def retry(self, picked):
        self.append(3)
        self.claim(1000, 10**6)
        self.settle(len(self.flight) - 1, picked, False)
        if not self.letters:
            return
        there = sorted(self.letters)
        ids = sorted({self.last_letter + 1, *(there[number % len(there)] for number in picked)})
        new_ids, stayed = spool.at(self.path).retry_dead_letters(ids, complete)
        known = [letter_id for letter_id in ids if letter_id in self.letters]
        stays = [letter_id for letter_id in known if self.letters[letter_id][1] in RUBBISH]
        assert [letter_id for letter_id, _ in stayed] == stays
        count = len(new_ids)
        assert list(new_ids) == [letter_id for letter_id in known if letter_id not in stays]
        assert list(new_ids.values()) == [self.last_id + n for n in range(1, count + 1)]
        self.added(self.letters.pop(letter_id)[1] for letter_id in known if letter_id not in stays)
        self.retried += count
        seen["retried"] += count

    @precondition(lambda self: self.letters)
    @rule(picked=st.sets(picks, min_size=1, max_size=3))
    def delete(self, picked):
        known = {number % self.last_letter + 1 for number in picked} & self.letters.keys()
        assert spool.at(self.path).delete_dead_letters([*known, self.last_letter + 1]) == len(known)
        self.discarded += len(known)
        for letter_id in known:
            del self.letters[letter_id]

    @rule()
    def expire(self):
        assert self.consumer.discard_dead_letters(time.time() + 9) == len(self.letters)
        self.discarded += len(self.letters)
        self.letters.clear()

    # Ends and beginnings

    @rule()
    def restart(self):
        self.put_by_a_stranger()
        self.claim(1000, 10**6)
        self.close()
        self.start()
        self.claim(1000, 10**6)

    @rule()
    def power_cut(self):
        """Go on with the files as they stand, while those who had them open are forgotten."""
        self.lives += 1
        ignore = shutil.ignore_patterns("*-shm")
        shutil.copytree(self.path, f"{self.home}/{self.lives}", ignore=ignore)
        self.close()
        self.start()
        seen["copied"] += 1

    @rule(step=st.integers(1, 4), count=st.integers(1, 9))
    def kill_a_producer(self, step, count):
        events = self.events(count)
        self.killed(step, self.queue, lambda: self.queue.append(events))
        if self.looked().accepted > self.last_id:
            self.added(events)

    @precondition(lambda self: self.flight)
    @rule(step=st.integers(1, 12), pick=picks, bad=st.sets(st.integers(0, 7)))
    def kill_the_daemon(self, step, pick, bad):
        settlement = self.settlement(pick, bad, False)
        self.killed(step, self.consumer, lambda: self.consumer.settle(settlement))
        found = self.looked()
        if (found.delivered, found.dead_lettered) != (self.delivered, self.dead):
            self.settled(settlement)
        self.close()
        self.start()

    def killed(self, step, owner, work):
        """Have a child do *work*, and kill itself at the statement *step* of it; or end without closing."""
        self.close_plain()
        self.watch.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork during threads; none has a lock here
            child = os.fork()
        if not child:
            try:
                left = iter(range(step, -1, -1))
                trace = lambda _statement: next(left) or os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
                getattr(owner, "_producer", owner)._database.connect().set_trace_callback(trace)
                work()
                os._exit(0)
            finally:
                os._exit(70)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL)
        seen["killed"] += status != 0
        self.watch = sqlite3.connect(f"{self.path}/data.db", isolation_level=None)

    # What must hold at any time

    def looked(self):
        with View(self.path) as view:
            return view.figures()

    @rule()
    def look_while_somebody_writes(self):
        self.watch.execute("BEGIN IMMEDIATE")
        self.watch.execute("DELETE FROM ack_queue_default")
        self.watch.execute("UPDATE ledger SET delivered = 0, short = 0")
        self.look()
        self.watch.execute("ROLLBACK")

    @invariant()
    def look_and_change_nothing(self):
        before = self.watch.execute("PRAGMA data_version").fetchone()
        self.look()
        assert self.watch.execute("PRAGMA data_version").fetchone() == before
        assert self.consumer.last_id() == self.last_id
        assert self.consumer.control().paused == self.paused

    def look(self):
        """Rows, letters and books are those of the model: by content, and in their order."""
        with View(self.path) as view:
            found, rows = view.figures(), view.peek(10_000)
            stored = view.dead_letters(Selection())
            unsound = [finding.name for finding in books.check(view) if not finding.ok]
        assert [(row.id, row.data) for row in rows] == sorted(self.rows.items())
        assert {one.id: (one.event_id, one.data) for one in stored} == self.letters
        assert (found.accepted, found.delivered, found.dead_lettered) == (
            self.last_id,
            self.delivered,
            self.dead,
        )
        assert (found.deleted, found.waiting) == (self.deleted, len(self.rows) + len(self.missing))
        assert (found.retried, found.discarded) == (self.retried, self.discarded)
        assert (found.short, found.dead_letters, found.paused) == (self.short, len(self.letters), self.paused)
        assert found.accepted == found.delivered + found.dead_lettered + found.deleted + found.waiting
        assert found.dead_lettered == found.dead_letters + found.retried + found.discarded
        # Rows that an external producer deletes are missed until the queue is empty, and `check` says so.
        assert unsound == (["books: queue"] if self.missing else [])


@pytest.mark.timeout(120 + LONG_S * 2)
def test_the_spool_does_what_the_model_foresees():
    """After any sequence of calls, kills and power cuts the queue holds what it should; the books balance."""
    print(f"FORWARDER_TEST_SEED={SEED}")
    ends_at, turn = time.monotonic() + LONG_S, 0
    while not turn or time.monotonic() < ends_at:
        budget = settings(
            max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        )
        run_state_machine_as_test(seed(SEED + turn)(Spool), settings=budget)
        turn += 1
    print(dict(seen))
    assert all(
        seen[what] for what in ("killed", "copied", "dead", "deleted acked", "retried", "claimed again")
    ), seen
