"""The disk that forgets, which the tests of power cuts stand on: what it may forget, and what it may not."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fault"))
import power_loss

ROOT = Path("/somewhere")
DISK = ROOT / "disk"
SEEDS = 60


def text(value):
    """Bytes or a path as strace -xx prints them."""
    data = value if isinstance(value, bytes) else str(value).encode()
    return "".join(f"\\x{byte:02x}" for byte in data)


def fd(name):
    """A descriptor of a file or directory on the disk."""
    return f"3<{text(DISK / name)}>"


def create(name):
    """A file comes into being."""
    return f'openat(AT_FDCWD<{text("/")}>, "{text(DISK / name)}", O_RDWR|O_CREAT, 0660) = {fd(name)}'


def write(name, start, data):
    """Bytes are written."""
    return f'pwrite64({fd(name)}, "{text(data)}", {len(data)}, {start}) = {len(data)}'


def sync(name=""):
    """A file, or the directory, is synced."""
    return f"fdatasync({fd(name) if name else f'4<{text(DISK)}>'}) = 0"


@pytest.fixture
def replay(tmp_path):
    """Read a trace of these calls, and return all that may be left of the files after the last of them."""

    def states(*calls, way=None, has_journal=False):
        trace = tmp_path / "trace"
        lines = [call if call.startswith("8") else f"7 {call}" for call in calls]
        trace.write_text("\n".join(lines) + "\n")
        recording = power_loss.Recording.read(trace, DISK, ROOT / "said")
        disk = power_loss.Disk(recording, has_journal)
        disk.go_on(len(recording.steps))
        found = []
        for seed in range(SEEDS):
            for one in [way] if way else power_loss.WAYS:
                files = disk.left(one, random.Random(seed))
                if files not in found:
                    found.append(files)
        return found

    return states


def test_what_is_synced_stays(replay):
    """A file whose content and name are synced is there after every power cut, and the same."""
    assert replay(create("a"), write("a", 0, b"one"), sync("a"), sync()) == [{"a": b"one"}]


def test_what_is_written_may_be_lost_or_kept(replay):
    """A change since the sync may be there or not; nothing else may be there instead."""
    found = replay(create("a"), write("a", 0, b"one"), sync("a"), sync(), write("a", 0, b"two"))
    assert sorted(state["a"] for state in found) == [b"one", b"two"]


def test_a_sync_covers_what_was_written_before_it_began(replay):
    """A write that returns while a sync is under way is not covered by it."""
    begun = f"8 fdatasync({fd('a')} <unfinished ...>"
    found = replay(create("a"), sync(), begun, write("a", 0, b"one"), "8 <... fdatasync resumed>) = 0")
    assert {state["a"] for state in found} == {b"", b"one", b"\0\0\0"}


def test_a_name_lasts_by_a_sync_of_its_directory(replay):
    """Syncing a file does not keep its name, unless there is a journal of all names."""
    calls = create("a"), write("a", 0, b"one"), sync("a")
    assert {} in replay(*calls)
    assert replay(*calls, has_journal=True) == [{"a": b"one"}]
    assert replay(*calls, sync()) == [{"a": b"one"}]


def test_a_removal_may_be_undone(replay):
    """What was removed may be back with what it held, until the directory is synced."""
    calls = create("a"), write("a", 0, b"one"), sync("a"), sync(), f'unlink("{text(DISK / "a")}") = 0'
    assert sorted(map(len, replay(*calls))) == [0, 1]
    assert replay(*calls, sync()) == [{}]


def test_a_renamed_file_may_be_empty(replay):
    """Renaming without a sync may leave the old file, the new one, an empty one, and either name."""
    renamed = f'rename("{text(DISK / "new")}", "{text(DISK / "a")}") = 0'
    calls = create("new"), write("new", 0, b"one")
    assert replay(*calls, sync("new"), renamed, sync()) == [{"a": b"one"}]
    found = replay(*calls, renamed)
    assert {"a": b"one"} in found
    assert {"a": b""} in found
    assert {} in found
    assert {"new": b"one"} in found


@pytest.mark.parametrize(("way", "block_bytes"), [("sectors", 512), ("pages", 4096)])
def test_writes_are_torn_and_reordered(replay, way, block_bytes):
    """Each block of what was written is old or new, in every mixture, but is not torn itself."""
    size = 2 * block_bytes
    calls = create("a"), write("a", 0, b"0" * size), sync("a"), sync(), write("a", 0, b"1" * size)
    found = {state["a"] for state in replay(*calls, way=way)}
    assert found == {
        first * block_bytes + second * block_bytes for first in (b"0", b"1") for second in (b"0", b"1")
    }


@pytest.mark.parametrize("way", ["some", "sectors"])
def test_a_later_write_may_be_kept_without_an_earlier(replay, way):
    """Of two changes to different places, the second may survive alone."""
    calls = create("a"), write("a", 0, b"0" * 1024), sync("a"), sync()
    found = replay(*calls, write("a", 0, b"1" * 512), write("a", 512, b"2" * 512), way=way)
    assert {"a": b"0" * 512 + b"2" * 512} in found


def test_a_file_may_be_cut_or_not(replay):
    """A new length is kept or lost like what is written; what is added reads as zeros."""
    calls = create("a"), write("a", 0, b"x" * 600), sync("a"), sync(), f"ftruncate({fd('a')}, 100) = 0"
    assert sorted(len(state["a"]) for state in replay(*calls)) == [100, 600]
    longer = f"fallocate({fd('a')}, 0, 0, 700) = 0"
    assert {"a": b"x" * 100 + bytes(600)} in replay(*calls, longer)


def test_what_is_mapped_is_left_out_or_rubbish(replay):
    """What SQLite keeps in shared memory is never taken for what it held."""
    found = replay(create("d-shm"), write("d-shm", 0, b"one"), sync("d-shm"), sync())
    assert {} in found
    assert b"one" not in [state.get("d-shm") for state in found]


def link(old, new):
    """A file gets a further name."""
    return f'linkat(AT_FDCWD, "{text(old)}", AT_FDCWD, "{text(DISK / new)}", 0) = 0'


def test_a_further_name_is_of_the_same_file(replay):
    """What was synced under one name is there under both, once the directory was synced."""
    found = replay(create("a"), link(DISK / "a", "b"), write("a", 0, b"one"), sync("a"), sync())
    assert found == [{"a": b"one", "b": b"one"}]


def test_a_further_name_lasts_when_the_directory_is_synced(replay):
    """Without that it may be missing."""
    found = replay(create("a"), sync(), link(DISK / "a", "b"))
    assert {"a": b""} in found
    assert {"a": b"", "b": b""} in found


def test_a_file_without_a_name_gets_one(replay):
    """A file that was opened without a name is there under the name it is given, and not before."""
    unnamed = f'openat(AT_FDCWD, "{text(DISK)}", O_RDWR|O_TMPFILE, 0660) = 3<{text(DISK / "#1")}>(deleted)'
    assert replay(unnamed) == [{}]
    assert replay(unnamed, link("/proc/self/fd/3", "a"), sync()) == [{"a": b""}]


def test_what_was_said_has_its_place(tmp_path):
    """What a process says counts from the beginning of its call."""
    said = f'write(1<{text(ROOT / "said/me")}>, "{text(b"yes")}", 3'
    (tmp_path / "trace").write_text(f"7 {create('a')}\n7 {said} <unfinished ...>\n8 {sync()}\n")
    recording = power_loss.Recording.read(tmp_path / "trace", DISK, ROOT / "said")
    assert recording.said == [power_loss.Said(2, "me", b"yes")]


@pytest.mark.parametrize(
    "call",
    [
        f'symlink("{text(DISK / "a")}", "{text(DISK / "b")}") = 0',
        f"copy_file_range({fd('a')}, NULL, {fd('b')}) = 5",
    ],
)
def test_what_it_does_not_know_it_refuses(replay, call):
    """A call that changes files in a way that is not in the model is an error, not passed over."""
    with pytest.raises(AssertionError, match="not in the model"):
        replay(create("a"), call)


def test_a_trace_that_is_cut_is_refused(replay):
    """A string that strace has shortened is an error."""
    with pytest.raises(AssertionError, match="cut"):
        replay(create("a"), f'pwrite64({fd("a")}, "{text(b"one")}"..., 4096, 0) = 4096')
