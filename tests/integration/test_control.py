"""``forwarder pause``, ``resume`` and ``flush``: what they do, and what they say is now the case."""

import json
import os
import subprocess
import sys

import pytest

from forwarder.sandbox import Fault
from forwarder.spool import EventQueue
from forwarder.spool.sqlite.view import View


def is_paused(path):
    """Whether a pause is on disk."""
    with View(path) as view:
        return view.figures().paused


def test_pause_and_resume_without_a_daemon(run, queue_path):
    """A pause is kept on disk for the daemon to come, and each command says how things are after it."""
    EventQueue(queue_path).close()

    code, out, err = run("pause")
    assert (code, err) == (0, "")
    assert out.startswith("Delivery is paused; no daemon runs, and one started now would not deliver")
    assert is_paused(queue_path)
    assert run("pause")[1].startswith("Delivery was already paused")

    assert run("resume")[1].startswith("Delivery is no longer paused; no daemon runs")
    assert not is_paused(queue_path)
    assert run("resume")[1].startswith("Delivery was not paused")


def test_a_pause_without_a_database_is_resumed(run, queue_path):
    """Also where the database was deleted meanwhile."""
    run("pause")
    for name in os.listdir(queue_path):
        if name.startswith("data.db"):
            os.unlink(f"{queue_path}/{name}")
    assert run("resume")[1].startswith("Delivery is no longer paused")
    EventQueue(queue_path).close()
    assert not is_paused(queue_path)


def test_the_first_daemon_can_be_kept_waiting(run, queue_path):
    """Pausing where there is no queue makes one, so that the pause holds; resuming does not make one."""
    code, out, _ = run("resume")
    assert (code, os.path.exists(queue_path)) == (0, False)
    assert out.startswith("Delivery was not paused")

    assert json.loads(run("pause", "--json")[1]) == {"paused": True, "pid": None}
    assert is_paused(queue_path)
    assert json.loads(run("resume", "--json")[1]) == {"paused": False, "pid": None}


@pytest.mark.parametrize("there", [False, True])
def test_flush_needs_a_daemon(there, run, queue_path):
    """With no daemon to tell, flush says so with 69, and makes no queue."""
    if there:
        EventQueue(queue_path).close()

    code, out, err = run("flush")

    assert (code, out) == (69, "")
    assert f"no daemon delivers from {queue_path}" in err
    assert os.path.exists(queue_path) == there


def test_a_running_daemon_obeys(forwarder, server, until):
    """Paused, the daemon sends nothing; resumed, it delivers; flushed, it forgets a long wait."""
    forwarder.environ["FORWARDER_DELIVERY_RETRY_INITIAL_S"] = "3600"
    forwarder.environ["FORWARDER_DELIVERY_RETRY_MAX_S"] = "3600"
    daemon = forwarder.daemon()
    pid = daemon.process.pid

    assert forwarder("pause").stdout == "Delivery is paused. `forwarder resume` continues it.\n"
    until(lambda: forwarder.json("status")["state"] == "paused")
    forwarder("enqueue", "-e", "E")
    assert f"process {pid}) has the request; but delivery is paused" in forwarder("flush").stdout
    until(lambda: daemon.logged("delivery.flushed"))
    assert len(server.ledger.events) == 0

    server.inject(Fault.server_error())
    assert forwarder("resume").stdout == "Delivery is no longer paused.\n"
    until(lambda: forwarder.json("status")["state"] == "backing_off")
    server.clear()
    assert forwarder("flush").stdout == f"The daemon (process {pid}) has the request and tries now.\n"
    server.wait_for(lambda ledger: len(ledger.events) == 1)


@pytest.mark.parametrize(
    ("count", "told"),
    [(1, "1 event is left; it waits in {}: "), (2, "2 events are left; they wait in {}: ")],
)
def test_what_a_drain_leaves_is_told_with_the_reason(count, told, forwarder, server, queue_path):
    """drain says how many are left and why; with --json that is an object, of an empty queue too."""
    assert forwarder.json("drain") == {"left": 0, "reason": "", "held": 0}
    server.inject(Fault.server_error())
    for _ in range(count):
        forwarder("enqueue", "-e", "E")

    done = forwarder("drain", "--timeout", "0.5")
    assert done.returncode == 75
    assert done.stdout.startswith(told.format(queue_path))
    assert "HTTP 503" in done.stdout

    done = forwarder("drain", "--timeout", "0.5", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["left"]) == (75, count)
    assert "HTTP 503" in found["reason"]


@pytest.fixture
def elsewhere(forwarder):
    """Run a command where the processes of this host can't be seen, as in a container beside it."""

    def run(*arguments):
        command = ["unshare", "-p", "-f", "--mount-proc", sys.executable, "-m", "forwarder", *arguments]
        done = subprocess.run(command, env=forwarder.environ, capture_output=True, text=True, timeout=60)
        if "unshare" in done.stderr:
            pytest.skip(done.stderr)
        return done

    return run


def test_daemon_in_another_container(forwarder, server, elsewhere, queue_path, until):
    """A daemon whose process can't be seen is known by what it has written, and does what it is asked."""
    server.inject(Fault.unauthorized())
    forwarder("enqueue", "-e", "A", "-d", "d")
    daemon = forwarder.daemon()
    until(lambda: json.loads(elsewhere("status", "--json").stdout)["state"] == "blocked")
    # While a try is out, it is running.
    until(lambda: elsewhere("status", "--fail-if", "state==blocked").returncode == 1)
    assert "as in another container" in elsewhere("status").stdout
    assert json.loads(elsewhere("pause", "--json").stdout) == {"paused": True, "pid": 0}
    daemon.wait_for("delivery.paused")
    server.clear()
    assert "no daemon runs" not in elsewhere("resume").stdout
    done = elsewhere("drain", "--timeout", "20")
    assert (done.returncode, done.stderr) == (0, "")
    assert elsewhere("run").returncode == 75
    assert daemon.stop() == 0
    assert "no daemon runs" in elsewhere("status").stdout
