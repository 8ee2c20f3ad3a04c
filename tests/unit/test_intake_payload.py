"""From a request's bytes to items and parameters, as each SDK and curl sends them."""

import base64
import gzip
import json
import zlib
from urllib.parse import quote, quote_plus

import pytest

from forwarder.intake import payload
from forwarder.intake.payload import RefusedError, read

MOST = 1 << 20
FORM = "application/x-www-form-urlencoded"
EVENT = b'{"event": "A \xc3\xbc", "properties": {"n": 1.50, "s": "\\u00e9?>~"}}'
OTHER = b'{"event":"B","properties":{}}'
ARRAY = b"[" + EVENT + b", " + OTHER + b"]"
# Raw base64 of this has + and /, which a form's rules would change.
PLUSES = '{"event":">>>???~~~>>>???~~~","properties":{"x":"\u00fb\u00ff\u00fe"}}'.encode()


def items(body=b"", query=b"", **headers):
    return read(query, {name.replace("_", "-"): value for name, value in headers.items()}, body, MOST).items


def refusal(body=b"", query=b"", **headers):
    with pytest.raises(RefusedError) as caught:
        items(body, query, **headers)
    return caught.value.status, caught.value.words


def b64(text):
    return base64.b64encode(text)


# Forms of the same


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (ARRAY, {"content_type": "application/json"}),
        (ARRAY, {"content_type": FORM}),
        (b" \r\n\t" + ARRAY + b"\n", {}),
        (EVENT + b"\n" + OTHER + b"\n", {"content_type": "application/x-ndjson"}),
        (EVENT + b"\r\n\r\n" + OTHER, {}),
        (gzip.compress(ARRAY), {"content_encoding": "gzip"}),
        (gzip.compress(ARRAY), {"content_encoding": " X-GZip "}),
        (gzip.compress(b"data=" + b64(ARRAY)), {"content_encoding": "gzip"}),
        (ARRAY, {"content_encoding": ""}),
        (ARRAY, {"content_encoding": "identity"}),
        (b"data=" + quote(ARRAY).encode(), {"content_type": FORM + ";charset=utf8"}),
        (b"data=" + quote_plus(ARRAY).encode() + b"&verbose=1&ip=0", {}),
        (b"verbose=1&data=" + b64(ARRAY), {"content_type": "text/plain;charset=UTF-8"}),
        (b"data=" + quote(b64(ARRAY).decode(), safe="").encode(), {}),
        (b"data=" + b64(ARRAY).rstrip(b"="), {}),
        (b"data=" + base64.encodebytes(ARRAY), {}),
        (b"data=" + base64.urlsafe_b64encode(ARRAY), {}),
        (b"d%61ta=" + b64(ARRAY), {}),
    ],
)
def test_the_items_are_the_bytes_that_the_client_wrote(body, headers):
    """Whatever the form and its label, each item comes out byte by byte."""
    assert items(body, **headers) == [EVENT, OTHER]


@pytest.mark.parametrize("data", [b64(ARRAY), quote(ARRAY).encode(), b64(ARRAY).rstrip(b"=")])
def test_data_may_be_in_the_query(data):
    """A request without a body has its items in the query, or beside a form that has none."""
    assert items(query=b"ip=1&data=" + data) == [EVENT, OTHER]
    assert items(b"verbose=1", query=b"data=" + data) == [EVENT, OTHER]


def test_the_body_counts_more_than_data_in_the_query():
    """What is in the body is the payload."""
    assert items(OTHER, query=b"data=" + b64(EVENT)) == [OTHER]
    assert items(b"data=" + b64(OTHER), query=b"data=" + b64(EVENT)) == [OTHER]


def test_a_plus_in_raw_base64_is_not_a_space():
    """Two SDKs put base64 into a form without encoding it, and a form's rules make its + a space."""
    coded = b64(PLUSES)
    assert b"+" in coded
    assert items(b"data=" + coded) == [PLUSES]
    assert items(b"data=" + coded.replace(b"+", b"%20")) == [PLUSES]
    assert items(b'data={"a"+:+"b"}') == [b'{"a" : "b"}']


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("\ud83d\ude80", "\U0001f680"),
        ("a\ud83d\ude80\ud83d\ude80b", "a\U0001f680\U0001f680b"),
        ("cut\ud83d", "cut\ufffd"),
        ("\ude80\ud83d\ud83d\ude80\ude80", "\ufffd\ufffd\U0001f680\ufffd"),
        ("\ud55c\uae00 \ud7a3", "\ud55c\uae00 \ud7a3"),  # whole characters with a like beginning
    ],
)
def test_the_halves_in_which_a_browser_sends_an_emoji_become_one(sent, read):
    """Mixpanel's SDK for browsers encodes each half of a character beyond U+FFFF by itself; a half whose
    other one it has cut off becomes the character for what can't be read."""
    text = f'{{"event":"{sent}"}}'.encode(errors="surrogatepass")
    assert items(b"data=" + b64(text)) == [f'{{"event":"{read}"}}'.encode()]


@pytest.mark.parametrize(
    ("coded", "plain"),
    [
        ("%2522", "%22"),
        ("%25%32%32", "%22"),
        ("%%322", "%22"),
        ("%%22", '%"'),
        ("%2%32", "%22"),
        ("%7b%7D%zz%4", "{}%zz%4"),
        ("%c3%BC%2B+", "\u00fc+ "),
    ],
)
def test_escapes_are_undone_once(coded, plain):
    """What they make is never taken for another one; what is none stays."""
    assert payload.parameters_of(f"x={coded}".encode()) == {"x": plain}


def test_one_object_is_one_item_also_over_several_lines():
    """A single event need not be in an array."""
    pretty = json.dumps({"event": "A", "properties": {"a": {"b": 1}}}, indent=2).encode()
    assert items(pretty + b"\n") == [pretty]
    assert items(b"data=" + b64(OTHER)) == [OTHER]
    assert items(b"[]") == []


def test_lines_are_items_each_for_itself():
    """A bad line stays an item, and its neighbours are not touched."""
    assert items(EVENT + b'\n{"event":\n' + OTHER) == [EVENT, b'{"event":', OTHER]


@pytest.mark.parametrize("bad", [b"NaN", b'"\\ud83d"', b'"\xff"'])
def test_what_is_no_json_in_one_item_leaves_the_others_alone(bad):
    """NaN, as Python writes it, and text that was cut inside a character are mistakes of one item."""
    item = b'{"event":"x","properties":{"a":%b}}' % bad
    assert items(b"[%b, %b]" % (EVENT, item)) == [EVENT, item]
    assert items(b"data=[%b, %b]" % (item, EVENT)) == [item, EVENT]
    assert items(item) == [item]


def test_a_large_array_is_split_as_a_small_one():
    """Beyond what is split at once, elements come out as they were written, too."""
    hard = {"s": 'a"]},{["'}
    many = [json.dumps({"event": f"e{number}", "properties": hard}).encode() for number in range(30_000)]
    assert len(b",".join(many)) > payload._AT_ONCE_BYTES
    found = payload.split(b"[" + b", ".join(many) + b"] \n")
    assert found == many


# Parameters


def test_parameters_come_from_the_query_and_else_from_the_form():
    """The query counts more, the first of a name counts, and data is none of them."""
    found = read(b"verbose=1&x=%41+b&x=2&flag", {}, b"data=" + b64(OTHER) + b"&verbose=0&ip=1", MOST)
    assert found.parameters == {"verbose": "1", "x": "A b", "ip": "1"}
    assert payload.parameters_of(b"data=abc&strict=1&%zz=%zz") == {"strict": "1", "%zz": "%zz"}


def test_ten_thousand_parameters_are_refused():
    """Their number is limited, in a query and in a form."""
    many = b"&".join(b"p%d=1" % number for number in range(10_000))
    assert refusal(b"data=%5B%5D&" + many)[0] == 400
    assert refusal(query=many)[0] == 400
    few = b"&".join(b"p%d=1" % number for number in range(payload.MOST_PARAMETERS - 1))
    assert items(b"data=%5B%5D&" + few) == []


# Refusals


@pytest.mark.parametrize(
    ("body", "query", "headers", "status", "words"),
    [
        (b"", b"", {}, 400, "no data="),
        (b"verbose=1", b"", {}, 400, "no data="),
        (b"hello", b"", {}, 400, "no data="),
        (b"\0" * 20, b"", {}, 400, "no data="),
        (b"data=", b"", {}, 400, "holds no JSON"),
        (b"data=%00", b"", {}, 400, "neither JSON nor whole base64"),
        (b"data=" + b64(OTHER)[:-3], b"", {}, 400, "neither JSON nor whole base64"),
        (b"data=" + b64(OTHER)[:-8], b"", {}, 400, "not JSON"),
        (b"data=" + b64(b'"text"'), b"", {}, 400, "holds no JSON object"),
        (b"data=%7B%22a%22", b"", {}, 400, "not JSON"),
        (b"[1,2", b"", {}, 400, "not JSON"),
        (b'[{"a":1},,{}]', b"", {}, 400, "not JSON"),
        (b"[1] [2]", b"", {}, 400, "not JSON"),
        (b'{"a":1} {"b":2}', b"", {}, 400, "not JSON"),
        (b'{"a":1}\0', b"", {}, 400, "not JSON"),
        (b"[" * 100_000, b"", {}, 400, "nested too deep"),
        (b'{"a":' * 100_000, b"", {}, 400, "nested too deep"),
        (b"[\xff\xfe", b"", {}, 400, "not JSON"),
        (b"--x\r\n", b"", {"content_type": "multipart/form-data; boundary=x"}, 415, "multipart"),
        (ARRAY, b"", {"content_encoding": "br"}, 415, "Content-Encoding"),
        (ARRAY, b"", {"content_encoding": "gzip"}, 400, "not gzip"),
        (gzip.compress(ARRAY)[:-9], b"", {"content_encoding": "gzip"}, 400, "cut short"),
        (gzip.compress(ARRAY) + gzip.compress(b"x"), b"", {"content_encoding": "gzip"}, 400, "more than one"),
        (gzip.compress(ARRAY)[:-8] + b"\0" * 8, b"", {"content_encoding": "gzip"}, 400, "or damaged"),
        (zlib.compress(ARRAY), b"", {"content_encoding": "gzip"}, 400, "not gzip"),
    ],
)
def test_what_holds_no_items_is_refused_with_what_and_where(body, query, headers, status, words):
    """Nothing is guessed, and the words say what is wrong."""
    found = refusal(body, query, **headers)
    assert found[0] == status
    assert words in found[1]


def test_a_body_that_unpacks_to_more_than_the_limit_is_refused():
    """A bomb is only unpacked up to the limit, and one byte less than the limit is taken."""
    bomb = gzip.compress(b"[" + b" " * (100 * MOST) + b"]")
    assert refusal(bomb, content_encoding="gzip") == (413, f"request exceeds max limit of {MOST} bytes")
    assert items(gzip.compress(b"[" + b" " * (MOST - 2) + b"]"), content_encoding="gzip") == []
    assert refusal(gzip.compress(b"[" + b" " * (MOST - 1) + b"]"), content_encoding="gzip")[0] == 413


def test_what_a_packed_body_says_of_its_size_is_known_before_it_is_unpacked():
    """So a bomb is known for a large one; one that lies is refused."""
    packed = gzip.compress(b"[" + b" " * 100_000 + b"]")
    assert payload.unpacked_bytes({"content-encoding": "gzip"}, packed) == 100_002
    assert payload.unpacked_bytes({}, packed) == len(packed)
    assert refusal(packed[:-4] + b"\1\0\0\0", content_encoding="gzip")[0] == 400


def test_more_items_than_memory_should_hold_are_refused():
    """In an array as on lines, however small each is."""
    many = payload.MOST_ITEMS + 1
    words = f"request exceeds max limit of {payload.MOST_ITEMS} items"
    for text in (b"[" + b"1," * (many - 1) + b"1]", b"[" + b"1, " * (many * 5) + b"1]", b"{}\n" * many):
        with pytest.raises(RefusedError, match=words):
            payload.split(text)
    assert len(payload.split(b"[" + b"1," * (many - 2) + b"1]")) == payload.MOST_ITEMS
