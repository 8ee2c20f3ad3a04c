"""A thousand events waiting or a million: each thing done to the queue costs the same statements, steps of
SQLite's machine, syncs and bytes. Nothing here is a matter of time.
"""

import re
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from forwarder import cli
from forwarder.spool import Dead, EventQueue, Settlement
from forwarder.spool.sqlite.consumer import Consumer
from forwarder.spool.sqlite.view import View

FEW, MANY = 1_000, 1_000_000
BATCH = 500
EVENT = {"event": "E", "properties": {"distinct_id": "u", "time": 1_700_000_000, "$insert_id": "i"}}
RECORD = b'{"event":"E","properties":{"distinct_id":"u","time":1700000000,"$insert_id":"i"}}'
# The tree of the larger table is a page deeper (measured: one page more is read, none is written), and where
# a page is full one more is begun. All of the larger table are 24 000 pages.
MORE_PAGES = 3
PAGE_BYTES = 4096
# The statement of `View._accepted_rate`, for each half.
BY_HALVES = "WHERE _id >= ? ORDER BY _id LIMIT ?"


@dataclass
class Cost:
    """What was asked of SQLite, and what the process has read and written."""

    statements: Counter = field(default_factory=Counter)
    steps: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    writes: int = 0


class Meter:
    """Counts for all connections that are opened while it is in place."""

    def __init__(self, monkeypatch):
        self._cost = Cost()
        opened = sqlite3.connect

        def connect(*args, **kwargs):
            connection = opened(*args, **kwargs)
            connection.set_trace_callback(self._asked)
            connection.set_progress_handler(self._stepped, 1)
            return connection

        monkeypatch.setattr(sqlite3, "connect", connect)

    def cost(self, work):
        """What *work* costs."""
        cost = self._cost = Cost()
        before = _io()
        work()
        after = _io()
        self._cost = Cost()
        cost.read_bytes = after["rchar"] - before["rchar"]
        cost.written_bytes = after["wchar"] - before["wchar"]
        cost.writes = after["syscw"] - before["syscw"]
        return cost

    def _asked(self, statement):
        # Values stand in it; which they are is no matter.
        self._cost.statements[re.sub(r"'.*?'|\d[\d.e+]*", "?", statement)[:200]] += 1

    def _stepped(self):
        self._cost.steps += 1


def _io():
    return {
        name: int(value) for name, value in re.findall(r"(\w+): (\d+)", Path("/proc/self/io").read_text())
    }


@pytest.fixture
def meter(monkeypatch):
    """Counts what the block costs."""
    return Meter(monkeypatch)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Three queues with ten dead letters each; in the first few wait, as in the second, in the third many."""
    directory = tmp_path_factory.mktemp("backlog")
    paths = [str(directory / name) for name in ("other", "few", "many")]
    with EventQueue(paths[0], min_free_bytes=0) as queue:
        queue.append([RECORD] * 10)
    with closing(Consumer(paths[0])) as consumer:
        batch = consumer.claim_behind(0, 10, 10**6)
        pairs = zip(batch.ids, batch.events, strict=True)
        consumer.settle(Settlement(batch.ids, [Dead(n, data, "bad thing") for n, data in pairs]))
    for path, count in zip((*paths[1:], paths[0]), (FEW, MANY, FEW), strict=True):
        if path != paths[0]:
            shutil.copytree(paths[0], path)
        with closing(sqlite3.connect(f"{path}/data.db", isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute(
                "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?)"
                " INSERT INTO ack_queue_default (data, timestamp, status)"
                " SELECT ?, unixepoch(), 1 FROM number",
                (count, RECORD),
            )
            connection.execute("PRAGMA journal_mode = WAL")
    yield paths
    shutil.rmtree(directory)


def with_queue(work):
    """*work* on a producer's way into the queue, that was opened before."""

    def prepared(path):
        queue = EventQueue(path, min_free_bytes=0)
        return lambda: work(queue), queue.close

    return prepared


def with_consumer(work):
    """*work* on the daemon's side of the queue, that was opened before."""

    def prepared(path):
        consumer = Consumer(path)
        return lambda: work(consumer), consumer.close

    return prepared


def with_claim(work, count=BATCH):
    """*work* on the daemon's side and what it has claimed."""

    def prepared(path):
        consumer = Consumer(path)
        claim = consumer.claim_behind(0, count, 10**9)
        assert len(claim.ids) == count
        return lambda: work(consumer, claim), consumer.close

    return prepared


def with_view(work):
    """*work* on a look at the queue, that was opened before."""

    def prepared(path):
        view = View(path)
        return lambda: work(view), view.close

    return prepared


def with_path(work):
    """*work* from the start."""
    return lambda path: (lambda: work(path), lambda: None)


def settle_in_parts(consumer, claim):
    letters = [Dead(claim.ids[n], claim.events[n], "bad thing") for n in range(0, BATCH, 50)]
    consumer.settle(Settlement(claim.ids, letters))


def settle_and_tidy(consumer, claim):
    consumer.settle(Settlement(claim.ids))
    consumer.maintain(at_rest=True)


def opened_and_closed(path):
    Consumer(path).close()


def put_from_the_start(path):
    with EventQueue(path, min_free_bytes=0) as queue:
        queue.put(EVENT)


WORK = {
    "one put": with_queue(lambda queue: queue.put(EVENT)),
    "put_many of a batch": with_queue(lambda queue: queue.put_many([EVENT] * BATCH)),
    "append of a batch": with_queue(lambda queue: queue.append([RECORD] * BATCH)),
    "one put, opening the queue": with_path(put_from_the_start),
    "claim": with_consumer(lambda consumer: consumer.claim_behind(0, BATCH, 10**9)),
    "claim, far behind": with_consumer(lambda consumer: consumer.claim_behind(FEW - 100, 50, 10**9)),
    "settle": with_claim(lambda consumer, claim: consumer.settle(Settlement(claim.ids))),
    "settle with dead letters": with_claim(settle_in_parts),
    "settle, then tidy": with_claim(settle_and_tidy),
    "a look for news": with_consumer(lambda consumer: (consumer.control().version, consumer.last_id())),
    "start of a consumer": with_path(opened_and_closed),
    "figures": with_view(lambda view: view.figures()),
    "peek": with_view(lambda view: view.peek(5)),
}
COMMANDS = (
    *("status", "status --json", "peek -n 5", "enqueue -e E -d u"),
    *("dead-letters list", "dead-letters summary", "dead-letters retry 1 2 3", "dead-letters delete 4 5"),
)


def run(line):
    """A command, in this process."""

    def command(path):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FORWARDER_QUEUE_PATH", path)
            patch.setenv("FORWARDER_QUEUE_MIN_FREE_BYTES", "0")
            patch.setattr(sys, "argv", ["forwarder", *line.split()])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            assert not ended.value.code

    return with_path(command)


@pytest.mark.parametrize("what", [*WORK, *COMMANDS])
def test_what_waits_costs_nothing(what, originals, meter, tmp_path):
    """Whatever waits: the same statements, the same steps, and no more bytes than a deeper tree explains."""
    prepare = WORK.get(what) or run(what)
    costs = []
    for original in originals:  # the first to have all modules and caches in memory
        path = tmp_path / Path(original).name
        shutil.copytree(original, path)
        work, close = prepare(str(path))
        with closing(sqlite3.connect(path / "data.db")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        costs.append(meter.cost(work))
        close()
        shutil.rmtree(path)
    _, few, many = costs
    assert few.statements
    # A row is searched by halves, for the rate: 10 steps more among a thousand times as many.
    more = many.statements - few.statements
    halves = sum(more.values())
    assert all(BY_HALVES in statement and count <= 10 for statement, count in more.items())
    assert not few.statements - many.statements
    assert many.steps - few.steps <= 40 * halves
    assert many.read_bytes - few.read_bytes <= (MORE_PAGES + 2 * halves) * PAGE_BYTES
    assert many.written_bytes - few.written_bytes <= MORE_PAGES * PAGE_BYTES
    assert many.writes - few.writes <= 2 * MORE_PAGES


SYNCING = """
    import sys
    from contextlib import closing
    from forwarder.spool import Dead, EventQueue, Settlement
    from forwarder.spool.sqlite.consumer import Consumer
    from forwarder.spool.sqlite import control
    record = sys.argv[2].encode()
    with EventQueue(sys.argv[1], min_free_bytes=0) as queue, closing(Consumer(sys.argv[1])) as consumer:
        for _ in range(3):
            queue.append([record])
        queue.append([record] * 500)
        claim = consumer.claim_behind(0, 500, 10**9)
        letters = [Dead(claim.ids[n], claim.events[n], "bad thing") for n in range(0, 500, 50)]
        consumer.settle(Settlement(claim.ids, letters))
        control.pause(sys.argv[1])
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_what_waits_costs_no_sync(originals, tmp_path):
    """Whatever waits: as many syncs."""
    counts = []
    for original in originals[1:]:
        path = str(tmp_path / Path(original).name)
        shutil.copytree(original, path)
        trace = tmp_path / "trace"
        traced = ("strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", "signal=none", "-o", str(trace))
        program = (sys.executable, "-c", textwrap.dedent(SYNCING), path, RECORD.decode())
        done = subprocess.run([*traced, *program], capture_output=True, text=True, timeout=60)
        if "ptrace" in done.stderr:
            pytest.skip(done.stderr)
        assert done.returncode == 0, done.stderr
        counts.append(trace.read_text().count("sync("))
        shutil.rmtree(path)
    assert counts[0] == counts[1] >= 6
