"""From a request to its events or updates: credentials, encoding, size, and where each one begins."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qsl

import msgspec
from isal import isal_zlib  # a third of zlib's time; the sandbox shares the machine with what it tests

from forwarder.sandbox import answers
from forwarder.sandbox.answers import Answer

MAX_EVENTS = 2000  # Mixpanel docs, Import Events
_GZIP = 31

_array = msgspec.json.Decoder(list[msgspec.Raw])
_lines = msgspec.json.Decoder(msgspec.Raw)


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; *headers* by lower-case name, *body* as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def strict(self) -> bool:
        """Senders that omit it get the older answers (mixpanel-python, mixpanel-node)."""
        return self.query.get("strict") == "1"


class Account(NamedTuple):
    """A service account: user name, secret and the project it belongs to."""

    username: str
    secret: str
    project_id: str


class Batch(NamedTuple):
    """The events of a request, one JSON text each, and the size of the body that Mixpanel counts."""

    events: Sequence[bytes]
    size_bytes: int


def authenticate(request: Request, token: str, account: Account) -> Answer | None:
    """None if the request may pass, else the 401 (Mixpanel docs, Authentication and Service Accounts).

    With ``project_id`` the credentials are a service account's. Without it they are the project token and an
    empty password. Both may also come without base64.
    """
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return answers.unauthorized()
    username, _, password = _plain(given.strip()).partition(":")
    project_id = request.query.get("project_id")
    if project_id is None:
        if (username, password) == (token, ""):
            return None
        known = (username, password) == (account.username, account.secret)
        return answers.unauthorized(answers.NO_PROJECT) if known else answers.unauthorized()
    if (username, password) != (account.username, account.secret):
        return answers.unauthorized()
    if project_id != account.project_id:
        # Mixpanel's live answer, in the tests of mixpanel/sheets.
        return answers.unauthorized("Credentials in request did not match project_id URL parameter")
    return None


def _plain(given: str) -> str:
    if ":" in given:
        return given
    try:
        return base64.b64decode(given, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def read(request: Request, limit_bytes: int) -> Batch | Answer:
    """The events of *request*, or the answer that refuses it as a whole."""
    body = _unpack(request, limit_bytes)
    if isinstance(body, Answer):
        return body
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in ("application/json", "application/x-ndjson"):
        return answers.bad_request(f"unsupported content type: {content_type or 'none'}")
    try:
        events = split(body, lines=content_type == "application/x-ndjson")
    except (ValueError, RecursionError) as error:
        return answers.bad_request(f"request is not valid JSON: {error}")
    if not 1 <= len(events) <= MAX_EVENTS:
        return answers.bad_request(f"request must hold 1 to {MAX_EVENTS} events, not {len(events)}")
    return Batch(events, len(body))


def read_data(request: Request, limit_bytes: int) -> tuple[Batch, Mapping[str, str]] | Answer:
    """The items of a request to ``/track``, ``/engage`` or ``/groups``, and its parameters.

    They are the body, or ``data`` of a form or of the query: JSON, or base64 of JSON. Base64 that was not
    percent-encoded, as mixpanel-node and mixpanel-php send it, has spaces where it had ``+``.
    """
    body = _unpack(request, limit_bytes)
    if isinstance(body, Answer):
        return body
    parameters, data = dict(request.query), body.strip()
    if data[:1] not in (b"[", b"{"):
        parameters = {
            **dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)),
            **parameters,
        }
        data = parameters.pop("data", "").strip().encode()
        if data[:1] not in (b"[", b"{"):
            padded = data.replace(b" ", b"+") + b"=" * (-len(data) % 4)
            try:
                data = base64.b64decode(padded, altchars=b"-_" if b"-" in data or b"_" in data else None)
            except binascii.Error as error:
                return answers.bad_request(f"data is neither JSON nor base64: {error}")
    is_lines = data[:1] == b"{"
    try:
        items = split(data, lines=is_lines)
    except (ValueError, RecursionError) as error:
        return answers.bad_request(f"data is not valid JSON: {error}")
    return Batch(items, len(body)), parameters


def _unpack(request: Request, limit_bytes: int) -> bytes | Answer:
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("gzip", "identity"):
        return answers.bad_request(f"unsupported content encoding: {encoding}")
    try:
        body = gunzip(request.body, limit_bytes) if encoding == "gzip" else request.body
    except ValueError as error:
        return answers.bad_request(str(error))
    # The limit is measured uncompressed (Mixpanel docs, 413 Payload Too Large).
    if body is None or len(body) > limit_bytes:
        return answers.too_large(limit_bytes)
    return body


def gunzip(body: bytes, limit_bytes: int) -> bytes | None:
    """The unpacked *body*, member after member; None: it is larger than *limit_bytes*.

    Raises:
        ValueError: it is not gzip, cut short or damaged.
    """
    parts: list[bytes] = []
    left_bytes = limit_bytes + 1
    while body:
        member = isal_zlib.decompressobj(_GZIP)
        try:
            part = member.decompress(body, left_bytes)
        except isal_zlib.IsalError as error:  # type: ignore[misc]  # the stub calls it an instance
            raise ValueError(f"request is not valid gzip: {error}") from None
        parts.append(part)
        left_bytes -= len(part)
        if left_bytes <= 0:
            return None
        if not member.eof:
            raise ValueError("request is not valid gzip: it ends early")
        body = member.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)


def split(body: bytes, lines: bool = False) -> list[bytes]:
    """Where each event of a JSON array, or of lines, begins and ends; empty lines don't count.

    Raises:
        ValueError, RecursionError: it is not JSON, or not an array.
    """
    try:
        found = _lines.decode_lines(body) if lines else _array.decode(body)
        events = [bytes(raw) for raw in found]
        if not lines or _is_line_by_line(events, body):
            return events
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    # Slower, but it accepts half a surrogate pair, which JSON allows and the fast reader does not.
    text = body.decode("utf-8", "surrogateescape")
    slices = _split_lines(text) if lines else _split_array(text)
    return [part.encode("utf-8", "surrogateescape") for part in slices]


def _is_line_by_line(events: list[bytes], body: bytes) -> bool:
    # decode_lines() also accepts several values in a line, and one value in several lines.
    lines = body.split(b"\n")
    return events == (lines if lines[-1] else lines[:-1])


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_careful = json.JSONDecoder(parse_constant=_refuse)


def _split_lines(text: str) -> list[str]:
    parts = [line.strip(" \t\r") for line in text.split("\n")]
    parts = [part for part in parts if part]
    for part in parts:
        _careful.decode(part)
    return parts


def _split_array(text: str) -> list[str]:
    if not isinstance(_careful.decode(text), list):
        raise ValueError("it is no array")
    parts: list[str] = []
    position = _after_space(text, _after_space(text, 0) + 1)
    while text[position] != "]":
        _, end = _careful.raw_decode(text, position)
        parts.append(text[position:end])
        position = _after_space(text, end)
        if text[position] == ",":
            position = _after_space(text, position + 1)
    return parts


def _after_space(text: str, position: int) -> int:
    while text[position] in " \t\r\n":
        position += 1
    return position
