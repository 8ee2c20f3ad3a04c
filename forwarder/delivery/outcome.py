"""What a reply means for the events that were sent: decided once, here, over plain values.

=============  ==========================================================  ===================================
outcome        when                                                        what it asks for
=============  ==========================================================  ===================================
DELIVERED      200 or 400 in Mixpanel's own JSON that accounts for every   settle: named ones are dead, the
               event: imported + distinct failed indexes = sent            rest is delivered
SHORT          as above, but the figures do not add up, or 200 comes with  settle the named ones, send the
               another code or status in its words                         rest once more
TOO_LARGE      413                                                         send in smaller parts
REFUSED        400 whose ``failed_records`` are missing, not objects, out  halve, until one event is left
               of range or contradict their ``insert_id``
THROTTLED      429; 504 that says "Too many requests"                      back off, fewer connections
UNREACHABLE    no answer, 408, 5xx, 2xx but 200, or a body that is not     back off
               Mixpanel's, also with status 200
MISCONFIGURED  401, 403, 404, 3xx and other 4xx; a clock that is an hour   block, and say so
               ahead
=============  ==========================================================  ===================================

A strict-mode 400 is a partial success: the valid events were imported. Unknown means "later".
The far end's rules: docs.mixpanel.com, "Import Events" and "Troubleshooting: errors".
"""

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from forwarder.delivery import answer

CLOCK_BLOCKS_S = 3600.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: *status* is None when nothing did, and *error* then says why.

    Header names are lower case; *received_at* is this host's clock, in epoch seconds (0: not known).
    """

    status: int | None
    headers: Mapping[str, str]
    body: bytes
    error: str = ""
    received_at: float = 0.0


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
    """Mixpanel's word against one event: its place in what was sent, the field, the reason."""

    index: int
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """A reply's meaning. *detail* is one printable line for a person; "" when there is nothing to say.

    *rejections* are in the order of the events, one an event. *clock_skew_s* is positive when this
    host's clock is ahead of the far end's; None when the reply does not tell.
    """

    kind: Kind
    detail: str
    rejections: tuple[Rejection, ...] = ()
    imported: int = 0
    limit_bytes: int | None = None
    retry_after_s: float | None = None
    clock_skew_s: float | None = None


def judge(reply: Reply, events: Sequence[bytes], strict: bool = True) -> Outcome:
    """Decide what *reply* means for *events*, the stored bytes of what was sent, in order.

    Never raises, whatever the reply holds; never DELIVERED unless every event is accounted for.
    """
    outcome = _verdict(reply, events, strict)
    skew_s = answer.clock_skew_s(reply.headers, reply.received_at)
    if skew_s is None:
        return outcome
    if skew_s > CLOCK_BLOCKS_S and _blames_the_future(outcome):
        outcome = Outcome(
            Kind.MISCONFIGURED,
            f"this host's clock is {skew_s / 3600:.1f} hours ahead of Mixpanel's, which refuses"
            " events as being in the future. Set the clock",
        )
    return replace(outcome, clock_skew_s=skew_s)


def _verdict(reply: Reply, events: Sequence[bytes], strict: bool) -> Outcome:
    status = reply.status
    if status is None:
        return Outcome(Kind.UNREACHABLE, answer.shown(reply.error) or "no answer")
    if status == 200:
        return _success(reply, events, strict)
    if status == 400:
        return _refusal(reply, events)
    if status == 413:
        return _too_large(reply)
    return _not_about_events(reply, status)


def _success(reply: Reply, events: Sequence[bytes], strict: bool) -> Outcome:
    said = answer.parse(reply.body)
    if isinstance(said, dict) and answer.is_mixpanels(said) and said.get("status") not in (0, "0"):
        imported = answer.imported(said)
        if imported is not None and (said.get("failed_records") or not said.get("error")):
            return _contradicted(said, _account(said, imported, events, refused=False))
    if not strict and reply.status == 200 and answer.is_plain_yes(said):
        return Outcome(Kind.DELIVERED, "", imported=len(events))
    return _later(reply, "but the answer does not account for the events: ")


def _contradicted(said: dict[str, Any], outcome: Outcome) -> Outcome:
    """A yes that says something else in the same breath is none at the first time of asking."""
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
    return _account(said, answer.imported(said) or 0, events, refused=True)


# Mixpanel's query API answers a wrong region with 400 "invalid project id for cluster". What /import
# says is not documented; such words are never about one event, and halving would condemn them all.
_BLAMES_THE_PROJECT = re.compile(
    r"invalid project|for cluster|invalid credentials|unauthorized", re.IGNORECASE
)


def _account(said: dict[str, Any], imported: int, events: Sequence[bytes], *, refused: bool) -> Outcome:
    """Compare Mixpanel's figures with what was sent; *refused*: the status was 400."""
    sent = len(events)
    failed = said.get("failed_records")
    rejections = _rejections(failed, events, answer.error_of(said)) if failed else ()
    if rejections is None or (refused and not failed):
        if imported != sent:
            return Outcome(Kind.REFUSED, answer.complaint(said), imported=imported)
        # All imported, says the count: no refusal then, and no plain yes either.
        return Outcome(Kind.SHORT, f"contradictory answer: {answer.complaint(said)}", imported=imported)
    if imported + len(rejections) == sent:
        return Outcome(Kind.DELIVERED, "", rejections, imported)
    detail = f"Mixpanel counts {imported} imported and names {len(rejections)} refused, of {sent} sent"
    return Outcome(Kind.SHORT, detail, rejections, imported)


def _rejections(failed: Any, events: Sequence[bytes], error: str) -> tuple[Rejection, ...] | None:
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
    return tuple(
        Rejection(index, answer.shown(field), answer.shown(message or error))
        for index, (field, message) in sorted(found.items())
    )


def _claims(record: dict[str, Any]) -> set[str | None]:
    # The documents use both names; the one real capture says insert_id.
    named = (record.get("insert_id"), record.get("$insert_id"))
    return {name for name in named if isinstance(name, str) and name}


def _joined(known: str, more: Any) -> str:
    if not isinstance(more, str) or len(known) > answer.TEXT_MAX:
        return known
    more = more[: answer.TEXT_MAX + 1]
    if not known or more in known:
        return known or more
    return f"{known}; {more}"


def _blames_the_future(outcome: Outcome) -> bool:
    if outcome.kind not in (Kind.DELIVERED, Kind.SHORT, Kind.REFUSED):
        return False
    texts = [outcome.detail, *(rejection.message for rejection in outcome.rejections)]
    return any("must not be in the future" in text for text in texts)


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
        place = answer.host_of(reply.headers.get("location", ""))
        line = f"HTTP {status}: a redirect to {place}, not followed: it would carry the key elsewhere"
    return Outcome(Kind.MISCONFIGURED, f"{line}. {_ADVICE.get(status, _WRONG_PLACE)}")


def _later(reply: Reply, but: str = "") -> Outcome:
    wait_s = answer.retry_after_s(reply.headers, reply.received_at)
    return Outcome(Kind.UNREACHABLE, _line(reply, but), retry_after_s=wait_s)


def _line(reply: Reply, but: str = "") -> str:
    return f"HTTP {reply.status}{', ' if but else ': '}{but}{answer.words(reply.headers, reply.body)}"
