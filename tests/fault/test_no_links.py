"""P2 on a file system on which no file has two names, such as vfat: a damaged database is moved aside there,
and a crash amid that loses nothing."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from forwarder.spool import EventQueue, View, books, set_aside

sys.path.insert(0, str(Path(__file__).parent))
import no_links

SECTOR, MIB = 512, 1 << 20
NEVER = 99


def events(first, count):
    for number in range(first, first + count):
        yield {"event": "A", "properties": {"distinct_id": "d", "n": number, "pad": "x" * 300}}


def numbers(found):
    return sorted(json.loads(data)["properties"]["n"] for data in found)


def sound(path):
    with View(path) as view:
        assert [finding for finding in books.check(view) if not finding.ok] == []
        return view.figures()


def format_vfat(image):
    """Make a file a FAT16 file system: boot sector, two tables and a root directory, all else is free."""
    table_sectors, root_entries = 128, 512
    with image.open("wb") as file:
        file.truncate(64 * MIB)
        boot = bytearray(SECTOR)
        boot[0:11] = b"\xeb\x3c\x90MSDOS5.0"
        sizes = (SECTOR, 4, 1, 2, root_entries, 0, 0xF8, table_sectors, 63, 255, 0, 64 * MIB // SECTOR)
        struct.pack_into("<HBHBHHBHHHII", boot, 11, *sizes)
        boot[36:39], boot[43:62], boot[510:512] = b"\x80\0\x29", b"NO NAME    FAT16   ", b"\x55\xaa"
        file.write(boot)
        for number in range(2):
            file.seek((1 + number * table_sectors) * SECTOR)
            file.write(b"\xf8\xff\xff\xff")


@pytest.fixture
def vfat(tmp_path):
    """A small vfat file system."""
    disk = tmp_path / "disk"
    disk.mkdir()
    format_vfat(tmp_path / "image")
    command = ["mount", "-t", "vfat", "-o", "loop", tmp_path / "image", disk]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no vfat can be mounted here: {mounted.stderr.splitlines()[0]}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def damage(path):
    with open(f"{path}/data.db", "r+b") as file:
        file.write(bytes(100))


def test_on_vfat(vfat, forwarder, rows):
    """There a queue is made, damaged, set aside, and salvaged."""
    path = forwarder.environ["FORWARDER_QUEUE_PATH"] = str(vfat / "queue")
    with EventQueue(path, min_free_bytes=0) as queue:
        queue.put_many(events(0, 100))
    with pytest.raises(PermissionError):
        os.link(f"{path}/data.db", f"{path}/second")
    damage(path)
    with EventQueue(path, min_free_bytes=0) as queue:
        queue.put_many(events(100, 10))
    (file,) = set_aside.damaged(path)
    done = forwarder("salvage", file, "--apply")
    assert done.returncode == 0, done.stderr
    assert numbers(rows(path)) == list(range(110))
    sound(path)


RUN = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import no_links
from forwarder.spool import EventQueue
no_links.refuse_links()
path, strike = sys.argv[1], int(sys.argv[2])
rename = os.rename
def counted(*places):
    global strike
    strike -= os.path.exists(places[0])
    if strike == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*places)
os.rename = counted
with EventQueue(path, min_free_bytes=0) as queue:
    queue.put({{"event": "A", "properties": {{"n": 1000}}}})
"""


@pytest.fixture
def put_without_links():
    """Put an event where no file has two names, killed before the nth move of a file."""
    if reason := no_links.why_not():
        pytest.skip(reason)

    def put(path, strike=NEVER):
        return subprocess.run([sys.executable, "-c", RUN, path, str(strike)], timeout=60).returncode

    return put


def fill(path, with_log):
    """A damaged queue of 100 events; with its log, they are only there."""
    with EventQueue(path, min_free_bytes=0) as queue:
        queue.put_many(events(0, 100))
        kept = {part: Path(f"{path}/data.db{part}").read_bytes() for part in ("", "-wal", "-shm")}
    if with_log:
        for part, content in kept.items():
            Path(f"{path}/data.db{part}").write_bytes(content)
        os.truncate(f"{path}/data.db", 0)
    else:
        damage(path)


def salvage_all(forwarder, path):
    for file in set_aside.damaged(path):
        done = forwarder("salvage", file, "--apply")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("with_log", [False, True], ids=["database alone", "with its log"])
@pytest.mark.parametrize("by_links", [False, True], ids=["still without", "by links again"])
@pytest.mark.parametrize("strike", [1, 2, 3, NEVER])
def test_moved_aside(queue_path, forwarder, rows, put_without_links, strike, with_log, by_links):
    """Where no file has two names a damaged database is moved; killed before any move, what is left of it is
    moved after the rest, and the events come back, once each."""
    fill(queue_path, with_log)
    moves = 3 if with_log else 1
    code = put_without_links(queue_path, strike)
    assert code == (-9 if strike <= moves else 0)
    if code:
        again = forwarder("enqueue", "-e", "A", "-p", "n:=1000") if by_links else None
        assert (again.returncode if again else put_without_links(queue_path)) == 0
    (file,) = set_aside.damaged(queue_path)
    there = set(os.listdir(os.path.dirname(file)))
    assert there - {"data.db-shm"} == ({"data.db", "data.db-wal"} if with_log else {"data.db"})
    salvage_all(forwarder, queue_path)
    assert numbers(rows(queue_path)) == [*range(100), 1000]
    sound(queue_path)


def test_another_log_is_not_moved_to_it(queue_path, forwarder, rows, put_without_links):
    """A log that is left alone later is of another database: it is set aside for itself."""
    fill(queue_path, with_log=True)
    assert put_without_links(queue_path, 2) == -9
    # Gone, as if it had been moved right before the mark was to be deleted.
    (file,) = set_aside.damaged(queue_path)
    for part in ("-wal", "-shm"):
        os.rename(f"{queue_path}/data.db{part}", file + part)
    with EventQueue(f"{queue_path}2", min_free_bytes=0) as queue:
        queue.put_many(events(200, 50))
        Path(f"{queue_path}/data.db-wal").write_bytes(Path(f"{queue_path}2/data.db-wal").read_bytes())
    assert put_without_links(queue_path) == 0
    assert len(set_aside.damaged(queue_path)) == 2
    salvage_all(forwarder, queue_path)
    assert numbers(rows(queue_path)) == [*range(100), *range(200, 250), 1000]
    sound(queue_path)
