"""``forwarder status``: what it says of a queue in each state, and how it is watched."""

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import persistqueue
import pytest

from forwarder import spool
from forwarder.cli.conditions import beginnings, understand
from forwarder.cli.status import describe
from forwarder.cli.table import wrapped
from forwarder.config.settings import Queue
from forwarder.errors import EventError
from forwarder.sandbox import Fault
from forwarder.service import state as daemon_state
from forwarder.service.status import CHOICES, KEYS, NOTHING, gather, nothing, sentence
from forwarder.spool import Dead, EventQueue, Settlement
from forwarder.spool.sqlite import control
from forwarder.spool.sqlite.consumer import Consumer
from tests.processes import state_of

# The contract: others read these names.
CONTRACT = [
    *("accepted", "delivered", "dead_lettered", "deleted", "waiting", "in_flight", "oldest_waiting_s"),
    *("state", "state_reason", "last_delivery_at", "last_error", "rate_1m", "eta_s"),
    *("db_bytes", "wal_bytes", "disk_free_bytes", "dead_letters"),
]


@pytest.fixture
def run(run):
    """Run ``forwarder status`` in this process; returns exit code, output and errors."""
    return partial(run, "status")


def fill(path, waiting=2, delivered=3, dead=4):
    """Make a queue in which so many events wait, and as many were delivered and refused before."""
    with EventQueue(path) as queue:
        queue.put_many({"event": "E", "properties": {}} for _ in range(delivered + dead + waiting))
    if delivered + dead:
        consumer = Consumer(path)
        claim = consumer.claim_behind(0, delivered + dead, 10**6)
        rows = zip(claim.ids[:dead], claim.events[:dead], strict=True)
        letters = [Dead(row_id, data, "bad") for row_id, data in rows]
        consumer.settle(Settlement(claim.ids, letters, http_status=200))
        consumer.close()


def alter(path, statement, *values):
    """Change the database as an external producer might."""
    with closing(sqlite3.connect(f"{path}/data.db")) as connection:
        connection.execute(statement, values)
        connection.commit()


def test_all_figures_are_there_and_balance(run, queue_path):
    """--json has every key of the contract, and accepted = delivered + dead-lettered + deleted + waiting."""
    fill(queue_path)
    spool.at(queue_path).delete_dead_letters([1])
    spool.at(queue_path).retry_dead_letters([2], lambda data, _: data)

    code, out, err = run("--json")

    found = json.loads(out)
    assert (code, err) == (0, "")
    assert list(found)[: len(CONTRACT)] == CONTRACT
    # The retried one is accepted once more.
    expected = {"accepted": 10, "delivered": 3, "dead_lettered": 4, "deleted": 0, "waiting": 3}
    assert {key: found[key] for key in expected} == expected
    assert (found["dead_letters"], found["retried"], found["discarded"]) == (2, 1, 1)
    assert found["db_bytes"] > 0
    assert found["disk_free_bytes"] > 0
    delivered_at = datetime.fromisoformat(found["last_delivery_at"])
    assert found["last_delivery_at"].endswith("Z")
    assert abs(datetime.now(UTC) - delivered_at).total_seconds() < 60
    assert found["rate_1m"] == 0.05
    assert (found["state"], found["state_reason"], found["last_error"]) == ("stopped", "no daemon runs", None)


def test_a_person_reads_a_sentence_a_table_and_the_books(run, queue_path):
    """The human form begins with how things are, ends with the books, and has no colour in a pipe."""
    fill(queue_path)

    code, out, err = run()

    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].startswith("Stopped: no daemon runs; 2 events wait, the oldest for ")
    assert lines[-1] == "accepted 9 = delivered 3 + dead-lettered 4 + deleted 0 + waiting 2"
    assert "dead letters   4 (`forwarder dead-letters summary`)" in lines
    assert "\x1b" not in out


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_without_a_queue_it_says_so(form, run, queue_path):
    """Where there is no queue yet, that is said, all figures are zero, and none is made."""
    code, out, err = run(*form)

    assert (code, err) == (0, "")
    told = f"there is no queue in {queue_path} yet. The first event makes it"
    assert told in out if form else out == f"T{told[1:]}.\n"
    assert not os.path.exists(queue_path)
    if form:
        found = json.loads(out)
        assert [key for key in CONTRACT if found[key]] == ["state", "state_reason"]
        assert (found["state"], found["exists"]) == ("stopped", False)


def test_an_empty_queue_has_no_oldest_event(run, queue_path):
    """When nothing waits, the oldest waits for 0 s and it takes 0 s to be done."""
    fill(queue_path, waiting=0)

    found = json.loads(run("--json")[1])

    assert (found["oldest_waiting_s"], found["eta_s"], found["waiting"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("age_s", "told_s"), [(500, 500), (-9999, 0), (None, 0), ("never", 0), (-9e99, 0), (9e99, 0)]
)
def test_a_wrong_timestamp_gives_no_impossible_age(age_s, told_s, run, queue_path):
    """A clock that was set back, or a producer's odd timestamp, never makes an age negative or an error."""
    fill(queue_path, waiting=1)
    timestamp = time.time() - age_s if isinstance(age_s, int | float) else age_s
    alter(queue_path, "UPDATE ack_queue_default SET timestamp = ?", timestamp)

    code, out, _ = run("--json")

    assert code == 0
    assert told_s <= json.loads(out)["oldest_waiting_s"] <= told_s * 1.2


def test_paused_and_stopped(run, queue_path):
    """A pause is told also while no daemon runs: stopped is the state, and the reason names the pause."""
    fill(queue_path)
    control.pause(queue_path)

    found = json.loads(run("--json")[1])

    assert (found["state"], found["paused"], found["pid"]) == ("stopped", True, None)
    assert "paused (`forwarder resume`)" in found["state_reason"]


def test_the_next_try_is_shown(forwarder, server, until):
    """While delivery waits, and not while it works."""
    forwarder.environ |= {f"FORWARDER_DELIVERY_RETRY_{which}_S": "30" for which in ("INITIAL", "MAX")}
    forwarder.daemon()
    assert forwarder.json("status")["next_try_at"] is None
    server.inject(Fault.unauthorized())
    forwarder("enqueue", "-e", "E")
    found = until(lambda: (found := forwarder.json("status"))["next_try_at"] and found)
    assert found["state"] == "blocked"
    in_s = datetime.fromisoformat(found["next_try_at"]).timestamp() - time.time()
    assert 10 < in_s < 45
    assert re.search(r"^next try +in [1-4][0-9] s$", forwarder("status").stdout, re.MULTILINE)
    server.clear()
    forwarder("flush")
    until(lambda: (found := forwarder.json("status"))["state"] == "running" and not found["next_try_at"])


def test_what_the_daemon_says_is_shown(forwarder, server, until):
    """While a daemon runs, state, reason, last error and process are its own; after it, it is stopped."""
    daemon = forwarder.daemon()
    assert until(lambda: forwarder.json("status")["state"] == "running")

    server.inject(Fault.unauthorized())
    forwarder("enqueue", "-e", "E")
    blocked = until(lambda: (found := forwarder.json("status"))["state"] == "blocked" and found)
    # While it tries again, it delivers.
    told = until(lambda: (text := forwarder("status").stdout).startswith("Blocked: ") and text)
    server.clear()
    forwarder("pause")
    until(lambda: forwarder.json("status")["state"] == "paused")
    daemon.stop()

    assert blocked["pid"] == daemon.process.pid
    assert blocked["state_reason"]
    assert blocked["last_error"]
    assert (blocked["waiting"], blocked["eta_s"]) == (1, None)
    assert "; nothing is lost, 1 event waits, for " in told.splitlines()[0]
    assert forwarder.json("status")["state"] == "stopped"


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({"state": "running"}, "Running: nothing waits."),
        (
            {"state": "running", "waiting": 1234, "oldest_waiting_s": 3.2},
            "Delivering: 1,234 events wait, the oldest for 3 s.",
        ),
        (
            {"state": "blocked", "state_reason": "401 \x1b[31m.", "waiting": 1, "oldest_waiting_s": 7300.0},
            r"Blocked: 401 \x1b[31m; nothing is lost, 1 event waits, for 2 h 1 min.",
        ),
        (
            {"state": "backing_off", "state_reason": "no route"},
            "Backing off: no route; nothing is lost, nothing waits.",
        ),
        (
            {"state": "paused", "waiting": 2, "oldest_waiting_s": 400_000.0},
            "Paused: 2 events wait, the oldest for 4 d 15 h. `forwarder resume` goes on.",
        ),
        (
            {"state": "running", "engage": {"waiting": 3, "held": 1, "oldest_waiting_s": 9.0}},
            "Delivering: 2 profile updates wait, the oldest for 9 s.",
        ),
        (
            {
                "state": "paused",
                "waiting": 1,
                "oldest_waiting_s": 3.0,
                "engage": {"waiting": 2, "held": 0, "oldest_waiting_s": 1.0},
                "groups": {"waiting": 1, "held": 0, "oldest_waiting_s": 9.0},
            },
            "Paused: 1 event, 2 profile updates and 1 group update wait, the oldest for 9 s. `forwarder"
            " resume` goes on.",
        ),
        (
            {"state": "backing_off", "waiting": 7, "full_in_s": 0.0, "disk_full_in_s": 9.0},
            "Backing off; nothing is lost, 7 events wait, the oldest for 0 s."
            " The queue is full: new events are refused.",
        ),
        (
            {"state": "running", "set_aside": 1},
            "Running: nothing waits. 1 damaged database was set aside with events in it: `forwarder salvage`"
            " brings them back.",
        ),
        (
            {"exists": False, "state_reason": "there is no queue", "set_aside": 2},
            "There is no queue. 2 damaged databases were set aside with events in them: `forwarder salvage`"
            " brings them back.",
        ),
    ],
)
def test_the_sentence_fits_the_state(figures, told):
    """Each state has a plain sentence, and nothing in it can drive a terminal."""
    assert sentence({**nothing(), "exists": True, **figures}) == told


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({}, "0 events delivered, 0 events accepted"),
        ({"rate_1m": 0.02, "waiting": 1, "eta_s": 60.0}, "1 event delivered, 0 events accepted"),
        ({"rate_1m": 0.5, "waiting": 1999, "eta_s": 3998.0}, "30 events delivered, 0 events accepted"),
        (
            {"rate_1m": 0.5, "waiting": 2000, "eta_s": 4000.0, "state": "running"},
            "30 events delivered, 0 events accepted",
        ),
        (
            {"rate_1m": 1.5, "accepted_1m": 2.5, "waiting": 2000, "eta_s": None, "state": "running"},
            "1.5 events/s delivered, 2.5 events/s accepted",
        ),
        (
            {"rate_1m": 1234.5, "waiting": 2000, "held": 1, "eta_s": 2.0, "state": "running"},
            "1,234 events/s delivered, 0 events accepted",
        ),
    ],
)
def test_the_rate_makes_sense_when_little_moves(figures, told):
    """A rate below one a second is told as a count."""
    lines = describe({**nothing(), "exists": True, **figures}, None)
    assert [line[15:] for line in lines if line.startswith("last minute ")] == [told]


def row_put(sql, queue_path, ids, seconds_ago):
    first, last = ids
    sql(
        queue_path,
        "UPDATE ack_queue_default SET timestamp = ? WHERE _id BETWEEN ? AND ?",
        (time.time() - seconds_ago, first, last),
    )


def test_accepted_in_the_last_minute(queue_path, sql):
    """Counted by when events were put, whether they wait or are gone; events of before are not counted."""
    fill(queue_path, waiting=30, delivered=0, dead=0)
    row_put(sql, queue_path, (1, 18), 100)
    assert gather(Queue(path=queue_path))["accepted_1m"] == round(12 / 60, 2)
    with closing(Consumer(queue_path)) as consumer:
        claim = consumer.claim_behind(0, 10, 10**6)
        consumer.settle(Settlement(claim.ids, http_status=200, took_s=0.5))
        assert gather(Queue(path=queue_path))["accepted_1m"] == round(12 / 60, 2)
        claim = consumer.claim_behind(10, 10**3, 10**6)
        consumer.settle(Settlement(claim.ids[:12], http_status=200, took_s=1.5))
        assert gather(Queue(path=queue_path))["accepted_1m"] == round(20 / 60, 2), (
            "since the last batch of before"
        )
        consumer.settle(Settlement(claim.ids[12:], http_status=200, took_s=2.5))
    found = gather(Queue(path=queue_path))
    assert (found["waiting"], found["accepted_1m"], found["rate_1m"]) == (0, round(20 / 60, 2), 0.5)
    assert (found["request_p50_s"], found["request_p95_s"]) == (1.5, 2.5)


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({}, []),
        ({"waiting": 1999, "eta_s": 3998.0}, []),
        ({"waiting": 2000, "eta_s": 4000.0}, ["nothing waits in about 66 min"]),
        (
            {"waiting": 5000, "eta_s": None, "oldest_late_in_s": 480.0, "full_in_s": 7300.0},
            ["queue full in about 2 h 1 min; oldest late in about 8 min"],
        ),
        (
            {"oldest_late_in_s": 0.0, "full_in_s": 0.0, "disk_full_in_s": 86400.0 * 29},
            ["queue full now; disk full in about 29 d 0 h; oldest late now"],
        ),
        ({"full_in_s": 86400.0 * 31, "oldest_late_in_s": 86400.0 * 99}, []),
    ],
)
def test_the_outlook_says_what_comes(figures, told):
    """There is none for what is only on its way, and none that nobody has to act on for a month."""
    lines = describe({**nothing(), "exists": True, **figures}, None)
    assert [line[15:] for line in lines if line.startswith("at this rate ")] == told


@pytest.mark.parametrize(("accepted", "eta_s"), [(0, 140 / 1.0), (6, 140 / 0.9), (80, None)])
def test_the_forecast_is_from_the_net(queue_path, sql, accepted, eta_s, monkeypatch):
    """From what was delivered in the last minute less what was accepted; none where that is not less."""
    monkeypatch.setattr(daemon_state, "read", lambda _: daemon_state.DaemonState(1))
    fill(queue_path, waiting=200, delivered=0, dead=0)
    row_put(sql, queue_path, (1, 200 - accepted), 100)
    with closing(Consumer(queue_path)) as consumer:
        consumer.settle(Settlement(consumer.claim_behind(0, 60, 10**6).ids, http_status=200))
    assert gather(Queue(path=queue_path))["eta_s"] == (eta_s and round(eta_s, 1))
    for state in ("backing_off", "blocked", "paused"):
        monkeypatch.setattr(daemon_state, "read", lambda _, state=state: daemon_state.DaemonState(1, state))
        assert gather(Queue(path=queue_path))["eta_s"] is None


@pytest.mark.parametrize("ids", ["1-", "", "x", b"\xff\x00", 2**62, "9" * 400, "1-99999"])
def test_a_spoilt_delivery_log_ends_no_look(ids, queue_path):
    """The figures are told whatever stands where the ids of a batch should."""
    fill(queue_path)
    alter(queue_path, "UPDATE deliveries SET ids = ?, settled_at = 1, put_at = 1, took_s = 'long'", ids)
    found = gather(Queue(path=queue_path))
    assert (found["waiting"], found["request_p50_s"]) == (2, None)
    assert 0 <= found["accepted_1m"] <= 9 / 60


def test_totals_that_are_gone_are_named(run, queue_path):
    """Without its totals a database is damaged, and that is said."""
    fill(queue_path)
    alter(queue_path, "DELETE FROM ledger")
    code, _, err = run()
    assert (code, "the totals table is empty" in err) == (74, True), err


def test_refused_events_are_told(queue_path):
    """What producers were refused is a line of its own, while there is any."""
    with EventQueue(queue_path) as queue:
        queue.put({"event": "E", "properties": {}})
        assert not [
            line for line in describe(gather(Queue(path=queue_path)), None) if line.startswith("refused ")
        ]
        with pytest.raises(EventError):
            queue.put({"event": ""})
    assert "refused        1 event that producers offered, and were not accepted" in list(
        describe(gather(Queue(path=queue_path)), None)
    )


@pytest.mark.parametrize("value", ["2h", "yesterday", "2025-1-1", "1"])
def test_a_time_is_compared_with_a_time(value, run):
    """What is no time is refused, as it would be compared as a text."""
    code, _, err = run("--fail-if", f"last_delivery_at>{value}")
    assert (code, "is no time" in err) == (64, True)
    assert understand("last_delivery_at>2025-01-31T12:00Z", NOTHING).value == "2025-01-31T12:00Z"


def test_wide_characters_fit_too():
    """A Chinese or Japanese character takes two columns."""
    assert wrapped("東京 東京 ab", 9, "  ") == ["東京 東京", "  ab"]


def test_requests_by_outcome(forwarder, server, until):
    """What came of the daemon's requests is counted since its start, and told."""
    forwarder.daemon()
    server.inject(Fault.server_error(), times=1)
    forwarder("enqueue", "-e", "E")
    until(lambda: forwarder.json("status")["requests"] == {"unreachable": 1, "delivered": 1})
    found = forwarder("status").stdout
    assert "requests       1 delivered, 1 unreachable; half took up to" in found


def test_the_last_error_has_its_time(forwarder, server, until):
    """Beside the last error stands when it was, for people and in --json."""
    forwarder.daemon()
    server.inject(Fault.server_error(), times=1)
    forwarder("enqueue", "-e", "E")
    found = until(lambda: (status := forwarder.json("status"))["last_error_at"] and status)
    assert abs(time.time() - datetime.fromisoformat(found["last_error_at"]).timestamp()) < 20
    (line,) = [line for line in forwarder("status").stdout.splitlines() if line.startswith("last error")]
    assert re.fullmatch(r"last error +HTTP 503.* \(\d+ s ago\)", line)


def test_retried_and_discarded_have_one_name_everywhere(run, queue_path):
    """Of the dead letters that are gone, status says retried and discarded, as --json does."""
    fill(queue_path)
    spool.at(queue_path).delete_dead_letters([1])
    spool.at(queue_path).retry_dead_letters([2], lambda data, _: data)
    assert "; 1 was retried, 1 discarded" in run()[1]


@pytest.mark.parametrize(
    ("expression", "code"),
    [
        ("waiting>1", 1),
        ("waiting > 2", 0),
        ("waiting>=2", 1),
        ("waiting<=1", 0),
        ("waiting==2.0", 1),
        ("waiting!=2", 0),
        ("waiting<3", 1),
        ("state==stopped", 1),
        ("state == 'stopped'", 1),
        ("state!=stopped", 0),
        ("last_error!=''", 0),
        ("paused==true", 0),
        ("exists == TRUE", 1),
        ("eta_s>1e12", 1),
        ("last_delivery_at<2020-01-01", 1),
    ],
)
def test_fail_if(expression, code, run, queue_path):
    """--fail-if exits with 1 exactly if its condition holds; an unknown eta counts as endless."""
    fill(queue_path, delivered=0)

    found, out, err = run("--fail-if", expression)

    assert found == code
    assert out.startswith("Stopped")
    assert err.startswith(f"forwarder: {expression} holds: ") if code else err == ""


def test_fail_if_where_nothing_is_known(run, queue_path):
    """Of a queue that is not adopted yet, a monitor is not to take what nobody knows for good."""
    persistqueue.SQLiteAckQueue(queue_path).close()

    code, _, err = run("--fail-if", "waiting>1000000")

    assert code == 1
    assert "--fail-if can't be decided: the queue" in err


def test_every_condition_that_holds_is_named(run):
    """Of several conditions those that hold are named; without a queue too."""
    wanted = ("--fail-if=waiting>5", "--fail-if=exists==false", "--fail-if=accepted<1")
    code, out, err = run("--json", *wanted)

    assert code == 1
    assert json.loads(out)["exists"] is False
    assert err.splitlines() == [
        "forwarder: exists==false holds: exists is false",
        "forwarder: accepted<1 holds: accepted is 0",
    ]


def test_what_is_offered_for_a_condition_makes_one():
    """Each beginning that a shell offers is understood once it has a value; each key is among them."""
    offered = beginnings(KEYS, CHOICES)
    whole = [
        text if text.partition("==")[2] else text + ("2025" if "last_delivery_at" in text else "1")
        for text in offered
    ]
    assert {understand(text, KEYS).key for text in whole} == set(KEYS)


@pytest.mark.parametrize(
    "expression",
    [
        *("wating>1", "waiting", "waiting>", "waiting>ten", "waiting>nan", "waiting=1", "waiting=>1", ">1"),
        *("", "waiting>>1", "state===stopped", "paused==yes", "waiting>1 or waiting<0", "__class__==x"),
        *("state==blokked", "state!=up", "oldest_waiting_s>10x", "oldest_waiting_s>1GiB", "waiting>10m"),
        *("state>1", "state<=stopped", "last_error>''", "queue_path<1", "paused>false", "exists>=true"),
    ],
)
def test_a_condition_that_makes_no_sense_is_a_usage_error(expression, run):
    """An unknown key, operator or value is refused with 64, not taken for "does not hold"."""
    code, out, err = run("--fail-if", expression)

    assert (code, out) == (64, "")
    assert "--fail-if" in err


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("oldest_waiting_s>10m", 600),
        ("oldest_waiting_s>90", 90),
        ("eta_s>1.5 h", 5400),
        ("eta_s>2d", 172_800),
        ("db_bytes>1GiB", 2**30),
        ("wal_bytes>=512 kib", 2**19),
        ("disk_free_bytes<1e3", 1000),
    ],
)
def test_a_condition_may_have_a_unit(expression, value):
    """Seconds and bytes may be given as a person would say them."""
    assert understand(expression, NOTHING).value == value


def test_what_is_not_known_of_a_server_is_left_out():
    """A null is no size, and makes no condition on the disk true; the daemon has its host in its name."""
    found = {**nothing(), "exists": True, "state": "running", "wal_bytes": None, "disk_free_bytes": None}
    lines = list(describe({**found, "db_bytes": 2**20, "host": "db-7", "pid": 12}, None))

    assert "disk           database 1.0 MiB" in lines
    assert "daemon         db-7:12, 0 connections" in lines
    assert not understand("disk_free_bytes<1TiB", NOTHING).holds(found)
    assert not understand("wal_bytes>0", NOTHING).holds(found)


def watch(queue_path, *arguments, **options):
    """Start ``forwarder status --watch`` as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "forwarder", "status", "--watch", *arguments],
        env={**os.environ, "FORWARDER_QUEUE_PATH": queue_path},
        **options,
    )


def test_watch_prints_a_line_each_second(queue_path):
    """In a pipe --watch goes on line by line, as things are by then, until interrupted: no failure."""
    with watch(queue_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        first = process.stdout.readline()
        fill(queue_path, waiting=5)
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        err = process.stderr.read()

    assert "There is no queue" in first
    assert "5 events wait" in lines[-1]
    assert (process.returncode, err) == (0, "")


def test_watch_prints_objects(queue_path):
    """With --json, --watch prints an object a line; a condition that holds ends it."""
    with watch(
        queue_path, "--json", "--fail-if", "waiting>4", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        first = json.loads(process.stdout.readline())
        fill(queue_path, waiting=5)
        rest = process.stdout.read()

    assert (first["waiting"], json.loads(rest.splitlines()[-1])["waiting"]) == (0, 5)
    assert process.returncode == 1


def test_watch_redraws_on_a_terminal(queue_path):
    """On a terminal --watch shows the whole, again each second, until interrupted."""
    fill(queue_path, waiting=5)
    master, slave = pty.openpty()
    with (
        os.fdopen(master, "rb", buffering=0) as screen,
        watch(queue_path, stdout=slave, stderr=slave) as process,
    ):
        os.close(slave)
        seen = b""
        while seen.count(b"+ waiting 5") < 2:
            seen += screen.read(4096)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0

    assert seen.count(b"5 events wait") >= 2
    assert b"\x1b[" in seen


def test_a_halted_daemon_is_not_said_to_deliver(forwarder, server, queue, until):
    """Under SIGSTOP the daemon can't tell: status says that it is halted, and how it goes on."""
    server.stop_listening()
    queue.put({"event": "A", "properties": {"distinct_id": "x"}})
    daemon = forwarder.daemon()
    pid = daemon.process.pid
    daemon.wait_for("delivery.backing_off")
    daemon.process.send_signal(signal.SIGSTOP)
    until(lambda: state_of(pid) == "T", "it is halted")
    found = forwarder.json("status")
    assert (found["state"], found["waiting"]) == ("blocked", 1)
    assert f"`kill -CONT {pid}`" in found["state_reason"]
    assert forwarder("status").stdout.startswith("Blocked: process")
    assert f"`kill -CONT {pid}`" in forwarder("check").stdout
    server.listen_again()
    daemon.process.send_signal(signal.SIGCONT)
    until(lambda: forwarder.json("status")["waiting"] == 0)
    until(lambda: forwarder.json("status")["state"] == "running")


def test_state_file_behind_the_figures(forwarder, queue_path, until):
    """When the daemon has settled and not said so yet, no more is in flight than waits."""
    daemon = forwarder.daemon()
    told = Path(queue_path, "daemon.json")
    until(told.exists)
    daemon.process.send_signal(signal.SIGSTOP)
    told.write_text(json.dumps(json.loads(told.read_text()) | {"in_flight": 5}))
    found = forwarder.json("status")
    assert (found["waiting"], found["in_flight"]) == (0, 0)
    daemon.process.send_signal(signal.SIGCONT)
