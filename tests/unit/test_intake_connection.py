"""HTTP/1.1 as the intake reads it: on a transport that a test drives byte by byte, with a door that notes."""

import time

import pytest

from forwarder.intake import connection as module
from forwarder.intake.access import UNIX
from forwarder.intake.answers import Answer
from forwarder.intake.connection import Phase
from forwarder.intake.room import LARGE_BYTES, SMALL_BYTES, Room
from tests.unit.intake_line import MOST_BODY, Line, Rules

HOST = b"Host: localhost\r\n"
POST = (
    b"POST /track?a=1 HTTP/1.1\r\nHost: localhost\r\nX-One: 1\r\nOrigin: a\r\nContent-Length: 5\r\n\r\nhello"
)
CHUNKED = (
    b"POST /import HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'2;name=value\r\nhe\r\n3;x="y;z"\r\nllo\r\n0\r\nHost: evil\r\nX-Trailer: 1\r\n\r\n'
)
OK = b"HTTP/1.1 200 OK\r\n"
CLOSE = b"Connection: close\r\n"


@pytest.fixture
def line():
    return Line()


# Reading


@pytest.mark.parametrize("text", [POST, CHUNKED])
def test_a_request_is_the_same_wherever_it_is_cut(text):
    """In two pieces at each place, and byte by byte."""
    whole = Line()
    whole.send(text)
    expected = whole.door.requests[0]
    assert expected.body == b"hello"
    assert "x-trailer" not in expected.headers
    assert expected.headers["host"] == "localhost"
    assert "x-one" not in expected.headers
    cuts = [[text[:at], text[at:]] for at in range(1, len(text))]
    for pieces in [*cuts, [text[at : at + 1] for at in range(len(text))]]:
        line = Line()
        assert line.send(*pieces).startswith(OK)
        [found] = line.door.requests
        assert (found.method, found.path, found.query) == (expected.method, expected.path, expected.query)
        assert (found.headers, found.body, found.peer) == (expected.headers, expected.body, "8.8.8.8")
        assert line.door.refusals == []


def test_requests_that_come_at_once_are_answered_one_after_the_other(line):
    """The second is not begun before the first is answered, and no more is read meanwhile."""
    line.door.answers_at_once = False
    line.send(POST + CHUNKED + b"GET /a HTTP/1.1\r\n")
    assert [path for _, path, _, _ in line.got] == ["/track"]
    assert not line.transport.reads
    line.door.waiting.pop()(Answer(200, b"first"))
    assert line.transport.take().endswith(b"first")
    assert [path for _, path, _, _ in line.got] == ["/track", "/import"]
    assert line.transport.reads
    line.door.waiting.pop()(Answer(200, b"second"))
    assert line.connection.phase is Phase.HEAD
    line.send(HOST + b"\r\n")
    assert [path for _, path, _, _ in line.got] == ["/track", "/import", "/a"]
    assert line.transport.reads


def test_thousands_of_requests_at_once_need_no_deep_stack(line):
    """Each is answered, in order."""
    count = 3000
    answers = line.send((b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n") * count)
    assert (len(line.got), answers.count(OK)) == (count, count)


@pytest.mark.parametrize(
    "target",
    [b"/a/?x=1", b"http://localhost:8088/a/?x=1", b"/a/?x=1#frag"],
)
def test_path_and_query_are_found_in_each_form_of_the_target(line, target):
    """Also in that which clients send to a proxy."""
    line.send(b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    [(_, path, query, _)] = line.got
    assert (path, query.partition(b"#")[0]) == ("/a/", b"x=1")


SMUGGLED = b"GET /evil HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Content-Length: 5\r\nContent-Length: 6\r\n", 400),
        (b"Content-Length: 5\r\nContent-Length: 5\r\n", 400),
        (b"Content-Length: 5, 6\r\n", 400),
        (b"Content-Length: +5\r\n", 400),
        (b"Content-Length: -1\r\n", 400),
        (b"Content-Length: 99999999999999999999999\r\n", 400),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400),
        (b"Transfer-Encoding: chunked, identity\r\n", 400),
        (b"Transfer-Encoding: xchunked\r\n", 400),
        (b"Content-Length : 5\r\n", 400),
        (b"Content-Length: 5\r\n X: folded\r\n", 400),
        (b"X: a\0b\r\n", 400),
        (b"X: a\rb\r\n", 400),
        (b"Host: other\r\n", 400),
    ],
)
def test_what_two_programs_could_read_differently_is_refused(line, head, status):
    """No request comes of it, nor of what follows it, and the connection ends."""
    answer = line.send(b"POST /track HTTP/1.1\r\n" + HOST + head + b"\r\nhello" + SMUGGLED, SMUGGLED)
    assert line.got == []
    assert [code for code, _ in line.door.refusals] == [status]
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert CLOSE in answer
    assert line.transport.ended


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /a HTTP/2.0\r\n" + HOST + b"\r\n", 505),
        (b"GET /a HTTP/1.1\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\n" + HOST + b"\n", 400),
        (b"CONNECT a.com:443 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (CHUNKED.replace(b"2;", b"zz;"), 400),
    ],
)
def test_other_languages_are_refused(line, text, status):
    """What is not HTTP/1.1 as it is written down gets an answer, and no request comes of it."""
    assert line.send(text).startswith(b"HTTP/1.1 %d " % status)
    assert line.got == []


def test_http_1_0_is_served(line):
    """Without a Host, and closed unless the client asks to keep it."""
    answer = line.send(b"GET /a HTTP/1.0\r\n\r\n")
    assert answer.startswith(OK)
    assert line.transport.closed


def test_an_offer_of_another_protocol_is_ignored(line):
    """Java's client offers HTTP/2 with its first request; the request is read as if it didn't."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    text = POST.replace(b"X-One: 1\r\n", offer)
    assert line.send(text + CHUNKED).count(OK) == 2
    assert [body for *_, body in line.got] == [b"hello", b"hello"]
    room = Room()
    cut = Line(room)
    assert cut.send(*(text[at : at + 1] for at in range(len(text)))).count(OK) == 1
    assert room._sizes == {}


def test_an_offer_of_another_protocol_changes_nothing_else():
    """A client that wants the connection closed, as those of HTTP/1.0 do, still gets that; what is refused
    is let go of once."""
    offer = b"Connection: Upgrade, close\r\nUpgrade: h2c\r\n"
    for text in (
        b"GET /a HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        POST.replace(b"X-One: 1\r\n", offer),
    ):
        line = Line()
        assert CLOSE in line.send(text + SMUGGLED)
        assert line.transport.closed
        assert len(line.got) == 1
    kept = Line()
    assert CLOSE not in kept.send(
        b"GET /a HTTP/1.0\r\nConnection: Upgrade, keep-alive\r\nUpgrade: h2c\r\n\r\n"
    )
    room = Room()
    refused = Line(room)
    assert refused.send(b"GET /a HTTP/1.1\r\n" + offer + b"\r\n").startswith(b"HTTP/1.1 400 ")
    assert room._sizes == {}


def test_a_refusal_behind_head_has_its_words(line):
    """Where the method of a request is not known, it is not taken to be that of the request before."""
    line.send(b"HEAD /a HTTP/1.1\r\n" + HOST + b"\r\n")
    assert line.send(b"\0").endswith(line.door.refusals[0][1].encode())


# Expect


def test_a_client_that_waits_for_leave_gets_it(line):
    """curl waits a second otherwise. One that does not wait needs none, nor does one that has sent all."""
    head = b"POST /a HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    assert line.send(head) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert line.send(b"he", b"llo").startswith(OK)
    assert line.send(head + b"hello").startswith(OK)
    assert b"Continue" not in line.send(head.replace(b"5", b"0"))
    assert b"Continue" not in line.send(head.replace(b"HTTP/1.1", b"HTTP/1.0") + b"hello")
    assert len(line.got) == 4


def test_leave_is_given_after_the_answer_to_what_came_before(line):
    """It would be read as that answer otherwise."""
    line.door.answers_at_once = False
    head = b"POST /a HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    assert line.send(POST + head) == b""
    line.door.waiting.pop()(Answer(200, b"first"))
    assert line.transport.take().endswith(b"firstHTTP/1.1 100 Continue\r\n\r\n")


def test_no_leave_is_given_for_what_is_too_large(line):
    """It is refused before its body is sent."""
    answer = line.send(
        b"POST /a HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 100001\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 413 ")


# Sizes


def test_a_line_of_a_megabyte_and_a_half_is_taken_and_no_longer_one(line):
    """An event in a query is four thirds as long as in a body."""
    long = b"/a?" + b"x" * (module.MOST_LINE_BYTES - 3)
    rest = b" HTTP/1.1\r\n" + HOST + b"\r\n"
    assert line.send(b"GET " + long, rest).startswith(OK)
    answer = line.send(b"GET " + long, b"x" + rest)
    assert answer.startswith(b"HTTP/1.1 414 ")
    assert [len(query) for _, _, query, _ in line.got] == [module.MOST_LINE_BYTES - 3]


@pytest.mark.parametrize("value", [b"x" * (64 << 10), None])
def test_a_head_of_more_than_64_kib_is_refused(line, value):
    """One long header, or many short ones."""
    lines = (
        b"X: " + value + b"\r\n" if value else b"".join(b"X-%d: %s\r\n" % (n, b"y" * 90) for n in range(700))
    )
    assert line.send(b"GET /a HTTP/1.1\r\n" + HOST + lines + b"\r\n").startswith(b"HTTP/1.1 431 ")
    assert line.got == []


@pytest.mark.parametrize(
    "begin",
    [
        b"GET /a HTTP/1.1\r\nX: ",
        b"GET /a HTTP/1.1\r\nX",
        CHUNKED.partition(b"name")[0],
        CHUNKED.partition(b"X-Trailer")[0] + b"X-Trailer: ",
    ],
)
def test_what_never_ends_is_not_kept(line, begin):
    """A header, a chunk's extension or a trailer without an end is refused."""
    line.send(begin)
    for _ in range(200):
        line.send(b"x" * (16 << 10))
    assert [status for status, _ in line.door.refusals] in ([431], [400])
    assert line.transport.ended


def test_a_body_up_to_the_limit_is_taken_and_no_larger_one():
    """By its length, before a byte of it is read; in chunks, once it is too large."""
    for size, status in ((MOST_BODY, 200), (MOST_BODY + 1, 413)):
        head = b"POST /a HTTP/1.1\r\n" + HOST
        body = b"x" * size
        lengthy, chunked = Line(), Line()
        assert lengthy.send(head + b"Content-Length: %d\r\n\r\n" % size + body).startswith(
            b"HTTP/1.1 %d " % status
        )
        in_chunks = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % size + body + b"\r\n0\r\n\r\n"
        assert chunked.send(in_chunks).startswith(b"HTTP/1.1 %d " % status)
    assert lengthy.door.refusals == [(413, f"request exceeds max limit of {MOST_BODY} bytes")]


# Ends


def test_a_client_that_asks_to_close_is_closed(line):
    """What it sends behind that request is not read."""
    answer = line.send(POST.replace(b"X-One: 1", b"Connection: close") + SMUGGLED)
    assert CLOSE in answer
    assert line.transport.closed
    assert len(line.got) == 1


def test_while_stopping_answers_say_that_the_connection_ends(line):
    """Our side ends first, and the other may still read; what it sends is dropped."""
    line.is_stopping = True
    assert CLOSE in line.send(POST)
    assert line.transport.ended
    assert not line.transport.closed
    assert line.send(POST) == b""
    assert len(line.got) == 1


def test_a_client_that_sends_no_more_still_gets_its_answer(line):
    """Half-closed, it is answered and then closed."""
    line.door.answers_at_once = False
    line.send(POST + CHUNKED)
    assert line.connection.eof_received()
    line.door.waiting.pop()(Answer(200, b"first"))
    line.door.waiting.pop()(Answer(200, b"second"))
    assert line.transport.take().count(OK) == 2
    assert line.transport.closed


def test_a_request_that_is_cut_short_is_refused(line):
    """Nothing of it is passed on."""
    assert line.send(POST[:-1]) == b""
    assert not line.connection.eof_received()
    assert line.transport.take().startswith(b"HTTP/1.1 400 ")
    assert line.got == []


def test_an_idle_client_that_leaves_is_let_go(line):
    """There is nothing to wait for."""
    line.send(POST)
    assert not line.connection.eof_received()
    line.connection.connection_lost(None)
    assert line.lost == [line.connection]


def test_an_answer_to_a_client_that_is_gone_is_dropped(line):
    """Its request is under way when it leaves."""
    line.door.answers_at_once = False
    line.send(POST)
    line.connection.connection_lost(None)
    line.door.waiting.pop()(Answer(200, b"1"))
    assert line.transport.take() == b""


def test_answers_that_nobody_reads_stop_the_next_request(line):
    """Until they are read, or for half a minute."""
    line.connection.pause_writing()
    assert line.send(POST, POST) == b""
    assert not line.transport.reads
    line.connection.check_time(time.monotonic() + module.REQUEST_S - 1)
    assert not line.transport.aborted
    line.connection.resume_writing()
    assert line.transport.take().count(OK) == 2
    assert line.transport.reads
    line.connection.pause_writing()
    line.connection.check_time(time.monotonic() + module.REQUEST_S + 1)
    assert line.transport.aborted


# Times


@pytest.mark.parametrize(
    ("sent", "limit_s", "answer"),
    [
        (b"", module.HEAD_S, b""),
        (POST[:-20], module.HEAD_S, b"HTTP/1.1 408 "),
        (POST[:-1], module.REQUEST_S, b"HTTP/1.1 408 "),
        (POST, module.IDLE_S, b""),
        (POST + POST[:9], module.HEAD_S, b"HTTP/1.1 408 "),
    ],
)
def test_what_takes_too_long_ends(sent, limit_s, answer):
    """A head, a body, and the time between two requests have their limits."""
    line = Line()
    line.send(sent)
    now = time.monotonic()
    line.connection.check_time(now + limit_s - 1)
    assert not line.transport.ended
    line.connection.check_time(now + limit_s + 1)
    assert line.transport.take().startswith(answer)
    assert line.transport.ended
    line.connection.check_time(now + limit_s + module.LINGER_S + 3)
    assert line.transport.aborted


def test_an_answer_that_takes_long_is_waited_for(line):
    """The client is not slow: it waits for the commit."""
    line.door.answers_at_once = False
    line.send(POST)
    line.connection.check_time(time.monotonic() + 1000)
    assert not line.transport.ended


def test_idle_clients_hear_a_shorter_time_than_they_have(line):
    """So that they close first, or a request could cross our close."""
    head = line.send(POST).partition(b"\r\n\r\n")[0]
    [told] = [each for each in head.split(b"\r\n") if each.startswith(b"Keep-Alive: timeout=")]
    assert int(told.partition(b"=")[2]) + 5 < module.IDLE_S == 300


# Memory


def test_when_the_house_is_full_less_is_read_and_all_come_to_their_end():
    """Of large bodies only the oldest goes on; small ones never wait; in the end, nothing is held."""
    room = Room()
    Rules.max_body_bytes = 20 << 20
    lines = [Line(room) for _ in range(4)]
    size = 16 << 20
    head = b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % size
    half = b"x" * (size // 2)
    for each in lines:
        each.door.answers_at_once = False
        each.send(head)
    for each in lines:
        each.send(half)
    assert [each.transport.reads for each in lines] == [True, False, False, False]
    small = Line(room)
    assert small.send(POST).startswith(OK)
    assert small.transport.reads
    lines[0].send(half)
    lines[0].door.waiting.pop()(Answer(200, b"1"))
    assert [each.transport.reads for each in lines[1:]] == [True, False, False]
    for each in lines[1:]:
        each.send(half)
        each.door.waiting.pop()(Answer(200, b"1"))
    assert all(each.transport.reads for each in lines)
    assert (room._sizes, room._large, room._large_bytes) == ({}, {}, 0)
    Rules.max_body_bytes = MOST_BODY


def test_what_a_client_leaves_behind_is_no_longer_held():
    """A line and a body that were never finished, too."""
    room = Room()
    line = Line(room)
    line.send(b"POST /a?" + b"x" * SMALL_BYTES + b" HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\nhello")
    assert room._large_bytes > SMALL_BYTES
    line.connection.connection_lost(None)
    assert (room._sizes, room._large_bytes) == ({}, 0)
    assert LARGE_BYTES > SMALL_BYTES


def test_a_unix_socket_has_no_address():
    """Its peer is named by its process in the log, where that is known."""
    line = Line()
    line.transport.get_extra_info = lambda name, default=None: "" if name == "peername" else None
    line.connection.connection_made(line.transport)
    line.send(POST)
    assert line.door.requests[0].peer == UNIX
