"""What the daemon tells a monitor over HTTP: figures, whether it is alive, whether it takes part."""

import os
import platform
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from forwarder import config
from forwarder.errors import EventError, NotPermittedError
from forwarder.records import EVENTS
from forwarder.sandbox import Fault
from forwarder.service import listener, state
from forwarder.service.listener import Listener, Page
from forwarder.service.run import running
from forwarder.spool import EventQueue
from forwarder.spool.sqlite.view import View
from tests.conftest import each_engine

ANYWHERE = "127.0.0.1:0"  # a free port, which the log names
DURABLE = {
    "accepted": "forwarder_events_accepted_total",
    "delivered": "forwarder_events_delivered_total",
    "dead_lettered": "forwarder_events_dead_lettered_total",
    "deleted": "forwarder_events_deleted_total",
    "short": "forwarder_events_short_total",
    "retried": "forwarder_dead_letters_retried_total",
    "discarded": "forwarder_dead_letters_discarded_total",
    "waiting": "forwarder_waiting_events",
    "dead_letters": "forwarder_dead_letters",
    "db_bytes": "forwarder_db_bytes",
    "set_aside": "forwarder_damaged_databases",
    "paused": "forwarder_paused",
    "connections": "forwarder_connections",
}


class Answer:
    """An answer's status, headers and text."""

    def __init__(self, url, path, method="GET", headers=None):
        place = urlsplit(url)
        with closing(HTTPConnection(place.hostname, place.port, timeout=20)) as connection:
            connection.request(method, path, headers=headers or {})
            found = connection.getresponse()
            self.status, self.headers, self.text = found.status, found.headers, found.read().decode()


def scrape(url):
    """Every sample of ``/metrics``: by its name, and its labels' values where it has labels."""
    answer = Answer(url, "/metrics")
    assert answer.status == 200, answer.text
    return {
        (sample.name, *sample.labels.values()) if sample.labels else sample.name: sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@pytest.fixture
def serving(forwarder):
    """Start a daemon that serves; returns the address of its pages."""

    def start(**environ):
        daemon = forwarder.daemon(FORWARDER_METRICS_LISTEN=ANYWHERE, **environ)
        return daemon.wait_for("metrics.listening")["url"]

    return start


def put(queue_path, count, **properties):
    """Put so many events into the queue, unchecked."""
    with EventQueue(queue_path, min_free_bytes=0, rules=False) as queue:
        queue.put_many({"event": "e", "properties": {"distinct_id": "", **properties}} for _ in range(count))


# What is there, and what is not


def listening_sockets(pid):
    """How many sockets of a process wait for connections over TCP."""
    with open(f"/proc/{pid}/net/tcp") as ipv4, open(f"/proc/{pid}/net/tcp6") as ipv6:
        lines = [line.split() for line in (*ipv4, *ipv6)]
    inodes = {f"socket:[{line[9]}]" for line in lines if line[3] == "0A"}
    count = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # it is closed by now
            count += os.readlink(f"/proc/{pid}/fd/{fd}") in inodes
    return count


@pytest.mark.parametrize("listen", ["", ANYWHERE])
def test_nothing_is_served_or_loaded_unless_it_is_asked_for(forwarder, listen):
    """Without metrics.listen the daemon has no socket that waits, and Prometheus' library is not loaded."""
    daemon = forwarder.daemon(FORWARDER_METRICS_LISTEN=listen, PYTHONPROFILEIMPORTTIME="1")
    waiting = listening_sockets(daemon.process.pid)
    daemon.stop()
    daemon.close()
    loaded = any("prometheus_client" in line for line in daemon.other_output)
    assert (waiting, loaded) == ((1, True) if listen else (0, False))


def test_figures_are_those_of_status_and_survive_a_restart(forwarder, serving, server, queue_path, until):
    """Counters and gauges say what ``status --json`` says, in a queue in which everything has happened."""
    put(queue_path, 5)
    put(queue_path, 3, time=4_000_000_000_000)  # the year 2096, which is refused
    daemon_url = serving()
    until(lambda: scrape(daemon_url)["forwarder_waiting_events"] == 0)
    assert forwarder("dead-letters", "retry", "1", "--no-check").returncode == 0
    until(lambda: scrape(daemon_url)["forwarder_events_dead_lettered_total"] == 4)
    assert forwarder("dead-letters", "delete", "2").returncode == 0
    assert forwarder("pause").returncode == 0
    until(lambda: forwarder.json("status")["state"] == "paused")
    put(queue_path, 7)

    def compared(url):
        status, found = forwarder.json("status"), scrape(url)
        assert {key: found[name] for key, name in DURABLE.items()} == {key: status[key] for key in DURABLE}
        assert [state for state in ("running", "paused") if found["forwarder_state", state]] == ["paused"]
        return found

    before = compared(daemon_url)
    assert before["forwarder_events_accepted_total"] == 5 + 3 + 1 + 7
    assert before["forwarder_events_delivered_total"] == 5
    assert before["forwarder_dead_letters"] == 2
    assert before["forwarder_last_delivery_timestamp_seconds"] == pytest.approx(time.time(), abs=60)
    for daemon in forwarder._daemons:
        daemon.kill()
    after = compared(serving())
    durable = [name for name in DURABLE.values() if name.endswith("_total")]
    assert len(durable) == 7
    assert {name: after[name] for name in durable} == {name: before[name] for name in durable}


def test_what_producers_were_refused_is_told_by_reason(serving, queue_path, sql):
    """forwarder_refused_total has each reason there can be, at 0 too, and none besides."""
    url = serving()
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        for _ in range(3):
            with pytest.raises(EventError):
                queue.put({"event": "", "properties": {}})
    sql(queue_path, "INSERT INTO refusals VALUES ('something else', 1)")
    found = {name[1]: n for name, n in scrape(url).items() if name[0] == "forwarder_refused_total"}
    assert found == {**dict.fromkeys(EVENTS.reasons, 0), "event_name": 3}


def test_the_age_of_the_oldest_waiting_event_is_told(serving, queue_path, sql, forwarder, until):
    """forwarder_oldest_waiting_seconds is how long the first in the queue has waited; 0 when none does."""
    url = serving()
    assert forwarder("pause").returncode == 0
    until(lambda: scrape(url)["forwarder_state", "paused"])
    assert scrape(url)["forwarder_oldest_waiting_seconds"] == 0
    put(queue_path, 2)
    sql(queue_path, "UPDATE ack_queue_default SET timestamp = ? WHERE _id = 1", (time.time() - 1000,))
    assert 1000 <= scrape(url)["forwarder_oldest_waiting_seconds"] < 1100


def test_requests_are_counted_by_what_came_of_them(serving, server, queue_path, until):
    """Each request counts once under its outcome and once in the histogram; those sent again as retries."""
    server.inject(Fault.server_error(503), times=2)
    server.inject(Fault.throttle(), times=1)
    url = serving()
    put(queue_path, 1)
    until(lambda: scrape(url)["forwarder_requests_total", "delivered"])
    found = scrape(url)
    assert found["forwarder_requests_total", "unreachable"] == 2
    assert found["forwarder_requests_total", "throttled"] == 1
    assert found["forwarder_requests_total", "misconfigured"] == 0
    assert found["forwarder_request_retries_total"] == 3
    assert found["forwarder_request_duration_seconds_count"] == 4
    assert found["forwarder_request_duration_seconds_bucket", "+Inf"] == 4
    assert 0 < found["forwarder_request_duration_seconds_sum"] < 60
    assert found["forwarder_build_info", platform.python_version(), "0.1.0"] == 1
    assert found["forwarder_queue_info", queue_path, ""] == 1


def test_a_slow_request_is_in_the_bucket_of_its_duration(serving, server, queue_path, until):
    """A request that took 0.3 s counts as longer than 0.25 s and shorter than a minute."""
    server.inject(Fault.slow(0.3), times=1)
    url = serving()
    put(queue_path, 1)
    until(lambda: scrape(url)["forwarder_requests_total", "delivered"])
    found = scrape(url)
    assert found["forwarder_request_duration_seconds_bucket", "0.25"] == 0
    assert found["forwarder_request_duration_seconds_bucket", "60.0"] == 1


def test_a_wrong_clock_is_a_metric(serving, server, queue_path, until):
    """forwarder_clock_skew_seconds says how far this host's clock is ahead, once a reply has told."""
    server.inject(Fault.clock(-600))
    url = serving()
    assert "forwarder_clock_skew_seconds" not in scrape(url)
    put(queue_path, 1)
    skew_s = until(lambda: scrape(url).get("forwarder_clock_skew_seconds"))
    assert skew_s == pytest.approx(600, abs=30)


def test_events_in_flight_are_told(serving, server, queue_path, until):
    """Events whose answer is awaited are in flight, and wait."""
    server.inject(Fault.hang())
    url = serving()
    put(queue_path, 3)
    until(lambda: scrape(url)["forwarder_in_flight_events"] == 3)
    assert scrape(url)["forwarder_waiting_events"] == 3


# Looking never disturbs


def test_a_scrape_needs_no_write_lock(serving, queue_path):
    """While somebody else is writing to the database, a scrape is answered, with what is committed."""
    put(queue_path, 3)
    url = serving(FORWARDER_DELIVERY_LINGER_S="3600")
    with closing(sqlite3.connect(f"{queue_path}/data.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM ack_queue_default")
        started_at = time.monotonic()
        assert scrape(url)["forwarder_waiting_events"] == 3
        assert time.monotonic() - started_at < 5, "it waited for the lock"
        writer.execute("ROLLBACK")


def test_a_scrape_costs_the_same_with_any_number_waiting(serving, queue_path, sql):
    """With a million events waiting a scrape takes no longer than with one, as nothing is counted."""
    url = serving(FORWARDER_DELIVERY_LINGER_S="3600", FORWARDER_MIXPANEL_URL="http://127.0.0.1:9")

    def scrape_s():
        times = []
        for _ in range(15):
            started_at = time.monotonic()
            scrape(url)
            times.append(time.monotonic() - started_at)
        return statistics.median(times)

    put(queue_path, 1)
    few_s = scrape_s()
    sql(
        queue_path,
        "INSERT INTO ack_queue_default (data, timestamp, status) SELECT data, timestamp, 1 FROM"
        " ack_queue_default, (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
        " WHERE i < 1000000) SELECT i FROM n) WHERE _id = 1",
    )
    assert scrape(url)["forwarder_waiting_events"] == 1_000_001
    assert scrape_s() < 3 * few_s + 0.005  # counting them takes 50 ms and more


# Alive and ready


def test_blocked_delivery_is_no_reason_to_restart_it_or_to_pass_it_over(serving, server, queue_path, until):
    """With a key that is not taken the state says so; alive and ready the daemon is all the same."""
    url = serving(FORWARDER_MIXPANEL_TOKEN="another")
    put(queue_path, 1)
    until(lambda: scrape(url)["forwarder_state", "blocked"] == 1)
    assert scrape(url)["forwarder_state", "running"] == 0
    assert [Answer(url, page).status for page in ("/healthz", "/readyz")] == [200, 200]


def test_a_queue_that_cannot_be_used_makes_it_unready_but_not_unhealthy(serving, queue_path, until, tmp_path):
    """Without its database it is not ready, says why, and leaves its figures out; until it is back."""
    url = serving()
    database = f"{queue_path}/data.db"
    assert (Answer(url, "/readyz").status, Answer(url, "/readyz").text) == (200, "ready\n")
    os.rename(database, tmp_path / "away")
    os.mkdir(database)
    refused = until(lambda: (found := Answer(url, "/readyz")).status == 503 and found)
    assert "data.db" in refused.text or "database" in refused.text
    assert Answer(url, "/healthz").status == 200
    found = scrape(url)
    assert found["forwarder_queue_readable"] == 0
    assert "forwarder_waiting_events" not in found, "no figure is better than a wrong one"
    assert found["forwarder_queue_max_bytes"] == 10 * 2**30
    os.rmdir(database)
    os.rename(tmp_path / "away", database)
    until(lambda: Answer(url, "/readyz").status == 200)
    assert scrape(url)["forwarder_queue_readable"] == 1


@pytest.fixture
def here(forwarder, monkeypatch):
    """The settings of the command's environment, for a daemon in this process that serves."""
    for name, value in forwarder.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FORWARDER_METRICS_LISTEN", ANYWHERE)
    return config.load()


def test_a_loop_that_does_not_turn_is_not_healthy(here, monkeypatch, until):
    """Once the loop has not turned for `STALLED_S` both pages answer 503 and say so; a turn mends it."""
    with running(here, lambda: here) as daemon:
        url = daemon._listener.url
        assert Answer(url, "/healthz").text == "healthy\n"
        monkeypatch.setattr(state, "STALLED_S", 0.05)
        until(lambda: Answer(url, "/healthz").status == 503)
        assert "has not turned" in Answer(url, "/readyz").text
        monkeypatch.setattr(state, "STALLED_S", 60.0)
        daemon.turn()
        assert Answer(url, "/healthz").status == 200
        daemon.stop()
        daemon.turn()
        assert (Answer(url, "/healthz").status, Answer(url, "/readyz").status) == (200, 503)
    with pytest.raises(ConnectionRefusedError):
        Answer(url, "/healthz")


def test_sizes_that_the_engine_can_not_know_are_left_out(here, monkeypatch, queue_path):
    """A sample of 0 would be an alarm: of the disk's free space, nothing is told."""
    put(queue_path, 1)
    known = View.figures
    unknown = {"wal_bytes": None, "disk_free_bytes": None}
    monkeypatch.setattr(View, "figures", lambda view: replace(known(view), **unknown))
    with running(here, lambda: here) as daemon:
        found = scrape(daemon._listener.url)
    assert found["forwarder_waiting_events"] == 1
    assert found.keys() & {"forwarder_wal_bytes", "forwarder_disk_free_bytes"} == set()


# HTTP


def _told(request):
    text = request.headers.get("accept", "") + "".join(
        f"{key}={value};" for key, value in request.query.items()
    )
    return Page(200, text.encode(), headers={"X-Of-The-Page": "1"})


@pytest.fixture
def pages():
    """A listener with one page; returns its address."""
    with ExitStack() as stack:
        started = Listener(ANYWHERE)
        stack.callback(started.close)
        started.serve({"/page": _told})
        yield started.url


def raw(url, *pieces, end=True):
    """Send bytes as they are; returns all that comes back."""
    place = urlsplit(url)
    with closing(socket.create_connection((place.hostname, place.port), timeout=20)) as connection:
        for piece in pieces:
            connection.sendall(piece)
        if end:
            connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as stream:
            return stream.read()


def test_only_what_is_there_is_answered(pages):
    """An unknown path is 404, another method 405 with Allow, HEAD has no body; a page gets headers and query,
    and adds headers of its own."""
    found = Answer(pages, "/page?x=1%202&y", headers={"Accept": "a "})
    assert (found.text, found.headers["X-Of-The-Page"]) == ("ax=1 2;y=;", "1")
    unknown = Answer(pages, "/")
    assert (unknown.status, unknown.text) == (404, "There is /page\n")
    posted = Answer(pages, "/page", method="POST")
    assert (posted.status, posted.headers["Allow"]) == (405, "GET, HEAD")
    head, _, body = raw(pages, b"HEAD /page HTTP/1.1\r\nAccept: abc\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (b"Content-Length: 3" in head, body) == (True, b"")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /page SMTP/1.0\r\n\r\n", b"400"),
        (b"GET /page HTTP/1.1\r\n", b"400"),
        (b"\xff\x00 /page HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /page HTTP/1.1\r\nX: " + b"x" * 20000, b"431"),
        (b"GET /page HTTP/1.0\r\n\r\n", b"200"),
    ],
)
def test_nonsense_is_refused_and_the_next_is_served(pages, sent, status):
    """What is no request gets its status, and takes nothing down."""
    for _ in range(listener.THREADS + 1):
        assert raw(pages, sent).split()[1] == status
    assert Answer(pages, "/page").status == 200


def test_a_page_that_fails_takes_nothing_down():
    """An error in a page is a 500, however often."""

    def broken(_request):
        raise OSError("no more files")

    started = Listener(ANYWHERE)
    started.serve({"/broken": broken})
    for _ in range(listener.THREADS + 1):
        answer = Answer(started.url, "/broken")
        assert (answer.status, answer.text) == (500, "OSError: no more files\n")
    started.close()


def test_clients_that_say_nothing_are_not_waited_for(pages, monkeypatch):
    """Silent and dripping clients are sent away in time, no thread is added for them, others are served."""
    monkeypatch.setattr(listener, "REQUEST_S", 0.3)
    threads = threading.active_count()
    place = urlsplit(pages)
    with ExitStack() as stack:
        silent = [
            stack.enter_context(closing(socket.create_connection((place.hostname, place.port))))
            for _ in range(2 * listener.THREADS)
        ]
        for connection in silent[::2]:
            connection.sendall(b"GET /pa")
        assert Answer(pages, "/page").status == 200
        assert threading.active_count() <= threads
        for connection in silent:
            connection.settimeout(10)
            has_begun = connection in silent[::2]
            assert (b" 408 " in connection.recv(100)) == has_begun


def test_a_client_that_stays_holds_nobody_up(pages):
    """Who has its answer and keeps its side of the connection open takes no thread from the next."""
    place = urlsplit(pages)
    started_at = time.monotonic()
    with ExitStack() as stack:
        for _ in range(2 * listener.THREADS):
            stays = socket.create_connection((place.hostname, place.port), timeout=20)
            stack.enter_context(closing(stays))
            stays.sendall(b"GET /page HTTP/1.1\r\n\r\n")
            assert stays.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
    assert time.monotonic() - started_at < listener.REQUEST_S


# Settings


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_port_that_this_user_may_not_have_is_a_matter_of_permission():
    """Where only root may have a port, the error has code 77, names the setting, and says which ports do."""
    if Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text() == "0\n":
        pytest.skip("on this machine everybody may have any port")
    os.seteuid(65534)
    try:
        with pytest.raises(
            NotPermittedError,
            match=r"metrics\.listen: can't listen on 127\.0\.0\.1:1: .*a port of 1024 or higher",
        ):
            Listener("127.0.0.1:1")
    finally:
        os.seteuid(0)


def test_a_taken_address_ends_the_daemon_and_names_the_setting(forwarder, queue_path):
    """With its port in use the daemon ends with 69, says which setting that is, and leaves the queue free."""
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        forwarder.environ["FORWARDER_METRICS_LISTEN"] = listen
        done = forwarder("run")
        assert done.returncode == 69
        assert f"metrics.listen: can't listen on {listen}: Address already in use" in done.stderr
        put(queue_path, 1)
        assert forwarder("drain").returncode == 0, "drain serves nothing"


def test_an_address_of_another_host_is_refused(forwarder):
    """An address that is not this host's ends the daemon with 69 and the setting's name."""
    forwarder.environ["FORWARDER_METRICS_LISTEN"] = "192.0.2.1:9464"
    done = forwarder("run")
    assert done.returncode == 69
    assert "metrics.listen: can't listen on 192.0.2.1:9464" in done.stderr


def test_a_second_daemon_is_told_about_the_first_and_not_about_its_port(forwarder, serving):
    """With the same settings the second one ends with 75 for the queue, not with 69 for the port."""
    url = serving()
    forwarder.environ["FORWARDER_METRICS_LISTEN"] = urlsplit(url).netloc
    assert forwarder("run").returncode == 75


def test_a_new_address_takes_a_restart(forwarder, tmp_path, until):
    """A reload that changes metrics.listen says that a restart is needed, and goes on where it was."""
    settings = tmp_path / "settings.toml"
    settings.write_text(f'[metrics]\nlisten = "{ANYWHERE}"\n')
    daemon = forwarder.daemon(FORWARDER_CONFIG=str(settings))
    url = daemon.wait_for("metrics.listening")["url"]
    settings.write_text('[metrics]\nlisten = ""\n[queue]\nmax_bytes = "1MiB"\n')
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for("settings.reloaded")
    assert daemon.logged("settings.restart_needed")[0]["key"] == "metrics.listen"
    until(lambda: scrape(url)["forwarder_queue_max_bytes"] == 2**20)


@pytest.mark.parametrize(
    ("listen", "warned"), [("", False), ("127.0.0.1:1", False), ("[::1]:1", False), ("0.0.0.0:1", True)]
)
def test_check_warns_of_an_address_that_others_can_reach(forwarder, listen, warned):
    """``check`` warns when whoever is on the network could read the figures."""
    forwarder.environ["FORWARDER_METRICS_LISTEN"] = listen
    done = subprocess.run(
        [sys.executable, "-m", "forwarder", "check"], env=forwarder.environ, capture_output=True, text=True
    )
    assert ("warning metrics: metrics.listen is 0.0.0.0:1" in done.stdout) is warned
    assert done.returncode == 0


def test_connections_without_a_request_hold_up_nobody_for_long(pages):
    """A browser opens some in advance; probes are answered meanwhile."""
    place = urlsplit(pages)
    with ExitStack() as stack:
        for _ in range(3 * listener.THREADS):
            stack.enter_context(closing(socket.create_connection((place.hostname, place.port))))
        asked_at = time.monotonic()
        assert Answer(pages, "/page").status == 200
        assert time.monotonic() - asked_at < 2 * listener.REQUEST_S


@each_engine
def test_of_a_disk_that_is_not_known_nothing_is_foretold(forwarder, queue, queue_path):
    """Never would be a promise; it is that of a server."""
    daemon = forwarder.daemon(FORWARDER_METRICS_LISTEN=ANYWHERE)
    page = Answer(daemon.wait_for("metrics.listening")["url"], "/metrics").text
    is_known = not queue_path.startswith("postgresql://")
    assert "forwarder_full_in_seconds +Inf" in page
    for name in ("forwarder_disk_free_bytes", "forwarder_disk_full_in_seconds"):
        assert (f"\n{name} " in page) == is_known
