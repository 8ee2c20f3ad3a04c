"""The HTTP door as a process: what clients are told is in the queue, and what they are refused is not."""

import base64
import contextlib
import fcntl
import gzip
import http.client
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from urllib.parse import quote

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.intake_client import (
    TOKEN,
    Answer,
    Client,
    Intake,
    dead,
    event,
    names,
    request,
    waiting,
)

UPDATE = {"$token": TOKEN, "$distinct_id": "u", "$set": {"a": 1}}
GROUP = {"$token": TOKEN, "$group_key": "k", "$group_id": "g", "$set": {"a": 1}}
CLIENTS = 64
SEED = int(os.environ.get("FORWARDER_TEST_SEED", "20263"))


@pytest.fixture
def make(queue_path):
    """Make an intake with settings of its own; not started yet."""
    made = []

    def intake(**environ):
        made.append(Intake(queue_path, **{f"FORWARDER_{name}": value for name, value in environ.items()}))
        return made[-1]

    yield intake
    for each in made:
        each.close()


@pytest.fixture
def intake(make):
    """One that runs."""
    intake = make()
    intake.start()
    return intake


# What comes in


def test_each_path_takes_each_form_on_each_socket(intake, queue_path):
    """By POST and GET, with and without a slash at the end, kept alive: each answer is a yes, and each record
    waits in the queue of its kind."""
    data = quote(base64.b64encode(event("get")).decode())
    for place in (intake.socket, intake.tcp):
        with intake.client(place) as client:
            for method, target, body, headers, expected in (
                ("POST", "/track", event("json"), {}, b"1"),
                ("POST", "/track/?verbose=1", b"data=" + event("form"), {}, b'{"status": 1, "error": null}'),
                ("GET", f"/track?data={data}", b"", {}, b"1"),
                ("POST", "/import", gzip.compress(event("gzip")), {"Content_Encoding": "gzip"}, b"1"),
                ("POST", "/engage", json.dumps([UPDATE]).encode(), {"Content_Encoding": ""}, b"1"),
                ("POST", "/groups/", json.dumps(GROUP).encode(), {}, b"1"),
            ):
                answer = client.ask(method, target, body, **headers)
                assert (answer.status, answer.body) == (200, expected)
            answer = client.ask("POST", "/import?strict=1", event("strict"), chunked=True)
            assert answer.json == {"code": 200, "num_records_imported": 1, "status": "OK"}
    assert names(queue_path) == ["json", "form", "get", "gzip", "strict"] * 2
    for kind, update in (("profile", UPDATE), ("group", GROUP)):
        found = waiting(queue_path, kind)
        assert all(each.pop("$time") for each in found)
        assert found == [update] * 2


def test_a_malformed_item_among_good_ones_is_a_dead_letter(intake, queue_path):
    """All of the batch is on disk, so the answer is a yes."""
    bad = b'{"properties":{"token":"%s"}}' % TOKEN.encode()
    body = b"[" + event("a") + b"," + bad + b",7," + event("b") + b"]"
    assert intake.ask("POST", "/track", body).body == b"1"
    assert names(queue_path) == ["a", "b"]
    assert [data for data, _ in dead(queue_path)] == [bad, b"7"]


def test_where_all_is_malformed_nothing_is_stored(intake, queue_path):
    """The answer is Mixpanel's: 200 and a no for good."""
    for path, kind in (("/track", "event"), ("/engage", "profile"), ("/groups", "group")):
        assert intake.ask("POST", path, b'[{"a":1},2]').body == b"0"
        answer = intake.ask("POST", f"{path}?verbose=1", b'[{"a":1},2]')
        assert (answer.status, answer.json["status"]) == (200, 0)
        assert (waiting(queue_path, kind), dead(queue_path, kind)) == ([], [])


def test_a_strict_import_takes_the_good_ones_and_names_the_others(intake, queue_path):
    """By index, with field and message; nothing of them is stored."""
    body = b"[" + event("a") + b"," + event("old", time=1) + b"," + event("b") + b"]"
    answer = intake.ask("POST", "/import?strict=1", body)
    assert (answer.status, answer.json["num_records_imported"]) == (400, 2)
    [failed] = answer.json["failed_records"]
    assert (failed["index"], failed["field"]) == (1, "properties.time")
    assert (names(queue_path), dead(queue_path)) == (["a", "b"], [])


def test_the_token_of_another_project_stores_nothing_of_the_request(intake, queue_path):
    """Nor does the number of another project, where the settings have one."""
    mixed = b"[" + event("a") + b"," + event("b", token="another") + b"]"
    for path in ("/track", "/import", "/import?strict=1"):
        answer = intake.ask("POST", path, mixed)
        assert (answer.status, "anot..." in answer.json["error"]) == (401, True)
    assert waiting(queue_path) == []


def test_a_line_and_a_body_of_more_than_a_megabyte_are_taken(intake, queue_path):
    """What SDKs put into one request fits, in the query, in a body and in chunks."""
    large = event("large", text="x" * 900_000)
    data = quote(base64.b64encode(large).decode(), safe="")
    assert len(data) > 1_200_000
    with intake.client() as client:
        assert client.ask("GET", f"/track?data={data}").body == b"1"
        many = b"[" + b",".join(event(f"e{number}", text="y" * 700) for number in range(2000)) + b"]"
        assert client.ask("POST", "/import?strict=1", many).json["num_records_imported"] == 2000
        assert client.ask("POST", "/track", many, chunked=True).body == b"1"
        assert client.ask("POST", "/track", b"[" + b" " * (10 << 20) + b"]").status == 413
    found = names(queue_path)
    assert found == ["large", *(f"e{number}" for number in range(2000))] + [f"e{n}" for n in range(2000)]


def test_curl_does_not_wait_for_leave(intake, queue_path):
    """With a large body curl asks first, and waits a second for the answer."""
    done = subprocess.run(
        ["curl", "-sS", "--unix-socket", intake.socket, "-T", "-", "-X", "POST", "-w", " %{time_total}",
         "http://localhost/track"],
        input=event("piped"), capture_output=True, timeout=20, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    body, took_s = done.stdout.split()
    assert (body, done.stderr) == (b"1", b"")
    assert float(took_s) < 0.9
    assert names(queue_path) == ["piped"]


def test_the_address_of_a_client_is_kept_if_it_asks_for_its_place(make, queue_path):
    """Behind a trusted proxy only; else nothing is added."""
    intake = make(INTAKE_TRUSTED_PROXIES="unix:")
    intake.start()
    for target in ("/track?ip=1", "/track?ip=0", "/track"):
        intake.ask("POST", target, event(target), X_Forwarded_For="8.8.8.8")
    found = {each["event"]: each["properties"].get("ip") for each in waiting(queue_path)}
    assert found == {"/track?ip=1": "8.8.8.8", "/track?ip=0": None, "/track": None}


# What is refused


REFUSED = [
    ("GET", "/", b"", {}, 404),
    ("GET", "/flags", b"", {}, 404),
    ("POST", "/record/", b"x", {}, 404),
    ("POST", "/track/more", b"[]", {}, 404),
    ("PUT", "/track", b"[]", {}, 405),
    ("OPTIONS", "/track", b"", {}, 405),
    ("GET", "/track", b"", {}, 400),
    ("POST", "/track", b"hello", {}, 400),
    ("POST", "/track", b"[" * 50_000, {}, 400),
    ("POST", "/track", b"\0" * 50, {}, 400),
    ("POST", "/track", b"data=" + base64.b64encode(event())[:-3], {}, 400),
    ("POST", "/track", b"&".join(b"p=%d" % number for number in range(10_000)), {}, 400),
    ("POST", "/track", gzip.compress(b" " * (30 << 20)), {"Content_Encoding": "gzip"}, 413),
    ("POST", "/track", event(), {"Content_Encoding": "br"}, 415),
    ("POST", "/track", event(), {"Content_Type": "multipart/form-data"}, 415),
    ("POST", "/track", event(), {"Origin": "https://evil.example.com"}, 403),
    ("POST", "/track", event(), {"Origin": "null"}, 403),
    ("POST", "/track", event(), {"Sec_Fetch_Site": "cross-site"}, 403),
    ("POST", "/track", event(), {"Sec_Fetch_Site": "same-origin"}, 403),
    ("POST", "/track", event(), {"Host": "evil.example.com"}, 403),
    ("GET", "/metrics", b"", {"Host": "evil.example.com"}, 403),
    ("OPTIONS", "/track", b"", {"Origin": "https://evil.example.com"}, 403),
]  # fmt: skip


def test_what_is_refused_is_not_stored(intake, queue_path):
    """The answer says so as JSON, and the connection can be used for the next request."""
    with intake.client(intake.tcp) as client:
        for method, target, body, headers, status in REFUSED:
            answer = client.ask(method, target, body, **headers)
            shown = (method, target, body[:50], headers)
            assert (shown, answer.status) == (shown, status)
            assert (shown, answer.json["code"]) == (shown, status)
            assert answer.json["error"]
            assert "access-control-allow-origin" not in answer.headers
            assert answer.headers.get("allow") == ("GET, POST" if status == 405 else None)
        client.send(request("HEAD", "/track"))
        assert client.socket.recv(4096).startswith(b"HTTP/1.1 405 ")
        assert client.ask("POST", "/track", event("next")).body == b"1"
    assert names(queue_path) == ["next"]


def test_named_pages_may_write_and_read_the_answer(make, queue_path):
    """With credentials and a preflight, as the SDK for browsers asks; others stay outside."""
    page = "https://www.example.com"
    intake = make(INTAKE_ORIGINS=page, INTAKE_PREFIX="/mp")
    intake.start()
    asked = intake.ask("OPTIONS", "/mp/track/?verbose=1", Origin=page, Access_Control_Request_Method="POST")
    assert (asked.status, asked.headers["access-control-allow-headers"]) == (
        204,
        "authorization, content-type",
    )
    for answer in (
        asked,
        intake.ask(
            "POST", "/mp/track/?verbose=1&ip=1&_=1", event("page"), Origin=page, Sec_Fetch_Site="cross-site"
        ),
        intake.ask("POST", "/mp/track/", b"nothing", Origin=page),
    ):
        assert answer.headers["access-control-allow-origin"] == page
        assert answer.headers["access-control-allow-credentials"] == "true"
    assert intake.ask("GET", "/mp/track?callback=f&data=" + quote(event("script").decode())).body == b"f(1);"
    assert intake.ask("POST", "/mp/track", event(), Origin="https://evil.example.com").status == 403
    assert names(queue_path) == ["page", "script"]


def test_a_full_queue_is_said_so_and_is_good_again_by_itself(make, queue_path):
    """503 with the time to ask again, in the shape that was asked for, and nothing is stored."""
    full = make(QUEUE_MIN_FREE_BYTES="1000TiB")
    full.start()
    for target in ("/track", "/track?verbose=1", "/import?strict=1"):
        answer = full.ask("POST", target, event())
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert "min_free_bytes" in answer.json["error"]
        assert answer.json["status"] in (0, "Service Unavailable")
    assert full.process.wait_for("queue.failed")
    assert full.ask("GET", "/healthz").status == 200
    assert waiting(queue_path) == []


def test_a_queue_that_others_hold_is_said_so_within_six_seconds(intake, queue_path):
    """Nothing of a refused request is stored later, and the first after it is stored."""
    assert intake.ask("POST", "/track", event("before")).body == b"1"
    with open(f"{queue_path}/writer.lock", "r+b") as lock, contextlib.ExitStack() as stack:
        fcntl.flock(lock, fcntl.LOCK_EX)
        clients = [stack.enter_context(intake.client()) for _ in range(5)]
        started_at = time.monotonic()
        for number, client in enumerate(clients):
            client.send(request("POST", "/track", event(f"held {number}")))
        assert intake.ask("GET", "/healthz").status == 200
        for client in clients:
            answer = client.answer()
            assert (answer.status, "locked" in answer.json["error"]) == (503, True)
        assert 4 < time.monotonic() - started_at < 6
        fcntl.flock(lock, fcntl.LOCK_UN)
    assert intake.ask("POST", "/track", event("after")).body == b"1"
    assert names(queue_path) == ["before", "after"]


def test_on_a_disk_that_can_not_be_written_nothing_is_promised(make, tmp_path):
    """Read-only, then writable again: the intake goes on by itself."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", disk], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        intake = make(QUEUE_PATH=f"{disk}/queue")
        intake.start()
        assert intake.ask("POST", "/track", event("before")).body == b"1"
        connection = intake.queue_path = f"{disk}/queue"
        # What has files open for writing can't be made read-only, so its disk is moved away from under it.
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", disk], check=True)
        answer = intake.ask("POST", "/track", event("during"))
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        subprocess.run(["umount", disk], check=True)
        assert intake.ask("POST", "/track", event("after")).body == b"1"
        assert names(connection) == ["before", "after"]
        intake.close()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


# Crashes and stops


class Crowd:
    """Clients that send one event after the other until they are stopped; what each was told. *pause_s*: how
    long each does something else in between.

    With *lasting* a client goes on after an error, with the next event, once `is_up` is set.
    """

    def __init__(self, connect, count=CLIENTS, pause_s=0.0, *, lasting=False):
        self._connect, self._pause_s, self._lasting = connect, pause_s, lasting
        self.accepted, self.doubtful, self.errors = [], [], []
        self.stopping, self.is_up = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _work(self, who):
        client, number = None, 0
        while not self.stopping.is_set():
            name = f"{who}-{number}"
            number += 1
            try:
                client = client or self._connect()
                answer = client.ask("POST", "/track", event(name, copy=name))
                assert answer.body == b"1"
            except (OSError, EOFError, AssertionError, http.client.HTTPException) as error:
                self.doubtful.append(name)
                self.errors.append(repr(error))
                if not self._lasting:
                    break
                if client:
                    client.close()
                client = None
                self.is_up.wait()
                continue
            self.accepted.append(name)
            self.stopping.wait(self._pause_s)
            if answer.headers.get("connection") == "close":
                client.close()
                client = None
        if client:
            client.close()

    def join(self):
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()


class LibraryClient(http.client.HTTPConnection):
    """Python's own client, which keeps its connection."""

    def ask(self, method, target, body):
        self.request(method, target, body)
        answer = self.getresponse()
        return Answer(
            answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        )


def test_what_was_promised_survives_a_kill(intake, queue_path, until):
    """SIGKILL under 64 clients: each event that a client was told of is on disk, whole and once."""
    for _ in range(3):
        crowd = Crowd(intake.client)
        until(lambda crowd=crowd: len(crowd.accepted) > 300)
        intake.process.kill()
        crowd.join()
        assert len(crowd.errors) == CLIENTS
        found = names(queue_path)
        assert len(found) == len(set(found))
        assert set(crowd.accepted) - set(found) == set()
        os.rename(queue_path, f"{queue_path}-{os.urandom(4).hex()}")
        intake.start()


def test_what_was_promised_survives_twenty_kills(intake, queue_path, until, figures):
    """SIGKILL at random moments under 16 clients, which go on once it runs again, on the same queue: what
    they were told of is on disk, whole and once, and beside it only what they were told nothing of."""
    host, port = intake.tcp
    intake.environ["FORWARDER_INTAKE_LISTEN"] = f"{host}:{port}"
    moments = random.Random(SEED)
    crowd = Crowd(lambda: LibraryClient(host, port, timeout=20), 16, lasting=True)
    try:
        for _ in range(20):
            enough = len(crowd.accepted) + moments.randrange(1, 200)
            until(lambda enough=enough: len(crowd.accepted) > enough)
            crowd.is_up.clear()
            intake.process.kill()
            intake.start()
            crowd.is_up.set()
    finally:
        crowd.stopping.set()
        crowd.is_up.set()
        crowd.join()
    assert len(crowd.errors) >= 20
    found = waiting(queue_path)
    assert [each for each in found if each["properties"]["copy"] != each["event"]] == []
    found = [each["event"] for each in found]
    assert len(found) == len(set(found)) == figures(queue_path).accepted
    assert set(crowd.accepted) - set(found) == set()
    assert set(found) - set(crowd.accepted) - set(crowd.doubtful) == set()


def test_a_restart_under_load_costs_no_client_an_error(make, queue_path, until, tmp_path):
    """With a socket that is passed as systemd does, clients wait in the kernel while nobody listens."""
    intake = make()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        place = listening.getsockname()
        intake.environ["FORWARDER_INTAKE_LISTEN"] = ""
        intake.start(listening)
        assert intake.places == [f"http://127.0.0.1:{place[1]}"]
        crowd = Crowd(lambda: Client(place), pause_s=0.02)
        for _ in range(3):
            before = len(crowd.accepted)
            until(lambda before=before: len(crowd.accepted) > before + 300)
            assert intake.process.stop() == 0
            intake.start(listening)
        before = len(crowd.accepted)
        until(lambda: len(crowd.accepted) > before + 300)
        crowd.stopping.set()
        crowd.join()
    assert crowd.errors == []
    assert sorted(names(queue_path)) == sorted(crowd.accepted)


def test_a_stop_answers_what_is_under_way_and_closes_what_is_idle(intake, queue_path):
    """Its own sockets are gone at the end, and no request of which the answer was late is lost."""
    idle, slow = intake.client(), intake.client()
    assert idle.ask("POST", "/track", event("idle")).body == b"1"
    text = request("POST", "/track", event("slow"))
    slow.send(text[:-5])
    intake.process.process.send_signal(signal.SIGTERM)
    intake.process.wait_for("intake.stopping")
    slow.send(text[-5:])
    answer = slow.answer()
    assert (answer.body, answer.headers["connection"]) == (b"1", "close")
    assert slow.socket.recv(1) == b""
    assert idle.socket.recv(1) == b""
    idle.close()
    slow.close()
    assert intake.process.process.wait(20) == 0
    assert not os.path.exists(intake.socket)
    assert names(queue_path) == ["idle", "slow"]


# Crowds


def test_slow_clients_do_not_delay_a_fast_one(intake, queue_path):
    """Two hundred send half a head or half a body, and are cut off after ten seconds or later."""
    text = request("POST", "/track", event())
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(intake.client()) for _ in range(200)]
        for number, client in enumerate(slow):
            client.send(text[:30] if number % 2 else text[:-30])
        times = []
        with intake.client() as fast:
            for number in range(200):
                started_at = time.perf_counter()
                assert fast.ask("POST", "/track", event(f"{number}")).body == b"1"
                times.append(time.perf_counter() - started_at)
        assert statistics.quantiles(times, n=100)[98] < 0.25
        answer = slow[1].answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        slow[0].send(text[-30:])
        assert slow[0].answer().body == b"1"
    assert len(names(queue_path)) == 201


def test_a_client_that_is_slow_or_idle_alone_is_cut_off(make, queue_path):
    """It needs no crowd: half a request gets its answer, and a connection without one is closed."""
    intake = make()
    times = {"connection.HEAD_S": 0.2, "connection.REQUEST_S": 0.2, "connection.IDLE_S": 0.2}
    intake.start(times={**times, "server._SWEEP_S": 0.05})
    text = request("POST", "/track", event("slow"))
    for half in (text[:30], text[:-30]):
        with intake.client() as slow:
            slow.send(half)
            assert slow.answer().status == 408
            assert slow.socket.recv(1) == b""
    with intake.client() as idle:
        assert idle.ask("POST", "/track", event("idle")).body == b"1"
        assert idle.socket.recv(1) == b""
    with intake.client() as silent:
        assert silent.socket.recv(1) == b""
    assert names(queue_path) == ["idle"]


def test_more_clients_than_it_takes_push_out_those_that_send_nothing(intake, queue_path):
    """Beyond 512 connections the slow ones go first, then the longest idle; who is being answered stays."""
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(intake.client()) for _ in range(300)]
        for client in idle:
            assert client.ask("GET", "/healthz").status == 200
        slow = [stack.enter_context(intake.client()) for _ in range(212)]
        for client in slow:
            client.send(b"POST /track HT")
        for number in range(220):
            late = stack.enter_context(intake.client())
            assert late.ask("POST", "/track", event(f"late {number}")).body == b"1"
        assert idle[-1].ask("POST", "/track", event("idle")).body == b"1"
        assert not idle[0].socket.recv(1), "the longest idle one has made room"
        for client in slow:
            with contextlib.suppress(ConnectionResetError):
                assert not client.socket.recv(1)
    assert len(names(queue_path)) == 221


def test_a_large_import_does_not_hold_up_single_events(intake, queue_path):
    """Its items are read and judged in slices between which others get their turn."""
    many = b"[" + b",".join(event(f"e{number}", text="y" * 400) for number in range(8000)) + b"]"
    times, imports, importing = [], [], threading.Event()

    def send_imports():
        with intake.client() as client:
            while len(imports) < 3 or len(times) <= 20:
                imports.append(client.ask("POST", "/import?strict=1", many).status)
        importing.set()

    sender = threading.Thread(target=send_imports)
    sender.start()
    with intake.client() as client:
        while not importing.is_set():
            started_at = time.perf_counter()
            assert client.ask("POST", "/track", event("single")).body == b"1"
            times.append(time.perf_counter() - started_at)
    sender.join()
    assert {*imports} == {200}
    # More than four single events an import, or they wait for it.
    assert len(times) > 4 * len(imports)
    assert statistics.median(times) < 0.05
    assert len(waiting(queue_path)) == 8000 * len(imports) + len(times)


# The process


def test_a_reload_takes_new_tokens_and_keeps_the_old_ones_if_they_are_wrong(make, queue_path, tmp_path):
    """No connection is closed for it."""
    file = tmp_path / "intake.toml"
    file.write_text('[intake]\ntokens = ["first"]\n')
    intake = make(CONFIG=str(file), INTAKE_TOKENS="")
    intake.start()
    with intake.client() as client:
        assert client.ask("POST", "/track", event("a", token="first")).body == b"1"
        file.write_text('[intake]\ntokens = ["second"]\nlisten = "127.0.0.1:1"\n')
        intake.process.process.send_signal(signal.SIGHUP)
        intake.process.wait_for("intake.reloaded")
        assert client.ask("POST", "/track", event(token="first")).status == 401
        assert client.ask("POST", "/track", event("b", token="second")).body == b"1"
        file.write_text("[intake]\ntokens = 5\n")
        intake.process.process.send_signal(signal.SIGHUP)
        assert "intake.tokens" in intake.process.wait_for("settings.refused")["detail"]
        assert client.ask("POST", "/track", event("c", token="second")).body == b"1"
    assert names(queue_path) == ["a", "b", "c"]


def test_the_socket_of_one_that_was_killed_is_replaced_and_no_other(intake, make):
    """It is for owner and group; one that another process listens on is left alone."""
    assert os.stat(intake.socket).st_mode & 0o777 == 0o660
    second = make(INTAKE_SOCKET=intake.socket, INTAKE_LISTEN="")
    done = subprocess.run(
        [sys.executable, "-m", "forwarder", "intake"],
        env=second.environ,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, "another process listens" in done.stderr) == (69, True)
    assert intake.ask("GET", "/healthz").status == 200
    intake.process.kill()
    assert os.path.exists(intake.socket)
    second.start()
    assert intake.ask("GET", "/healthz").status == 200


@pytest.mark.parametrize(
    ("environ", "code", "words"),
    [
        (
            {"INTAKE_TOKENS": "", "MIXPANEL_SERVICE_ACCOUNT": "me", "MIXPANEL_PROJECT_ID": "1"},
            78,
            "tokens = [",
        ),
        ({"INTAKE_TOKENS": ""}, 78, "tokens = ["),
        ({"INTAKE_SOCKET": "", "INTAKE_LISTEN": ""}, 78, "nothing to listen on"),
        ({"INTAKE_SOCKET": "/proc/nowhere/s"}, 73, "intake.socket"),
        ({"INTAKE_LISTEN": "192.0.2.1:80"}, 69, "intake.listen"),
        ({"INTAKE_TOKENS": "a b"}, 78, "not one word"),
    ],
)
def test_what_can_not_work_is_said_at_the_start(forwarder, make, environ, code, words):
    """With the exit code of its kind, and what to do."""
    intake = make(**environ)
    forwarder.environ = {name: value for name, value in intake.environ.items() if value}
    for name in ("SOCKET", "LISTEN", "TOKENS"):
        forwarder.environ.setdefault(f"FORWARDER_INTAKE_{name}", "")
    if environ.get("INTAKE_SOCKET") == "":
        config = os.path.join(intake._directory.name, "c.toml")
        with open(config, "w") as file:
            file.write('[intake]\nsocket = ""\n')
        forwarder.environ["FORWARDER_CONFIG"] = config
    done = forwarder("intake")
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr


def test_the_token_that_signs_in_is_accepted_where_no_others_are_named(make, queue_path):
    """As most installations have it."""
    intake = make(INTAKE_TOKENS="", MIXPANEL_TOKEN="signs-in")
    intake.start()
    assert intake.ask("POST", "/track", event("a", token="signs-in")).body == b"1"
    assert names(queue_path) == ["a"]


def test_a_mistake_in_other_settings_turns_no_producer_away(make, queue_path):
    """It is a warning."""
    intake = make(DELIVERY_CONNECTIONS="many")
    process = intake.start()
    assert intake.ask("POST", "/track", event("a")).body == b"1"
    assert any("delivery.connections" in line for line in process.other_output)


def test_monitoring_gets_figures_from_any_of_its_sockets(intake):
    """In Prometheus' own format, by what became of requests and records."""
    bad = b'{"properties":{"token":"%s"}}' % TOKEN.encode()
    intake.ask("POST", "/track", b"[" + event() + b"," + event() + b"," + bad + b"]")
    intake.ask("POST", "/track", bad)
    intake.ask("GET", "/nowhere")
    assert intake.ask("GET", "/healthz").body == b"ok\n"
    answer = intake.ask("GET", "/metrics")
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }
    assert found["forwarder_intake_requests_total", "/track", "200"] == 2
    assert found["forwarder_intake_requests_total", "other", "404"] == 1
    assert found["forwarder_intake_events_total", "stored"] == 2
    assert found["forwarder_intake_events_total", "dead_lettered"] == 1
    assert found["forwarder_intake_events_total", "refused"] == 1
    assert (
        found["forwarder_intake_group_events_count",] == found["forwarder_intake_commit_seconds_count",] == 1
    )
    assert found["forwarder_intake_group_events_bucket", "2.0"] == 1
    assert found["forwarder_intake_connections",] == 1


def test_the_log_says_who_was_refused_and_why_and_nothing_that_was_sent(intake):
    """Once, and not for each repetition."""
    secret, inside = "s3cr3t-key", "private-value"
    for _ in range(50):
        intake.ask(
            "POST",
            f"/track?api_key={secret}",
            event("x", token="another-project", text=inside),
            Authorization=secret,
        )
    intake.ask("POST", f"/engage?data={inside}", b'[{"$token":"","$set":{"a":"%s"}}]' % inside.encode())
    intake.ask("POST", "/track", event(inside, time=inside))
    intake.ask("GET", f"/nowhere?{secret}={inside}")
    assert intake.process.stop() == 0
    intake.process.close()
    [line] = [line for line in intake.process.logged("request.refused") if line["code"] == 401]
    assert (line["path"], line["level"]) == ("/track", "warning")
    assert f"pid {os.getpid()}" in line["peer"]
    assert "anot..." in line["reason"]
    [line] = intake.process.logged("items.malformed")
    assert (line["path"], line["count"]) == ("/engage", 1)
    whole = json.dumps(intake.process.log) + "".join(intake.process.other_output)
    for word in (secret, inside, "another-project", TOKEN):
        assert word not in whole
