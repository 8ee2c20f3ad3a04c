"""One POST over real sockets, to servers that behave and that don't."""

import gzip
import json
import socket
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forwarder import __version__
from forwarder.config import Credentials
from forwarder.delivery.wire.client import MAX_ANSWER_BYTES, Client
from forwarder.errors import ConfigError
from forwarder.records import EVENTS, PROFILES
from tests.integration.wire_server import (  # noqa: F401  three of them are fixtures
    ACCOUNT,
    SHORT_S,
    SOON_S,
    YES,
    Server,
    answering,
    basic,
    certificate_fixture,
    drip,
    http,
    make_fixture,
    reset,
    serving_fixture,
    silent,
    yes,
)

BODY = gzip.compress(b'{"event":"Test"}', mtime=0)
GZIPPED = gzip.compress(YES, mtime=0)


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
    with answering(http(200, YES, Content_Type="application/json", X_Thing="a")) as server:
        before = time.time()
        reply = make(server.url, credentials, **options).post(BODY)

    [request] = server.requests
    assert request.line == f"POST {path} HTTP/1.1"
    assert request.body == BODY
    expected = {
        "authorization": authorization,
        "content-type": "application/x-ndjson",
        "content-encoding": "gzip",
        "accept-encoding": "identity",
        "content-length": str(len(BODY)),
        "user-agent": f"mixpanel-forwarder/{__version__}",
        "host": server.host,
    }
    assert request.headers.items() >= expected.items()
    assert (reply.status, reply.body, reply.error) == (200, YES, "")
    assert reply.headers["x-thing"] == "a"
    assert before <= reply.received_at <= time.time()
    assert 0 < reply.took_s < SOON_S
    assert (reply.is_fresh, reply.is_cut, reply.place) == (True, False, server.host)


def test_updates_are_posted_without_a_key(make):
    """Each update names its project; the body is not compressed."""
    body = PROFILES.pack([b'{"$token":"t"}', b'{"$token":"u"}'])
    with answering(http(200, b"1")) as server:
        reply = make(server.url, kind=PROFILES).post(body)

    [request] = server.requests
    assert request.line == "POST /import?verbose=1&ip=0 HTTP/1.1"
    assert request.body == b'[{"$token":"t"},{"$token":"u"}]'
    assert request.headers["content-type"] == "application/json"
    assert not request.headers.keys() & {"authorization", "content-encoding"}
    assert (reply.status, reply.body) == (200, b"1")


@pytest.mark.parametrize("status", [204, 400, 401, 404, 413, 429, 500, 503, 599])
def test_every_status_is_a_reply_and_none_is_tried_again(make, status):
    """What a status means is decided elsewhere, so that even a 503 with Retry-After is sent once."""
    body = b"" if status == 204 else b'{"error":"no"}'
    with answering(http(status, body, Retry_After="1")) as server:
        reply = make(server.url).post(BODY)

    assert (reply.status, reply.body, reply.headers["retry-after"]) == (status, body, "1")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("same_host", [True, False])
def test_a_redirect_is_never_followed(make, status, same_host):
    """The key is sent to the address in the settings only."""
    with answering(http(200, YES)) as other:
        place = "/elsewhere" if same_host else f"http://user:pw@{other.host}/import"
        with answering(http(status, b"gone", Location=place)) as server:
            reply = make(server.url).post(BODY)

    assert (reply.status, reply.headers["location"], reply.body) == (status, place, b"gone")
    assert len(server.requests) == 1
    assert other.requests == []


def test_cookies_are_neither_kept_nor_sent(make):
    """No server can tie one request to another."""
    with answering(http(200, YES, Set_Cookie="id=1; Path=/")) as server:
        client = make(server.url)
        client.post(BODY)
        client.post(BODY)

    assert "cookie" not in server.requests[1].headers


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
def test_a_server_that_drips_its_answer_is_given_up_in_time(make, start, rest):
    """The time for an answer is for all of it: each byte in time doesn't make it endless."""

    def behave(connection, request):
        connection.sendall(start)
        return drip(connection, rest)

    with Server(behave) as server:
        client = make(server.url, read_timeout_s=SHORT_S)
        began = time.monotonic()
        reply = client.post(BODY)
        took_s = time.monotonic() - began

    assert reply.status is None
    assert reply.error == f"no whole answer from {server.host} in time"
    assert SHORT_S <= took_s < 4


def test_a_slow_answer_does_not_shorten_the_time_for_the_next(make):
    """Each request on a kept connection has the whole of its time."""

    def behave(connection, request):
        answer = http(200, YES)
        connection.sendall(answer[:-14])
        return drip(connection, answer[-14:])

    with Server(behave) as server:
        client = make(server.url, read_timeout_s=SHORT_S * 1.4)
        replies = [client.post(BODY) for _ in range(3)]

    assert [reply.status for reply in replies] == [200, 200, 200]
    assert server.connections == 1


def test_a_server_that_says_nothing_is_given_up_in_time(make):
    """A silent server is an error reply, not a hang."""
    with Server(silent) as server:
        reply = make(server.url, read_timeout_s=SHORT_S).post(BODY)

    assert (reply.status, reply.error) == (None, f"no whole answer from {server.host} in time")
    assert reply.is_cut


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

    with Server(behave) as server:
        reply = make(server.url).post(BODY)

    assert (reply.status, reply.body, reply.is_cut) == (None, b"", True)
    assert reply.error == f"{server.host} cut the connection before the whole answer came"
    assert reply.is_sent


def test_a_gzip_bomb_costs_no_more_memory_than_the_longest_answer(make):
    """An answer that would unpack to 64 MiB is not unpacked beyond the two that are allowed."""
    with answering(http(200, ZEROS, Content_Encoding="gzip")) as server:
        client = make(server.url)
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
        (http(200, GZIPPED + bytes(MAX_ANSWER_BYTES), Content_Encoding="gzip"), "too long"),
        (http(200, b"x", Content_Encoding="br"), "not asked for"),
        (http(200, GZIPPED, Content_Encoding="gzip, gzip"), "not asked for"),
        (http(200, YES, Content_Encoding="gzip"), "can't be decompressed"),
        (http(200, GZIPPED[:-4], Content_Encoding="gzip"), "cut off"),
    ],
    ids=range(9),
)
def test_an_answer_that_can_not_be_used_is_an_error(make, answer, told):
    """Too long, a bomb, an unknown or broken encoding: an error in words, at bounded cost."""
    with answering(answer) as server:
        reply = make(server.url).post(BODY)

    assert (reply.status, reply.body) == (None, b"")
    assert told in reply.error
    assert reply.is_cut is ("too long" in told)


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
    with answering(http(200, encoded, Content_Encoding=name)) as server:
        reply = make(server.url).post(BODY)

    assert reply.body == (YES if encoded else b"")


def test_the_longest_answer_allowed_is_read(make):
    """Two MiB are no error yet."""
    with answering(http(200, bytes(MAX_ANSWER_BYTES))) as server:
        reply = make(server.url).post(BODY)

    assert len(reply.body) == MAX_ANSWER_BYTES


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH\r\n", b"\x00\xff" * 50 + b"\r\n", b"HTTP/1.1 \r\n\r\n"])
def test_what_is_not_http_is_an_error(make, answer):
    """Another kind of server behind the address is named for what it is."""
    with answering(answer) as server:
        reply = make(server.url).post(BODY)

    assert (reply.status, reply.error) == (None, f"the answer from {server.host} is not HTTP")
    assert not reply.is_cut


# A server may send any bytes at all, and some that come near to HTTP.
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
def test_no_bytes_that_a_server_can_send_raise(make, answer):
    """Every answer is a reply with a status, or one with an error."""

    def behave(connection, request):
        connection.sendall(answer)

    with Server(behave) as server:
        client = make(server.url)
        reply = client.post(BODY)
        client.close()

    assert (reply.status is None) == bool(reply.error)
    assert reply.error.isprintable()


def test_a_refused_connection_is_an_error(make):
    """A port without a listener is an error reply."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host = f"127.0.0.1:{taken.getsockname()[1]}"
    reply = make(f"http://{host}/import").post(BODY)

    assert (reply.status, reply.error, reply.is_sent) == (None, f"{host} refused the connection", False)
    assert (reply.is_cut, reply.place) == (False, host)


def test_an_unknown_host_is_an_error(make, monkeypatch):
    """For a name that can't be resolved the message names DNS."""

    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    reply = make("https://mixpanel.invalid").post(BODY)

    told = "DNS: mixpanel.invalid:443 not found: Name or service not known"
    assert (reply.status, reply.error) == (None, told)


def test_an_error_shows_no_secret_and_no_query(make):
    """What goes to the log holds neither the key nor the project."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host = f"127.0.0.1:{taken.getsockname()[1]}"
    errors = [make(f"http://someone:hidden@{host}/import").post(BODY).error]
    with Server(silent) as server:
        errors.append(make(server.url, read_timeout_s=SHORT_S).post(BODY).error)

    for error in errors:
        assert not any(word in error for word in ("hidden", "s3cr", "project_id", "123&", "strict"))


@pytest.mark.parametrize("url", ["mixpanel", "ftp://host/import", "http://", "http://:80", "http://a:x/", ""])
def test_an_address_that_can_not_work_is_a_setting_to_correct(url):
    """A wrong address is said when the client is made, not at each try."""
    with pytest.raises(ConfigError, match=r"mixpanel\.url is not a web address"):
        Client(EVENTS, url, ACCOUNT)


def test_netrc_never_replaces_the_credentials(make, monkeypatch, tmp_path):
    """A .netrc that names the host doesn't decide who we are."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login intruder password wrong\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with answering(http(200, YES)) as server:
        make(server.url, Credentials("token", "")).post(BODY)

    assert server.requests[0].headers["authorization"] == basic("token", "")


def test_a_certificate_without_a_known_issuer_is_an_error(make, serving):
    """The key is not sent to a server that can't prove who it is."""
    with Server(yes, serving) as server:
        reply = make(server.url).post(BODY)

    assert reply.status is None
    assert reply.error.startswith(f"TLS: the certificate of {server.host} is not trusted: self")
    assert server.requests == []


def test_the_extra_ca_file_is_trusted(make, serving, certificate):
    """With ca_file the same server is believed, and its connection kept."""
    with Server(yes, serving) as server:
        client = make(server.url, ca_file=str(certificate / "cert.pem"))
        assert client.post(BODY).status == 200
        assert client.post(BODY).status == 200

    assert server.connections == 1


def test_a_certificate_for_another_name_is_an_error(make, serving, certificate):
    """Trust is in the name, not only in the signature."""
    with Server(yes, serving) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        reply = make(url, ca_file=str(certificate / "cert.pem")).post(BODY)

    assert "is not trusted: Hostname mismatch" in reply.error
    assert server.requests == []


def test_tls_to_a_server_without_it_is_an_error(make):
    """For https:// in front of a plain server the message names TLS."""
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

    with Server(behave, serving) as server:
        client = make(server.url, ca_file=str(certificate / "cert.pem"), read_timeout_s=SHORT_S)
        reply = client.post(BODY)

    assert reply.error == f"no whole answer from {server.host} in time"


@pytest.mark.parametrize(
    ("content", "told"), [(None, "No such file"), ("not PEM", "contains no certificate")]
)
def test_a_ca_file_that_can_not_be_used_is_a_setting_to_correct(tmp_path, content, told):
    """A wrong ca_file is said when the client is made."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)

    with pytest.raises(ConfigError, match=rf"mixpanel\.ca_file .*{told}"):
        Client(EVENTS, "https://mixpanel.invalid", ACCOUNT, ca_file=str(path))


def test_a_json_answer_comes_back_as_it_was_sent(make):
    """The body is bytes, untouched: what it means is decided elsewhere."""
    answer = json.dumps({"error": "é"}, ensure_ascii=False).encode("latin-1")
    with answering(http(400, answer)) as server:
        reply = make(server.url).post(BODY)

    assert reply.body == answer


@pytest.mark.parametrize("number", [100, 102, 103, 199])
def test_interim_answers_are_skipped(make, number):
    """However many come before the final answer, with or without headers, it is the one that counts."""
    interim = f"HTTP/1.1 {number} Wait\r\n".encode()
    answer = interim + b"\r\n" + interim + b"Link: </a>\r\nX: y\r\n\r\n" + interim + b"\r\n" + http(200, YES)
    with answering(answer) as server:
        client = make(server.url)
        replies = [client.post(BODY), client.post(BODY)]

    assert [(reply.status, reply.body) for reply in replies] == [(200, YES)] * 2
    assert "link" not in replies[0].headers
    assert server.connections == 1


def test_interim_answers_without_end_are_given_up_in_time(make):
    """They do not start the time for an answer again."""

    def behave(connection, request):
        while True:
            connection.sendall(b"HTTP/1.1 102 Processing\r\n\r\n")
            time.sleep(SHORT_S / 20)  # the fault itself

    with Server(behave) as server:
        reply = make(server.url, read_timeout_s=SHORT_S).post(BODY)

    assert reply.error == f"no whole answer from {server.host} in time"


@pytest.mark.parametrize("is_rude", [False, True])
def test_an_early_refusal_is_read(make, is_rude):
    """A server that refuses a large body before it has read it, and hangs up or resets, has answered."""

    def refuse():
        connection, _ = early.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(http(413, b"no"))
            connection.shutdown(socket.SHUT_WR)
            while not is_rude and connection.recv(1 << 20):
                pass

    with socket.create_server(("127.0.0.1", 0)) as early, ThreadPoolExecutor(1) as threads:
        done = threads.submit(refuse)
        client = make(f"http://127.0.0.1:{early.getsockname()[1]}/import")
        reply = client.post(bytes(20_000_000))
        client.close()
        done.result(SOON_S)

    assert (reply.status, reply.body) == (413, b"no")


def test_an_answer_may_end_with_its_connection(make):
    """Without a length it is whole when the server hangs up."""

    def behave(connection, request):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + YES)

    with Server(behave) as server:
        client = make(server.url)
        replies = [client.post(BODY), client.post(BODY)]

    assert [(reply.status, reply.body, reply.is_fresh) for reply in replies] == [(200, YES, True)] * 2


@pytest.mark.parametrize(
    "credentials", [Credentials("user", "very-secret", "1"), Credentials("project-token", "")]
)
def test_a_key_that_is_repeated_can_be_hidden(make, credentials):
    """The body comes as it was sent; the reply knows how to keep the key out of what is shown of it."""
    key = credentials.password or credentials.username
    signed = basic(credentials.username, credentials.password)
    with answering(http(401, f"bad key {key} in {signed}".encode())) as server:
        reply = make(server.url, credentials).post(BODY)

    assert reply.body.decode() == f"bad key {key} in {signed}"
    for said in (key, signed):
        assert said not in reply.hide(f"it said {said}")
    assert reply.hide("nothing secret") == "nothing secret"


def test_a_key_in_a_broken_header_is_not_logged(make, caplog):
    """No library underneath writes what a server sends, or an address with its query, to the log."""
    answer = http(401, b"no").replace(b"\r\n\r\n", b"\r\nno colon s3cr\xe2\x82\xact\r\n\r\n")
    with answering(answer) as server, caplog.at_level("DEBUG"):
        assert make(server.url).post(BODY).status == 401

    assert caplog.records == []


@pytest.mark.parametrize(("patience_s", "read_timeout_s"), [(1, SOON_S), (SOON_S, 1)])
def test_patience_is_for_one_answer_and_never_above_the_setting(make, patience_s, read_timeout_s):
    """The caller may wait less than the setting says, and not more."""
    with Server(silent) as server:
        reply = make(server.url, read_timeout_s=read_timeout_s).post(BODY, patience_s)

    assert reply.error == f"no whole answer from {server.host} in time"
    assert 1 <= reply.took_s < 1.8


def test_a_client_says_what_it_was_made_with():
    """Whoever judges a reply has to know whether it was strict."""
    assert Client(EVENTS, "http://localhost", ACCOUNT, strict=True).strict
    assert not Client(EVENTS, "http://localhost", ACCOUNT, strict=False).strict
    assert Client(EVENTS, "http://localhost", ACCOUNT).proxy == ""
