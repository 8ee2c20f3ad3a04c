"""Salvage of the queue's own database: damage that nobody has come by is found, named, and got rid of."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from forwarder import salvage
from forwarder.errors import ConfigError, TryAgainError
from forwarder.salvage.pages import Pages
from forwarder.sandbox import Fault
from forwarder.spool import Dead, EventQueue, Settlement
from forwarder.spool.sqlite import set_aside
from forwarder.spool.sqlite.consumer import Consumer

PAGE = 4096


def events(first, count, size=300):
    for number in range(first, first + count):
        yield {"event": "A", "properties": {"distinct_id": "d", "n": number, "pad": "x" * size}}


def numbers(found):
    return sorted(json.loads(data)["properties"]["n"] for data in found)


@pytest.fixture
def fill(queue_path):
    """Make a queue of 200 dead letters and 600 events that wait, and damage a page of the dead letters."""

    def make(damaged=True):
        with EventQueue(queue_path, min_free_bytes=0) as queue:
            queue.put_many(events(0, 800))
        consumer = Consumer(queue_path)
        claim = consumer.claim_behind(0, 200, 10**9)
        letters = zip(claim.ids, claim.events, strict=True)
        consumer.settle(Settlement(claim.ids, [Dead(row_id, data, "bad") for row_id, data in letters]))
        consumer.close()
        if damaged:
            hit_letters(f"{queue_path}/data.db")
        return f"{queue_path}/data.db"

    return make


def hit_letters(file):
    """Overwrite a page of dead letters, of which there are more than one."""
    pages = Pages(file)
    found = [n for n in range(1, pages.count + 1) if any(len(c.columns) == 10 for c in pages.leaf(n))]
    pages.close()
    assert len(found) > 2
    with open(file, "r+b") as target:
        target.seek((found[1] - 1) * PAGE)
        target.write(b"\xff" * PAGE)


def remedy(text):
    """The command that a message names."""
    (found,) = {part for part in text.split("`") if part.startswith("forwarder salvage")}
    return shlex.split(found)[1:]


@pytest.mark.parametrize("command", ["check", "dead-letters list", "dead-letters summary"])
def test_the_named_remedy_works(fill, queue_path, forwarder, rows, command, figures):
    """Whoever meets the damage names a command, and this command makes an end of it: the queue is sound, with
    all that can be read in it."""
    fill()
    met = forwarder(*command.split())
    assert met.returncode == 74
    done = forwarder(*remedy(met.stdout + met.stderr))
    assert done.returncode == 0, done.stderr
    assert "set aside" in done.stderr
    assert numbers(rows(queue_path)) == list(range(200, 800))
    found = figures(queue_path)
    assert (found.waiting, 150 < found.dead_letters < 200) == (600, True)
    assert f"{200 - found.dead_letters:,} of these can't be read" in done.stdout
    assert set_aside.damaged(queue_path) == []
    assert forwarder("check").returncode == 0
    assert forwarder(*command.split()).returncode == 0


def test_without_apply_it_only_looks(fill, queue_path, forwarder):
    """Without --apply it says what can be read, what is missing, and what --apply does; nothing changes."""
    file = fill()
    before = Path(file).read_bytes()
    told = forwarder("salvage", file)
    assert told.returncode == 0
    assert "By its own books there should be 600 events and 200 dead letters: " in told.stdout
    assert "of these can't be read." in told.stdout
    assert "It is in use. With --apply it is set aside first" in told.stdout
    found = forwarder.json("salvage", file)
    assert (found["events"], found["waiting_by_books"], found["dead_letters_by_books"]) == (600, 600, 200)
    assert found["missing"] == 200 - found["dead_letters"] > 0
    assert Path(file).read_bytes() == before
    assert set_aside.damaged(queue_path) == []


def test_a_sound_one_is_refused(fill, queue_path, forwarder, rows):
    """A database in which SQLite finds no fault stays where it is; what was set aside before is named."""
    file = fill(damaged=False)
    for _ in range(2):
        refused = forwarder("salvage", file, "--apply")
        assert refused.returncode == 78
        assert "own database, and SQLite finds no damage in it" in refused.stderr
        assert len(rows(queue_path)) == 600
        if set_aside.damaged(queue_path):
            break
        set_aside.set_aside(queue_path)
        fill(damaged=False)
    assert forwarder(*remedy(refused.stderr)).returncode == 0
    assert len(rows(queue_path)) == 1200


@pytest.mark.parametrize("lost", [100, PAGE], ids=["header", "first page"])
def test_one_that_can_not_even_be_opened(fill, queue_path, forwarder, rows, lost, figures):
    """Of a database that is set aside by being opened, the same command brings back what can be read."""
    file = fill(damaged=False)
    with open(file, "r+b") as target:
        target.write(bytes(lost))
    done = forwarder("salvage", file, "--apply")
    assert done.returncode == 0, done.stderr
    assert numbers(rows(queue_path)) == list(range(200, 800))
    assert (figures(queue_path).dead_letters, set_aside.damaged(queue_path)) == (200, [])


def test_under_a_daemon_and_producers(fill, queue_path, forwarder, server, until, figures):
    """A daemon with batches out begins again with the fresh database, producers go on, and every event that
    could be read, or was told to be accepted meanwhile, is delivered."""
    forwarder.environ["FORWARDER_DELIVERY_BATCH_EVENTS"] = "10"
    file = fill()
    server.inject(Fault.slow(0.5))
    daemon = forwarder.daemon()
    until(lambda: server.ledger.figures()["in_progress"], "batches are out")
    over, told = threading.Event(), []

    def produce():
        with EventQueue(queue_path, min_free_bytes=0) as queue:
            while not over.wait(0.002):
                queue.put(next(events(1000 + len(told), 1)))
                told.append(1000 + len(told))

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        until(lambda: len(told) > 20, "it produces")
        done = forwarder("salvage", file, "--apply")
        count = len(told)
        until(lambda: len(told) > count + 20, "it still produces")
    finally:
        over.set()
        producer.join()
    server.clear()
    assert done.returncode == 0, done.stderr
    until(lambda: not figures(queue_path).waiting, "the queue is empty", 40)
    delivered = numbers(entry.data for entry in server.ledger.events.values())
    assert set(range(200, 800)) | set(told) == set(delivered)
    assert daemon.logged("queue.failed")
    assert daemon.process.poll() is None
    assert daemon.other_output == []
    assert forwarder("check").returncode == 0


def test_two_at_the_same_time(fill, queue_path, forwarder, rows, figures):
    """Of two salvages one does it, the other does as well or is told; each event comes back once."""
    file = fill()
    command = [sys.executable, "-m", "forwarder", "salvage", file, "--apply"]
    both = [subprocess.Popen(command, env=forwarder.environ, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate()[1].decode() for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes[0] == 0
    assert codes[1] in (0, 66, 75, 78), errors
    assert not any("Traceback" in error for error in errors), errors
    assert numbers(rows(queue_path)) == list(range(200, 800))
    assert set_aside.damaged(queue_path) == []
    figures(queue_path)


def test_one_that_comes_during_another(fill, queue_path, rows, figures):
    """A salvage that another has overtaken ends, and brings nothing back twice."""
    fill()
    file = salvage.set_own_aside(queue_path)
    inner = []
    with pytest.raises(TryAgainError, match="another process salvages"):
        salvage.apply(file, queue_path, lambda _: inner or inner.append(salvage.apply(file, queue_path)))
    assert inner[0].before == 500
    assert numbers(rows(queue_path)) == list(range(200, 800))
    figures(queue_path)


def test_replaced_while_it_is_examined(fill, queue_path, monkeypatch, figures):
    """A sound database that somebody has put in the place of the damaged one meanwhile is not set aside."""
    fill()
    elsewhere = []

    def examine(path):
        elsewhere.append(set_aside.set_aside(path))
        EventQueue(path, min_free_bytes=0).close()
        return True

    monkeypatch.setattr(salvage.rescue, "_is_damaged", examine)
    assert salvage.set_own_aside(queue_path) == elsewhere[0]
    assert set_aside.damaged(queue_path) == elsewhere
    assert figures(queue_path).accepted == 0


def test_set_aside_while_it_is_examined(fill, queue_path, monkeypatch):
    """Where another salvage has just set it aside, and no fresh one is there yet, its new place is told."""
    fill()
    elsewhere = []
    is_damaged = salvage.rescue._is_damaged

    def examine(path):
        elsewhere.append(set_aside.set_aside(path))
        return is_damaged(path)

    monkeypatch.setattr(salvage.rescue, "_is_damaged", examine)
    assert salvage.set_own_aside(queue_path) == elsewhere[0]


def test_killed_during_it(fill, queue_path, forwarder, rows, figures):
    """Killed when it has set the database aside and brought a part back, it goes on by the command that is
    named when it is called again."""
    file = fill()
    code = """
import os, signal, sys
from forwarder import salvage
file = salvage.set_own_aside(sys.argv[1])
salvage.apply(file, sys.argv[1], lambda _: os.kill(os.getpid(), signal.SIGKILL))
"""
    assert subprocess.run([sys.executable, "-c", code, queue_path]).returncode == -signal.SIGKILL
    assert len(rows(queue_path)) + len(rows(queue_path, "dead_letters")) == 500
    again = forwarder("salvage", file, "--apply")
    assert again.returncode == 78
    done = forwarder(*remedy(again.stderr))
    assert (done.returncode, "500 of them were recovered" in done.stdout) == (0, True), done.stderr
    assert numbers(rows(queue_path)) == list(range(200, 800))
    figures(queue_path)


def test_without_room_for_what_it_brings_back(fill, tmp_path, queue_path, forwarder, figures):
    """On a disk without room for it nothing is set aside: that is said, and done when there is room."""
    fill()
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        os.mkdir(disk / "queue")
        for name in os.listdir(queue_path):
            subprocess.run(["cp", "-a", f"{queue_path}/{name}", disk / "queue"], check=True)
        path = forwarder.environ["FORWARDER_QUEUE_PATH"] = str(disk / "queue")
        with open(disk / "ballast", "wb") as ballast:
            statvfs = os.statvfs(disk)
            os.posix_fallocate(ballast.fileno(), 0, statvfs.f_bavail * statvfs.f_frsize - 8 * PAGE)
        done = forwarder("salvage", f"{path}/data.db", "--apply")
        assert (done.returncode, "make room" in done.stderr) == (75, True), done.stderr
        assert set_aside.damaged(path) == []
        os.unlink(disk / "ballast")
        done = forwarder("salvage", f"{path}/data.db", "--apply")
        assert done.returncode == 0, done.stderr
        assert figures(path).waiting == 600
    finally:
        subprocess.run(["umount", disk], check=True)


def test_another_file_of_the_same_name_is_another(tmp_path, queue_path, rows):
    """A second file that is salvaged from the same place is read from its beginning."""
    file = tmp_path / "copy.db"
    for first in (0, 1000):
        source = str(tmp_path / f"source-{first}")
        with EventQueue(source, min_free_bytes=0) as queue:
            queue.put_many(events(first, 50))
        os.replace(f"{source}/data.db", file)
        assert salvage.apply(str(file), queue_path).before == 0
    assert numbers(rows(queue_path)) == [*range(50), *range(1000, 1050)]
    assert salvage.apply(str(file), queue_path).before == 50
    assert len(rows(queue_path)) == 100


def test_apply_itself_never_reads_what_it_writes(fill, queue_path):
    """From the queue's own database nothing is put into itself."""
    with pytest.raises(ConfigError, match="own database"):
        salvage.apply(fill(), queue_path)
