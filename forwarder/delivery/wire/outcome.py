"""What a reply means for the records that were sent: decided once, here, from plain values.

=============  ==========================================================  ===================================
outcome        when                                                        what it asks for
=============  ==========================================================  ===================================
DELIVERED      200 or 400 in Mixpanel's own JSON that accounts for every   settle: dead-letter the named ones,
               record: imported + distinct failed indexes = sent           the rest is delivered
SHORT          as above, but the figures do not add up, or 200 comes with  settle the named ones, send the
               a code or status that contradicts it                        rest once more
TOO_LARGE      413                                                         send in smaller parts
REFUSED        400 whose ``failed_records`` are missing, not objects, out  halve, until one record is left
               of range or contradict the ids of what was sent
THROTTLED      429; 504 that says "Too many requests"                      back off, fewer connections
UNREACHABLE    no whole answer, 408, 5xx, 2xx but 200, or a body that is   back off
               not Mixpanel's, also with status 200
MISCONFIGURED  401, 403, 404, 3xx and other 4xx; a proxy that refuses the  block, and say so
               connection with 4xx; a clock that is an hour ahead
=============  ==========================================================  ===================================

Unknown means "later". What is UNREACHABLE is doubtful, too, unless there was no connection: the request may
have been processed. The records' kind judges a 200 or 400; the rest is the same for all kinds. Mixpanel's
rules: docs.mixpanel.com, "Troubleshooting: errors".
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from forwarder.records.kind import Kind
from forwarder.records.mixpanel_json import SAMPLE_MAX, error_of, parse, shown
from forwarder.records.verdict import Hide, Outcome, Verdict

CLOCK_BLOCKS_S = 3600.0
RETRY_AFTER_MAX_S = 3600.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. *error* says why there is no whole answer; *status* is None if there is none at all.

    Header names are lower case; *received_at* is this host's clock, in epoch seconds (0: not known).
    *took_s* is the time of the whole exchange, *upload_s* that of the request alone (0: hardly any time).
    *is_sent*: the request may have reached the server. *is_fresh*: the connection was new. *is_cut*: a
    smaller body may pass, because this one was cut off, timed out, or brought an answer of over 2 MiB.
    *place* is the answering side, for people: the server or "the proxy ...". *hide* makes a text safe to
    show, see :mod:`forwarder.delivery.wire.redact`.
    """

    status: int | None
    headers: Mapping[str, str]
    body: bytes
    error: str = ""
    received_at: float = 0.0
    took_s: float = 0.0
    upload_s: float = 0.0
    is_sent: bool = True
    is_fresh: bool = False
    is_cut: bool = False
    place: str = ""
    hide: Hide = str


def judge(kind: Kind, reply: Reply, records: Sequence[bytes], strict: bool = True) -> Outcome:
    """Decide what *reply* means for *records* of a *kind*, the stored bytes of what was sent, in order.

    Never raises, whatever the reply contains. DELIVERED only if every record is accounted for. No text in the
    result shows what ``reply.hide`` hides.
    """
    outcome = _verdict(kind, reply, records, strict)
    skew_s = clock_skew_s(reply.headers, reply.received_at)
    if skew_s is not None and skew_s > CLOCK_BLOCKS_S and _blames_the_future(kind, outcome, reply):
        outcome = Outcome(
            Verdict.MISCONFIGURED,
            f"this host's clock is {skew_s / 3600:.1f} hours ahead of Mixpanel's, which refuses"
            f" {kind.noun} as being in the future. Set the clock",
        )
    return replace(
        outcome,
        # Quotations were hidden before they were cut.
        detail=reply.hide(outcome.detail),
        clock_skew_s=skew_s,
        status=reply.status,
        took_s=reply.took_s,
        upload_s=reply.upload_s,
        is_fresh=reply.is_fresh,
        is_cut=reply.is_cut,
        is_doubtful=outcome.verdict is Verdict.UNREACHABLE and reply.is_sent,
    )


def _verdict(kind: Kind, reply: Reply, records: Sequence[bytes], strict: bool) -> Outcome:
    status = reply.status
    if reply.error or status is None:
        return _no_whole_answer(kind, reply, status or 0)
    if status in (200, 400):
        return _judged(reply, kind.judge(status, reply.body, records, strict, reply.hide))
    if status == 413:
        return _too_large(reply)
    return _not_about_records(kind, reply, status)


def _no_whole_answer(kind: Kind, reply: Reply, status: int) -> Outcome:
    error = shown(reply.error, hide=reply.hide) or "no answer"
    # A status without an answer is that of a proxy that refused the connection.
    if 400 <= status < 500 and status not in (429, *_TRANSIENT) and not reply.is_cut:
        return Outcome(Verdict.MISCONFIGURED, _advised(kind, error, status))
    return Outcome(Verdict.UNREACHABLE, error, retry_after_s=retry_after_s(reply.headers, reply.received_at))


def _judged(reply: Reply, outcome: Outcome) -> Outcome:
    """A kind's judgement. If it is not about the records, the server's words are added."""
    if outcome.verdict is Verdict.UNREACHABLE:
        return replace(_later(reply, f"{outcome.detail}: "), is_plain_no=outcome.is_plain_no)
    if outcome.verdict is Verdict.MISCONFIGURED:
        return replace(outcome, detail=f"{_line(reply)}. {outcome.detail}")
    return outcome


def _blames_the_future(kind: Kind, outcome: Outcome, reply: Reply) -> bool:
    is_about_records = outcome.verdict in (Verdict.DELIVERED, Verdict.SHORT, Verdict.REFUSED)
    return is_about_records and any(phrase in reply.body for phrase in kind.blames_future)


def _too_large(reply: Reply) -> Outcome:
    found = _LIMIT.search(reply.body)
    limit_bytes = int(found[1]) if found else 0
    return Outcome(Verdict.TOO_LARGE, _line(reply), limit_bytes=limit_bytes or None)


_LIMIT = re.compile(rb"max limit of (\d{1,15}) bytes")

# The 4xx that mean "later", not "different".
_TRANSIENT = frozenset({408, 409, 421, 423, 424, 425, 499})

_ADVICE = {
    401: "Check the service account, its secret and project_id, or the token; it may have expired",
    407: "The proxy asks for credentials: see HTTPS_PROXY",
}
_WRONG_PLACE = "Check mixpanel.url and mixpanel.region, and look for a proxy in between"


def _not_about_records(kind: Kind, reply: Reply, status: int) -> Outcome:
    if status == 429 or (status == 504 and b"too many requests" in reply.body[:4096].lower()):
        return replace(_later(reply), verdict=Verdict.THROTTLED)
    if not 300 <= status < 500 or status in _TRANSIENT:
        return _later(reply)
    line = _line(reply)
    if status < 400:
        place = host_of(reply.headers.get("location", ""), reply.hide)
        line = f"HTTP {status}: a redirect to {place}, not followed, because it would carry the key elsewhere"
    return Outcome(Verdict.MISCONFIGURED, _advised(kind, line, status))


def _advised(kind: Kind, line: str, status: int) -> str:
    return f"{line}. {kind.advice.get(status) or _ADVICE.get(status, _WRONG_PLACE)}"


def _later(reply: Reply, but: str = "") -> Outcome:
    wait_s = retry_after_s(reply.headers, reply.received_at)
    return Outcome(Verdict.UNREACHABLE, _line(reply, but), retry_after_s=wait_s)


def _line(reply: Reply, but: str = "") -> str:
    by = f" from {reply.place}" if "the proxy" in reply.place else ""
    said = words(reply.headers, reply.body, reply.hide)
    return f"HTTP {reply.status}{by}{', ' if but else ': '}{but}{said}"


# Reading what the answering side wrote, which may be anything: nothing here raises because of it.


def words(headers: Mapping[str, str], body: bytes, hide: Hide = str) -> str:
    """What the server says, for people: its ``error``, else the content's type and beginning."""
    error = error_of(parse(body))
    if error:
        return shown(error, hide=hide)
    start = body[:4096].decode("utf-8", "replace")
    title = re.search(r"<title[^>]{0,200}>(.{0,200}?)</title>", start, re.IGNORECASE | re.DOTALL)
    sample = shown(" ".join((title[1] if title else start).split()), SAMPLE_MAX, hide)
    kind = shown(headers.get("content-type", "").partition(";")[0], SAMPLE_MAX, hide)
    return f"{kind or 'no content type'}: {sample}" if sample else "an empty body"


def clock_skew_s(headers: Mapping[str, str], received_at: float) -> float | None:
    """How far *received_at* is ahead of the ``Date`` header; None: one of them is not known."""
    theirs = _instant(headers.get("date", ""))
    if theirs is None or not received_at or not math.isfinite(received_at):
        return None
    return received_at - theirs


def retry_after_s(headers: Mapping[str, str], received_at: float) -> float | None:
    """The requested wait, at most an hour; None: there is none, it is invalid, or it is over."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII):
        return min(float(text), RETRY_AFTER_MAX_S)
    until = _instant(text)
    # Measured from the server's own clock, if known: ours may be wrong.
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
    """Only the host of an address: the rest may contain a secret."""
    try:
        host = urlsplit(location).hostname
        return shown(host or ("the same host" if location else "nowhere"), hide=hide)
    except ValueError:
        return "an unreadable address"
