"""Fuzzed bytes on a connection of the intake: whatever comes in, each whole request is answered once and in
order, and nothing raises; and a fuzzed payload is refused, or its items are the client's own bytes.

``FORWARDER_CRASH_S=60`` tries 61 times as many.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import gzip
import http.client
import io
import json
import os
import zlib
from typing import NamedTuple
from urllib.parse import quote, quote_plus, unquote_to_bytes

from hypothesis import example, given, settings
from hypothesis import strategies as st

from forwarder.intake.answers import Answer
from forwarder.intake.payload import RefusedError, read
from tests.unit.intake_line import Door, Line, Room

# Read before the tests take this host's settings away.
MORE = 1 + int(float(os.environ.get("FORWARDER_CRASH_S") or 0))
MOST_BYTES = 2000


# A connection


class Sent(NamedTuple):
    """A valid request as it is sent, and what must be read of it. *closes*: it is the last one."""

    text: bytes
    method: str
    path: str
    query: bytes
    body: bytes
    closes: bool


bodies = st.sampled_from(
    [b"", b"[]", b"data=e30%3D", b"x" * 300, b"GET / HTTP/1.1\r\n\r\n", b"\0\xff\r\n0\r\n"]
)
headers = st.lists(
    st.sampled_from(
        [
            b"Expect: 100-continue",
            b"Content-Encoding: gzip",
            b"Content-Type: text/plain",
            b"X-Odd:  \xe9 ",
            b"Origin: a",
            b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings",
        ]
    ),
    max_size=2,
    unique=True,
)


@st.composite
def requests(draw):
    """A request in one of the forms that clients send."""
    method, path = draw(st.sampled_from(["POST", "GET", "HEAD", "PUT"])), draw(st.sampled_from("abc"))
    query = draw(st.sampled_from([b"", b"data=e30=", b"a=%00&&b"]))
    body = draw(bodies) if method in ("POST", "PUT") else b""
    is_old, closes = draw(st.sampled_from([(False, False)] * 5 + [(True, True), (False, True)]))
    target = draw(st.sampled_from([b"/", b"http://localhost/"])) + path.encode() + (query and b"?" + query)
    lines = [b"%s %s HTTP/1.%d" % (method.encode(), target, not is_old), b"Host: localhost", *draw(headers)]
    lines += [b"Connection: close"] if closes and not is_old else []
    if body and not is_old and draw(st.booleans()):
        lines.append(b"Transfer-Encoding: chunked")
        cut = draw(st.integers(1, len(body)))
        pieces = [piece for piece in (body[:cut], body[cut:]) if piece]
        mark, end = draw(st.sampled_from([(b"", b""), (b';a="b;c"', b""), (b"", b"X-Trailer: 1\r\n")]))
        sent = b"".join(b"%x%s\r\n%s\r\n" % (len(piece), mark, piece) for piece in pieces)
        sent += b"0" + mark + b"\r\n" + end + b"\r\n"
    else:
        lines += [b"Content-Length: %d" % len(body)] if body or method == "POST" else []
        sent = body
    text = b"\r\n".join([*lines, b"", b""]) + sent
    return Sent(text, method, f"/{path}", query, body, closes)


class Numbering(Door):
    """Answers the nth request with its number; knows which method a refused one had, if it came that far."""

    refused_method = ""

    def refuse(self, request, status, words):
        if request.path:
            self.refused_method = request.method
        return super().refuse(request, status, words)

    def answer(self, request, respond):
        number = len(self.requests)
        self.requests.append(request)
        answer = Answer(200, b"%d" % number)
        if self.answers_at_once:
            respond(answer)
        else:
            self.waiting.append(lambda: respond(answer))


EVENTS = ("answer", "full", "drained", "later", "at once")


def driven(pieces):
    """A line on which all of *pieces* came, bytes and `EVENTS`; in the end the client has left."""
    room = Room()
    line = Line(room, Numbering())
    is_full = False
    for piece in pieces:
        if isinstance(piece, bytes):
            line.connection.received(piece)
        elif piece == "answer" and line.door.waiting:
            line.door.waiting.pop()()
        elif piece in ("full", "drained") and is_full != (piece == "full"):
            is_full = not is_full
            (line.connection.pause_writing if is_full else line.connection.resume_writing)()
        elif piece in ("later", "at once"):
            line.door.answers_at_once = piece == "at once"
    if not line.transport.closed:
        stays = line.connection.eof_received()
        if is_full:
            line.connection.resume_writing()
        while line.door.waiting:
            assert stays, "a request is being answered"
            assert len(line.door.waiting) == 1, "one at a time"
            line.door.waiting.pop()()
    assert line.door.waiting == []
    assert (room._sizes, room._large_bytes) == ({}, 0), "what was read is let go"
    line.connection.connection_lost(None)
    return line


class _Socket(io.BytesIO):
    """What was written, as `http.client` wants it."""

    def makefile(self, *_arguments, **_options):
        return self

    def close(self):
        """Not yet: answers follow."""


def answers(line):
    """Status and body of each answer, interim ones apart; all that was written is answers."""
    written = _Socket(line.transport.written)
    methods = [request.method for request in line.door.requests]
    found, interim = [], 0
    while written.tell() < len(written.getvalue()):
        if written.getvalue().startswith(b"HTTP/1.1 100 Continue\r\n\r\n", written.tell()):
            written.seek(25, io.SEEK_CUR)
            interim += 1
            continue
        method = methods[len(found)] if len(found) < len(methods) else line.door.refused_method
        response = http.client.HTTPResponse(written, method=method)
        response.begin()
        assert response.getheader("Content-Length") is not None
        found.append((response.status, response.read(), response.getheader("Connection")))
    return found, interim


def check(line):
    """Each request that was passed on is answered once, in order, and at most one refusal ends it all."""
    found, interim = answers(line)
    count, refused = len(line.door.requests), len(line.door.refusals)
    assert refused <= 1
    assert [status for status, _, _ in found] == [200] * count + [status for status, _ in line.door.refusals]
    for number, (request, (_, body, _)) in enumerate(zip(line.door.requests, found, strict=False)):
        assert body == (b"" if request.method == "HEAD" else b"%d" % number)
    assert interim <= count + refused
    ends = [ending for _, _, ending in found]
    assert "close" not in ends[:-1]
    return found


def got(line):
    return [(each.method, each.path, each.query, each.body) for each in line.door.requests]


def expected(sent):
    """What must be read of them: all up to the first that is the last of its connection."""
    found = []
    for each in sent:
        found.append((each.method, each.path, each.query, each.body))
        if each.closes:
            break
    return found


def cut(draw, text):
    """*text* in pieces, with events in between."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = []
    for start, end in zip([0, *places], [*places, len(text)], strict=True):
        pieces += draw(st.lists(st.sampled_from(EVENTS), max_size=2))
        pieces += [text[start:end]] if end > start else []
    return pieces


@settings(max_examples=120 * MORE, deadline=None)
@given(st.data())
def test_each_whole_request_is_answered_once_and_in_order(data):
    """However the bytes are cut, and whenever answers are ready and can be written."""
    sent = data.draw(st.lists(requests(), min_size=1, max_size=4))
    line = driven(cut(data.draw, b"".join(each.text for each in sent)))
    assert got(line) == expected(sent)
    assert line.door.refusals == []
    check(line)


SPICE = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"\0",
    b"\xff",
    b":",
    b" ",
    b"9",
    b"-1",
    b"HTTP/1.1",
]
SPICE += [
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: b\r\n",
    b"Connection: close\r\n",
]
SPICE += [
    b"Upgrade: a\r\nConnection: upgrade\r\n",
    b"Expect: 100-continue\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n\r\n",
]


@st.composite
def damaged(draw):
    """Requests, their text with some damage, and where this begins."""
    sent = draw(st.lists(requests(), min_size=1, max_size=3))
    text = bytearray(b"".join(each.text for each in sent))
    first = len(text)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(start + draw(st.sampled_from([0, 0, 1, 2, 30])), len(text))
        new = draw(
            st.sampled_from(SPICE) | st.binary(max_size=4) | st.just(bytes(text[start:end]) * 2)
        )  # the last one: bytes that come twice
        text[start:end] = new
        first = min(first, start)
    return sent, bytes(text), first


@settings(max_examples=250 * MORE, deadline=None)
@given(damaged(), st.data())
def test_damage_is_refused_once_and_spoils_nothing_before_it(found, data):
    """Requests before the damage are answered as ever; the same is read, however the bytes are cut."""
    sent, text, first = found
    line = driven(cut(data.draw, text))
    check(line)
    whole, at = [], 0
    for each in sent:
        at += len(each.text)
        if at <= first:
            whole.append(each)
    assert got(line)[: len(whole)] == expected(whole)
    at_once = driven([text])
    check(at_once)
    assert got(at_once) == got(line)
    assert [status for status, _ in at_once.door.refusals] == [status for status, _ in line.door.refusals]


@settings(max_examples=60 * MORE, deadline=None)
@given(st.binary(max_size=200) | st.lists(st.sampled_from(SPICE), max_size=20).map(b"".join), st.data())
def test_any_bytes_are_answered_in_http(text, data):
    """Or not at all."""
    check(driven(cut(data.draw, text)))


# A payload

texts = st.text(st.sampled_from('aé>?~/+ &=%"\\\n🐍'), max_size=8)
objects = st.dictionaries(texts, texts | st.integers() | st.none(), max_size=3)


def coded(text, form):
    """*text* as the value of ``data``, as an SDK writes it."""
    return {
        "raw": base64.b64encode(text),
        "base64": quote(base64.b64encode(text).decode(), safe="").encode(),
        "lines": quote(base64.encodebytes(text).decode(), safe="").encode(),
        "url-safe": base64.urlsafe_b64encode(text).rstrip(b"="),
        "plain": quote(text, safe="").encode(),
        "plus": quote_plus(text).encode(),
        "lower case": b"".join(b"%%%02x" % byte for byte in text),
    }[form]


FORMS = ("raw", "base64", "lines", "url-safe", "plain", "plus", "lower case")


@st.composite
def payloads(draw):
    """Items, and query, headers and body that bring them in one of the forms of SDKs."""
    items = [json.dumps(each).encode() for each in draw(st.lists(objects, min_size=1, max_size=3))]
    text = draw(st.sampled_from([b"[%s]" % b" , ".join(items), b"\n".join(items)]))
    query, body = b"verbose=1", text
    where, form = draw(st.sampled_from(["body", "query", "form"])), draw(st.sampled_from(FORMS))
    if where == "query":
        query, body = b"ip=1&data=" + coded(text, form), b""
    elif where == "form":
        body = draw(st.sampled_from([b"data=%s", b"a=1&data=%s&data=no", b"\r\nd%%61ta=%s\r\n"])) % coded(
            text, form
        )
    found = {}
    if draw(st.booleans()) and body:
        found["content-encoding"] = draw(st.sampled_from(["gzip", " X-GZIP"]))
        body = gzip.compress(body)
    return items, query, found, body


@settings(max_examples=150 * MORE, deadline=None)
@given(payloads())
def test_items_come_out_as_they_were_written(found):
    """In whatever form they came."""
    items, query, headers, body = found
    assert read(query, headers, body, MOST_BYTES).items == items


@st.composite
def damaged_payloads(draw):
    """The same with some damage."""
    _, query, headers, body = draw(payloads())
    spoiled = []
    for text in (query, body):
        data = bytearray(text)
        for _ in range(draw(st.integers(0, 2))):
            start = draw(st.integers(0, len(data)))
            end = min(start + draw(st.integers(0, 3)), len(data))
            spice = [
                b"&",
                b"=",
                b"%",
                b"%2",
                b"%7b",
                b"+",
                b"[",
                b"]",
                b"{",
                b"\n{",
                b",",
                b'"',
                b"\\",
                b"data=",
            ]
            data[start:end] = draw(st.sampled_from(spice) | st.binary(max_size=3))
        spoiled.append(bytes(data))
    names = st.sampled_from(["", "gzip", "identity", "br"])
    headers = headers | ({"content-encoding": draw(names)} if draw(st.integers(0, 9)) == 9 else {})
    return spoiled[0], headers, spoiled[1]


def readings(query, headers, body):
    """All texts that items may be taken from: the body, and each field ``data``, decoded."""
    texts = [body]
    if "gzip" in headers.get("content-encoding", "").lower():
        unpacking = zlib.decompressobj(31)
        try:
            texts = [body := unpacking.decompress(body, 1 << 20)]
        except zlib.error:
            texts = []
    for field in [*query.split(b"&"), *body.split(b"&")]:
        plain = unquote_to_bytes(field.partition(b"=")[2].replace(b"+", b" ")).strip()
        pure = plain.replace(b"\r", b"").replace(b"\n", b"").translate(bytes.maketrans(b"-_ ", b"+/+"))
        texts.append(plain)
        with contextlib.suppress(binascii.Error):
            texts.append(base64.b64decode(pure.rstrip(b"=") + b"==="[: -len(pure.rstrip(b"=")) % 4]))
    return texts


def are_in(items, text):
    """Whether *items* stand in *text*, one behind the other."""
    at = 0
    for item in items:
        at = text.find(item, at)
        if at < 0:
            return False
        at += len(item)
    return True


@settings(max_examples=250 * MORE, deadline=None)
@given(damaged_payloads() | st.tuples(st.binary(max_size=30), st.just({}), st.binary(max_size=60)))
@example((b"", {"content-encoding": "gzip"}, gzip.compress(b"[" + b" " * 5000 + b"]")))
@example((b"", {}, b"[" * 5000))
@example((b"", {}, b'{"a":' * 5000 + b"\n{"))
@example((b"data=" + b"%" * 1001 + b"&" * 1001, {}, b""))
def test_a_payload_is_refused_or_its_items_are_the_clients_own(found):
    """Only RefusedError is raised, for an HTTP client to read; nothing comes out that did not go in."""
    query, headers, body = found
    try:
        payload, refusal = read(query, headers, body, MOST_BYTES), None
    except RefusedError as refused:
        payload, refusal = None, refused
    if refusal:
        assert refusal.status in (400, 413, 415)
        assert json.dumps(refusal.words).encode()
        return
    assert all(isinstance(item, bytes) and item == item.strip() for item in payload.items)
    assert any(are_in(payload.items, text) for text in readings(query, headers, body))
    json.dumps(payload.parameters).encode()
    assert "data" not in payload.parameters
