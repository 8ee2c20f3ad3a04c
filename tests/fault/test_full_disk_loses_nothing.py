"""P2 on a full disk: producers are told to try again, nothing that was accepted is lost, and delivery,
which frees space, goes on."""

import os
import shutil
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import persistqueue
import pytest
from persistqueue.serializers import json as plain_json

from forwarder.errors import TryAgainError
from forwarder.spool import Dead, EventQueue, Settlement
from forwarder.spool.sqlite.consumer import Consumer
from forwarder.spool.sqlite.room import RESERVE_BYTES

sys.path.insert(0, str(Path(__file__).parent))
from disks import MIB, Disk

EVENT = {"event": "A", "properties": {"distinct_id": "u-1", "text": "x" * 500}}


@pytest.fixture
def disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk to fill")
    found = Disk(tmp_path / "disk", tmp_path / "image")
    found.mount("tmpfs", "size=24m")
    yield found
    assert found.unmount(), "something is still open there"


@pytest.fixture
def queue_path(disk):
    return str(disk.path / "queue")


@pytest.fixture
def queue(queue_path):
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put_many([EVENT] * 100)
        yield queue


def refused(store):
    with pytest.raises(TryAgainError, match=r"disk under .* is full") as refusal:
        store()
    assert refusal.value.exit_code == 75


@pytest.mark.parametrize("reopened", [False, True])
def test_producers_are_told_to_try_again(disk, queue, queue_path, rows, reopened, figures):
    """On a full disk put and put_many say to try again and store nothing; what was there stays, and it
    works again as soon as there is room."""
    stored = rows(queue_path)
    if reopened:
        queue.close()
    disk.fill()
    refused(lambda: queue.put_many([EVENT] * 5000))
    with pytest.raises(TryAgainError):
        # What is left of the log's last pages may still take some.
        put_many_times(queue, 1000)
    disk.free()
    kept = rows(queue_path)
    assert kept[:100] == stored
    queue.put_many([EVENT] * 10)
    assert len(rows(queue_path)) == len(kept) + 10
    assert figures(queue_path).accepted == len(kept) + 10


def put_many_times(queue, times):
    for _ in range(times):
        queue.put(EVENT)


def test_new_queue_on_a_full_disk(disk, queue_path, figures):
    """Where there is no room for a new queue, that is said, and it is made once there is."""
    disk.fill()
    refused(lambda: EventQueue(queue_path, min_free_bytes=0).put(EVENT))
    disk.free()
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        assert queue.put(EVENT) == 1
    assert figures(queue_path).waiting == 1


def exhaust(disk, queue):
    """Fill the disk, and the room that is left inside the queue's own files."""
    disk.fill()
    with pytest.raises(TryAgainError):
        put_many_times(queue, 10_000)


def drain(consumer, after_id=0):
    while (claim := consumer.claim_behind(after_id, 50, MIB)).last_id > after_id:
        if claim.ids:
            dead = [Dead(claim.ids[0], claim.events[0], "bad")]
            consumer.settle(Settlement(claim.ids, dead))
        after_id = claim.last_id


def test_settling_goes_on(disk, queue, queue_path, figures):
    """On a full disk events are settled, dead letters included, out of the space that was put by."""
    consumer = Consumer(queue_path)
    reserve = f"{queue_path}/reserve"
    assert os.stat(reserve).st_size == RESERVE_BYTES
    exhaust(disk, queue)
    drain(consumer)
    found = figures(queue_path)
    assert (found.waiting, found.delivered + found.dead_lettered) == (0, found.accepted)
    assert os.stat(reserve).st_size == 0, "the disk was not full"
    disk.free()
    while consumer.maintain(at_rest=True):
        pass
    assert os.stat(reserve).st_size == RESERVE_BYTES
    consumer.close()


def test_what_must_not_be_repeated_is_sent(disk, queue, queue_path, figures):
    """On a full disk there is room for the mark without which such a record can't be sent."""
    with closing(Consumer(queue_path)) as consumer:
        exhaust(disk, queue)
        claim = consumer.claim_behind(0, 50, MIB)
        consumer.mark_sent(claim.ids)
        assert os.stat(f"{queue_path}/reserve").st_size == 0, "the disk was not full"
        consumer.settle(Settlement(claim.ids))
        assert figures(queue_path).delivered == 50


def test_daemon_starts_again(disk, queue, queue_path, figures):
    """A daemon that starts on a full disk opens the queue and empties it."""
    Consumer(queue_path).close()
    queue.close()
    disk.fill()
    refused(lambda: queue.put(EVENT))
    consumer = Consumer(queue_path)
    drain(consumer)
    assert figures(queue_path).waiting == 0
    consumer.close()


def test_what_others_left_is_cleared(disk, queue, queue_path, figures):
    """On a full disk rows to be deleted or dead-lettered don't keep the rest from being delivered."""
    plain = persistqueue.SQLiteAckQueue(queue_path, serializer=plain_json)
    for _ in range(3):
        plain.ack(plain.get())
    for _ in range(40):
        plain.put("no event" * 1000)
    plain.close()
    consumer = Consumer(queue_path)
    exhaust(disk, queue)
    drain(consumer)
    found = figures(queue_path)
    assert (found.waiting, found.deleted) == (0, 3)
    assert found.dead_lettered >= 40
    consumer.close()


def test_settling_goes_on_where_no_daemon_has_run_before(disk, queue, queue_path, figures):
    """A queue that only producers have used can be emptied on a full disk as well."""
    exhaust(disk, queue)
    consumer = Consumer(queue_path)
    drain(consumer)
    assert figures(queue_path).waiting == 0
    assert os.stat(f"{queue_path}/reserve").st_size == 0, "the disk was not full"
    consumer.close()


HUGE = 6 * MIB  # more than the reserve holds


def test_rows_without_room_to_be_buried_hold_back_no_others(disk, queue, queue_path, sql, until, figures):
    """On a full disk rows that are no events stay in the queue while there is no room for dead letters; the
    events before and behind them are delivered, and they become dead letters when there is room."""
    sql(queue_path, "INSERT INTO ack_queue_default VALUES (NULL, zeroblob(?), 1.6e9, 0)", (HUGE,))
    queue.put_many([EVENT] * 100)
    sql(queue_path, "PRAGMA wal_checkpoint(TRUNCATE)")
    disk.fill()
    consumer = Consumer(queue_path)
    claim = consumer.claim_behind(0, 1000, 2 * HUGE)
    assert (claim.ids, claim.last_id) == ([*range(1, 101), *range(102, 202)], 201)
    assert (claim.dead, claim.reason) == (0, "")
    consumer.settle(Settlement(claim.ids))
    assert (figures(queue_path).waiting, figures(queue_path).delivered) == (1, 200)
    assert consumer.maintain(at_rest=True), "there is more to do"
    disk.free()
    until(lambda: not consumer.maintain(at_rest=True))
    assert (figures(queue_path).waiting, figures(queue_path).dead_lettered) == (0, 1)
    consumer.close()


def test_dead_letters_without_room_hold_back_no_delivered_events(disk, queue, queue_path, rows, figures):
    """On a full disk the delivered part of a batch leaves the queue though its dead letters find no room;
    settling it again goes on from there, and each event counts once."""
    stored = rows(queue_path)
    consumer = Consumer(queue_path)
    disk.fill()
    batch = list(range(1, 101))
    settlement = Settlement(batch, [Dead(7, b"x" * HUGE, "bad"), Dead(9, stored[8], "bad")], short=2)
    for _ in range(2):
        with pytest.raises(TryAgainError, match="is full"):
            consumer.settle(settlement)
        found = figures(queue_path)
        assert (found.waiting, found.delivered, found.short, found.dead_lettered) == (2, 98, 2, 0)
    disk.free()
    consumer.settle(settlement)
    found = figures(queue_path)
    assert (found.waiting, found.delivered, found.short, found.dead_lettered) == (0, 98, 2, 2)
    queue.put(EVENT)
    consumer.settle(Settlement([101]))
    assert figures(queue_path).delivered == 99
    consumer.close()


def test_daemon_starts_on_a_full_disk(disk, queue_path, forwarder, server, oracle, rows, until, figures):
    """A daemon that is started on a full disk delivers all that waits, more than the reserve holds."""
    forwarder.daemon().stop()
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put_many([EVENT] * 15_000)
    offered = rows(queue_path)
    disk.fill()
    forwarder.daemon()
    until(lambda: not rows(queue_path), "the queue is empty")
    oracle(queue_path, server, offered)
    figures(queue_path)


def test_what_a_person_does_works_on_a_full_disk(disk, queue, queue_path, forwarder, figures):
    """Deleting dead letters frees space, for which it draws on the reserve; resume and flush need none."""
    with closing(Consumer(queue_path)) as consumer:
        claim = consumer.claim_behind(0, 100, MIB)
        letters = [Dead(row_id, data, "bad") for row_id, data in zip(claim.ids, claim.events, strict=True)]
        consumer.settle(Settlement(claim.ids, letters))
    assert forwarder("pause").returncode == 0
    queue.close()
    disk.fill()
    refused(lambda: queue.put_many([EVENT] * 5000))
    queue.close()
    done = forwarder("dead-letters", "delete", "--all", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert figures(queue_path).discarded == 100
    assert forwarder("resume").returncode == 0
    assert not figures(queue_path).paused
    assert forwarder("flush").returncode == 69, "no daemon runs"


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_full_file_system_is_no_lack_of_permission(kind, tmp_path, forwarder, monkeypatch):
    """On a full file system of each kind, with the queue closed, whoever opens it is told to try again, and a
    daemon goes on when there is room."""
    image, path = tmp_path / "image", tmp_path / "mounted"
    path.mkdir()
    with image.open("wb") as file:
        file.truncate({"xfs": 320, "btrfs": 128}.get(kind, 24) * MIB)
    if not shutil.which(f"mkfs.{kind}"):
        pytest.skip(f"no {kind} can be made here")
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True, capture_output=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, path], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no {kind} can be mounted here: {mounted.stderr.strip()}")
    try:
        queue_path = str(path / "queue")
        monkeypatch.setitem(forwarder.environ, "FORWARDER_QUEUE_PATH", queue_path)
        with EventQueue(queue_path, min_free_bytes=0) as queue:
            queue.put_many([EVENT] * 100)
        with suppress(OSError), open(path / "ballast", "wb") as ballast:
            while True:
                ballast.write(bytes(64 * 1024))
                ballast.flush()
        with suppress(OSError), open(path / "rest", "wb", buffering=0) as rest:
            while True:
                rest.write(bytes(512))
        for command in (("enqueue", "-e", "A", "-d", "d"), ("status",)):
            done = forwarder(*command)
            assert done.returncode in (0, 75), (command, done.stderr)
        assert "permission" not in done.stderr
        done = forwarder("drain")
        assert done.returncode in (0, 75), done.stderr
        for name in ("ballast", "rest"):
            (path / name).unlink(missing_ok=True)
        assert forwarder("drain").returncode == 0
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def test_delivery_goes_on_with_tables_of_before(disk, queue, queue_path, sql, figures):
    """What an older queue gets more makes its file longer; settling does not take that room first."""
    queue.put_many([EVENT] * 11_900)
    queue.close()
    for suffix in ("", "_engage", "_groups"):
        sql(queue_path, f"DROP TABLE bookmarks{suffix}")
        sql(queue_path, f"DROP TABLE history{suffix}")
        sql(queue_path, f"DROP INDEX dead_letters_event_id{suffix}")
        sql(queue_path, f"ALTER TABLE deliveries{suffix} DROP COLUMN dead_ids")
    sql(queue_path, "PRAGMA user_version = 3")
    sql(queue_path, "VACUUM")
    disk.fill()
    with closing(Consumer(queue_path)) as consumer:
        for first in range(1, 12_000, 1000):
            consumer.settle(Settlement(range(first, first + 1000), [], 0, 550_000, 200, 1, 0.1))
    assert (figures(queue_path).waiting, figures(queue_path).delivered) == (0, 12_000)
