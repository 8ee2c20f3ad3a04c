"""P2 when files are hit while daemon and producers use them: intake goes on, the daemon neither ends nor
loops, what has happened is said, and by the commands that are named all that can be read comes back."""

import json
import os
import random
import threading

import pytest

from forwarder.errors import ForwarderError
from forwarder.records.event import accept
from forwarder.salvage.pages import Pages
from forwarder.spool import Dead, EventQueue, Settlement
from forwarder.spool.sqlite import set_aside
from forwarder.spool.sqlite.consumer import Consumer

PAGE = 4096
SEED = int(os.environ.get("FORWARDER_TEST_SEED", "20262"))
# How many may not come back; where nothing is said, what is hit is all there is.
MOST_LOST = {"index": 0, "dead letters": 12}


def event(number, name="A"):
    known = {"distinct_id": "d", "time": 1_700_000_000, "$insert_id": f"id-{number}", "pad": "x" * 300}
    return accept(json.dumps({"event": name, "properties": known}).encode(), 1_700_000_000_000)


class Producer(threading.Thread):
    """Puts one event after the other; keeps what was accepted, and every error."""

    def __init__(self, queue_path):
        super().__init__()
        self._queue_path = queue_path
        self._over = threading.Event()
        self.told, self.errors = [], []

    def run(self):
        with EventQueue(self._queue_path, min_free_bytes=0) as queue:
            while not self._over.wait(0.003):
                new = event(10_000 + len(self.told) + len(self.errors))
                try:
                    queue.append([new])
                    self.told.append(new)
                except ForwarderError as error:
                    self.errors.append(str(error))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self.join()


def flip(file, dice, count=30):
    with open(file, "r+b") as target:
        size = target.seek(0, 2)
        for _ in range(count if size else 0):
            at = dice.randrange(size)
            target.seek(at)
            byte = target.read(1)[0]
            target.seek(at)
            target.write(bytes([byte ^ 1 << dice.randrange(8)]))


def hit_letters(file, dice):
    pages = Pages(file)
    found = [n for n in range(1, pages.count + 1) if any(len(c.columns) == 10 for c in pages.leaf(n))]
    pages.close()
    assert found
    with open(file, "r+b") as target:
        target.seek((dice.choice(found) - 1) * PAGE)
        target.write(b"\xff" * PAGE)


def cut(file, dice):
    os.truncate(file, dice.randrange(os.path.getsize(file)))


HITS = {
    "database": flip,
    "log": lambda file, dice: flip(file + "-wal", dice),
    "index": lambda file, dice: flip(file + "-shm", dice),
    "dead letters": hit_letters,
    "database truncated": cut,
    "database emptied": lambda file, _: os.truncate(file, 0),
    "log truncated": lambda file, dice: cut(file + "-wal", dice),
    "log emptied": lambda file, _: os.truncate(file + "-wal", 0),
}


@pytest.fixture
def queue_with_letters(queue_path):
    """150 dead letters, up to 12 on a page, and 300 events that wait."""
    events = [event(number) for number in range(450)]
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.append(events)
    consumer = Consumer(queue_path)
    claim = consumer.claim_behind(0, 150, 10**9)
    letters = zip(claim.ids, claim.events, strict=True)
    consumer.settle(Settlement(claim.ids, [Dead(row_id, data, "bad") for row_id, data in letters]))
    consumer.close()
    return events


def taken(server):
    return {entry.data for entry in server.ledger.events.values()}


def put_right(forwarder):
    """Do what `check` names until it names nothing more."""
    for _ in range(10):
        found = forwarder("check")
        named = [part for part in found.stdout.split("`") if part.startswith("forwarder salvage")]
        if not named:
            return
        words = named[0].split()[1:]
        done = forwarder(*words, *(() if "--apply" in words else ("--apply",)))
        assert done.returncode == 0, done.stderr
    raise AssertionError(f"it goes on and on: {found.stdout}")


@pytest.mark.parametrize("hit", HITS)
def test_hit_in_use(forwarder, server, queue_path, queue_with_letters, rows, until, hit):
    """Whatever is hit, producers go on, the daemon goes on, and what the messages name puts all right."""
    forwarder("pause")
    daemon = forwarder.daemon()
    with Producer(queue_path) as producer:
        until(lambda: len(producer.told) > 30, "it produces")
        HITS[hit](f"{queue_path}/data.db", random.Random(f"{SEED} {hit}"))
        count = len(producer.told)
        until(lambda: len(producer.told) > count + 50, "intake goes on")
        resumed = forwarder("resume")
        assert resumed.returncode == 0, resumed.stderr
        until(lambda: len(producer.told) > count + 100, "intake still goes on")
    late = []

    def is_delivered():
        # Those of before it has found out are among what is to be salvaged.
        late.append(event(90_000 + len(late)))
        with EventQueue(queue_path, min_free_bytes=0) as queue:
            queue.append(late[-1:])
        return set(late) & taken(server)

    until(is_delivered, "delivery goes on", 40)
    files = set_aside.damaged(queue_path)
    until(lambda: {line["file"] for line in daemon.logged("queue.damaged")} >= set(files), "it says so")
    assert ("set aside with events in it: `forwarder salvage`" in forwarder("status").stdout) == bool(files)
    put_right(forwarder)
    until(lambda: forwarder.json("status")["waiting"] == 0, "the queue is empty", 40)
    checked = forwarder("check")
    assert checked.returncode == 0, checked.stdout
    assert producer.errors == []
    assert (daemon.process.poll(), daemon.other_output) == (None, [])
    assert len(daemon.log) < 60, "it says it again and again"
    lost = (
        {*queue_with_letters, *producer.told, *late} - taken(server) - set(rows(queue_path, "dead_letters"))
    )
    assert len(lost) <= MOST_LOST.get(hit, 450 + len(producer.told) + len(late))
    assert daemon.stop() == 0
