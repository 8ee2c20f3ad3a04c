"""``forwarder enqueue --wait``: it returns once what it has stored is delivered, or says what is not."""

import json
import signal
import subprocess
import sys
import time
from contextlib import closing

import pytest

from forwarder.sandbox import Fault
from forwarder.spool import EventQueue
from forwarder.spool.sqlite.consumer import Consumer
from tests.conftest import TOKEN, each_engine


def event(number, **properties):
    given = {"distinct_id": "d", "$insert_id": f"id-{number}", "time": int(time.time()), **properties}
    return json.dumps({"event": "E", "properties": given}) + "\n"


def lines(count):
    return "".join(map(event, range(count)))


@pytest.fixture
def started(forwarder):
    """Start a command, its input given; returns the process, whose output can be read."""
    processes = []

    def start(*arguments, stdin=""):
        process = subprocess.Popen(
            [sys.executable, "-m", "forwarder", *arguments],
            env=forwarder.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        process.stdin.write(stdin)
        process.stdin.close()
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@each_engine
def test_all_are_delivered(forwarder, server):
    """Of several commits, also beside what others put; then the server has all of them."""
    forwarder.daemon()
    done = forwarder("enqueue", "--wait", stdin=lines(5000))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "accepted 5,000 events\ndelivered 5,000 events\n"
    assert len(server.ledger.events) == 5000
    done = forwarder("enqueue", "--wait", "--timeout", "20", "-e", "E")
    assert (done.returncode, done.stdout) == (0, "accepted 1 event\ndelivered 1 event\n")
    update = json.dumps({"$token": TOKEN, "$distinct_id": "d", "$set": {"n": 1}})
    done = forwarder("enqueue", "--wait", "--kind", "profile", stdin=update)
    assert (done.returncode, done.stdout) == (0, "accepted 1 profile update\ndelivered 1 profile update\n")


def test_a_database_that_was_replaced_meanwhile(started, queue_path):
    """Then what became of its events is not known here, and that is said, with where to look."""
    waiting = started("enqueue", "--wait", stdin=lines(3))
    assert waiting.stdout.readline() == "accepted 3 events\n"
    assert "No daemon runs" in waiting.stderr.readline()
    # Else it may look while there is none.
    waiting.send_signal(signal.SIGSTOP)
    with closing(Consumer(queue_path)) as consumer:
        consumer.set_aside()
    EventQueue(queue_path, min_free_bytes=0).close()
    waiting.send_signal(signal.SIGCONT)
    assert waiting.wait(20) == 65
    assert "3 events not in the database that is there now; `forwarder check` says" in waiting.stderr.read()


def test_ids_of_what_is_stored(forwarder, queue):
    """As `where` takes them: of one event, of a file, of what was not refused; null if there are none."""
    assert forwarder.json("enqueue", "-e", "E")["ids"] == "1"
    done = forwarder("enqueue", "--json", stdin=f"{lines(3)}no JSON\n{event(4)}")
    assert json.loads(done.stdout)["ids"] == "2-5"
    for arguments in (("enqueue", "--check", "--json"), ("enqueue", "-e", "E", "--check", "--json")):
        assert json.loads(forwarder(*arguments, stdin=event(1)).stdout)["ids"] is None
    assert json.loads(forwarder("enqueue", "--json", "-e", "").stdout)["ids"] is None
    assert queue.where([(1, 5)])[0].count == 5


def test_ids_are_told_before_the_wait(started, until, queue):
    """Whoever ends it early knows them."""
    process = started("enqueue", "--wait", "--json", stdin=lines(3))
    assert json.loads(process.stdout.readline())["ids"] == "1-3"
    assert process.poll() is None


def test_some_are_dead_letters(forwarder):
    """Which, and why; the others are delivered."""
    forwarder.daemon()
    done = forwarder("enqueue", "--no-check", "--wait", stdin=event(1) + event(2, time=-5) + event(3))
    assert done.returncode == 65
    assert done.stdout == "accepted 3 events\ndelivered 2 events\n"
    assert done.stderr.startswith("forwarder: 2 is dead letter 1: 'properties.time' is invalid")
    done = forwarder("enqueue", "--no-check", "--wait", stdin="".join(event(n, time=-5) for n in range(30)))
    assert done.returncode == 65
    assert "forwarder: and 10 dead letters more." in done.stderr


def test_some_are_deleted(forwarder, started, until, queue, run):
    """By a person, while it waits: that ends the wait for them."""
    process = started("enqueue", "--wait", "-e", "E")
    until(lambda: queue.where(1)[0].state == "waiting")
    run("waiting", "delete", "1")
    assert process.wait(20) == 65
    assert "forwarder: 1 event deleted by a person: 1\n" in process.stderr.read()


@each_engine
def test_the_time_is_up(forwarder, server):
    """How many wait, and why: no daemon, which is said at once, an outage, a person's hold."""
    done = forwarder("enqueue", "--wait", "--timeout", "0.2", stdin=lines(3))
    assert (done.returncode, done.stdout) == (75, "accepted 3 events\n")
    assert done.stderr == (
        "forwarder: No daemon runs. What was accepted waits until one does.\n"
        "forwarder: 3 of 3 events still wait. No daemon runs.\n"
    )
    server.inject(Fault.server_error())
    forwarder.daemon()
    done = forwarder("enqueue", "--wait", "--timeout", "1", "-e", "E")
    assert done.returncode == 75
    assert done.stderr.startswith("forwarder: 1 of 1 event still waits. Delivery is backing off: HTTP 503")


def test_held_ones_wait(forwarder, started, until, queue, run):
    """A person's hold is told with the others' count."""
    forwarder.daemon()
    run("pause")
    process = started("enqueue", "--wait", "--timeout", "2", stdin=lines(3))
    until(lambda: queue.where(3)[0].state == "waiting")
    run("waiting", "hold", "1", "2")
    run("resume")
    assert process.wait(20) == 75
    assert process.stderr.read() == "forwarder: 2 of 3 events still wait, 2 of them held.\n"


def test_released_ones_are_followed(forwarder, started, until, queue, run):
    """A row that is held and released has another id: that one is waited for."""
    process = started("enqueue", "--wait", "-e", "E")
    assert "No daemon runs" in process.stderr.readline()
    run("waiting", "hold", "1")
    run("waiting", "release", "1")
    assert [receipt.new_id for receipt in queue.where(1)] == [2]
    forwarder.daemon()
    assert process.wait(20) == 0
    assert process.stdout.read().endswith("delivered 1 event\n")


def test_refused_lines_count_too(forwarder):
    """The exit code is that of the refused line, though all others were delivered."""
    forwarder.daemon()
    done = forwarder("enqueue", "--wait", stdin=f"{event(1)}no JSON\n")
    assert done.returncode == 65
    assert done.stdout == "accepted 1 event, refused 1\ndelivered 1 event\n"
    assert forwarder("enqueue", "--wait", stdin="no JSON\n").returncode == 65


def test_interrupted(started, queue):
    """What was accepted stays, and is said to."""
    process = started("enqueue", "--wait", "-e", "E")
    assert "No daemon runs" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert process.stderr.read().endswith("Interrupted: what was accepted stays in the queue.\n")
    assert queue.where(1)[0].state == "waiting"


@pytest.mark.parametrize(
    "arguments", [("--wait", "--check"), ("--timeout", "5"), ("--wait", "--timeout", "-1")]
)
def test_what_does_not_go_together(arguments, run):
    """Is a mistake on the command line; nothing is stored."""
    assert run("enqueue", "-e", "E", *arguments)[0] in (2, 64)
