"""The daemon as a process: one per queue, its signals, its settings, what it tells, trouble with the disk."""

import base64
import json
import os
import re
import resource
import signal
import socket
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest

from forwarder import config, spool
from forwarder.delivery.wire.outcome import Reply, judge
from forwarder.errors import NotPermittedError
from forwarder.records import EVENTS
from forwarder.records.event import accept
from forwarder.sandbox import Fault, Sandbox
from forwarder.service import state as state_file
from forwarder.service.daemon_log import DaemonLog
from forwarder.service.destination import MIXPANEL
from forwarder.service.run import running
from forwarder.service.worker import LOOK_S, RETENTION_S, STIRRED_S, Watch, Worker
from forwarder.spool import EventQueue
from forwarder.spool.sqlite import control
from forwarder.spool.sqlite.consumer import Consumer
from forwarder.spool.sqlite.presence import Presence, holder

TOKEN = "sandbox-token"
IDLE_SHARE = 0.01  # of a core
PATIENT = {
    "FORWARDER_DELIVERY_RETRY_INITIAL_S": "60",
    "FORWARDER_DELIVERY_RETRY_MAX_S": "60",
}


def event(number, name="signup", **properties):
    """The final bytes of one event."""
    given = {"time": 1_700_000_000 + number, "$insert_id": f"id-{number}", "distinct_id": "d", **properties}
    return accept(json.dumps({"event": name, "properties": given}).encode(), int(time.time() * 1000))


@pytest.fixture
def offer(queue_path):
    """Put events into the queue, as another process would; returns their final bytes."""

    def put(*numbers, **properties):
        events = [event(number, **properties) for number in numbers]
        with EventQueue(queue_path, min_free_bytes=0) as queue:
            queue.append(events)
        return events

    return put


@pytest.fixture
def emptied(queue_path, rows, until):
    """Wait until nothing waits."""
    return lambda timeout_s=20: until(lambda: not rows(queue_path), "the queue is empty", timeout_s)


@pytest.fixture
def in_progress(server):
    """Wait until so many requests are at the server, unanswered."""
    return lambda count=1: server.wait_for(lambda ledger: ledger.in_progress >= count)


def cpu_s(pid):
    """The processor time that a process has used; exact, where /proc/PID/stat counts ticks."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def idle_share(process, seconds):
    """The share of a core that a process takes beyond what 30 wakes a second cost any program just now.

    The daemon wakes about as often. On a virtual machine a wake may cost ten times what it costs elsewhere.
    """
    began_at, began_s, own_s = time.monotonic(), cpu_s(process.pid), time.thread_time()
    while time.monotonic() < began_at + seconds:
        with suppress(subprocess.TimeoutExpired):
            process.wait(1 / 30)
        os.stat(__file__)
    used_s = cpu_s(process.pid) - began_s - (time.thread_time() - own_s)
    return used_s / (time.monotonic() - began_at)


# One per queue


def test_second_daemon_is_turned_away(forwarder, offer, emptied):
    """A second daemon for a queue ends with 75 and says which process has it; the first goes on."""
    first = forwarder.daemon()
    second = forwarder("run")
    assert second.returncode == 75
    assert f"process {first.process.pid}" in second.stderr
    offer(1)
    emptied()
    assert first.process.poll() is None


def test_killed_daemon_leaves_no_lock(forwarder, offer, emptied):
    """After SIGKILL the next daemon starts and delivers, without any clearing up."""
    forwarder.daemon().kill()
    offer(1)
    forwarder.daemon()
    emptied()


def test_deleted_lock_file_lets_no_second_daemon_in(forwarder, offer, emptied, until, queue_path):
    """With daemon.lock deleted a second daemon still ends with 75; the first goes on and is told of."""
    first = forwarder.daemon()
    first.process.send_signal(signal.SIGSTOP)  # or it would put the file back in time
    os.unlink(f"{queue_path}/daemon.lock")
    second = forwarder("run")
    first.process.send_signal(signal.SIGCONT)
    assert second.returncode == 75
    assert "another daemon already delivers from" in second.stderr
    offer(1)
    emptied()
    until(lambda: (found := holder(queue_path)) and found.pid == first.process.pid)
    assert first.process.poll() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("closed", ["directory", "lock"])
def test_daemon_that_may_not_be_seen_is_not_said_to_be_absent(forwarder, queue_path, tmp_path, closed):
    """A user who may not look is told so with 77 while a daemon runs, and not that none does."""
    with tempfile.TemporaryDirectory() as directory:  # pytest's own is closed to others
        os.chmod(directory, 0o755)
        forwarder.environ["FORWARDER_QUEUE_PATH"] = path = f"{directory}/queue"
        daemon = forwarder.daemon()
        if closed == "lock":
            os.chmod(path, 0o755)
            os.chmod(f"{path}/daemon.lock", 0o600)

        def ask():
            os.setegid(65534)
            os.seteuid(65534)
            try:
                holder(path)
            finally:
                os.seteuid(0)
                os.setegid(0)

        with pytest.raises(NotPermittedError):
            ask()
        assert daemon.stop() == 0


@pytest.mark.parametrize("command", ["run", "drain"])
@pytest.mark.parametrize("is_sqlite", [True, False])
def test_foreign_directory_is_left_untouched(forwarder, queue_path, command, is_sqlite):
    """Where the database is somebody else's, the daemon ends with 78, and leaves nothing behind."""
    os.mkdir(queue_path)
    if is_sqlite:
        with closing(sqlite3.connect(f"{queue_path}/data.db")) as connection, connection:
            connection.execute("CREATE TABLE theirs (x)")
    else:
        Path(queue_path, "data.db").write_bytes(b"something else, of a page or so" * 200)
    before = Path(queue_path, "data.db").read_bytes()
    assert forwarder(command).returncode == 78
    assert os.listdir(queue_path) == ["data.db"]
    assert Path(queue_path, "data.db").read_bytes() == before


# Stopping


def test_stop_lets_requests_in_flight_finish(forwarder, server, offer, rows, queue_path, in_progress):
    """SIGTERM: what is in flight is answered and settled, nothing new is sent, and the exit code is 0."""
    daemon = forwarder.daemon()
    server.inject(Fault.slow(1.0), times=1)
    offer(1, 2, 3)
    in_progress()
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for("daemon.stopping")
    late = offer(4)
    assert daemon.process.wait(20) == 0
    assert rows(queue_path) == late
    assert (server.ledger.accepted, server.ledger.request_count) == (3, 1)
    assert "unanswered" not in daemon.wait_for("daemon.stopped")


def test_idle_daemon_stops_at_once(forwarder):
    """With nothing in flight SIGTERM and SIGINT end the daemon within a moment, with 0."""
    for number in (signal.SIGTERM, signal.SIGINT):
        daemon = forwarder.daemon()
        asked_at = time.monotonic()
        assert daemon.stop(number) == 0
        assert time.monotonic() - asked_at < 3


def test_second_stop_hurries(forwarder, server, offer, oracle, rows, queue_path, in_progress, emptied):
    """A second SIGTERM ends it at once; what was in flight waits, and the next daemon delivers it."""
    daemon = forwarder.daemon()
    server.inject(Fault.hang(taken=True))
    events = offer(1, 2, 3)
    in_progress()
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for("daemon.stopping")
    assert daemon.process.poll() is None
    asked_at = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - asked_at < 5
    assert daemon.wait_for("daemon.stopped")["unanswered"] == 3
    assert rows(queue_path) == events
    server.clear()
    forwarder.daemon()
    emptied()
    assert server.ledger.repeats == 3
    oracle(queue_path, server, events)


def test_stopping_while_the_server_is_away(forwarder, server, offer, rows, queue_path):
    """A daemon that waits for the server stops at once, and the events stay."""
    server.stop_listening()
    daemon = forwarder.daemon(**PATIENT)
    events = offer(1, 2)
    daemon.wait_for("delivery.backing_off")
    asked_at = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - asked_at < 5
    assert rows(queue_path) == events


@pytest.fixture
def here(forwarder, monkeypatch):
    """The settings of the command's environment, for a daemon in this process."""
    for name, value in forwarder.environ.items():
        monkeypatch.setenv(name, value)
    return config.load()


def test_stop_waits_no_longer_than_its_bound(here, server, offer, rows, queue_path, monkeypatch, until):
    """With a server that never answers, a daemon that was told to stop is done after its `stop_s`."""
    monkeypatch.setattr(MIXPANEL, "stop_s", 0.3)
    server.inject(Fault.hang())
    events = offer(1)
    with running(here, lambda: here) as daemon:
        until(lambda: daemon.turn() or daemon.in_flight)
        told_at = time.monotonic()
        daemon.stop()
        assert not daemon.is_stopped
        until(lambda: daemon.turn() or daemon.is_stopped)
        assert 0.3 <= time.monotonic() - told_at < 3
        assert daemon.in_flight == 1
    assert rows(queue_path) == events


def test_retention_is_looked_after_once_an_hour(here, offer, queue_path, sql):
    """Dead letters are deleted once a reply has shown that the clock is right, and an hour later, unless by
    then one has shown that it is wrong; in between nothing is looked through."""
    sent, wrong_s = [], 2 * 3600.0

    def die(number):
        sql(
            queue_path,
            "INSERT INTO dead_letters (event_id, data, event, insert_id, reason, field, accepted_at, dead_at)"
            " VALUES (?, '{}', 'e', 'i', 'r', 'f', 1, 1)",
            [number],
        )

    def dead():
        return sql(queue_path, "SELECT count(*) FROM dead_letters")[0][0]

    def answer(skew_s):
        came_at = time.time()
        headers = {"date": formatdate(came_at - skew_s, usegmt=True)}
        body = b'{"code":200,"num_records_imported":1,"status":"OK"}'
        batch = sent.pop(0)
        reply = Reply(200, headers, body, received_at=came_at)
        worker.receive(EVENTS, batch, judge(EVENTS, reply, batch.events))

    offer(*range(5))
    settings = replace(
        here,
        dead_letters=replace(here.dead_letters, max_age_days=1),
        delivery=replace(here.delivery, batch_events=1, linger_s=0.0),
    )
    lock = Presence(queue_path)
    worker = Worker(settings, lock, DaemonLog(), 10.0)
    found = []
    again = 1003.0 + RETENTION_S
    for now, skew_s in (
        *((1000.0, None), (1001.0, wrong_s), (1002.0, -wrong_s), (1003.0, 0.0)),
        *((1004.0, None), (again - 1, None), (again, wrong_s), (again + 1, 0.0)),
    ):
        if skew_s is not None:
            answer(skew_s)
        die(now)
        worker.work(now, lambda _, batch: sent.append(batch))
        found.append(dead())
    worker.close()
    lock.release()
    assert found == [1, 2, 3, 0, 1, 2, 3, 0]


# Reloading


@pytest.fixture
def token_file(forwarder, tmp_path):
    """The daemon's token, in a file."""
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(TOKEN)
    del forwarder.environ["FORWARDER_MIXPANEL_TOKEN"]
    forwarder.environ["FORWARDER_MIXPANEL_TOKEN_FILE"] = str(path)
    return path


@pytest.fixture
def config_file(forwarder, tmp_path):
    """The daemon's settings file."""
    path = tmp_path / "forwarder.toml"
    path.write_text("")
    forwarder.environ["FORWARDER_CONFIG"] = str(path)
    return path


def test_reload_delivers_with_the_mended_key_at_once(forwarder, server, offer, token_file, emptied, until):
    """A wrong token blocks, loudly; mended and reloaded, everything is delivered without waiting."""
    token_file.write_text("wrong-token")
    daemon = forwarder.daemon(**PATIENT)
    offer(1, 2)
    line = daemon.wait_for("delivery.blocked")
    assert (line["level"], line["status"]) == ("error", 401)
    assert line["next_try_s"] > 30
    found = until(lambda: (status := forwarder.json("status"))["state"] == "blocked" and status)
    assert (found["waiting"], found["dead_lettered"]) == (2, 0)
    assert "401" in found["state_reason"]
    token_file.write_text(TOKEN)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for("settings.reloaded")
    emptied(10)
    assert daemon.wait_for("delivery.recovered")["failures"] >= 1
    assert server.ledger.accepted == 2


def test_reload_takes_new_settings(forwarder, server, offer, config_file, emptied, queue_path):
    """Settings from the file are in force after SIGHUP; the queue's path is not, and it says so."""
    del forwarder.environ["FORWARDER_DELIVERY_LINGER_S"], forwarder.environ["FORWARDER_QUEUE_PATH"]
    config_file.write_text(f'[queue]\npath = "{queue_path}"\n[delivery]\nlinger_s = 3600\n')
    daemon = forwarder.daemon()
    offer(1, 2)
    config_file.write_text(f'[queue]\npath = "{queue_path}2"\n[delivery]\nlinger_s = 0\nbatch_events = 1\n')
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.wait_for("settings.restart_needed")["key"] == "queue.path"
    emptied(10)
    assert [request.events for request in server.ledger.requests] == [1, 1]
    assert not Path(queue_path + "2").exists()


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ("linger_s = 5", "linger_s"),
        ("[delivery]\nlinger_s = -5", "delivery.linger_s"),
        ("[[", "forwarder.toml"),
    ],
)
def test_bad_new_settings_leave_the_old_in_force(forwarder, offer, config_file, emptied, broken, named):
    """Settings that can't be used are refused loudly, by name; delivery goes on with the old ones."""
    del forwarder.environ["FORWARDER_DELIVERY_LINGER_S"]
    config_file.write_text("[delivery]\nlinger_s = 0")
    daemon = forwarder.daemon()
    config_file.write_text(broken)
    daemon.process.send_signal(signal.SIGHUP)
    line = daemon.wait_for("settings.refused")
    assert line["level"] == "error"
    assert named in line["detail"]
    offer(1)
    emptied()
    assert daemon.logged("settings.reloaded") == []


@pytest.mark.parametrize(
    "late", [Fault.reset_before(), Fault.bad_request(), Fault.too_large(), Fault.unauthorized()]
)
def test_reload_does_not_wait_for_the_old_server(
    forwarder, server, offer, config_file, emptied, queue_path, until, oracle, rows, late
):
    """With all connections out at the old address, the new one is asked within a second; what the old one
    says later says nothing about the new one, nor about the events."""
    server.inject(Fault.slow(2))
    server.inject(late)
    url = forwarder.environ.pop("FORWARDER_MIXPANEL_URL")
    config_file.write_text(f'[mixpanel]\nurl = "{url}"\n[delivery]\nconnections = 1\nbatch_events = 3\n')
    daemon = forwarder.daemon()
    events = offer(*range(9))
    server.wait_for(lambda ledger: ledger.in_progress == 1)
    with Sandbox(token=TOKEN) as new:
        config_file.write_text(config_file.read_text().replace(url, new.url))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for("settings.reloaded")
        began = time.monotonic()
        until(lambda: new.ledger.accepted >= 6, "the others are at the new address")
        assert time.monotonic() - began < 2
        until(lambda: len(rows(queue_path)) == 3, "these are settled", 1)
        emptied()
        assert (new.ledger.accepted, server.ledger.accepted) == (9, 0)
        assert daemon.logged("delivery.blocked") == daemon.logged("delivery.backing_off") == []
        oracle(queue_path, new, events)


def test_the_proxy_in_use_is_named(forwarder, offer):
    """The first line of the log says which proxy is used and who says so; so does what fails for it."""
    forwarder.environ["HTTPS_PROXY"] = "http://user:hunter22@127.0.0.1:1"
    forwarder.environ["FORWARDER_MIXPANEL_URL"] = "https://mixpanel.invalid"
    daemon = forwarder.daemon()
    assert daemon.wait_for("daemon.started")["proxy"] == "127.0.0.1:1 (HTTPS_PROXY)"
    offer(1)
    told = daemon.wait_for("delivery.backing_off")["reason"]
    assert told == "the proxy 127.0.0.1:1 (HTTPS_PROXY) refused the connection"
    assert "hunter22" not in json.dumps(daemon.log)


def test_reload_takes_the_new_log_level(forwarder, config_file, offer, emptied):
    """[log] is in force after SIGHUP as it is after a start: debug lines are there that were not before."""
    config_file.write_text('[log]\nlevel = "info"\n')
    daemon = forwarder.daemon()
    offer(1)
    emptied()
    config_file.write_text('[log]\nlevel = "debug"\n')
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for("settings.reloaded")
    offer(2)
    daemon.wait_for("batch.settled")
    assert len(daemon.logged("batch.settled")) == 1


def test_key_that_others_can_read_is_told_at_the_start(forwarder, token_file):
    """A token's file that is open to others is warned of when the daemon starts, without the token."""
    token_file.chmod(0o644)
    line = forwarder.daemon().wait_for("secret.exposed")
    assert line["level"] == "warning"
    assert str(token_file) in line["detail"]
    assert TOKEN not in json.dumps(line)


def test_missing_key_at_reload_leaves_the_old_in_force(forwarder, offer, token_file, emptied, until):
    """A token file that is gone at a reload doesn't take the daemon's token away, and is told."""
    daemon = forwarder.daemon()
    token_file.unlink()
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for("settings.refused")
    offer(1)
    emptied()
    until(lambda: str(token_file) in (forwarder.json("status")["last_error"] or ""))


@pytest.fixture
def starting(forwarder, tmp_path):
    """A daemon that is reading its settings, and the pipe that they come by."""
    pipe = tmp_path / "settings"
    os.mkfifo(pipe)
    daemon = forwarder.daemon(wait=False, FORWARDER_CONFIG=str(pipe))
    # Opened once the other side has opened it too.
    with open(pipe, "w", encoding="utf-8") as settings:
        yield daemon, settings


def test_signals_before_the_queue_is_open_are_heeded_later(starting, forwarder, config_file):
    """SIGHUP and SIGUSR1 don't kill a daemon that is just starting: it reloads and flushes when it runs."""
    daemon, settings = starting
    daemon.process.send_signal(signal.SIGUSR1)
    daemon.process.send_signal(signal.SIGHUP)
    os.unlink(settings.name)  # or the reload would wait for a second writer
    settings.close()
    daemon.wait_for("daemon.started")
    daemon.wait_for("delivery.flushed")
    daemon.wait_for("settings.refused")
    assert daemon.process.poll() is None
    assert daemon.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_before_the_queue_is_open_is_a_clean_end(starting, queue_path, number):
    """SIGTERM and SIGINT end a daemon that is just starting at once, with 0 and without a word."""
    daemon, _ = starting
    assert daemon.stop(number) == 0
    daemon.close()
    assert (daemon.log, daemon.other_output) == ([], [])
    assert not os.path.exists(queue_path)


# Trying now, pausing


@pytest.mark.parametrize("how", ["signal", "command"])
def test_flush_tries_now(forwarder, server, offer, emptied, how):
    """SIGUSR1 and `forwarder flush` end a long wait for the server at once."""
    server.stop_listening()
    daemon = forwarder.daemon(**PATIENT)
    offer(1)
    assert daemon.wait_for("delivery.backing_off")["next_try_s"] > 30
    server.listen_again()
    if how == "signal":
        daemon.process.send_signal(signal.SIGUSR1)
    else:
        assert forwarder("flush").returncode == 0
    daemon.wait_for("delivery.flushed")
    emptied(10)


def test_flush_ends_the_wait_for_company(forwarder, offer, emptied):
    """`forwarder flush` sends a part-filled batch that would have lingered for an hour."""
    daemon = forwarder.daemon(FORWARDER_DELIVERY_LINGER_S="3600")
    offer(1)
    assert forwarder("flush").returncode == 0
    daemon.wait_for("delivery.flushed")
    emptied(10)


def test_pause_lasts_over_a_restart(forwarder, server, offer, emptied, until):
    """`pause` stops delivery, not intake; a new daemon begins paused; `resume` delivers at once."""
    daemon = forwarder.daemon()
    assert forwarder("pause").returncode == 0
    daemon.wait_for("delivery.paused")
    offer(1, 2)
    until(lambda: forwarder.json("status")["state"] == "paused")
    assert daemon.stop() == 0
    again = forwarder.daemon()
    again.wait_for("delivery.paused")
    offer(3)
    assert forwarder("flush").returncode == 0
    again.wait_for("delivery.flushed")
    found = forwarder.json("status")
    assert (found["state"], found["waiting"], server.ledger.request_count) == ("paused", 3, 0)
    assert forwarder("resume").returncode == 0
    again.wait_for("delivery.resumed")
    emptied()
    assert server.ledger.accepted == 3


def test_pause_settles_what_is_in_flight(forwarder, server, offer, rows, queue_path, in_progress, until):
    """What is on its way when delivery is paused is settled, what came after it stays."""
    daemon = forwarder.daemon()
    server.inject(Fault.slow(0.5), times=1)
    offer(1)
    in_progress()
    assert forwarder("pause").returncode == 0
    daemon.wait_for("delivery.paused")
    late = offer(2)
    until(lambda: rows(queue_path) == late, "the first event is settled")


# Noticing


def test_events_are_noticed_fast(forwarder, server, offer):
    """From another process's commit to Mixpanel's yes: linger_s and a little more."""
    forwarder.daemon()
    took_s = []
    for number in range(16):
        began_at = time.monotonic()
        offer(number)
        server.wait_for(lambda ledger, count=number + 1: ledger.accepted == count)
        took_s.append(time.monotonic() - began_at)
    # linger_s and the promise; of a busy machine, a quarter may be later.
    assert statistics.quantiles(took_s, n=4)[2] < 0.05 + 0.1, took_s


def test_events_are_noticed_fast_after_a_quiet_time(forwarder, server, offer):
    """A daemon that has had nothing to look at for a while notices the next event as fast."""
    daemon = forwarder.daemon()
    took_s = []
    for number in range(2):
        with pytest.raises(subprocess.TimeoutExpired):
            daemon.process.wait(STIRRED_S + 0.5)
        began_at = time.monotonic()
        offer(number)
        server.wait_for(lambda ledger, count=number + 1: ledger.accepted == count)
        took_s.append(time.monotonic() - began_at)
    assert min(took_s) < 0.05 + 0.3, took_s


def test_looks_are_saved_only_where_nothing_can_be_new(offer, queue_path):
    """After a commit the queue is worth a look for a second, then once a second; another commit is seen."""
    consumer = Consumer(queue_path)
    watch = Watch(consumer.changed_mark)

    def quiet_at(seconds):
        found = watch.is_quiet(seconds)
        if not found:
            watch.looked(seconds)
        return found

    with EventQueue(queue_path, min_free_bytes=0):  # while it is open, its log stays
        offer(1)
        assert not quiet_at(100.0)
        assert not quiet_at(100.0 + STIRRED_S - 0.01)
        assert quiet_at(100.0 + STIRRED_S)
        assert not quiet_at(100.0 + STIRRED_S + LOOK_S)
        assert quiet_at(100.01 + STIRRED_S + LOOK_S)
        offer(2)
        assert not quiet_at(100.02 + STIRRED_S + LOOK_S)
        assert not quiet_at(100.03 + STIRRED_S + LOOK_S)
        control.pause(queue_path)
        assert quiet_at(100.03 + 2 * STIRRED_S) is False
    consumer.close()


def test_idle_daemon_is_idle(forwarder, offer, emptied):
    """With nothing to do, the daemon takes next to no processor time."""
    daemon = forwarder.daemon()
    offer(1)
    emptied()
    with pytest.raises(subprocess.TimeoutExpired):
        daemon.process.wait(STIRRED_S + 0.5)
    assert idle_share(daemon.process, 2) < IDLE_SHARE


@pytest.mark.parametrize("state", ["backing_off", "blocked", "paused"])
def test_waiting_daemon_is_idle(forwarder, server, offer, state):
    """A backlog that can't be delivered just now costs next to no processor time either."""
    daemon = forwarder.daemon(**PATIENT)
    if state == "paused":
        forwarder("pause")
    server.inject(Fault.server_error() if state == "backing_off" else Fault.unauthorized())
    offer(*range(5000))
    daemon.wait_for(f"delivery.{state}")
    # In the first second, the last answers of others may still come in.
    shares = [idle_share(daemon.process, 1) for _ in range(3)]
    assert min(shares) < 2 * IDLE_SHARE, shares


# What it tells


def test_change_of_state_is_told_at_once(forwarder, until, queue_path):
    """A pause and its end stand in the state file within 0.1 s, however lately the last change was told."""
    forwarder.daemon()
    took_s = []
    for _ in range(5):
        for ask, name in ((control.pause, "paused"), (control.resume, "running")):
            began_at = time.monotonic()
            ask(queue_path)
            until(lambda name=name: state_file.read(spool.at(queue_path)).state == name)
            took_s.append(time.monotonic() - began_at)
    assert statistics.median(took_s) < 0.1, took_s


def test_named_refusal_is_logged_without_its_words(forwarder, server, offer, emptied):
    """The log tells the field and how many: the words may quote a value, and are for the dead letters."""
    server.inject(Fault.reject(event="signup", field="properties.plan", message="'plan' is not private-4711"))
    daemon = forwarder.daemon()
    offer(1, 2, plan="private-4711")
    emptied()
    line = daemon.wait_for("events.dead_lettered")
    assert (line["field"], line["count"], line["status"]) == ("properties.plan", 2, 400)
    assert "private-4711" not in json.dumps(daemon.log)


def test_unnamed_refusal_is_logged_in_the_servers_words(forwarder, server, offer, emptied):
    """Where no field is named, the log has the answer's own words: nothing else says what is wrong."""
    server.inject(Fault.poison(where=lambda event: event["properties"].get("bad", False)))
    daemon = forwarder.daemon()
    offer(1, bad=True)
    offer(2)
    emptied()
    assert daemon.wait_for("events.dead_lettered")["reason"]


def test_dead_letters_are_told_once_a_cause_and_summed_up(forwarder, queue_path):
    """Batch after batch with the same faults makes one line for each field, with its own count; the sums
    by cause stand in the summaries, and rows that are no events have a line of their own."""
    with EventQueue(queue_path, min_free_bytes=0, rules=False) as queue:
        for number in range(30):
            queue.put({"event": "e", "properties": {"distinct_id": "d", "$insert_id": f"a_{number}"}})
            queue.put({"event": "e", "properties": {"distinct_id": "d", "time": 1}})
            queue.put({"event": "e", "properties": {"distinct_id": "d", "time": 2}})
            queue.put({"event": "e", "properties": {"distinct_id": "d"}})
    with closing(sqlite3.connect(f"{queue_path}/data.db")) as external, external:
        rows = [(data,) for data in (b"\xff", b"x\xff", b"[]")]
        external.executemany("INSERT INTO ack_queue_default (data, timestamp, status) VALUES (?, 1, 0)", rows)
    forwarder.environ["FORWARDER_DELIVERY_BATCH_EVENTS"] = "4"
    done = forwarder("drain")
    assert done.returncode == 0
    log = [json.loads(line) for line in done.stderr.splitlines()]
    told = [line for line in log if line["event"] == "events.dead_lettered"]
    assert [(line["field"], line["count"]) for line in told if "field" in line] == [
        ("$insert_id", 1),
        ("properties.time", 2),
    ]
    assert [line["count"] for line in told if "field" not in line] == [3]
    sums = Counter()
    for line in log:
        if line["event"] == "events.settled":
            sums.update({each["cause"]: each["count"] for each in line.get("causes", ())})
    assert sums == {"$insert_id": 30, "properties.time": 60, "no event": 3}
    assert sum(line["dead"] for line in log if line["event"] == "events.settled") == 93


def test_log_tells_transitions_not_repetitions(forwarder, server, offer, until, queue_path, emptied):
    """An outage of many tries is told once when it begins and once when it ends, with the number of tries."""
    daemon = forwarder.daemon()
    server.inject(Fault.server_error())
    offer(1)
    until(lambda: state_file.read(spool.at(queue_path)).failures >= 10)
    server.clear()
    emptied()
    recovered = daemon.wait_for("delivery.recovered")
    assert recovered["failures"] >= 10
    assert recovered["after_s"] >= 0.5
    assert server.ledger.request_count > 10
    (line,) = daemon.logged("delivery.backing_off")
    assert (line["level"], line["status"]) == ("warning", 503)
    assert daemon.stop() == 0
    daemon.wait_for("daemon.stopped")
    assert len(daemon.log) <= 8, daemon.log


def test_drop_filter_is_told_once_and_counted(forwarder, server, offer, emptied, until):
    """Short counts, batch after batch, make one line in the log, and the shortfall stands in `status`."""
    daemon = forwarder.daemon()
    server.inject(Fault.drop(by=1))
    for number in range(4):
        offer(2 * number, 2 * number + 1)
        emptied()
    assert len(daemon.logged("batch.short")) == 1
    found = forwarder.json("status")
    assert (found["delivered"], found["short"], found["dead_lettered"]) == (8, 4, 0)


def test_no_secret_and_no_property_in_log_or_status(forwarder, server, queue_path, emptied, until):
    """Whatever goes wrong, at the finest level: neither the key nor an event's values are told to anybody."""
    value = "private-4711"
    daemon = forwarder.daemon(FORWARDER_LOG_LEVEL="debug")
    with EventQueue(queue_path, min_free_bytes=0, rules=False) as queue:
        for fault in (
            Fault.unauthorized(),
            Fault.throttle(),
            Fault.redirect(f"https://user:{value}@login.example.invalid/{value}?k={value}"),
            Fault.reset_after(),
            Fault.half_answer(),
            Fault.bad_request(),
            Fault.control_characters(),
            Fault.failed_records("contradicting"),
            Fault.login_page(),
        ):
            server.inject(fault, times=1)
            queue.put({"event": "signup", "properties": {"distinct_id": value, "email": value}})
            queue.put({"event": value, "properties": {"distinct_id": value, value: value, "time": value}})
            queue.put({"event": "signup", "properties": {"distinct_id": [value], "time": 1}})
            emptied()
    told = [json.dumps(daemon.log), *daemon.other_output, Path(queue_path, "daemon.json").read_text()]
    for arguments in (("status",), ("status", "--json"), ("check",), ("config", "show")):
        done = forwarder(*arguments)
        told += [done.stdout, done.stderr]
    assert forwarder.json("status")["dead_lettered"] > 5
    credentials = base64.b64encode(f"{TOKEN}:".encode()).decode()
    for secret in (TOKEN, credentials, credentials[:-4], value):
        assert [text for text in told if secret in text] == []
    assert daemon.other_output == []


def test_wrong_clock_is_told(forwarder, server, offer, emptied, until):
    """A clock ten minutes ahead of Mixpanel's is warned of once, and shown; delivery goes on."""
    server.inject(Fault.clock(skew_s=-600))
    daemon = forwarder.daemon()
    for number in range(3):
        offer(number)
        emptied()
    line = daemon.wait_for("clock.wrong")
    assert line["level"] == "warning"
    assert 590 <= line["skew_s"] <= 610
    assert len(daemon.logged("clock.wrong")) == 1
    until(lambda: "10 minutes ahead" in (forwarder.json("status")["last_error"] or ""))


def test_state_file_is_the_daemons_memory(forwarder, server, offer, until, queue_path, in_progress):
    """`status` tells what is in flight; the state file goes with the daemon, not believed after a kill."""
    daemon = forwarder.daemon()
    server.inject(Fault.hang())
    offer(1, 2, 3)
    in_progress()
    until(lambda: state_file.read(spool.at(queue_path)).in_flight == 3)
    found = forwarder.json("status")
    assert (found["state"], found["in_flight"], found["waiting"]) == ("running", 3, 3)
    assert found["pid"] == daemon.process.pid
    daemon.kill()
    assert Path(queue_path, "daemon.json").exists()
    found = forwarder.json("status")
    assert (found["state"], found["in_flight"], found["waiting"], found["pid"]) == ("stopped", 0, 3, None)
    server.clear()
    again = forwarder.daemon()
    assert again.stop() == 0
    assert not Path(queue_path, "daemon.json").exists()


@contextmanager
def service_manager(tmp_path):
    """A socket in systemd's place: its path, and a function that returns the next of what is told."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(20)

        def told(*kinds):
            return next(m for m in iter(lambda: sock.recv(4096).decode(), "") if m.startswith(kinds))

        yield str(tmp_path / "notify"), told


def test_service_manager_is_told(forwarder, tmp_path):
    """Ready, reloading and stopping are told to the socket that systemd names, in this order."""
    life = ("READY", "RELOADING", "STOPPING")
    with service_manager(tmp_path) as (path, told):
        daemon = forwarder.daemon(NOTIFY_SOCKET=path)
        assert told(*life) == "READY=1"
        daemon.process.send_signal(signal.SIGHUP)
        assert told(*life).startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert told(*life) == "READY=1"
        assert daemon.stop() == 0
        assert told(*life) == "STOPPING=1"


def test_service_manager_is_shown_depth_rate_and_state(forwarder, server, offer, tmp_path):
    """What `systemctl status` shows follows what happens: how many wait, how fast they go, and the state."""
    server.inject(Fault.server_error())
    with service_manager(tmp_path) as (path, told):
        forwarder.daemon(NOTIFY_SOCKET=path)
        assert told("STATUS") == (
            "STATUS=running: 0 events wait, 0.0 delivered a second over the last minute"
        )
        offer(1, 2, 3)
        while "backing off: 3 events wait, 0.0 delivered a second" not in (line := told("STATUS")):
            pass
        assert "503" in line
        server.clear()
        while not re.match(r"STATUS=running: 0 events wait, [\d.]*[1-9][\d.]* delivered", told("STATUS")):
            pass


def test_the_watchdog_is_fed_as_long_as_the_loop_comes_round(forwarder, tmp_path):
    """An idle daemon streams it several times in the time that systemd waits; another process's it leaves."""
    with service_manager(tmp_path) as (path, told):
        forwarder.daemon(NOTIFY_SOCKET=path, WATCHDOG_USEC="2000000")
        began = time.monotonic()
        for _ in range(4):
            assert told("WATCHDOG") == "WATCHDOG=1"
        assert time.monotonic() - began < 6


def test_dead_letters_past_their_age_are_deleted(forwarder, server, offer, emptied, queue_path, until):
    """dead_letters.max_age_days, off by default, deletes what is older, and the books show it."""
    server.inject(Fault.reject(event="signup"))
    daemon = forwarder.daemon()
    offer(1, 2)
    emptied()
    assert daemon.stop() == 0
    with closing(sqlite3.connect(f"{queue_path}/data.db")) as connection, connection:
        connection.execute("UPDATE dead_letters SET dead_at = dead_at - 172800 WHERE event_id = 1")
    keeping = forwarder.daemon()
    offer(3)
    emptied()
    assert keeping.stop() == 0
    assert forwarder.json("status")["dead_letters"] == 3
    deleting = forwarder.daemon(FORWARDER_DEAD_LETTERS_MAX_AGE_DAYS="1")
    offer(4)
    deleting.wait_for("dead_letters.expired")
    found = forwarder.json("status")
    assert (found["dead_lettered"], found["dead_letters"], found["discarded"]) == (4, 3, 1)


# Trouble with the disk


def test_disk_error_does_not_end_the_daemon(forwarder, server, offer, emptied, until, in_progress):
    """While the queue can't be written the reply is kept; then it is settled, and nothing is sent twice."""
    daemon = forwarder.daemon()
    server.inject(Fault.slow(0.5), times=1)
    offer(1, 2, 3)
    in_progress()
    before = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (0, before[1]))
    line = daemon.wait_for("queue.failed")
    assert line["level"] == "error"
    assert forwarder.json("status")["waiting"] == 3
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, before)
    emptied()
    daemon.wait_for("queue.recovered")
    assert (server.ledger.accepted, server.ledger.repeats) == (3, 0)
    assert forwarder.json("status")["delivered"] == 3


def test_reply_that_cannot_be_settled_holds_back_no_other(
    forwarder, server, offer, emptied, until, queue_path, rows, sql, in_progress
):
    """The others are settled, and nothing new is sent while none is; the trouble is told once."""
    offer(*range(20))  # the daemon finds out that it may use several connections
    sql(queue_path, "CREATE TABLE large (data)")
    sql(
        queue_path,
        "CREATE TRIGGER needs_room BEFORE DELETE ON ack_queue_default WHEN OLD._id = 23"
        " BEGIN INSERT INTO large VALUES (zeroblob(50000000)); END",
    )
    daemon = forwarder.daemon(FORWARDER_DELIVERY_BATCH_EVENTS="1")
    emptied()
    before = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (16 << 20, before[1]))
    server.inject(Fault.slow(1.0), times=2)
    offer(21, 22)
    in_progress(2)
    stuck = offer(23)
    assert daemon.wait_for("queue.failed")["level"] == "error"

    until(lambda: rows(queue_path) == stuck, "the others are settled")
    until(lambda: state_file.read(spool.at(queue_path)).in_flight == 1)
    late = offer(24)
    with pytest.raises(subprocess.TimeoutExpired):
        daemon.process.wait(1.5)
    assert (rows(queue_path), server.ledger.accepted) == (stuck + late, 23)

    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, before)
    emptied()
    assert (server.ledger.accepted, server.ledger.repeats) == (24, 0)
    assert len(daemon.logged("queue.failed")) == 1


def test_want_of_threads_does_not_end_the_daemon(forwarder, offer, emptied, server, queue_path, rows):
    """Where no thread can be started the daemon says so and backs off; later it delivers, nothing twice."""
    daemon = forwarder.daemon()
    in_use = int(Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.prlimit(daemon.process.pid, resource.RLIMIT_AS)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_AS, (in_use + (4 << 20), before[1]))
    events = offer(1, 2)
    line = daemon.wait_for("delivery.backing_off")
    assert "no thread could be started" in line["reason"]
    assert (rows(queue_path), server.ledger.request_count) == (events, 0)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_AS, before)
    emptied()
    offer(*range(3, 9))
    emptied()
    assert (server.ledger.accepted, server.ledger.repeats) == (8, 0)
    assert daemon.stop() == 0


def test_foreign_writer_only_delays(forwarder, server, offer, emptied, until, queue_path, rows):
    """While another program holds the write lock, events are delivered and settled only later, once."""
    forwarder.daemon()
    server.inject(Fault.slow(0.3), times=1)
    events = offer(1, 2)
    with closing(sqlite3.connect(f"{queue_path}/data.db", isolation_level=None)) as external:
        external.execute("BEGIN IMMEDIATE")
        server.wait_for(lambda ledger: ledger.accepted == 2 and not ledger.in_progress)
        assert rows(queue_path) == events
        assert forwarder.json("status")["waiting"] == 2
        external.execute("ROLLBACK")
    emptied()
    assert server.ledger.repeats == 0


def test_foreign_reader_hinders_nobody(forwarder, server, offer, emptied, queue_path):
    """An external producer who leaves a read transaction open doesn't hold up delivery."""
    forwarder.daemon()
    offer(1)
    emptied()
    with closing(
        sqlite3.connect(f"file:{queue_path}/data.db?mode=ro", uri=True, isolation_level=None)
    ) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM ack_queue_default").fetchone()
        for number in range(2, 6):
            offer(number)
            server.wait_for(lambda ledger, count=number: ledger.accepted == count, 5)
            emptied(5)


def test_replaced_database_does_not_end_the_daemon(forwarder, offer, emptied, oracle, server, queue_path):
    """A daemon whose database is replaced says so, begins again, and delivers from the new file."""
    daemon = forwarder.daemon()
    first = offer(1)
    emptied()
    for name in ("data.db", "data.db-wal", "data.db-shm"):
        os.replace(f"{queue_path}/{name}", f"{queue_path}/old-{name}")
    second = offer(2)
    emptied()
    assert "replaced" in daemon.wait_for("queue.failed")["detail"]
    daemon.wait_for("queue.recovered")
    assert daemon.process.poll() is None
    oracle(queue_path, server, first + second)
