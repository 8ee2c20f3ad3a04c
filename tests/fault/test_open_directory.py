"""P2 and P9 where everyone may write into the queue's directory: another user's files neither run nor are
written through; and where the directory is a link."""

import os
import pickle
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from forwarder.spool import EventQueue

NOBODY = 65534
COMMANDS = ("enqueue -e A -d x", "drain --timeout 5", "status", "check", "peek", "pause", "resume")
PLANTED = ("data.db", "data.db-wal", "data.db-shm", "writer.lock", "reserve", "daemon.lock", "daemon.json")

# As another user, who may do in the directory what everyone may: take files away, and put others there.
ENEMY = f"""
import os, sys
import persistqueue
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
os.umask(0)
what, path, name, target = sys.argv[1:]
file = os.path.join(path, name)
if os.path.lexists(file):
    os.rename(file, file + ".taken")
"""
PLANT = {
    "link": "os.symlink(target, file)",
    "pipe": "os.mkfifo(file, 0o666)",
    "pickles": textwrap.dedent("""
        class Bomb:
            def __reduce__(self):
                return os.mkdir, (target,)
        for rest in ("-wal", "-shm"):
            if os.path.lexists(file + rest):
                os.unlink(file + rest)
        plain = persistqueue.SQLiteAckQueue(path)
        for _ in range(3):
            plain.put(Bomb())
        plain.close()
    """),
}


def event(number):
    return {"event": "A", "properties": {"distinct_id": "x", "number": number}}


@pytest.fixture
def open_place(forwarder):
    """A queue with an event, in a directory that everyone may write into; the directory around it."""
    # pytest's own directory is closed to others.
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        path = forwarder.environ["FORWARDER_QUEUE_PATH"] = f"{place}/queue"
        with EventQueue(path, min_free_bytes=0) as queue:
            queue.put(event(1))
        os.chmod(path, 0o777)
        yield Path(place)


def plant(what, path, name, target):
    code = ENEMY + PLANT[what]
    subprocess.run([sys.executable, "-c", code, what, path, name, target], check=True, timeout=60)


CASES = [(what, name) for what in ("link", "pipe") for name in PLANTED] + [("pickles", "data.db")]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(("what", "name"), CASES, ids=lambda text: text)
def test_what_another_user_plants_neither_runs_nor_is_written_through(
    forwarder, open_place, rows, what, name
):
    """Pickles in a database of their own, links and pipes in the place of the queue's files: every command
    ends in time and with a sentence, the link's target stays as it is, nothing is unpickled, and check says
    that everyone can write there."""
    path = str(open_place / "queue")
    victim = open_place / "victim"
    if what == "link":
        victim.write_bytes(b"precious\n" * 100)
        victim.chmod(0o600)
        before = victim.read_bytes(), victim.stat()[:8]
    plant(what, path, name, str(victim))
    planted = (Path(path) / name).lstat()
    assert planted.st_uid == NOBODY, "nothing was planted"
    for command in COMMANDS:
        done = forwarder(*command.split(), timeout_s=20)
        assert done.returncode not in (70, None), (command, done.stderr)
        assert "Traceback" not in done.stderr
        if command == "check":
            assert f"everyone on this host can write {path}" in done.stdout
    if what == "link":
        assert (victim.read_bytes(), victim.stat()[:8]) == before
    else:
        assert not victim.exists(), "a pickle was run"
    if what == "pickles":
        bombs = rows(path, "dead_letters")
        assert len(bombs) == 3
        pickle.loads(bombs[0])
        assert victim.is_dir(), "the bomb was none"


def test_a_directory_that_is_a_link_is_the_queue_it_points_at(
    forwarder, server, queue, queue_path, tmp_path, until, figures
):
    """Queues may be moved to another disk and linked to: by the link or not, it is one queue, which has one
    daemon and one writer lock. Who can change the link can write the directory it stands in."""
    link = tmp_path / "link"
    link.symlink_to(queue_path)
    queue.put(event(0))
    forwarder.daemon(FORWARDER_QUEUE_PATH=str(link))
    second = forwarder("run")
    assert (second.returncode, "another daemon already delivers from" in second.stderr) == (75, True)
    with EventQueue(str(link), min_free_bytes=0) as linked:
        linked.put(event(1))
    queue.put(event(2))
    until(lambda: figures(queue_path).delivered == 3)
    assert figures(str(link)).accepted == 3
    assert link.is_symlink()
    assert server.ledger.accepted == 3


def test_a_link_to_no_directory_is_refused(forwarder, tmp_path):
    """A link that points nowhere is in the way, and neither replaced nor followed to make a queue there."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    forwarder.environ["FORWARDER_QUEUE_PATH"] = str(link)
    done = forwarder("enqueue", "-e", "A", "-d", "x")
    assert (done.returncode, f"{link} is in the way" in done.stderr) == (78, True)
    assert link.is_symlink()
    assert not (tmp_path / "nowhere").exists()
