"""P1 and P2 when the intake's files are hit, moved or locked up while it runs: it says 503, or yes for what
can be found afterwards, and it goes on by itself."""

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading

import pytest

from forwarder import salvage
from forwarder.records import KINDS
from forwarder.spool import EventQueue, NoQueueError
from forwarder.spool.sqlite import set_aside
from tests.integration.intake_client import TOKEN, Intake, event, waiting

CLIENTS = 4
# Root may do anything, unless these are taken away.
OBEYING = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


class Crowd:
    """Clients that send an event or update after the other; what each was told, by kind and name."""

    def __init__(self, intake):
        self.accepted, self.refused, self.errors = [], [], []
        self._intake = intake
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(CLIENTS)]

    def _work(self, who):
        number = 0
        with self._intake.client() as client:
            while not self._is_over.is_set():
                kind = [*KINDS][number % 3]
                name, number = f"{who}-{number}", number + 1
                ids = {"profile": {"$distinct_id": name}, "group": {"$group_key": "k", "$group_id": name}}
                text = json.dumps({"$token": TOKEN, "$set": {"pad": "x" * 200}, **ids.get(kind, {})}).encode()
                path = {"event": "/track", "profile": "/engage", "group": "/groups"}[kind]
                answer = client.ask("POST", path, event(name) if kind == "event" else text)
                if (answer.status, answer.body) == (200, b"1"):
                    self.accepted.append((kind, name))
                elif answer.status == 503:
                    self.refused.append((kind, name))
                else:
                    self.errors.append(answer.body)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()


def stored(path):
    """By kind and name, what waits in the queue at *path*."""
    found = []
    for kind in KINDS:
        with contextlib.suppress(NoQueueError):
            found += [
                (kind, each.get("event") or each.get("$distinct_id") or each["$group_id"])
                for each in waiting(path, kind)
            ]
    return found


def put_right(path):
    """Bring back what was set aside there."""
    for file in set_aside.damaged(path):
        salvage.apply(file, path)


@pytest.fixture
def intake(queue_path):
    """One that runs."""
    made = Intake(queue_path)
    made.start()
    yield made
    made.close()


def overwrite(file, at, content):
    with open(file, "r+b") as target:
        target.seek(at)
        target.write(content)


def spoil_index(path):
    """Between two commits: SQLite trusts what it has put there itself, and a commit would go on with it."""
    with open(f"{path}/writer.lock", "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        overwrite(f"{path}/data.db-shm", 0, b"\xff" * 32768)


# None of them hits a row.
HITS = {
    "header": lambda path: overwrite(f"{path}/data.db", 0, bytes(100)),
    "mark": lambda path: overwrite(f"{path}/data.db", 68, bytes(4)),
    "first page": lambda path: overwrite(f"{path}/data.db", 0, b"\xff" * 4096),
    "index": spoil_index,
}


@pytest.mark.parametrize("hit", HITS)
def test_damaged_while_it_runs(hit, intake, queue_path, until):
    """Whatever is hit, clients go on, and each yes is in the database or in one that was set aside."""
    with Crowd(intake) as crowd:
        until(lambda: len(crowd.accepted) > 60)
        HITS[hit](queue_path)
        before = len(crowd.accepted)
        until(lambda: len(crowd.accepted) > before + 60, "it goes on")
    intake.process.kill()
    put_right(queue_path)
    assert crowd.errors == []
    assert set(crowd.accepted) - set(stored(queue_path)) == set()
    # Damage may show at the last step of a commit; then nobody can tell any more.
    assert len(crowd.refused) < 30


def away(path):
    os.rename(path, f"{path}-moved")


def swap(path, other):
    """In one step, as an intake makes a queue where none is."""
    here, exchange = -100, 2
    assert ctypes.CDLL(None).renameat2(here, os.fsencode(path), here, os.fsencode(other), exchange) == 0


def exchanged(path):
    EventQueue(f"{path}-moved", min_free_bytes=0).close()
    swap(path, f"{path}-moved")


def copied_over(path):
    shutil.copytree(path, f"{path}-moved", ignore=shutil.ignore_patterns("*-shm", "*.sock"))
    swap(path, f"{path}-moved")


MOVES = {"away": away, "exchanged": exchanged, "a copy in its place": copied_over}


@pytest.mark.parametrize("move", MOVES)
def test_moved_while_it_runs(move, intake, queue_path, until):
    """What is at the path now gets what comes now; each yes is there, or in what was moved; no 503 is."""
    moved = f"{queue_path}-moved"
    with Crowd(intake) as crowd:
        until(lambda: len(crowd.accepted) > 60)
        MOVES[move](queue_path)
        before = len(crowd.accepted)
        until(lambda: len(crowd.accepted) > before + 60, "it goes on")
        # Some were under way.
        assert set(crowd.accepted[before + 2 * CLIENTS :][:30]) <= set(stored(queue_path))
        # And back.
        swap(queue_path, moved)
        before = len(crowd.accepted)
        until(lambda: len(crowd.accepted) > before + 60, "it goes on with the first one")
    intake.process.kill()
    places = [queue_path, moved]
    for place in places:
        put_right(place)
    found = {one for place in places for one in stored(place)}
    assert crowd.errors == []
    assert set(crowd.accepted) - found == set()
    assert set(crowd.refused) & found == set()
    assert set(crowd.accepted[-30:]) <= set(stored(queue_path))


@pytest.fixture
def obeying(queue_path):
    """An intake that needs permissions, whoever runs the tests."""
    made = Intake(queue_path)
    command = [sys.executable, "-m", "forwarder", "intake"]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv is not installed, and root needs no permissions")
        command = [*OBEYING, *command]
    made.start(command=command)
    yield made
    made.close()


def closed_to_all(path):
    os.chmod(path, 0)
    return lambda: os.chmod(path, 0o2770)


def locked_files(path):
    """A queue in its place whose files can't be opened: what is open already asks for nothing."""
    exchanged(path)
    files = [os.path.join(path, name) for name in os.listdir(path)]
    for file in files:
        os.chmod(file, 0)
    return lambda: [os.chmod(file, 0o660) for file in files]


def locked_directory(path):
    """An empty directory in its place in which nothing can be made."""
    away(path)
    os.mkdir(path, 0o500)
    return lambda: os.chmod(path, 0o2770)


# Each returns how it is given back.
LOCKS = {
    "the directory can't be entered": closed_to_all,
    "the files can't be opened": locked_files,
    "no files can be made": locked_directory,
}


@pytest.mark.parametrize("lock", LOCKS)
def test_without_permission_for_a_while(lock, obeying, queue_path, until):
    """What it can't store it refuses; once it may again, it stores again."""
    with Crowd(obeying) as crowd:
        until(lambda: len(crowd.accepted) > 30)
        unlock = LOCKS[lock](queue_path)
        until(lambda: len(crowd.refused) > 30, "it refuses")
        unlock()
        before = len(crowd.accepted)
        until(lambda: len(crowd.accepted) > before + 30, "it stores again")
    obeying.process.kill()
    found = {one for place in (queue_path, f"{queue_path}-moved") for one in stored(place)}
    assert crowd.errors == []
    assert set(crowd.accepted) - found == set()
    assert set(crowd.refused) & found == set()
    assert set_aside.damaged(queue_path) == []


def test_read_only_for_a_while(intake, queue_path, until):
    """A file system that is mounted read-only over the queue's own directory, and mounted away again."""
    mount = [["mount", "--bind", queue_path, queue_path], ["mount", "-o", "remount,bind,ro", queue_path]]
    with Crowd(intake) as crowd:
        until(lambda: len(crowd.accepted) > 30)
        if subprocess.run(mount[0], capture_output=True).returncode:
            pytest.skip("nothing can be mounted here")
        try:
            subprocess.run(mount[1], check=True)
            count = len(crowd.accepted) + len(crowd.refused)
            until(lambda: len(crowd.accepted) + len(crowd.refused) > count + 30, "all are answered")
        finally:
            subprocess.run(["umount", "--lazy", queue_path], check=True)
        before = len(crowd.accepted)
        until(lambda: len(crowd.accepted) > before + 30, "it stores again")
    intake.process.kill()
    found = set(stored(queue_path))
    assert crowd.errors == []
    assert set(crowd.accepted) - found == set()
    assert set(crowd.refused) & found == set()
    assert set_aside.damaged(queue_path) == []
