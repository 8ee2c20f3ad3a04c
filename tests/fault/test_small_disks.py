"""P2 where the system gives no more: a full disk under load, no inodes, no descriptors, a limit on the size
of files, a file system that has become read-only.

Nothing is lost, each refusal is a sentence with the right exit code, the daemon goes on as far as it can, and
all recovers without a restart when the fault ends.
"""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from forwarder.errors import TryAgainError
from forwarder.records.event import accept, encode
from forwarder.sandbox import Fault
from forwarder.spool import EventQueue, Settlement
from forwarder.spool.sqlite.consumer import Consumer
from tests.relays import Host

sys.path.insert(0, str(Path(__file__).parent))
from cpu import Share
from disks import MIB, Disk

ROOM_FOR_THE_LOG = 5 * MIB
EVENT = {"event": "A", "properties": {"distinct_id": "u-1", "text": "x" * 500}}
EX_IOERR, EX_TEMPFAIL = 74, 75
NOW = int(time.time())
# Measured: 0.03 at most while the fault lasts; 0.5 to 1.0 when it asks the disk all the time.
MOST_CPU_SHARE = 0.3


def line(number, kind="d", size=500):
    """An event that is complete, so that what is stored of it is known."""
    properties = {"distinct_id": kind, "time": NOW, "$insert_id": f"{kind}-{number:06}"}
    return json.dumps({"event": "A", "properties": {**properties, "text": "x" * size}})


def final(text):
    """The bytes that are stored of a line."""
    return accept(text.encode(), time.time_ns() // 1_000_000)


@pytest.fixture
def disk(request, tmp_path):
    """A small disk; parametrized indirectly with (type, options)."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk")
    found = Disk(tmp_path / "disk", tmp_path / "image")
    found.mount(*request.param)
    # Torn down before what uses it would be: the commands are closed here, too.
    command = request.getfixturevalue("forwarder") if "forwarder" in request.fixturenames else None
    yield found
    if command is not None:
        command.close()
    assert found.unmount(), "something is still open there"


@pytest.fixture
def queue_path(request, tmp_path):
    """On the small disk, where the test has one."""
    on_disk = "disk" in request.fixturenames
    return str(tmp_path / "disk" / "queue") if on_disk else str(tmp_path / "queue")


SMALL = [
    pytest.param(("tmpfs", "size=24m"), id="tmpfs"),
    pytest.param(("ext4", ("-O", "^has_journal")), id="ext4"),
]
FEW_INODES = [
    pytest.param(("tmpfs", "size=32m,nr_inodes=40"), id="tmpfs"),
    pytest.param(("ext4", ("-N", "64")), id="ext4"),
]
TMPFS = [SMALL[0]]


class Limit:
    """A limit on a running process, from outside; lifted at the end of the block."""

    def __init__(self, process, kind, value):
        self._pid, self._kind, self._value = process.pid, kind, value

    def __enter__(self):
        self._before = resource.prlimit(self._pid, self._kind)
        resource.prlimit(self._pid, self._kind, (self._value, self._before[1]))

    def __exit__(self, *_):
        resource.prlimit(self._pid, self._kind, self._before)


def limited(forwarder, kind, value, *arguments, stdin=""):
    """Run a command under a limit."""
    start = (
        "import os, resource, sys; kind, value = map(int, sys.argv[1:3]);"
        "resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]));"
        "os.execv(sys.executable, [sys.executable, '-m', 'forwarder', *sys.argv[3:]])"
    )
    return subprocess.run(
        [sys.executable, "-c", start, str(int(kind)), str(value), *arguments],
        env=forwarder.environ,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


def is_told(done, code, words):
    """Whether a command has ended with *code*, and a sentence of *words*; no traceback."""
    assert done.returncode == code, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    assert re.search(words, done.stderr), done.stderr
    return True


def settled(daemon, forwarder, server, queue_path, offered, oracle, rows, until, figures):
    """Everything arrives, by the daemon that was there from the start; the books balance."""
    until(lambda: not rows(queue_path), "the queue is empty", timeout_s=40)
    assert daemon.process.poll() is None
    oracle(queue_path, server, offered)
    assert rows(queue_path, "dead_letters") == []
    assert figures(queue_path).delivered == len(offered)
    checked = forwarder("check")
    assert checked.returncode == 0, checked.stdout


# No room


class Producer(threading.Thread):
    """Puts one event after the other from Python until it is stopped; goes on after each refusal."""

    def __init__(self, queue_path):
        super().__init__()
        self._queue_path = queue_path
        self._stopping = threading.Event()
        self.stored, self.refusals, self.errors = [], [], []

    def run(self):
        with EventQueue(self._queue_path, min_free_bytes=ROOM_FOR_THE_LOG) as queue:
            while not self._stopping.wait(0.005):
                event = json.loads(line(len(self.stored), "single"))
                try:
                    queue.put(event)
                    self.stored.append(encode(event))
                except TryAgainError as refusal:
                    self.refusals.append(str(refusal))
                except Exception as error:
                    self.errors.append(error)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self.join()


class Bulk:
    """Enqueues a file by the command, from where it came to the last time."""

    def __init__(self, forwarder, file, count):
        self._forwarder, self._file = forwarder, file
        self.texts = [line(number) for number in range(count)]
        file.write_text("\n".join(self.texts) + "\n")
        self.done = self.refused = 0

    def go_on(self):
        done = self._forwarder("enqueue", "--skip", str(self.done), str(self._file), timeout_s=100)
        if done.returncode == 0:
            self.done = len(self.texts)
            return
        self.refused += 1
        is_told(done, EX_TEMPFAIL, "is full|less than min_free_bytes")
        found = re.search(r"--skip (\d+)", done.stderr)
        self.done = int(found[1]) if found else self.done


@pytest.mark.parametrize("disk", SMALL, indirect=True)
def test_disk_full_under_load(disk, forwarder, server, queue_path, tmp_path, oracle, rows, until, figures):
    """While the server is away producers fill a small disk, and another program the rest of it, to the last
    block: producers are told to try again, with 75 and how to go on. Once the server is back the daemon
    drains the queue all the same, and when there is room again each event comes through."""
    forwarder.environ["FORWARDER_QUEUE_MIN_FREE_BYTES"] = str(ROOM_FOR_THE_LOG)
    server.inject(Fault.server_error())
    daemon = forwarder.daemon()
    bulk = Bulk(forwarder, tmp_path / "events.ndjson", 24_000)
    with Producer(queue_path) as single:
        bulk.go_on()
        until(lambda: single.refusals, "a single event is refused, too")
        disk.fill()
        assert os.statvfs(disk.path).f_bavail == 0
        share = Share(daemon.process.pid)
        before = server.ledger.request_count
        until(lambda: server.ledger.request_count >= before + 5, "it still tries")
        assert share.so_far() < MOST_CPU_SHARE
        bulk.go_on()
        stored = bulk.done + len(single.stored)
        assert server.ledger.accepted == 0 < bulk.done < len(bulk.texts)
        server.clear()
        until(lambda: not rows(queue_path), "the queue is drained on a full disk", timeout_s=40)
        bulk.go_on()
        assert server.ledger.accepted >= stored
        disk.free()
        until(lambda: bulk.go_on() or bulk.done == len(bulk.texts), "the rest finds room", timeout_s=40)
        count = len(single.stored)
        until(lambda: len(single.stored) > count, "so do single events")
    assert (single.errors, bulk.refused >= 2) == ([], True)
    offered = [*map(final, bulk.texts), *single.stored]
    settled(daemon, forwarder, server, queue_path, offered, oracle, rows, until, figures)
    daemon.wait_for("delivery.recovered")


def empty(consumer, between=lambda: None):
    """Settle all that waits; fails when it gets nowhere."""
    after_id = 0
    while (claim := consumer.claim_behind(after_id, 200, MIB)).ids:
        consumer.settle(Settlement(claim.ids))
        after_id = claim.last_id
        between()


@pytest.mark.parametrize("disk", TMPFS, indirect=True)
def test_drained_queue_gives_the_disk_back(disk, queue_path, figures):
    """A queue that has filled the disk by itself gives it back when it is drained: producers are not refused
    for lack of room by a queue that is empty."""
    with closing(Consumer(queue_path)) as consumer, EventQueue(queue_path, min_free_bytes=MIB) as queue:
        with pytest.raises(TryAgainError):
            put_until_refused(queue, 1000)
        assert os.statvfs(disk.path).f_bavail * 4096 < 8 * MIB, "the disk is full"
        empty(consumer)
        for _ in range(10):
            with suppress(TryAgainError):
                consumer.maintain(at_rest=True)
        assert os.statvfs(disk.path).f_bavail * 4096 > 8 * MIB
        queue.put(EVENT)
    figures(queue_path)


@pytest.mark.parametrize("disk", TMPFS, indirect=True)
def test_greedy_producers_leave_room_to_settle(disk, queue_path, figures):
    """Producers that take every byte there is, also what settling has just freed, don't halt it."""
    refused = []
    with closing(Consumer(queue_path)) as consumer, EventQueue(queue_path, min_free_bytes=0) as queue:

        def put_all():
            try:
                put_until_refused(queue, 1)
            except TryAgainError as refusal:
                refused.append(refusal)

        with pytest.raises(TryAgainError):
            put_until_refused(queue, 1000)
        greedy = iter([put_all] * 20)
        empty(consumer, lambda: next(greedy, lambda: None)())
    assert len(refused) >= 10
    assert figures(queue_path).waiting == 0


def put_until_refused(queue, count):
    while True:
        queue.put_many([EVENT] * count)


@pytest.mark.parametrize("disk", TMPFS, indirect=True)
def test_a_relay_empties_a_full_disk(disk, queue_path, postgres, until):
    """As after a long outage of its server, and with large events."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put_many(json.loads(line(number, size=50_000)) for number in range(100))
    with closing(Host(queue_path, postgres, postgres.new_schema_name())) as host:
        host.set_up()
        disk.fill()
        host.relay(wait=False)
        until(lambda: host.there().accepted == 100, "all is handed over", 30)
        until(lambda: host.here().waiting == 0, "and settled")


@pytest.mark.parametrize("disk", FEW_INODES, indirect=True)
def test_no_inodes_left(disk, forwarder, server, queue_path, oracle, rows, until, figures):
    """Without a free inode a daemon and its producers go on; a queue that must make a file first says with 75
    that the disk is full, and works when there are inodes again."""
    daemon = forwarder.daemon()
    disk.fill_inodes()
    texts = [line(number) for number in range(2000)]
    assert forwarder("enqueue", stdin="\n".join(texts)).returncode == 0
    offered = [final(text) for text in texts]
    settled(daemon, forwarder, server, queue_path, offered, oracle, rows, until, figures)
    forwarder.environ["FORWARDER_QUEUE_PATH"] = str(disk.path / "another" / "queue")
    is_told(forwarder("enqueue", "-e", "A", "-d", "x"), EX_TEMPFAIL, "disk under .* is full")
    disk.free()
    assert forwarder("enqueue", "-e", "A", "-d", "x").returncode == 0


@pytest.mark.parametrize("disk", FEW_INODES, indirect=True)
def test_no_inode_for_the_log(disk, forwarder, server, queue_path, oracle, rows, until, figures):
    """Where nobody has the queue open and there is no inode for its log, it can be looked at, and all else is
    refused with 75 and a sentence about the disk; what was accepted before is delivered when there are
    inodes again."""
    texts = [line(number) for number in range(100)]
    assert forwarder("enqueue", stdin="\n".join(texts)).returncode == 0
    assert not os.path.exists(f"{queue_path}/data.db-wal")
    disk.fill_inodes()
    for command in (("enqueue", "-e", "A", "-d", "x"), ("run",)):
        is_told(forwarder(*command), EX_TEMPFAIL, "is full|no room|inode")
    assert "100 events wait" in forwarder("status").stdout
    assert forwarder("peek").returncode == 0
    disk.free()
    daemon = forwarder.daemon()
    offered = [final(text) for text in texts]
    settled(daemon, forwarder, server, queue_path, offered, oracle, rows, until, figures)


# A limit on the size of files


def test_producer_with_a_limit_on_files(forwarder, server, queue_path, oracle, rows, until, figures):
    """A producer that may not write large files (ulimit -f) is told how far it came, and what is in its way;
    without the limit it goes on from there."""
    texts = [line(number) for number in range(6000)]
    stdin = "\n".join(texts)
    first = limited(forwarder, resource.RLIMIT_FSIZE, MIB, "enqueue", stdin=stdin)
    assert first.returncode in (EX_IOERR, EX_TEMPFAIL), first.stderr
    is_told(first, first.returncode, "larger than|size of files|ulimit|File too large|reports an error")
    found = re.search(r"--skip (\d+)", first.stderr)
    skip = int(found[1]) if found else 0
    assert len(rows(queue_path)) == skip < len(texts)
    second = forwarder("enqueue", "--skip", str(skip), stdin=stdin)
    assert second.returncode == 0, second.stderr
    daemon = forwarder.daemon()
    offered = [final(text) for text in texts]
    settled(daemon, forwarder, server, queue_path, offered, oracle, rows, until, figures)


def test_daemon_with_a_limit_on_files(forwarder, server, queue_path, oracle, rows, until, figures):
    """A daemon that may write no larger files can't settle: it says so, without being busy at it, and loses
    nothing; when the limit is lifted it goes on."""
    daemon = forwarder.daemon()
    texts = [line(number, size=5000) for number in range(500)]
    server.latency_s = 0.2
    with Limit(daemon.process, resource.RLIMIT_FSIZE, 64 * 1024):
        assert forwarder("enqueue", stdin="\n".join(texts)).returncode == 0
        told = daemon.wait_for("queue.failed")
        assert told["detail"]
        share = Share(daemon.process.pid)
        until(lambda: server.ledger.accepted > 0, "it was sent")
        status = forwarder.json("status")
        assert (status["state"], status["waiting"]) == ("backing_off", 500)
        assert forwarder("enqueue", stdin=line(500)).returncode == 0
        assert share.so_far() < MOST_CPU_SHARE
        assert not daemon.logged("queue.recovered")
    daemon.wait_for("queue.recovered")
    offered = [*map(final, texts), final(line(500))]
    settled(daemon, forwarder, server, queue_path, offered, oracle, rows, until, figures)
    assert len(daemon.logged("queue.failed")) < 5


# No descriptors

PUT_WITH_FEW_FILES = """
import json, os, resource, sys
from forwarder.errors import ForwarderError
from forwarder.spool import EventQueue
from forwarder.spool.sqlite.view import View
import forwarder.spool.values, encodings.idna
path, step = sys.argv[1:]
lowest = len(os.listdir("/proc/self/fd")) - 1
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
for spare in range(12):
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + spare, most))
    try:
        with EventQueue(path, min_free_bytes=0) as queue:
            queue.put({"event": "A", "properties": {"distinct_id": "x", "$insert_id": f"{step}-{spare}"}})
        found = [0, ""]
    except ForwarderError as error:
        found = [error.exit_code, str(error)]
    print(json.dumps([spare, *found]))
"""


@pytest.mark.parametrize("there", [False, True])
def test_producer_without_descriptors(queue, queue_path, rows, tmp_path, there, figures):
    """A producer that may open no more files is told so with 75; each event that it was told is in is in, and
    the queue, new or old, works as soon as it may."""
    path = queue_path if there else str(tmp_path / "new")
    for step in range(2):
        done = subprocess.run(
            [sys.executable, "-c", PUT_WITH_FEW_FILES, path, str(step)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        tries = [json.loads(text) for text in done.stdout.splitlines()]
        refused = [(code, text) for _, code, text in tries if code]
        assert refused
        assert tries[-1][1] == 0
        assert {code for code, _ in refused} == {EX_TEMPFAIL}, refused
        assert all("open files" in text for _, text in refused)
        accepted = {f"{step}-{spare}" for spare, code, _ in tries if code == 0}
        stored = {json.loads(data)["properties"]["$insert_id"] for data in rows(path)}
        assert {name for name in stored if name.startswith(f"{step}-")} == accepted
    figures(path)


def test_daemon_without_descriptors(forwarder, server, queue_path, oracle, rows, until, figures):
    """A daemon that may open no more connections keeps what it can't send, goes on with those that it has,
    and with all when the limit is lifted."""
    server.latency_s = 0.05
    daemon = forwarder.daemon(FORWARDER_DELIVERY_BATCH_EVENTS="20")
    offered = []

    def offer(count):
        texts = [line(number) for number in range(len(offered), len(offered) + count)]
        assert forwarder("enqueue", stdin="\n".join(texts)).returncode == 0
        offered.extend(map(final, texts))

    # Some files are open for a moment only.
    open_files = min(len(os.listdir(f"/proc/{daemon.process.pid}/fd")) for _ in range(1000))
    with Limit(daemon.process, resource.RLIMIT_NOFILE, open_files):
        offer(400)
        told = daemon.wait_for("delivery.backing_off")
        assert "open files" in told["reason"], told
        share = Share(daemon.process.pid)
        status = forwarder.json("status")
        assert status["waiting"] == 400, status
        until(lambda: share.so_far() < MOST_CPU_SHARE, "it is not busy")
        assert server.ledger.accepted == 0
    with Limit(daemon.process, resource.RLIMIT_NOFILE, open_files + 3):
        until(lambda: not rows(queue_path), "it goes on with few connections", timeout_s=40)
        offer(600)
        until(lambda: not rows(queue_path), "and with many batches", timeout_s=40)
    assert 1 <= max(exchange.at_once for exchange in server.ledger.requests) <= 4
    offer(600)
    settled(daemon, forwarder, server, queue_path, offered, oracle, rows, until, figures)


# Read-only


@pytest.mark.parametrize("disk", TMPFS, indirect=True)
def test_read_only_file_system(disk, forwarder, server, queue_path, oracle, rows, until, figures):
    """On a file system that was mounted read-only each command says just that, and nothing about permissions
    or groups; what was accepted is delivered when it can be written again."""
    texts = [line(number) for number in range(100)]
    assert forwarder("enqueue", stdin="\n".join(texts)).returncode == 0
    disk.remount("ro")
    try:
        for command in (("enqueue", "-e", "A", "-d", "x"), ("run",), ("drain",), ("pause",), ("peek",)):
            done = forwarder(*command)
            assert done.returncode in (EX_IOERR, EX_TEMPFAIL), (command, done)
            is_told(done, done.returncode, "read-only")
        assert "read-only" in forwarder("check").stdout
    finally:
        disk.remount("rw")
    daemon = forwarder.daemon()
    offered = [final(text) for text in texts]
    settled(daemon, forwarder, server, queue_path, offered, oracle, rows, until, figures)


def test_file_system_becomes_read_only_under_a_daemon(
    forwarder, server, queue_path, tmp_path, oracle, rows, until, figures
):
    """While all that a running daemon writes is answered with EROFS, as after a fault of the disk, it says
    so, is not busy at it and keeps what it can't settle; it goes on when writing works again."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    daemon = forwarder.daemon()
    texts = [line(number) for number in range(500)]
    trace = tmp_path / "trace"
    calls = "pwrite64,fdatasync,fsync,ftruncate,fallocate,rename,unlink"
    options = ["-f", "-q", "-o", trace, "-e", f"trace={calls}", "-e", f"inject={calls}:error=EROFS"]
    strace = subprocess.Popen(["strace", *options, "-p", str(daemon.process.pid)], stderr=subprocess.DEVNULL)
    try:
        tracer = Path(f"/proc/{daemon.process.pid}/status")
        until(lambda: strace.poll() is not None or f"TracerPid:\t{strace.pid}" in tracer.read_text())
        if strace.poll() is not None:
            pytest.skip("strace may not attach here")
        done = forwarder("enqueue", stdin="\n".join(texts))
        assert done.returncode == 0, done.stderr
        daemon.wait_for("queue.failed")
        until(lambda: server.ledger.accepted == 500, "they were sent")
        assert len(rows(queue_path)) == 500
        share = Share(daemon.process.pid)
        refused = trace.read_text().count("EROFS")
        until(lambda: trace.read_text().count("EROFS") > refused, "it tries again")
        assert share.so_far() < MOST_CPU_SHARE
    finally:
        strace.send_signal(signal.SIGTERM)
        strace.wait(20)
    assert trace.read_text().count("(INJECTED)") >= 2
    daemon.wait_for("queue.recovered")
    offered = [final(text) for text in texts]
    settled(daemon, forwarder, server, queue_path, offered, oracle, rows, until, figures)
