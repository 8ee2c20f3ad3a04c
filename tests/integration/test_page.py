"""The web page and its JSON: what it says is what ``status`` says, and nothing of what is in events."""

import base64
import hashlib
import json
import os
import re
import socket
import sqlite3
import statistics
import threading
import time
from contextlib import closing
from html import unescape

import pytest

from forwarder import config, spool
from forwarder.sandbox import Fault, Sandbox
from forwarder.service import page
from forwarder.service.page import Shared
from forwarder.service.run import running
from forwarder.service.status import without_quotes
from forwarder.service.timeline import RANGES
from forwarder.spool import Dead, EventQueue, Period, Settlement
from tests.conftest import TOKEN, Forwarder, each_engine
from tests.integration.test_metrics import ANYWHERE, Answer, put, raw
from tests.relays import Host

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>'\"&"


@pytest.fixture
def serving(forwarder):
    """Start a daemon that serves; returns the address of its pages."""

    def start(**environ):
        daemon = forwarder.daemon(**{"FORWARDER_METRICS_LISTEN": ANYWHERE, **environ})
        return daemon.wait_for("metrics.listening")["url"]

    return start


@pytest.fixture(scope="module")
def idle(tmp_path_factory):
    """The address of a daemon without events, for tests that leave it so."""
    with Sandbox(token=TOKEN) as server:
        forwarder = Forwarder(str(tmp_path_factory.mktemp("idle") / "queue"), server.url)
        forwarder.environ |= {"FORWARDER_CONFIG": os.devnull, "FORWARDER_METRICS_LISTEN": ANYWHERE}
        with closing(forwarder):
            yield forwarder.daemon().wait_for("metrics.listening")["url"]


def told(url, path):
    """The JSON of a page."""
    answer = Answer(url, path)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json"), answer.text
    return json.loads(answer.text)


def live(url, **query):
    """What the page's script gets."""
    return told(url, "/live?" + "&".join(f"{key}={value}" for key, value in query.items()))


def record(queue_path, *periods):
    """Record periods as a daemon before this one would have."""
    with closing(spool.at(queue_path).consumer()) as consumer:
        for period in periods:
            consumer.record(period)


def minutes(count, **what):
    """So many minutes until a minute ago."""
    now = time.time()
    return [Period(now - 60.0 * number, 60.0, now - 1e4, **what) for number in range(count, 0, -1)]


# What it says


@each_engine
def test_its_figures_are_those_of_status(forwarder, serving, queue_path, until):
    """In JSON the same keys and values, but for what a reason quotes, and on the page a row for each."""
    put(queue_path, 5)
    put(queue_path, 3, time=4_000_000_000_000)
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put_profile({"$token": "sandbox-token", "$distinct_id": "d", "$set": {"a": 1}})
    url = serving()
    until(lambda: told(url, "/status")["waiting"] == 0 and told(url, "/status")["engage"]["waiting"] == 0)
    assert forwarder("pause").returncode == 0
    put(queue_path, 7)

    def settled():
        found, status = told(url, "/status"), without_quotes(forwarder.json("status"))
        # These change from one moment to the next.
        moving = ("oldest_waiting_s", "rate_1m", "accepted_1m", "wal_bytes", "db_bytes", "disk_free_bytes")
        moving = {*moving, "used_bytes", "disk_full_in_s", "full_in_s", "oldest_late_in_s"}
        of_kinds = [each.pop(name) for each in (found, status) for name in ("engage", "groups")]
        for each in (found, status, *of_kinds):
            for key in moving & each.keys():
                assert isinstance(each.pop(key), int | float | None)
        return list(found) == list(status) and found == status and of_kinds[:2] == of_kinds[2:] and found

    found = until(settled)
    assert (found["state"], found["waiting"], found["dead_letters"]) == ("paused", 7, 3)
    assert found["last_error"]
    assert found["state_since"]
    cells = dict(re.findall("<code>([^<]*)</code></th><td>([^<]*)</td>", Answer(url, "/").text))
    assert {key: unescape(cells[key]) for key in ("waiting", "state", "last_error", "paused", "pid")} == {
        "waiting": "7",
        "state": "paused",
        "last_error": found["last_error"],
        "paused": "true",
        "pid": str(found["pid"]),
    }
    assert cells["engage.delivered"] == "1"


def test_a_daemon_that_is_looked_at_keeps_its_queue(forwarder, serving, queue_path):
    """It must not close the file of its lock a second time: then others would believe that none runs."""
    url = serving()
    assert told(url, "/status")["state"] == "running"
    assert Answer(url, "/").status == 200
    assert forwarder.json("status")["state"] == "running"
    assert forwarder("run").returncode == 75


def test_the_state_and_its_reason_are_said_in_words(serving, server, queue_path, until):
    """At once, with the time since when; no value of an event is quoted."""
    server.inject(Fault.server_error(503))
    url = serving()
    assert "<strong>Running:</strong> nothing waits." in Answer(url, "/").text
    put(queue_path, 1)
    found = until(lambda: (now := live(url))["state"] == "backing_off" and now)
    assert found["title"].startswith("Backing off")
    assert re.search("<strong>Backing off:</strong> .*503.*nothing is lost", found["panels"]["state"])
    assert re.search(r"Since \w{3} \d+ \w{3} \d\d:\d\d, for \d+ s\.", found["panels"]["state"])
    assert found["sentence"].startswith("Backing off: ")


def test_history_is_what_was_recorded(serving, queue_path):
    """By the minute for an hour; an hour that is not over counts in a week, too."""
    put(queue_path, 1)
    record(queue_path, *minutes(130, accepted=60, waiting=7, requests={"delivered": 2}))
    url = serving(FORWARDER_DELIVERY_LINGER_S="3600")
    found = told(url, "/history")
    assert (found["range"], found["part_s"]) == ("hour", 60.0)
    # The plot ends with the minute that is not over.
    assert len(found["parts"]) in (58, 59)
    shown = found["parts"]
    assert {part["accepted"] for part in shown} == {60}
    assert found["parts"][-1]["requests"] == {"delivered": 2}
    # Until this daemon has started.
    assert len(found["gaps"]) == 1
    for name in ("day", "week", "month"):
        found = told(url, f"/history?range={name}")
        assert sum(part["accepted"] for part in found["parts"]) == 130 * 60
    figures = live(url)["panels"]
    assert "accepted <b>1/s</b>" in figures["legend-rate"]
    assert "now <b>7</b>" in figures["legend-waiting"]
    assert figures["table-waiting"].count("<tr>") == 1 + len(shown)
    assert "Waiting: now 7, least 7, most 7 at" in figures["plot-waiting"]
    assert "No daemon ran from" in figures["events"]


def test_what_has_been_seen_of_the_past_is_not_sent_again(serving, queue_path, monkeypatch):
    """With its mark only what changes all the time is sent; with another mark or range everything."""
    url = serving()
    first = live(url, range="hour")
    again = live(url, range="hour", seen=first["mark"])
    if again["mark"] == first["mark"]:  # else a minute has ended in between
        assert not any(key.startswith("plot-") for key in again["panels"])
        assert "state" in again["panels"]
    assert any(key.startswith("plot-") for key in live(url, range="hour", seen="other")["panels"])


# What it must not say or do


def test_nothing_that_is_in_an_event_is_on_a_page(serving, server, queue_path, until):
    """Names of events, fields and reasons are, escaped; values are not, whoever quotes them."""
    with EventQueue(queue_path, min_free_bytes=0, rules=False) as queue:
        queue.put({"event": HOSTILE, "properties": {"$insert_id": "secret value!", "time": 1_700_000_000}})
        queue.put({"event": "A", "properties": {HOSTILE: "secret"}})
    message = "'properties.x' is invalid: \"secret\" and 'another secret'"
    server.inject(Fault.reject("A", field=HOSTILE, message=message))
    url = serving()
    until(lambda: told(url, "/status")["dead_letters"] == 2)
    with EventQueue(queue_path, min_free_bytes=0, rules=False) as queue:
        queue.put({"event": "A", "properties": {}})
    until(lambda: told(url, "/status")["last_error"] == "… is invalid: … and …")
    found = until(
        lambda: (now := live(url, seen="")["panels"])["causes"].count("<tr>") == 3 and now, timeout_s=40
    )
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in found["causes"]
    assert "$insert_id" in found["causes"]
    for path in ("/", "/live", "/status", "/history"):
        text = Answer(url, path).text
        assert "secret" not in text
        assert "<script>alert" not in text
        assert "<img" not in text


def test_the_document_has_all_that_it_needs_and_may_nothing_else(idle):
    """Its style and its script have the hashes that the policy names, and no address leads elsewhere."""
    answer = Answer(idle, "/")
    policy = dict(
        part.strip().partition(" ")[::2] for part in answer.headers["Content-Security-Policy"].split(";")
    )
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy.pop(f"{tag}-src") == f"'sha256-{digest}'"
    nothing = dict.fromkeys(("default-src", "base-uri", "form-action", "frame-ancestors"), "'none'")
    assert policy == {**nothing, "img-src": "data:", "connect-src": "'self'"}
    assert (
        re.findall(r"(?:href|src|action|content)=\"?(?!\?|data:,)([^\s\">]*[:/][^\s\">]*)", answer.text) == []
    )
    assert re.findall(r"\son\w+=|style=|javascript:|https?://|@import", answer.text) == []
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    for name, value in (("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer")):
        assert answer.headers[name] == value
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/live", "/history"])
def test_an_unknown_range_is_refused_in_words(idle, path):
    """With 400 and the ranges that there are; what was asked for is not repeated."""
    answer = Answer(idle, f"{path}?range=<script>")
    assert (answer.status, answer.text) == (400, "range is one of hour, day, week, month\n")
    assert [Answer(idle, f"{path}?range={name}").status for name in RANGES] == [200] * 4


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"localhost:9464", b"200"),
        (b"127.0.0.1:1", b"200"),
        (b"[::1]:9464", b"200"),
        (b"[::1]", b"200"),
        (b"evil.example.com", b"403"),
        (b"evil.example.com:9464", b"403"),
        (b"localhost.evil.example.com", b"403"),
        (b"192.0.2.1", b"403"),
    ],
)
def test_another_site_can_not_lead_a_browser_here(idle, host, status):
    """At an address for this host alone, a page answers to no other name; /metrics does as ever."""
    for path in (b"/", b"/live", b"/status", b"/history"):
        head = raw(idle, b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        assert head.split()[1] == status
    assert raw(idle, b"GET /healthz HTTP/1.1\r\nHost: " + host + b"\r\n\r\n").split()[1] == b"200"


def test_an_address_of_the_network_answers_to_any_name(serving):
    """Whoever reaches it may read it, by whatever name."""
    url = serving(FORWARDER_METRICS_LISTEN="0.0.0.0:0").replace("0.0.0.0", "127.0.0.1")
    assert raw(url, b"GET / HTTP/1.1\r\nHost: queue.example.com\r\n\r\n").split()[1] == b"200"


# What it costs


def test_looking_needs_no_write_lock(serving, queue_path):
    """While somebody else is writing, all is answered."""
    put(queue_path, 3)
    url = serving(FORWARDER_DELIVERY_LINGER_S="3600")
    with closing(sqlite3.connect(f"{queue_path}/data.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM ack_queue_default")
        assert told(url, "/status")["waiting"] == 3
        assert Answer(url, "/").status == 200
        writer.execute("ROLLBACK")


@pytest.fixture
def here(forwarder, monkeypatch):
    """The settings for a daemon in this process that serves, and shares nothing for longer than a request."""
    for name, value in forwarder.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FORWARDER_METRICS_LISTEN", ANYWHERE)
    monkeypatch.setattr(page, "NOW_S", 0.0)
    monkeypatch.setattr(page, "PAST_S", 0.0)
    return config.load()


def test_looking_costs_the_same_with_any_number_waiting(here, queue_path, sql):
    """With a million events waiting and a thousand times as many dead letters, it takes no longer."""

    def looked_s(url):
        times = []
        for _ in range(15):
            started_at = time.monotonic()
            assert Answer(url, "/").status == 200
            times.append(time.monotonic() - started_at)
        return statistics.median(times)

    put(queue_path, 1)
    with closing(spool.at(queue_path).consumer()) as consumer:
        many_letters(consumer, 2000)
    with running(here, lambda: here) as daemon:
        url = daemon._listener.url
        few_s = looked_s(url)
        sql(
            queue_path,
            "INSERT INTO ack_queue_default (data, timestamp, status) SELECT data, timestamp, 1 FROM"
            " ack_queue_default, (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
            " WHERE i < 1000000) SELECT i FROM n) WHERE _id = 1",
        )
        sql(
            queue_path,
            "INSERT INTO dead_letters (event_id, data, accepted_at, dead_at, http_status, field, reason)"
            " SELECT event_id, data, accepted_at, dead_at, http_status, field, reason FROM dead_letters,"
            " (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) SELECT i FROM n)"
            " WHERE id <= 2000",
        )
        assert told(url, "/status")["waiting"] > 1_000_000
        assert looked_s(url) < 3 * few_s + 0.005


def many_letters(consumer, count):
    consumer.settle(Settlement([], dead=[Dead(0, b'{"event":"e"}', 0.0, "why", "")] * count))


def test_one_makes_what_others_get(monkeypatch):
    """However many ask, it is made once while it is fresh; while it is made again, the others get the old."""
    monkeypatch.setattr(page, "PATIENCE_S", 0.05)
    may_end, made = threading.Event(), []

    def make():
        made.append(0)
        if len(made) > 1:
            assert may_end.wait(20)
        return len(made)

    fresh = Shared(lambda: made.append(0) or len(made), 60.0)
    assert [fresh.get() for _ in range(3)] == [1, 1, 1]
    made.clear()
    stale = Shared(make, 0.0)
    assert stale.get() == 1
    slow = threading.Thread(target=stale.get)
    slow.start()
    assert stale.get() == 1
    assert len(made) == 2
    may_end.set()
    slow.join()
    assert stale.get() == 3


def test_what_takes_long_at_first_is_not_waited_for(monkeypatch):
    """Then there is nothing to answer with yet; and what fails is tried again."""
    monkeypatch.setattr(page, "PATIENCE_S", 0.05)
    may_end, began = threading.Event(), threading.Event()

    def make():
        began.set()
        assert may_end.wait(20)
        return 1

    shared = Shared(make, 0.0)
    slow = threading.Thread(target=shared.get)
    slow.start()
    began.wait(20)
    with pytest.raises(TimeoutError):
        shared.get()
    may_end.set()
    slow.join()
    assert shared.get() == 1
    answers = iter([OSError("no"), 2])

    def fail():
        if isinstance(answer := next(answers), OSError):
            raise answer
        return answer

    fails = Shared(fail, 0.0)
    with pytest.raises(OSError, match="no"):
        fails.get()
    assert fails.get() == 2


# When something is wrong


def test_a_queue_that_can_not_be_read_is_said(here, queue_path, tmp_path, until):
    """On the page; as JSON it is 503 with the reason. It is there again when the queue is."""
    put(queue_path, 1)
    with running(here, lambda: here) as daemon:
        url = daemon._listener.url
        database = f"{queue_path}/data.db"
        os.rename(database, tmp_path / "away")
        os.mkdir(database)
        answer = Answer(url, "/status")
        assert answer.status == 503
        assert "data.db" in answer.text or "database" in answer.text
        found = live(url)
        assert found["title"].startswith("Unknown")
        assert "data.db" in found["panels"]["state"] or "database" in found["panels"]["state"]
        assert "now <b>none</b>" in found["panels"]["legend-waiting"]
        assert Answer(url, "/").status == 200
        os.rmdir(database)
        os.rename(tmp_path / "away", database)
        assert told(url, "/status")["waiting"] == 1


def test_a_loop_that_does_not_turn_is_said(here, queue_path, monkeypatch):
    """As /healthz does."""
    with running(here, lambda: here) as daemon:
        assert "has not turned" not in live(daemon._listener.url)["panels"]["state"]
        monkeypatch.setattr("forwarder.service.state.STALLED_S", -1.0)
        assert "The loop has not turned for" in live(daemon._listener.url)["panels"]["state"]


# Beside others


@pytest.fixture
def host(postgres, queue_path):
    """A host with its own queue and one on a server."""
    host = Host(queue_path, postgres, postgres.new_schema_name())
    host.set_up()
    yield host
    host.close()


def test_a_relay_shows_both_queues(host, until):
    """What it has handed over waits on the server, and is shown; where its role may not look, it says so."""
    host.environ["FORWARDER_METRICS_LISTEN"] = ANYWHERE
    relay = host.relay()
    url = relay.wait_for("metrics.listening")["url"]
    put(host.queue_path, 5)
    found = until(lambda: (now := told(url, "/status"))["delivered"] == 5 and now)
    assert found["server"] == without_quotes(host.json("status")["server"])
    assert "queue on the server can&#x27;t be seen" in live(url)["panels"]["server"]
    relay.stop()
    host.environ["FORWARDER_QUEUE_URL"] = host.server.url()
    url = host.relay().wait_for("metrics.listening")["url"]
    assert told(url, "/status")["server"]["waiting"] == 5
    assert "<strong>Stopped:</strong> no daemon runs; 5 events wait" in live(url)["panels"]["server"]
    text = Answer(url, "/").text
    assert "<dt>Relayed</dt>" in text
    assert "<h2>On the server</h2>" in text


@pytest.mark.parametrize("queue_path", ["server"], indirect=True)
def test_one_that_stands_by_serves_nothing(forwarder, serving):
    """It takes the address once it is its turn."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    first = forwarder.daemon()
    second = forwarder.daemon(wait=False, FORWARDER_METRICS_LISTEN=listen)
    second.wait_for("daemon.standing_by")
    with pytest.raises(ConnectionRefusedError):
        Answer(f"http://{listen}", "/")
    first.stop()
    second.wait_for("metrics.listening")
    assert Answer(f"http://{listen}", "/").status == 200
