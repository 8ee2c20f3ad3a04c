"""``alerts.command`` run by a real daemon, also one that fails, and one that hangs."""

import os
import resource
import signal
import sys
import time

import pytest

from forwarder.sandbox import Fault
from forwarder.service import alerts
from forwarder.service.alerts import Alert, Command
from forwarder.spool import EventQueue
from tests.conftest import TOKEN, Daemon, each_engine
from tests.processes import state_of

EVENT = {"event": "A", "properties": {}}
# It looks ten times as often as it would.
RUN = """
from forwarder.cli import main
from forwarder.service import alerts
alerts.LOOK_S = 0.5
main(["run"])
"""
ALERT = Alert("blocked", "a wrong key")


@pytest.fixture
def run_daemon(forwarder):
    """Start a daemon with *command* for alerts, and settings in its environment."""
    started = []

    def run(command, **environ):
        given = {**forwarder.environ, "FORWARDER_ALERTS_COMMAND": command, **environ}
        started.append(Daemon(given, command=(sys.executable, "-c", RUN)))
        return started[-1]

    yield run
    for daemon in started:
        daemon.close()


def is_gone(pid):
    """Whether there is no such process, or only what its parent has not read yet."""
    return state_of(pid) == "Z"


@each_engine
def test_a_person_gets_what_is_wrong_and_that_it_is_over(run_daemon, queue_path, server, tmp_path, until):
    """With the name and the state in the environment, and without the key."""
    told = tmp_path / "told"
    server.inject(Fault.unauthorized())
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put(EVENT)
    daemon = run_daemon(
        f"(echo $FORWARDER_ALERT $FORWARDER_ALERT_STATE; env; cat) >> {told}",
        FORWARDER_DELIVERY_RETRY_INITIAL_S="2",
        FORWARDER_DELIVERY_RETRY_MAX_S="2",
    )
    text = until(lambda: told.exists() and (text := told.read_text()).endswith("Z.\n") and text)
    assert text.startswith("blocked begun\n")
    assert f"forwarder on {os.uname().nodename}: blocked: delivery is blocked: " in text
    assert "nothing is lost, 1 event waits" in text
    assert TOKEN not in text
    assert daemon.wait_for("alert.sent")["alert"] == "blocked"
    server.clear()
    told.unlink()
    until(lambda: told.exists() and "over: blocked: this is over" in told.read_text())
    assert told.read_text().startswith("blocked over\n")


def test_a_command_that_hangs_holds_up_nothing(run_daemon, queue_path, server, tmp_path, until, figures):
    """Delivery goes on, a reload works, and the end of the daemon is that of all that it has started."""
    pid = tmp_path / "pid"
    bad = b'{"event":"A","properties":{"time":1700000000,"$insert_id":"not an id!"}}'
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        daemon = run_daemon(f"sleep 600 & echo $! > {pid}.new; mv {pid}.new {pid}; wait")
        # The first look counts what is dead already: more at a later one are news.
        until(lambda: queue.append([bad]) and pid.exists())
        queue.put_many([EVENT] * 3000)
        until(lambda: figures(queue_path).delivered == 3000)
    sleeper = int(pid.read_text())
    assert not is_gone(sleeper)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for("settings.reloaded")
    stopped_at = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - stopped_at < 10
    until(lambda: is_gone(sleeper))
    assert daemon.logged("alert.failed") == [], "its end is no failure of the command"


def test_what_a_command_says_when_it_fails(monkeypatch, tmp_path, until):
    """Its exit code and the end of its output; that it took too long, and then all it has started is gone."""
    assert Command().run("cat > /dev/null", ALERT, "text" * 100_000) == ""
    assert Command().run("exit 0", ALERT, "text" * 100_000) == "", "it need not read"
    assert Command().run("echo no such; echo host >&2; exit 7", ALERT, "") == "exit code 7: no such\\nhost"
    assert Command().run("kill -9 $$", ALERT, "") == "exit code -9"
    assert "not found" in Command().run("no-such-command", ALERT, "")
    monkeypatch.setattr(alerts, "COMMAND_S", 0.5)
    pid = tmp_path / "pid"
    why = Command().run(f"sleep 600 & echo $! > {pid}; wait", ALERT, "")
    assert why == "it took longer than 0.5 s, and was killed"
    until(lambda: is_gone(int(pid.read_text())))


def test_what_a_command_leaves_running_is_not_waited_for(monkeypatch, tmp_path):
    """A background process, or one of a session of its own, does not end all alerts."""
    monkeypatch.setattr(alerts, "COMMAND_S", 1.0)
    pid = tmp_path / "pid"
    began_at = time.monotonic()
    assert Command().run(f"sleep 600 & echo $! > {pid}", ALERT, "") == ""
    os.kill(int(pid.read_text()), signal.SIGKILL)
    why = Command().run(f"setsid sh -c 'echo $$ > {pid}; exec sleep 600'; true", ALERT, "")
    assert why == "it took longer than 1 s, and was killed"
    os.kill(int(pid.read_text()), signal.SIGKILL)
    assert time.monotonic() - began_at < 10


def test_what_a_command_prints_is_not_kept(monkeypatch):
    """The daemon's memory does not depend on it, nor does it read all day."""
    monkeypatch.setattr(alerts, "COMMAND_S", 1.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert Command().run("yes", ALERT, "") == "it took longer than 1 s, and was killed"
    assert Command().run("head -c 5000000 /dev/zero; echo; echo end; exit 1", ALERT, "").endswith("\\nend")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024


def test_a_person_tries_it(forwarder, tmp_path):
    """``check --alert`` runs it once, and says what came of it."""
    assert "alerts.command is not set" in forwarder("check", "--alert").stdout
    told = tmp_path / "told"
    forwarder.environ["FORWARDER_ALERTS_COMMAND"] = f"cat > {told}"
    done = forwarder("check", "--alert")
    assert "alerts.command has read a test text" in done.stdout
    assert ": test: this is a test, nothing has happened\n" in told.read_text()
    forwarder.environ["FORWARDER_ALERTS_COMMAND"] = "exit 3"
    done = forwarder("check", "--alert")
    assert (done.returncode, "alerts.command failed: exit code 3" in done.stdout) == (69, True), done
    # An address in it may be a secret.
    assert "exit 3" not in forwarder("config", "show").stdout
