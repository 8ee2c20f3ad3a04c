"""From a request's query and body to JSON items and parameters, whatever form an SDK has given them.

Each form was seen on the wire, sent by an SDK or curl: JSON labelled as a form, forms labelled as text, gzip
around forms, base64 whose ``+`` a form's rules would make a space, base64 without padding, data in the query.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from forwarder.records.reading.array import split_values
from forwarder.records.reading.source import BrokenInputError

MOST_PARAMETERS = 1000
MOST_ITEMS = 100_000
# Up to this size an array is split at once. Its elements take a few times its size in memory.
_AT_ONCE_BYTES = 1 << 20
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_DATA = b"data"

_raw_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_raw = msgspec.json.Decoder(msgspec.Raw).decode
_second_line = re.compile(rb"\n\s*\{").search
_line_breaks = re.compile(rb"[\r\n]+").sub
_escapes = re.compile(rb"(?:%[0-9A-Fa-f]{2})+").sub
_MARKS = (
    (b"%22", b'"'),
    (b"%2C", b","),
    (b"%3A", b":"),
    (b"%7B", b"{"),
    (b"%7D", b"}"),
    (b"%20", b" "),
    (b"%24", b"$"),
)
_for_urls = bytes.maketrans(b"-_ ", b"+/+")
_halves = re.compile(rb"(?:\xed[\xa0-\xbf][\x80-\xbf])+").sub


class RefusedError(Exception):
    """A request is refused: with an HTTP *status*, in words for the developer of the client."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words


class Payload(NamedTuple):
    """What a request brings: *items* as the client wrote them, *parameters* by name."""

    items: list[bytes]
    parameters: dict[str, str]


def parameters_of(query: bytes) -> dict[str, str]:
    """The parameters of a query, without ``data``; the first of a name counts.

    Raises:
        RefusedError: there are too many.
    """
    pairs = _pairs(query)
    pairs.pop(_DATA, None)
    return _decoded(pairs)


def read(query: bytes, headers: Mapping[str, str], body: bytes, max_bytes: int) -> Payload:
    """Find the items of a request.

    Args:
        query: What follows the ``?``; its parameters count more than those of a form.
        headers: By their names in lower case.
        max_bytes: The largest body, uncompressed.

    Raises:
        RefusedError: there are none, or not in a form that is known.
    """
    if headers.get("content-type", "").lstrip().lower().startswith("multipart/"):
        raise RefusedError(415, "multipart bodies are not read; send JSON, or a form with data=")
    body = _unpacked(body, headers.get("content-encoding", ""), max_bytes)
    asked = _pairs(query)
    data = asked.pop(_DATA, None)
    if body.lstrip()[:1] in (b"[", b"{"):
        return Payload(split(body), _decoded(asked))
    given = _pairs(body.strip())
    data = given.pop(_DATA, data)
    if data is None:
        raise RefusedError(400, "there is no JSON in the body, and no data= in body or query")
    return Payload(split(_text_of(data)), _decoded(given) | _decoded(asked))


def unpacked_bytes(headers: Mapping[str, str], body: bytes) -> int:
    """How large the body says that it is, uncompressed; if that is wrong, `read` refuses it."""
    is_packed = headers.get("content-encoding", "").strip().lower() in ("gzip", "x-gzip")
    # RFC 1952: a member ends with its size.
    return int.from_bytes(body[-4:], "little") if is_packed else len(body)


def _unpacked(body: bytes, coding: str, max_bytes: int) -> bytes:
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip"):
        raise RefusedError(415, "this Content-Encoding is not read; send gzip or none")
    from isal import isal_zlib

    damaged: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub names an instance
    stream = isal_zlib.decompressobj(wbits=31)
    try:
        text = stream.decompress(body, max_bytes + 1)
    except damaged as error:
        raise RefusedError(400, f"the body is not gzip, or damaged: {error}") from None
    if len(text) > max_bytes:
        raise too_large(max_bytes)
    if not stream.eof or stream.unused_data.strip(b"\0"):
        raise RefusedError(400, "the body is cut short, or has more than one member of gzip")
    return text


def too_large(max_bytes: int) -> RefusedError:
    """The refusal of a body of more than *max_bytes*."""
    # In Mixpanel's words, which senders parse.
    return RefusedError(413, f"request exceeds max limit of {max_bytes} bytes")


def _pairs(text: bytes) -> dict[bytes, bytes]:
    """The fields of a query or form, still encoded; the first of a name counts."""
    if not text:
        return {}
    if text.count(b"&") > MOST_PARAMETERS:
        raise RefusedError(400, f"there are more than {MOST_PARAMETERS} parameters")
    found: dict[bytes, bytes] = {}
    for field in text.split(b"&"):
        name, separator, value = field.partition(b"=")
        if separator:
            found.setdefault(_plain(name), value)
    return found


def _decoded(pairs: Mapping[bytes, bytes]) -> dict[str, str]:
    return {
        name.decode(errors="replace"): _plain(value).decode(errors="replace") for name, value in pairs.items()
    }


def _plain(value: bytes) -> bytes:
    value = value.replace(b"+", b" ")
    if b"%" not in value:
        return value
    for code, mark in _MARKS:  # most of the escapes in JSON, in a tenth of the time; none makes another one
        value = value.replace(code, mark)
    if b"%" not in value:
        return value
    # A run at once: megabytes of escapes take the standard library seconds.
    return _escapes(lambda run: binascii.unhexlify(run[0].replace(b"%", b"")), value)


def _text_of(data: bytes) -> bytes:
    """The JSON text in the field ``data``, which holds it plain or in base64."""
    plain = _plain(data).strip()
    if plain[:1] in (b"[", b"{"):
        return plain
    # Some SDKs don't encode the + of base64, and it has become a space.
    coded = _line_breaks(b"", plain).translate(_for_urls).rstrip(b"=")
    try:
        text = base64.b64decode(coded + b"=" * (-len(coded) % 4), validate=True).strip()
    except binascii.Error:
        raise RefusedError(400, "'data' is neither JSON nor whole base64") from None
    if text[:1] not in (b"[", b"{"):
        raise RefusedError(400, "'data' holds no JSON object or array")
    # The SDK for browsers writes an emoji as two halves, which are no UTF-8, and may cut between them.
    return _halves(_joined, text) if b"\xed" in text else text


def _joined(halves: re.Match[bytes]) -> bytes:
    units = halves[0].decode(errors="surrogatepass").encode("utf-16-le", "surrogatepass")
    return units.decode("utf-16-le", "replace").encode()


def split(text: bytes) -> list[bytes]:
    """The items of a JSON array, of one object, or of objects on lines of their own; each as written.

    Mistakes inside an item are left to whoever reads it.

    Raises:
        RefusedError: the text can't be split, or into too many.
    """
    try:
        if text.lstrip()[:1] == b"[":
            return _elements(text)
        return [bytes(_raw(text)).strip()]
    except BrokenInputError as error:
        raise RefusedError(400, f"not JSON: {str(error).removeprefix('not JSON: ')}") from None
    except RecursionError:
        raise RefusedError(400, "the JSON is nested too deep") from None
    except _NOT_JSON as error:
        if _second_line(text) and not text.lstrip().startswith(b"["):
            if text.count(b"\n") > MOST_ITEMS:
                raise _too_many() from None
            return [line for line in map(bytes.strip, text.split(b"\n")) if line]
        return [_one(text, f"not JSON: {error}")]


def _one(text: bytes, otherwise: str) -> bytes:
    """The one value in *text*, in which there is something that is no JSON, such as NaN."""
    try:
        (item,) = _elements(b"[%b]" % text)
    except (BrokenInputError, RefusedError, ValueError):
        raise RefusedError(400, otherwise) from None
    return item


def _elements(text: bytes) -> list[bytes]:
    if len(text) <= _AT_ONCE_BYTES:
        # One with NaN in it, or half a pair of surrogates, must not take the others with it.
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            return _few([bytes(raw) for raw in _raw_list(text)])
    found: list[bytes] = []
    pieces = split_values([text], max_bytes=len(text))
    while True:
        try:
            found += next(pieces)[0]
        except StopIteration as done:
            if done.value[0].strip():
                raise RefusedError(400, "not JSON: the array is followed by something else") from None
            return found
        _few(found)


def _few(items: list[bytes]) -> list[bytes]:
    if len(items) > MOST_ITEMS:
        raise _too_many()
    return items


def _too_many() -> RefusedError:
    return RefusedError(413, f"request exceeds max limit of {MOST_ITEMS} items")
