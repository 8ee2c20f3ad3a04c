"""One POST over real sockets, to far ends that behave and that don't."""

import base64
import contextlib
import gzip
import json
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forwarder import __version__
from forwarder.config import Credentials
from forwarder.delivery.client import MAX_ANSWER_BYTES, Client
from forwarder.errors import ConfigError

ACCOUNT = Credentials("user", "s3cr€t", "123")
YES = b'{"code":200,"num_records_imported":1,"status":"OK"}'
BODY = gzip.compress(b'{"event":"Test"}', mtime=0)
GZIPPED = gzip.compress(YES, mtime=0)
SHORT_S = 0.4
SOON_S = 10.0  # far above SHORT_S: what is not over by then hangs


def http(status, body=b"", **headers):
    """An answer's bytes, with its length unless headers say otherwise."""
    headers = {"Content-Length": len(body)} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + body


class Request:
    """What a client sent: the first line, the headers (lower case) and the body."""

    def __init__(self, incoming):
        self.line = incoming.readline().decode().strip()
        if not self.line:
            raise EOFError
        self.headers = {}
        while line := incoming.readline().decode().strip():
            name, value = line.split(": ", 1)
            self.headers[name.lower()] = value
        self.body = incoming.read(int(self.headers.get("content-length", 0)))


class FarEnd:
    """A server on this host that does with each request what *behave(connection, request)* does.

    *behave* returns True to go on with the next request on the same connection. *requests* holds
    all that came, *connections* how many there were.
    """

    def __init__(self, behave, context=None):
        self.behave, self.context = behave, context
        self.requests, self.connections, self.open = [], 0, []
        self.stopping = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.url = f"http{'s' if context else ''}://{self.host}/import"
        self.threads = [threading.Thread(target=self.accept)]

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            if self.stopping.is_set():
                connection.close()
                return
            self.connections += 1
            self.open.append(connection)
            self.threads.append(threading.Thread(target=self.serve, args=(connection,)))
            self.threads[-1].start()

    def serve(self, connection):
        with contextlib.suppress(OSError, EOFError), contextlib.ExitStack() as stack:
            stack.enter_context(connection)
            if self.context:
                # Wrapping leaves the plain socket empty, so that only the wrapped one can be ended.
                connection = stack.enter_context(self.context.wrap_socket(connection, server_side=True))
                self.open.append(connection)
            incoming = stack.enter_context(connection.makefile("rb"))
            while not self.stopping.is_set():
                request = Request(incoming)
                self.requests.append(request)
                if not self.behave(connection, request):
                    return

    def __enter__(self):
        self.threads[0].start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        socket.create_connection(self.listener.getsockname()).close()
        self.threads[0].join(SOON_S)
        for connection in self.open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(SOON_S)
        self.listener.close()
        assert not any(thread.is_alive() for thread in self.threads)


def answering(*answers):
    """A far end that gives these answers in turn, the last one again and again, and keeps connections."""
    left = list(answers)

    def behave(connection, request):
        connection.sendall(left.pop(0) if len(left) > 1 else left[0])
        return True

    return FarEnd(behave)


@pytest.fixture
def make():
    """Makes clients, and closes them in the end."""
    with contextlib.ExitStack() as stack:

        def make(url, credentials=ACCOUNT, **options):
            options = {"connect_timeout_s": SOON_S, "read_timeout_s": SOON_S} | options
            client = Client(url, credentials, **options)
            stack.callback(client.close)
            return client

        yield make


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    """The environment of whoever runs the tests has no say."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "NETRC"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def basic(username, password):
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("credentials", "options", "path", "authorization"),
    [
        (ACCOUNT, {}, "/import?strict=1&project_id=123&ip=0", basic("user", "s3cr€t")),
        (Credentials("token", ""), {}, "/import?strict=1&ip=0", basic("token", "")),
        (
            ACCOUNT,
            {"strict": False, "geolocate": True},
            "/import?strict=0&project_id=123",
            basic("user", "s3cr€t"),
        ),
    ],
)
def test_a_post_is_what_mixpanel_documents(make, credentials, options, path, authorization):
    """The bytes go out as they are, with the documented query, headers and Basic authentication."""
    with answering(http(200, YES, Content_Type="application/json", X_Thing="a")) as far_end:
        before = time.time()
        reply = make(far_end.url, credentials, **options).post(BODY)

    [request] = far_end.requests
    assert request.line == f"POST {path} HTTP/1.1"
    assert request.body == BODY
    expected = {
        "authorization": authorization,
        "content-type": "application/x-ndjson",
        "content-encoding": "gzip",
        "accept-encoding": "identity",
        "content-length": str(len(BODY)),
        "user-agent": f"mixpanel-forwarder/{__version__}",
        "host": far_end.host,
    }
    assert request.headers.items() >= expected.items()
    assert (reply.status, reply.body, reply.error) == (200, YES, "")
    assert reply.headers["x-thing"] == "a"
    assert before <= reply.received_at <= time.time()


@pytest.mark.parametrize("status", [204, 400, 401, 404, 413, 429, 500, 503, 599])
def test_every_status_is_a_reply_and_none_is_tried_again(make, status):
    """What a status means is decided elsewhere, so that even a 503 with Retry-After is sent once."""
    body = b"" if status == 204 else b'{"error":"no"}'
    with answering(http(status, body, Retry_After="1")) as far_end:
        reply = make(far_end.url).post(BODY)

    assert (reply.status, reply.body, reply.headers["retry-after"]) == (status, body, "1")
    assert len(far_end.requests) == 1


def test_a_connection_is_kept_for_the_next_request(make):
    """Many requests need one connection; each has its own body."""
    with answering(http(200, YES)) as far_end:
        client = make(far_end.url)
        for number in range(5):
            assert client.post(b"%d" % number).status == 200

    assert far_end.connections == 1
    assert [request.body for request in far_end.requests] == [b"0", b"1", b"2", b"3", b"4"]


def test_threads_share_a_client_and_each_gets_its_own_answer(make):
    """Ten requests at once are ten connections, kept, and no answer goes to another's question."""
    together = threading.Barrier(10)

    def echo(connection, request):
        together.wait(SOON_S)
        connection.sendall(http(200, request.body))
        return True

    with FarEnd(echo) as far_end, ThreadPoolExecutor(10) as threads:
        client = make(far_end.url, connections=10)
        bodies = [b"%d" % number for number in range(10)]
        rounds = [list(threads.map(client.post, bodies)) for _ in range(10)]

    assert all([reply.body for reply in replies] == bodies for replies in rounds)
    assert far_end.connections == 10


def test_a_kept_connection_that_was_closed_is_replaced_at_once(make):
    """A far end that hangs up between two requests costs no try."""
    second = threading.Event()

    def behave(connection, request):
        if second.is_set() and len(far_end.requests) == 2:
            return False  # hangs up on a request that is already under way
        connection.sendall(http(200, YES))
        return True

    with FarEnd(behave) as far_end:
        client = make(far_end.url)
        assert client.post(b"1").status == 200
        second.set()
        assert client.post(b"2").status == 200

    assert [request.body for request in far_end.requests] == [b"1", b"2", b"2"]
    assert far_end.connections == 2


def test_a_new_connection_that_is_closed_is_an_error_at_once(make):
    """A far end that never answers is not asked twice."""
    with FarEnd(lambda connection, request: False) as far_end:
        reply = make(far_end.url).post(BODY)

    assert reply.status is None
    assert reply.error == f"{far_end.host} cut the connection before the whole answer came"
    assert len(far_end.requests) == 1


def test_a_connection_made_anew_is_not_taken_for_a_kept_one(make):
    """After the far end ended a connection in good order, the next one's failure is a failure."""

    def behave(connection, request):
        if len(far_end.requests) == 1:
            connection.sendall(http(200, YES, Connection="close"))
        return False

    with FarEnd(behave) as far_end:
        client = make(far_end.url)
        replies = [client.post(b"1"), client.post(b"2")]

    assert [reply.status for reply in replies] == [200, None]
    assert [request.body for request in far_end.requests] == [b"1", b"2"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("same_host", [True, False])
def test_a_redirect_is_never_followed(make, status, same_host):
    """The key goes to nobody but the address in the settings."""
    with answering(http(200, YES)) as other:
        place = "/elsewhere" if same_host else f"http://user:pw@{other.host}/import"
        with answering(http(status, b"gone", Location=place)) as far_end:
            reply = make(far_end.url).post(BODY)

    assert (reply.status, reply.headers["location"], reply.body) == (status, place, b"gone")
    assert len(far_end.requests) == 1
    assert other.requests == []


def test_cookies_are_neither_kept_nor_sent(make):
    """No far end can tie one request to another, or fill this host's memory with them."""
    with answering(http(200, YES, Set_Cookie="id=1; Path=/")) as far_end:
        client = make(far_end.url)
        client.post(BODY)
        client.post(BODY)

    assert "cookie" not in far_end.requests[1].headers
    assert len(client._session.cookies) == 0


def drip(connection, data):
    """Sends one byte every few milliseconds, until the other side has had enough."""
    for byte in data:
        connection.sendall(bytes([byte]))
        time.sleep(SHORT_S / 20)  # the fault itself, not a wait for something
    return True


@pytest.mark.parametrize(
    ("start", "rest"),
    [
        (b"", http(200, b"x" * 1000)),
        (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 1000),
        (http(200, Content_Length=10_000), b"x" * 10_000),
        (http(200, Transfer_Encoding="chunked", Content_Length=""), b"1\r\nx\r\n" * 1000),
        (http(302, Content_Length=10_000, Location="/"), b"x" * 10_000),
        (http(200, Connection="close").replace(b"Content-Length: 0\r\n", b""), b"x" * 10_000),
    ],
    ids=["status line", "headers", "body", "chunks", "redirect", "no length"],
)
def test_a_far_end_that_drips_its_answer_is_given_up_in_time(make, start, rest):
    """The time for an answer is for all of it: each byte in time doesn't make it endless."""

    def behave(connection, request):
        connection.sendall(start)
        return drip(connection, rest)

    with FarEnd(behave) as far_end:
        client = make(far_end.url, read_timeout_s=SHORT_S)
        began = time.monotonic()
        reply = client.post(BODY)
        took_s = time.monotonic() - began

    assert reply.status is None
    assert reply.error == f"no whole answer from {far_end.host} in time"
    assert SHORT_S <= took_s < 4


def test_a_slow_answer_does_not_shorten_the_time_for_the_next(make):
    """Each request on a kept connection has the whole of its time."""

    def behave(connection, request):
        answer = http(200, YES)
        connection.sendall(answer[:-14])
        return drip(connection, answer[-14:])

    with FarEnd(behave) as far_end:
        client = make(far_end.url, read_timeout_s=SHORT_S * 1.4)
        replies = [client.post(BODY) for _ in range(3)]

    assert [reply.status for reply in replies] == [200, 200, 200]
    assert far_end.connections == 1


def silent(connection, request):
    """Never answers; ends when the client does."""
    connection.recv(1)


def test_a_far_end_that_says_nothing_is_given_up_in_time(make):
    """A silent far end is an error reply, not a hang."""
    with FarEnd(silent) as far_end:
        reply = make(far_end.url, read_timeout_s=SHORT_S).post(BODY)

    assert (reply.status, reply.error) == (None, f"no whole answer from {far_end.host} in time")


def test_a_far_end_that_does_not_read_is_given_up_in_time(make):
    """Sending ends in time too, when the other side takes nothing."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/import"
        reply = make(url, read_timeout_s=SHORT_S).post(bytes(64 * 1024 * 1024))

    assert reply.status is None
    assert reply.error.endswith("in time")


def test_a_large_body_on_a_slow_line_has_more_than_the_connect_timeout(make):
    """The connect timeout is for connecting: sending may take longer."""
    size = 8 * 1024 * 1024
    with socket.create_server(("127.0.0.1", 0)) as slow, ThreadPoolExecutor(1) as threads:

        def read_slowly():
            connection, _ = slow.accept()
            with connection:
                connection.settimeout(SOON_S)
                time.sleep(SHORT_S * 2)  # the fault itself
                left = size
                while left > 0:
                    left -= len(connection.recv(1 << 20))
                connection.sendall(http(200, YES))
                connection.recv(1)

        done = threads.submit(read_slowly)
        client = make(f"http://127.0.0.1:{slow.getsockname()[1]}/import", connect_timeout_s=SHORT_S)
        reply = client.post(bytes(size))
        client.close()
        done.result(SOON_S)

    assert (reply.status, reply.error) == (200, "")


def reset(connection):
    """Ends a connection with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"HTTP/1.1 20",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1",
        http(200, YES)[:-1],
        http(200, b"3\r\nabc\r\n", Transfer_Encoding="chunked").replace(b"Content-Length: 8\r\n", b""),
    ],
    ids=["nothing", "status line", "headers", "body", "chunks"],
)
@pytest.mark.parametrize("end", [reset, lambda connection: None], ids=["reset", "close"])
def test_a_cut_off_answer_is_an_error(make, part, end):
    """Half an answer is never taken for a whole one."""

    def behave(connection, request):
        connection.sendall(part)
        end(connection)

    with FarEnd(behave) as far_end:
        reply = make(far_end.url).post(BODY)

    assert reply.status is None
    assert reply.body == b""
    assert far_end.host in reply.error


def test_a_gzip_bomb_costs_no_more_memory_than_the_longest_answer(make):
    """An answer that would unpack to 64 MiB is not unpacked beyond the two that are allowed."""
    with answering(http(200, ZEROS, Content_Encoding="gzip")) as far_end:
        client = make(far_end.url)
        tracemalloc.start()
        try:
            reply = client.post(BODY)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert "too long" in reply.error
    assert peak_bytes < 4 * MAX_ANSWER_BYTES


ZEROS = gzip.compress(bytes(MAX_ANSWER_BYTES * 16), mtime=0)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (http(200, bytes(MAX_ANSWER_BYTES + 1)), "too long"),
        (http(302, bytes(MAX_ANSWER_BYTES + 1), Location="/"), "HTTP 302 with an answer too long"),
        (http(200, ZEROS, Content_Encoding="gzip"), "too long"),
        (http(302, ZEROS, Content_Encoding="gzip", Location="/"), "too long"),
        (http(200, b"x", Content_Encoding="br"), "not asked for"),
        (http(200, GZIPPED, Content_Encoding="gzip, gzip"), "not asked for"),
        (http(200, YES, Content_Encoding="gzip"), "can't be decompressed"),
        (http(200, GZIPPED[:-4], Content_Encoding="gzip"), "cut off"),
    ],
    ids=range(8),
)
def test_an_answer_that_can_not_be_used_is_an_error(make, answer, told):
    """Too long, a bomb, an unknown or broken encoding: an error in words, at bounded cost."""
    with answering(answer) as far_end:
        reply = make(far_end.url).post(BODY)

    assert (reply.status, reply.body) == (None, b"")
    assert told in reply.error


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("gzip", GZIPPED),
        ("X-Gzip", GZIPPED),
        ("deflate", zlib.compress(YES)),
        ("identity", YES),
        ("", YES),
        ("gzip", b""),
    ],
    ids=range(6),
)
def test_an_encoded_answer_is_decoded(make, name, encoded):
    """A proxy that compresses although it wasn't asked to is understood."""
    with answering(http(200, encoded, Content_Encoding=name)) as far_end:
        reply = make(far_end.url).post(BODY)

    assert reply.body == (YES if encoded else b"")


def test_the_longest_answer_allowed_is_read(make):
    """Four MiB are no error yet."""
    with answering(http(200, bytes(MAX_ANSWER_BYTES))) as far_end:
        reply = make(far_end.url).post(BODY)

    assert len(reply.body) == MAX_ANSWER_BYTES


def test_the_end_of_an_interim_answer_is_not_taken_for_the_next_ones(make):
    """After a 103 the connection is not used again: the late 200 belongs to the first request."""
    with answering(b"HTTP/1.1 103 Early Hints\r\n\r\n", http(200, b"second")) as far_end:
        client = make(far_end.url)
        first, second = client.post(b"1"), client.post(b"2")

    assert (first.status, second.body) == (103, b"second")
    assert far_end.connections == 2


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH\r\n", b"\x00\xff" * 50 + b"\r\n", b"HTTP/1.1 \r\n\r\n"])
def test_what_is_not_http_is_an_error(make, answer):
    """Another kind of server behind the address is named for what it is."""
    with answering(answer) as far_end:
        reply = make(far_end.url).post(BODY)

    assert (reply.status, reply.error) == (None, f"what {far_end.host} answered is not HTTP")


# A far end may send any bytes at all, and some that come near to HTTP.
parts = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n",
        b"HTTP/9.9 1000 \r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: -5, 7\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Encoding: gzip\r\n",
        b"Set-Cookie: a=b; expires=never; domain=\xff\r\n",
        b": nameless\r\n",
        b" folded\r\n",
        b"\r\n",
        b"5\r\nabcde\r\n",
        b"-1\r\n",
        b"ffffffffffffffffff\r\n",
        b"0\r\n\r\n",
        b"\x1f\x8b\x08",
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(parts | st.binary(max_size=10), max_size=8).map(b"".join))
def test_no_bytes_that_a_far_end_can_send_raise(make, answer):
    """Every answer is a reply with a status, or one with an error."""

    def behave(connection, request):
        connection.sendall(answer)

    with FarEnd(behave) as far_end:
        client = make(far_end.url)
        reply = client.post(BODY)
        client.close()

    assert (reply.status is None) == bool(reply.error)
    assert reply.error.isprintable()


def test_a_refused_connection_is_an_error(make):
    """Nobody listening is told as that."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host = f"127.0.0.1:{taken.getsockname()[1]}"
    reply = make(f"http://{host}/import").post(BODY)

    assert (reply.status, reply.error) == (None, f"{host} refused the connection")


def test_an_unknown_host_is_an_error(make, monkeypatch):
    """A name that can't be resolved is told as DNS's fault."""

    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    reply = make("https://mixpanel.invalid").post(BODY)

    told = "DNS: mixpanel.invalid:443 can't be found: Name or service not known"
    assert (reply.status, reply.error) == (None, told)


def test_an_error_shows_no_secret_and_no_query(make):
    """What goes to the log holds neither the key nor the project."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host = f"127.0.0.1:{taken.getsockname()[1]}"
    errors = [make(f"http://someone:hidden@{host}/import").post(BODY).error]
    with FarEnd(silent) as far_end:
        errors.append(make(far_end.url, read_timeout_s=SHORT_S).post(BODY).error)

    for error in errors:
        assert not any(word in error for word in ("hidden", "s3cr", "project_id", "123&", "strict"))


@pytest.mark.parametrize("url", ["mixpanel", "ftp://host/import", "http://", "http://:80", "http://a:x/", ""])
def test_an_address_that_can_not_work_is_a_setting_to_correct(url):
    """A wrong address is said when the client is made, not at each try."""
    with pytest.raises(ConfigError, match=r"mixpanel\.url is not a web address"):
        Client(url, ACCOUNT)


def test_netrc_never_replaces_the_credentials(make, monkeypatch, tmp_path):
    """A .netrc that names the host doesn't decide who we are."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login intruder password wrong\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with answering(http(200, YES)) as far_end:
        make(far_end.url, Credentials("token", "")).post(BODY)

    assert far_end.requests[0].headers["authorization"] == basic("token", "")


def test_a_proxy_from_the_environment_is_used(make, monkeypatch):
    """HTTP_PROXY and its like work as everywhere."""
    with answering(http(200, YES)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
        reply = make("http://mixpanel.invalid/import").post(BODY)

    assert reply.status == 200
    assert proxy.requests[0].line.startswith("POST http://mixpanel.invalid/import?strict=1")


def test_the_time_for_an_answer_holds_through_a_proxy(make, monkeypatch):
    """A proxy that drips is given up like a far end that does."""

    def behave(connection, request):
        return drip(connection, http(200, b"x" * 1000))

    with FarEnd(behave) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
        began = time.monotonic()
        reply = make("http://mixpanel.invalid/import", read_timeout_s=SHORT_S).post(BODY)

    assert reply.error == "no whole answer from mixpanel.invalid:80 in time"
    assert time.monotonic() - began < 4


def test_a_proxy_that_refuses_the_tunnel_is_an_error(make, monkeypatch):
    """A proxy that wants a login is told as that, and never sees the key."""
    with answering(http(407, b"", Connection="close")) as proxy:
        monkeypatch.setenv("https_proxy", f"http://{proxy.host}")
        reply = make("https://mixpanel.invalid/import").post(BODY)

    assert reply.status is None
    assert reply.error == "mixpanel.invalid:443: Tunnel connection failed: 407 Whatever"
    assert "authorization" not in proxy.requests[0].headers


def test_a_proxy_is_not_used_for_a_far_end_on_this_host(make, monkeypatch):
    """The sandbox on loopback is reached, whatever the environment says."""
    with answering(http(200, YES)) as far_end, answering(http(502)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
        reply = make(far_end.url).post(BODY)

    assert reply.status == 200
    assert proxy.requests == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-made certificate for 127.0.0.1 and localhost, with its key in the same file."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed, so that there is no certificate to serve with")
    path = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=far-end -keyout key.pem -out cert.pem"
    )
    extensions = [
        "-addext",
        "subjectAltName=IP:127.0.0.1,DNS:mixpanel.invalid",
        "-addext",
        "keyUsage=critical,digitalSignature,keyCertSign",
    ]
    subprocess.run([*command.split(), *extensions], cwd=path, check=True, capture_output=True)
    return path


@pytest.fixture
def serving(certificate):
    """A TLS context for a far end."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    return context


def yes(connection, request):
    connection.sendall(http(200, YES))
    return True


def test_a_certificate_that_nobody_vouches_for_is_an_error(make, serving):
    """The key is not sent to a far end that can't prove who it is."""
    with FarEnd(yes, serving) as far_end:
        reply = make(far_end.url).post(BODY)

    assert reply.status is None
    assert reply.error.startswith(f"TLS: the certificate of {far_end.host} is not trusted: self")
    assert far_end.requests == []


def test_the_extra_ca_file_is_trusted(make, serving, certificate):
    """With ca_file the same far end is believed, and its connection kept."""
    with FarEnd(yes, serving) as far_end:
        client = make(far_end.url, ca_file=str(certificate / "cert.pem"))
        assert client.post(BODY).status == 200
        assert client.post(BODY).status == 200

    assert far_end.connections == 1


def test_a_certificate_for_another_name_is_an_error(make, serving, certificate):
    """Trust is in the name, not only in the signature."""
    with FarEnd(yes, serving) as far_end:
        url = far_end.url.replace("127.0.0.1", "localhost")
        reply = make(url, ca_file=str(certificate / "cert.pem")).post(BODY)

    assert "is not trusted: Hostname mismatch" in reply.error
    assert far_end.requests == []


def test_tls_goes_through_a_tunnel_with_the_extra_ca_file(make, monkeypatch, serving, certificate):
    """Behind a proxy the far end proves itself in the same way."""

    def tunnel(connection, request):
        connection.sendall(http(200, b"").replace(b"Content-Length: 0\r\n", b""))
        with serving.wrap_socket(connection, server_side=True) as inside, inside.makefile("rb") as incoming:
            proxy.requests.append(Request(incoming))
            yes(inside, None)

    with FarEnd(tunnel) as proxy:
        monkeypatch.setenv("https_proxy", f"http://{proxy.host}")
        reply = make("https://mixpanel.invalid/import", ca_file=str(certificate / "cert.pem")).post(BODY)

    assert reply.status == 200
    assert [request.line.split()[0] for request in proxy.requests] == ["CONNECT", "POST"]
    assert "authorization" not in proxy.requests[0].headers


def test_tls_to_a_far_end_without_it_is_an_error(make):
    """https:// in front of a plain server is told as TLS's failure."""
    with socket.create_server(("127.0.0.1", 0)) as plain, ThreadPoolExecutor(1) as threads:

        def answer():
            connection, _ = plain.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(http(400))

        host = f"127.0.0.1:{plain.getsockname()[1]}"
        done = threads.submit(answer)
        reply = make(f"https://{host}/import").post(BODY)
        done.result(SOON_S)

    assert reply.status is None
    assert reply.error.startswith(f"TLS with {host} failed: ")


def test_a_tls_answer_that_drips_is_given_up_in_time(make, serving, certificate):
    """The time for a whole answer holds over TLS."""

    def behave(connection, request):
        return drip(connection, http(200, b"x" * 1000))

    with FarEnd(behave, serving) as far_end:
        client = make(far_end.url, ca_file=str(certificate / "cert.pem"), read_timeout_s=SHORT_S)
        reply = client.post(BODY)

    assert reply.error == f"no whole answer from {far_end.host} in time"


@pytest.mark.parametrize(("content", "told"), [(None, "No such file"), ("not PEM", "no certificate in it")])
def test_a_ca_file_that_can_not_be_used_is_a_setting_to_correct(tmp_path, content, told):
    """A wrong ca_file is said when the client is made."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)

    with pytest.raises(ConfigError, match=rf"mixpanel\.ca_file .*{told}"):
        Client("https://mixpanel.invalid", ACCOUNT, ca_file=str(path))


def test_a_json_answer_comes_back_as_it_was_sent(make):
    """The body is bytes, untouched: what it means is decided elsewhere."""
    answer = json.dumps({"error": "é"}, ensure_ascii=False).encode("latin-1")
    with answering(http(400, answer)) as far_end:
        reply = make(far_end.url).post(BODY)

    assert reply.body == answer


@pytest.mark.parametrize(
    "credentials", [Credentials("user", "very-secret", "1"), Credentials("project-token", "")]
)
def test_a_key_that_is_repeated_does_not_come_in(make, credentials):
    """A far end that puts the key into its answer, plain or as it was signed, gets it into no log."""
    key = credentials.password or credentials.username
    signed = basic(credentials.username, credentials.password)
    with answering(http(401, f"bad key {key} in {signed}".encode())) as far_end:
        reply = make(far_end.url, credentials).post(BODY)

    assert reply.body == b"bad key (secret) in Basic (secret)"
