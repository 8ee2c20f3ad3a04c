"""The answers of Mixpanel's ingestion API, exactly as documented or observed; pure.

Sources: Mixpanel docs (Import Events and the pages on its errors) unless another is named.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from forwarder.sandbox.rules import Failure

JSON = "application/json"
HTML = "text/html; charset=UTF-8"
TEXT = "text/plain; charset=utf-8"

RATE_LIMITED = "Project exceeded rate limits. Please retry the request with exponential backoff."
# mixpanel-python issue 110: a service account without project_id.
NO_PROJECT = (
    "Unauthorized, invalid project secret. See docs for more information: "
    "https://developer.mixpanel.com/reference/authentication#project-secret"
)
SIMPLIFIED_ONLY = "identity events are not allowed when project is using simplified identity management"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: status, body, content type and further headers."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()

    def encode(self, now_s: float, *, close: bool = False) -> bytes:
        """The bytes on the wire; *now_s* is what the ``Date`` header says."""
        try:
            reason = HTTPStatus(self.status).phrase
        except ValueError:
            reason = ""
        lines = [f"HTTP/1.1 {self.status} {reason}", f"Date: {formatdate(now_s, usegmt=True)}"]
        lines += [f"Content-Type: {self.content_type}", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if close:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


def as_json(status: int, value: Any, *headers: tuple[str, str]) -> Answer:
    """*value* as JSON."""
    return Answer(status, json.dumps(value, separators=(",", ":")).encode(), JSON, headers)


def strict_ok(imported: int) -> Answer:
    """All were imported."""
    return as_json(200, {"code": 200, "num_records_imported": imported, "status": "OK"})


def strict_failed(imported: int, failures: Iterable[Failure] | Iterable[str]) -> Answer:
    """Some failed and the others were imported. The id's key is ``insert_id`` (mixpanel-utils issue 40)."""
    records = [failure if isinstance(failure, str) else failure._asdict() for failure in failures]
    return as_json(
        400,
        {
            "code": 400,
            "error": "some data points in the request failed validation",
            "status": "Bad Request",
            "num_records_imported": imported,
            "failed_records": records,
        },
    )


def identity_refused(events: int) -> Answer:
    """Identity events on a Simplified project: strings where objects are expected (mixpanel-import, probe
    findings). It is assumed that the rest of the batch is refused with them."""
    return strict_failed(0, [SIMPLIFIED_ONLY] * events)


def lenient(imported: int, verbose: bool, error: str = "no valid events", counts: bool = False) -> Answer:
    """Without ``strict=1``: "1" or "0" as plain text (mixpanel-java), with ``verbose=1`` as JSON
    (mixpanel-utils issue 20). *counts*: with ``num_good_events``, by which mixpanel-import counts updates."""
    if not verbose:
        return Answer(200, b"1" if imported else b"0", TEXT)
    good = {"num_good_events": imported} if counts else {}
    return as_json(200, ({"status": 1, "error": None} if imported else {"status": 0, "error": error}) | good)


def bad_request(error: str) -> Answer:
    """The request as a whole is invalid. No public source has this answer: assumed."""
    return as_json(400, {"code": 400, "error": error, "status": "Bad Request"})


def unauthorized(error: str = "Invalid credentials") -> Answer:
    """401."""
    return as_json(401, {"code": 401, "error": error, "status": "Unauthorized"})


def not_found() -> Answer:
    """404; documented for lookup tables only."""
    return as_json(404, {"code": 404, "error": "Not found", "status": "Not Found"})


def method_not_allowed() -> Answer:
    """405; assumed."""
    error = {"code": 405, "error": "Method not allowed", "status": "Method Not Allowed"}
    return as_json(405, error, ("Allow", "POST"))


def too_large(limit_bytes: int, html: bool = False) -> Answer:
    """413, or the page of Google's front end (mixpanel-node issue 136)."""
    if html:
        return page(
            413, "Error 413 (Request Entity Too Large)!!1", "Your client issued a request that was too large."
        )
    error = f"request exceeds max limit of {limit_bytes} bytes"
    return as_json(413, {"code": 413, "error": error, "status": "Request Entity Too Large"})


def throttled(strict: bool = True, retry_after_s: float | None = None) -> Answer:
    """429. ``Retry-After`` is not documented; SDKs honour it. Without strict: mixpanel-node issue 231."""
    headers = [] if retry_after_s is None else [("Retry-After", f"{retry_after_s:g}")]
    if strict:
        return as_json(429, {"code": 429, "error": RATE_LIMITED, "status": "Too Many Requests"}, *headers)
    return as_json(429, {"error": RATE_LIMITED, "status": 0}, *headers)


def server_error(status: int) -> Answer:
    """5xx. A 502 or 503 comes from the edge and is not JSON (mixpanel-node issue 149)."""
    if status in (502, 503):
        return Answer(status, b"upstream connect error or disconnect/reset before headers", TEXT)
    phrase = HTTPStatus(status).phrase
    return as_json(status, {"code": status, "error": phrase.lower(), "status": phrase})


def temporary_failure() -> Answer:
    """A failure with status 200 (mixpanel-python issue 80)."""
    return as_json(200, {"status": 0, "error": "a temporary failure occurred"})


def page(status: int, title: str, text: str = "", *headers: tuple[str, str]) -> Answer:
    """An HTML page, as proxies and edge servers send it."""
    head = f"<!DOCTYPE html><html><head><title>{title}</title></head>"
    body = f"{head}<body><h1>{title}</h1>{text}</body></html>\n"
    return Answer(status, body.encode(), HTML, headers)
