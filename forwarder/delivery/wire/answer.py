"""Reading what the server wrote, which may be anything: Mixpanel's JSON, a proxy's page, garbage.

Nothing here raises because of what was received, and nothing decides; see
:mod:`forwarder.delivery.wire.outcome`.
"""

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

RETRY_AFTER_MAX_S = 3600.0
TEXT_MAX = 300
READ_MAX = 1200  # of a text that is cut to TEXT_MAX
_SAMPLE_MAX = 80

Hide = Callable[[str], str]

# Beyond msgspec's own: an integer of thousands of digits, and nesting without end.
_NOT_JSON = (msgspec.MsgspecError, ValueError, RecursionError)
_decode = msgspec.json.Decoder().decode
_PLAIN_MOST_BYTES = 64


class _Answer(msgspec.Struct):
    """What is read of an object; the rest is skipped, or it might be a million keys."""

    code: Any = msgspec.UNSET
    status: Any = msgspec.UNSET
    error: Any = msgspec.UNSET
    num_records_imported: Any = msgspec.UNSET
    failed_records: Any = msgspec.UNSET


_decode_object = msgspec.json.Decoder(_Answer).decode


def parse(body: bytes) -> Any:
    """The JSON value in *body*: of an object the keys that Mixpanel uses; None when it isn't JSON."""
    try:
        if body.lstrip()[:1] != b"{":
            return _decode(body) if len(body) <= _PLAIN_MOST_BYTES else None
        said = _decode_object(body)
    except _NOT_JSON:
        return None
    return {
        key: value for key in _Answer.__struct_fields__ if (value := getattr(said, key)) is not msgspec.UNSET
    }


def is_mixpanels(answer: dict[str, Any]) -> bool:
    """Whether a JSON object has the shape of Mixpanel's, and not that of a proxy's error page.

    Every documented or captured body has the figures, or an ``error`` in words with ``code`` or
    ``status`` beside it; the code is the HTTP status, the status a word, 0 or 1.
    """
    code, status = answer.get("code"), answer.get("status")
    if code is not None and (type(code) is not int or code not in (200, 400)):
        return False
    if type(status) is int:
        status = {0: "0", 1: "1"}.get(status, status)
    if status is not None and not isinstance(status, str):
        return False
    if "num_records_imported" in answer or "failed_records" in answer:
        return True
    return bool(error_of(answer)) and (code is not None or status is not None)


def contradiction(answer: dict[str, Any]) -> str:
    """What a JSON object of Mixpanel's shape that came with HTTP 200 says against that; "" if nothing."""
    code, status = answer.get("code"), answer.get("status")
    if code not in (None, 200):
        return f"code {code}"
    if status is not None and str(status).upper() not in ("OK", "1"):
        return f"status {shown(str(status), _SAMPLE_MAX)!r}"
    return ""


def is_plain_yes(answer: Any) -> bool:
    """Whether this is how strict=0 acknowledges: 1, {"status":1,"error":null} or {"status":"OK","code":200}.

    Read in mixpanel-java and mixpanel-python.
    """
    if not isinstance(answer, dict):
        return type(answer) is int and answer == 1
    if answer.get("error") or "num_records_imported" in answer or "failed_records" in answer:
        return False
    status, code = answer.get("status"), answer.get("code")
    return (type(status) is int and status == 1 and code in (None, 200)) or (status == "OK" and code == 200)


def is_plain_no(answer: Any) -> bool:
    """Whether this is how strict=0 refuses: 0, or {"status":0,"error":"..."}. Same sources."""
    status = answer.get("status") if isinstance(answer, dict) else answer
    return type(status) is int and status == 0


def imported(answer: dict[str, Any]) -> int | None:
    """How many events the answer says were imported; None when it doesn't."""
    count = answer.get("num_records_imported")
    return count if type(count) is int and 0 <= count < 2**53 else None


def error_of(answer: Any) -> str:
    """The ``error`` of Mixpanel's JSON, as it came; "" without one."""
    error = answer.get("error") if isinstance(answer, dict) else None
    return error if isinstance(error, str) else ""


def words(headers: Mapping[str, str], body: bytes, hide: Hide = str) -> str:
    """What the server says, for people: its ``error``, else what kind of thing came and how it starts."""
    error = error_of(parse(body))
    if error:
        return shown(error, hide=hide)
    start = body[:4096].decode("utf-8", "replace")
    title = re.search(r"<title[^>]{0,200}>(.{0,200}?)</title>", start, re.IGNORECASE | re.DOTALL)
    sample = shown(" ".join((title[1] if title else start).split()), _SAMPLE_MAX, hide)
    kind = shown(headers.get("content-type", "").partition(";")[0], _SAMPLE_MAX, hide)
    return f"{kind or 'no content type'}: {sample}" if sample else "an empty body"


def complaint(answer: dict[str, Any], hide: Hide = str) -> str:
    """Mixpanel's own words about a batch whose failed records can't be used."""
    failed = answer.get("failed_records")
    records = failed[:3] if isinstance(failed, list) else [failed]
    said = [record.get("message") if isinstance(record, dict) else record for record in records]
    texts = [text[:READ_MAX] for text in (*said, error_of(answer)) if isinstance(text, str) and text]
    return shown("; ".join(dict.fromkeys(texts)), hide=hide) or "refused without a reason"


def shown(text: str, limit: int = TEXT_MAX, hide: Hide = str) -> str:
    """*text* on one printable line of at most *limit* characters; what is not printable is escaped.

    *hide* gets it before it is cut: it would not know half a key.
    """
    cut = hide(text[:READ_MAX])[: limit + 1]
    if not cut.isprintable():
        cut = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in cut)
    return cut if len(cut) <= limit else cut[: limit - 1] + "…"


def clock_skew_s(headers: Mapping[str, str], received_at: float) -> float | None:
    """How far *received_at* is ahead of the ``Date`` header; None when either is not known."""
    theirs = _instant(headers.get("date", ""))
    if theirs is None or not received_at or not math.isfinite(received_at):
        return None
    return received_at - theirs


def retry_after_s(headers: Mapping[str, str], received_at: float) -> float | None:
    """The wait asked for, at most an hour; None for none, nonsense, or one that is over."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII):
        return min(float(text), RETRY_AFTER_MAX_S)
    until = _instant(text)
    # Measured from the server's own clock, if it says: ours may be wrong.
    now = _instant(headers.get("date", "")) or received_at
    if until is None or not now or not now <= until:
        return None
    return min(until - now, RETRY_AFTER_MAX_S)


def _instant(text: str) -> float | None:
    """An HTTP date as epoch seconds."""
    if not text:
        return None
    try:
        when = parsedate_to_datetime(text[:64])
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def host_of(location: str, hide: Hide = str) -> str:
    """Only the host of an address: the rest of it may hold a secret."""
    try:
        host = urlsplit(location).hostname
        return shown(host or ("the same host" if location else "nowhere"), hide=hide)
    except ValueError:
        return "an unreadable address"


class _Properties(msgspec.Struct):
    insert_id: Any = msgspec.field(default=None, name="$insert_id")


class _Event(msgspec.Struct):
    properties: _Properties


_decode_event = msgspec.json.Decoder(_Event).decode


def insert_id_of(event: bytes) -> str | None:
    """The event's ``$insert_id``; None when it has none to compare."""
    try:
        insert_id = _decode_event(event).properties.insert_id
    except _NOT_JSON:
        return None
    return insert_id if isinstance(insert_id, str) else None
