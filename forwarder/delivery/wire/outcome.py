"""What a reply means for the events that were sent: decided once, here, over plain values.

=============  ==========================================================  ===================================
outcome        when                                                        what it asks for
=============  ==========================================================  ===================================
DELIVERED      200 or 400 in Mixpanel's own JSON that accounts for every   settle: dead-letter the named ones,
               event: imported + distinct failed indexes = sent            the rest is delivered
SHORT          as above, but the figures do not add up, or 200 comes with  settle the named ones, send the
               a code or status that contradicts it                        rest once more
TOO_LARGE      413                                                         send in smaller parts
REFUSED        400 whose ``failed_records`` are missing, not objects, out  halve, until one event is left
               of range or contradict their ``insert_id``
THROTTLED      429; 504 that says "Too many requests"                      back off, fewer connections
UNREACHABLE    no whole answer, 408, 5xx, 2xx but 200, or a body that is   back off
               not Mixpanel's, also with status 200
MISCONFIGURED  401, 403, 404, 3xx and other 4xx; a proxy that refuses the  block, and say so
               connection with 4xx; a clock that is an hour ahead
=============  ==========================================================  ===================================

A strict-mode 400 is a partial success: the valid events were imported. Unknown means "later".
Mixpanel's rules: docs.mixpanel.com, "Import Events" and "Troubleshooting: errors".
"""

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from forwarder.delivery.wire import answer
from forwarder.delivery.wire.redact import NOT_SHOWN

CLOCK_BLOCKS_S = 3600.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. *error* says why there is no whole answer; *status* is None when there is none at all.

    Header names are lower case; *received_at* is this host's clock, in epoch seconds (0: not known).
    *took_s* is from the sending to the end, *upload_s* how long the request itself took (0: hardly any time),
    *is_fresh* whether the connection was new, *is_cut* whether a smaller body may pass: it was cut off, timed
    out, or brought an answer of over 2 MiB. *place* is who answered, for people: the server or "the proxy
    ...". *hide*
    makes a text fit to be shown, see :mod:`forwarder.delivery.wire.redact`.
    """

    status: int | None
    headers: Mapping[str, str]
    body: bytes
    error: str = ""
    received_at: float = 0.0
    took_s: float = 0.0
    upload_s: float = 0.0
    is_fresh: bool = False
    is_cut: bool = False
    place: str = ""
    hide: answer.Hide = str


class Kind(enum.Enum):
    """The seven things a reply can mean; see the table above."""

    DELIVERED = "delivered"
    SHORT = "short count"
    TOO_LARGE = "too large"
    REFUSED = "unexplained refusal"
    THROTTLED = "throttled"
    UNREACHABLE = "unreachable"
    MISCONFIGURED = "misconfigured"


@dataclass(frozen=True, slots=True)
class Rejection:
    """An event that Mixpanel refused: its index in what was sent, the field, the reason."""

    index: int
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """A reply's meaning. *detail* is one printable line for a person; "" when there is nothing to say.

    *rejections* are in the order of the events, one an event. *clock_skew_s* is positive when this host's
    clock is ahead of the server's; None when the reply does not tell. *status*, *took_s*, *upload_s*,
    *is_fresh* and *is_cut* are the reply's. *is_plain_no*: without strict mode, Mixpanel said just 0.
    """

    kind: Kind
    detail: str
    rejections: tuple[Rejection, ...] = ()
    imported: int = 0
    limit_bytes: int | None = None
    retry_after_s: float | None = None
    clock_skew_s: float | None = None
    status: int | None = None
    took_s: float = 0.0
    upload_s: float = 0.0
    is_fresh: bool = False
    is_cut: bool = False
    is_plain_no: bool = False


def judge(reply: Reply, events: Sequence[bytes], strict: bool = True) -> Outcome:
    """Decide what *reply* means for *events*, the stored bytes of what was sent, in order.

    Never raises, whatever the reply holds; never DELIVERED unless every event is accounted for. No text of
    it repeats what ``reply.hide`` hides.
    """
    outcome = _verdict(reply, events, strict)
    skew_s = answer.clock_skew_s(reply.headers, reply.received_at)
    if skew_s is not None and skew_s > CLOCK_BLOCKS_S and _blames_the_future(outcome, reply):
        outcome = Outcome(
            Kind.MISCONFIGURED,
            f"this host's clock is {skew_s / 3600:.1f} hours ahead of Mixpanel's, which refuses"
            " events as being in the future. Set the clock",
        )
    return replace(
        outcome,
        # What was quoted is hidden already, before it was cut.
        detail=reply.hide(outcome.detail),
        clock_skew_s=skew_s,
        status=reply.status,
        took_s=reply.took_s,
        upload_s=reply.upload_s,
        is_fresh=reply.is_fresh,
        is_cut=reply.is_cut,
    )


def _verdict(reply: Reply, events: Sequence[bytes], strict: bool) -> Outcome:
    status = reply.status
    if reply.error or status is None:
        return _no_whole_answer(reply, status or 0)
    if status == 200:
        return _success(reply, events, strict)
    if status == 400:
        return _refusal(reply, events)
    if status == 413:
        return _too_large(reply)
    return _not_about_events(reply, status)


def _no_whole_answer(reply: Reply, status: int) -> Outcome:
    error = answer.shown(reply.error, hide=reply.hide) or "no answer"
    # With a status and no answer, it is a proxy's, which refused the connection.
    if 400 <= status < 500 and status not in (429, *_TRANSIENT) and not reply.is_cut:
        return Outcome(Kind.MISCONFIGURED, _advised(error, status))
    return Outcome(Kind.UNREACHABLE, error, retry_after_s=_retry_after_s(reply))


def _success(reply: Reply, events: Sequence[bytes], strict: bool) -> Outcome:
    said = answer.parse(reply.body)
    if isinstance(said, dict) and answer.is_mixpanels(said) and said.get("status") not in (0, "0"):
        imported = answer.imported(said)
        if imported is not None and (said.get("failed_records") or not said.get("error")):
            return _contradicted(said, _account(reply, said, imported, events))
    if not strict and answer.is_plain_yes(said):
        return Outcome(Kind.DELIVERED, "", imported=len(events))
    later = _later(reply, "but the answer does not account for the events: ")
    return replace(later, is_plain_no=not strict and answer.is_plain_no(said))


def _contradicted(said: dict[str, Any], outcome: Outcome) -> Outcome:
    """An acknowledgement that contradicts itself is not believed the first time."""
    found = answer.contradiction(said)
    if not found or outcome.kind is not Kind.DELIVERED:
        return outcome
    return replace(outcome, kind=Kind.SHORT, detail=f"contradictory answer: HTTP 200, but {found}")


def _refusal(reply: Reply, events: Sequence[bytes]) -> Outcome:
    said = answer.parse(reply.body)
    if not isinstance(said, dict) or not answer.is_mixpanels(said):
        return _later(reply, "but not in Mixpanel's words: ")
    if not said.get("failed_records") and _BLAMES_THE_PROJECT.search(answer.error_of(said)[:1000]):
        return Outcome(Kind.MISCONFIGURED, f"{_line(reply)}. Check mixpanel.project_id and mixpanel.region")
    return _account(reply, said, answer.imported(said) or 0, events)


# Mixpanel's query API answers a wrong region with 400 "invalid project id for cluster". What /import
# says is not documented; such words are never about one event, and halving would dead-letter them all.
_BLAMES_THE_PROJECT = re.compile(
    r"invalid project|for cluster|invalid credentials|unauthorized", re.IGNORECASE
)


def _account(reply: Reply, said: dict[str, Any], imported: int, events: Sequence[bytes]) -> Outcome:
    """Compare Mixpanel's figures with what was sent."""
    sent = len(events)
    failed = said.get("failed_records")
    rejections = _rejections(failed, events, answer.error_of(said), reply.hide) if failed else ()
    if rejections is None or (reply.status == 400 and not failed):
        complaint = answer.complaint(said, reply.hide)
        if imported != sent:
            return Outcome(Kind.REFUSED, complaint, imported=imported)
        # The count says that all were imported: neither a refusal nor an acknowledgement.
        return Outcome(Kind.SHORT, f"contradictory answer: {complaint}", imported=imported)
    if imported + len(rejections) == sent:
        return Outcome(Kind.DELIVERED, "", rejections, imported)
    detail = f"Mixpanel counts {imported} imported and names {len(rejections)} refused, of {sent} sent"
    return Outcome(Kind.SHORT, detail, rejections, imported)


def _rejections(
    failed: Any, events: Sequence[bytes], error: str, hide: answer.Hide
) -> tuple[Rejection, ...] | None:
    """The failed records, one an event; None when any of them can't be believed."""
    if not isinstance(failed, list):
        return None
    ids: dict[int, str | None] = {}
    found: dict[int, tuple[str, str]] = {}
    for record in failed:
        if not isinstance(record, dict):
            return None
        index = record.get("index")
        if type(index) is not int or not 0 <= index < len(events):
            return None
        if index not in ids:
            ids[index] = answer.insert_id_of(events[index])
        if ids[index] is not None and not _claims(record) <= {ids[index]}:
            return None
        field, message = found.get(index, ("", ""))
        found[index] = (_joined(field, record.get("field")), _joined(message, record.get("message")))
    indexes = sorted(found)
    fields = [found[index][0] for index in indexes]
    messages = [found[index][1] or error[: answer.READ_MAX] for index in indexes]
    texts = [answer.shown(text) for text in _hidden([*fields, *messages], hide)]
    return tuple(map(Rejection, indexes, texts[: len(indexes)], texts[len(indexes) :]))


def _hidden(texts: list[str], hide: answer.Hide) -> list[str]:
    """*texts* without those that repeat the key; without any, where several do so only together."""
    if not _repeats(texts, hide):
        return texts
    hidden = [hide(text) for text in texts]
    return [text and NOT_SHOWN for text in texts] if _repeats(hidden, hide) else hidden


def _repeats(texts: list[str], hide: answer.Hide) -> bool:
    # Each run of equal texts once: most batches are refused in one way.
    whole = "\n".join(text for text, _ in groupby(texts))
    return hide(whole) != whole


def _claims(record: dict[str, Any]) -> set[str | None]:
    # The documents use both names; the one real capture says insert_id.
    named = (record.get("insert_id"), record.get("$insert_id"))
    return {name for name in named if isinstance(name, str) and name}


def _joined(known: str, more: Any) -> str:
    if not isinstance(more, str) or len(known) > answer.READ_MAX:
        return known
    more = more[: answer.READ_MAX]
    if not known or more in known:
        return known or more
    return f"{known}; {more}"


def _blames_the_future(outcome: Outcome, reply: Reply) -> bool:
    is_about_events = outcome.kind in (Kind.DELIVERED, Kind.SHORT, Kind.REFUSED)
    return is_about_events and b"must not be in the future" in reply.body


def _too_large(reply: Reply) -> Outcome:
    found = _LIMIT.search(reply.body)
    limit_bytes = int(found[1]) if found else 0
    return Outcome(Kind.TOO_LARGE, _line(reply), limit_bytes=limit_bytes or None)


_LIMIT = re.compile(rb"max limit of (\d{1,15}) bytes")

# Those 4xx which say "later", not "different".
_TRANSIENT = frozenset({408, 409, 421, 423, 424, 425, 499})

_ADVICE = {
    401: "Check the service account, its secret and project_id, or the token; they may have expired",
    403: "Mixpanel's import does not answer 403: look for a firewall, a proxy, a block of this address",
    407: "The proxy asks for credentials: see HTTPS_PROXY",
}
_WRONG_PLACE = "Check mixpanel.url and mixpanel.region, and for a proxy in between"


def _not_about_events(reply: Reply, status: int) -> Outcome:
    if status == 429 or (status == 504 and b"too many requests" in reply.body[:4096].lower()):
        return replace(_later(reply), kind=Kind.THROTTLED)
    if not 300 <= status < 500 or status in _TRANSIENT:
        return _later(reply)
    line = _line(reply)
    if status < 400:
        place = answer.host_of(reply.headers.get("location", ""), reply.hide)
        line = f"HTTP {status}: a redirect to {place}, not followed: it would carry the key elsewhere"
    return Outcome(Kind.MISCONFIGURED, _advised(line, status))


def _advised(line: str, status: int) -> str:
    return f"{line}. {_ADVICE.get(status, _WRONG_PLACE)}"


def _later(reply: Reply, but: str = "") -> Outcome:
    return Outcome(Kind.UNREACHABLE, _line(reply, but), retry_after_s=_retry_after_s(reply))


def _retry_after_s(reply: Reply) -> float | None:
    return answer.retry_after_s(reply.headers, reply.received_at)


def _line(reply: Reply, but: str = "") -> str:
    by = f" from {reply.place}" if "the proxy" in reply.place else ""
    words = answer.words(reply.headers, reply.body, reply.hide)
    return f"HTTP {reply.status}{by}{', ' if but else ': '}{but}{words}"
