"""The answers, byte by byte as each SDK compares them, chosen by what was asked and never by ``Accept``.

PHP, NODE and JAVA compare the whole body with ``1``; PY reads ``status`` and ``error``; GO and JAVA read the
figures of strict mode. The three shapes exclude each other.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any, NamedTuple

from forwarder.intake.items import Failed

RETRY_AFTER_S = 5
# A client closes its idle connections this long after their last answer; `connection` waits a bit longer.
KEEP_ALIVE_S = 290
JSON = "application/json"
PLAIN = "text/plain; charset=utf-8"
SCRIPT = "text/javascript; charset=utf-8"
# 1 by 1, transparent.
GIF = binascii.a2b_base64("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAICRAEAOw==")
_is_callback = re.compile(r"[A-Za-z0-9_$.\[\]]{1,64}").fullmatch
_FAILED = "some data points in the request failed validation"


class Answer(NamedTuple):
    """An answer: its status, body, and what else stands in its head, as (name, value)."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()

    def encoded(self, *, closing: bool, without_body: bool = False) -> bytes:
        """The bytes on the wire. *closing*: the connection ends with it. *without_body*: it answers HEAD."""
        head = _head(self.status, len(self.body), self.content_type, self.headers, closing)
        return head if without_body else head + self.body


@lru_cache(64)
def _head(
    status: int, length: int, content_type: str, headers: tuple[tuple[str, str], ...], closing: bool
) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    if status != 204:
        lines += [f"Content-Type: {content_type}", f"Content-Length: {length}"]
    lines += ["Cache-Control: no-store", "X-Content-Type-Options: nosniff"]
    lines += (
        ["Connection: close"]
        if closing
        else ["Connection: keep-alive", f"Keep-Alive: timeout={KEEP_ALIVE_S}"]
    )
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


class Asked(NamedTuple):
    """How a request wants to be answered.

    Attributes:
        path: Without prefix and slash at the end, such as ``/track``.
        callback: The function that gets the answer as a script; "": none.
    """

    path: str = ""
    verbose: bool = False
    strict: bool = False
    img: bool = False
    callback: str = ""

    @classmethod
    def by(cls, path: str, parameters: Mapping[str, str], with_scripts: bool) -> Asked:
        """What *parameters* ask for; *with_scripts*: answers as scripts are allowed."""
        if not parameters:
            return cls(path)
        callback = parameters.get("callback", "")
        return cls(
            path,
            parameters.get("verbose") == "1",
            parameters.get("strict") == "1" and path != "/track",
            parameters.get("img") == "1",
            callback if with_scripts and _is_callback(callback) else "",
        )

    @property
    def is_strict_import(self) -> bool:
        return self.strict and self.path == "/import"

    def accepted(self, count: int) -> Answer:
        """All that is to be stored is on disk: *count* records."""
        if self.is_strict_import:
            return self._json(200, {"code": 200, "num_records_imported": count, "status": "OK"})
        if self.img:
            return Answer(200, GIF, "image/gif")
        if self.strict:
            return self._json(200, {"status": 1, "error": None, "num_good_events": count})
        if self.verbose:
            return self._text(200, '{"status": 1, "error": null}', JSON)
        return self._text(200, "1", PLAIN)

    def all_malformed(self, reason: str) -> Answer:
        """Nothing in the request is an event or update; as Mixpanel, so that the client drops it."""
        if not self.verbose and not self.strict:
            return self._text(200, "0", PLAIN)
        good = {"num_good_events": 0} if self.strict else {}
        return self._json(200, {"status": 0, "error": reason, "code": 200} | good)

    def partly_imported(self, count: int, failed: Sequence[Failed]) -> Answer:
        """Some of a strict import is refused, or all; *count* records are on disk."""
        head = {"code": 400, "error": _FAILED, "status": "Bad Request", "num_records_imported": count}
        return self._json(400, head | {"failed_records": list(failed)})

    def refused(self, status: int, reason: str, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
        """Nothing of the request is stored. With *status* 503 the client may try again."""
        if status == 503:
            headers = (*headers, ("Retry-After", str(RETRY_AFTER_S)))
        if self.is_strict_import:
            fields = {"code": status, "error": reason, "status": HTTPStatus(status).phrase}
        else:
            fields = {"status": 0, "error": reason, "code": status}
        return self._json(status, fields, headers)

    def _json(
        self, status: int, fields: Mapping[str, Any], headers: tuple[tuple[str, str], ...] = ()
    ) -> Answer:
        return self._text(status, json.dumps(fields), JSON, headers)

    def _text(
        self, status: int, text: str, content_type: str, headers: tuple[tuple[str, str], ...] = ()
    ) -> Answer:
        if self.callback:
            text, content_type = f"{self.callback}({text});", SCRIPT
        return Answer(status, text.encode(), content_type, headers)
