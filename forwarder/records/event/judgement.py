"""What a 200 or 400 of ``/import`` says about the events that were sent.

A strict-mode 400 is a partial success: the valid events were imported. Mixpanel's rules: docs.mixpanel.com,
"Import Events".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from forwarder.records import mixpanel_json
from forwarder.records.event.stored import name_of
from forwarder.records.mixpanel_json import NOT_SHOWN, READ_MAX, SAMPLE_MAX, shown
from forwarder.records.verdict import Hide, Outcome, Rejection, Verdict


def judge(status: int, body: bytes, events: Sequence[bytes], strict: bool, hide: Hide) -> Outcome:
    """As `Kind.judge`; never DELIVERED unless every event is accounted for."""
    if status == 200:
        return _success(body, events, strict, hide)
    return _refusal(body, events, hide)


def _success(body: bytes, events: Sequence[bytes], strict: bool, hide: Hide) -> Outcome:
    said = mixpanel_json.parse(body)
    if isinstance(said, dict) and mixpanel_json.is_mixpanels(said) and said.get("status") not in (0, "0"):
        imported = _imported(said)
        if imported is not None and (said.get("failed_records") or not said.get("error")):
            return _contradicted(said, _account(200, said, imported, events, hide))
    if not strict and mixpanel_json.is_plain_yes(said):
        return Outcome(Verdict.DELIVERED, "", imported=len(events))
    is_plain_no = not strict and mixpanel_json.is_plain_no(said)
    return Outcome(
        Verdict.UNREACHABLE, "but the answer does not account for the events", is_plain_no=is_plain_no
    )


def _contradicted(said: dict[str, Any], outcome: Outcome) -> Outcome:
    """An acknowledgement that contradicts itself is not believed at first."""
    found = _contradiction(said)
    if not found or outcome.verdict is not Verdict.DELIVERED:
        return outcome
    return replace(outcome, verdict=Verdict.SHORT, detail=f"contradictory answer: HTTP 200, but {found}")


def _refusal(body: bytes, events: Sequence[bytes], hide: Hide) -> Outcome:
    said = mixpanel_json.parse(body)
    if not isinstance(said, dict) or not mixpanel_json.is_mixpanels(said):
        return Outcome(Verdict.UNREACHABLE, "but not in Mixpanel's words")
    if not said.get("failed_records") and mixpanel_json.blames_the_project(said):
        return Outcome(Verdict.MISCONFIGURED, "Check mixpanel.project_id and mixpanel.region")
    return _account(400, said, _imported(said) or 0, events, hide)


def _account(
    status: int, said: dict[str, Any], imported: int, events: Sequence[bytes], hide: Hide
) -> Outcome:
    """Compare Mixpanel's figures with what was sent."""
    sent = len(events)
    failed = said.get("failed_records")
    rejections = _rejections(failed, events, mixpanel_json.error_of(said), hide) if failed else ()
    if rejections is None or (status == 400 and not failed):
        complaint = _complaint(said, hide)
        if imported != sent:
            return Outcome(Verdict.REFUSED, complaint, imported=imported)
        # All were imported, by the count: so it is neither a refusal nor an acknowledgement.
        return Outcome(Verdict.SHORT, f"contradictory answer: {complaint}", imported=imported)
    if imported + len(rejections) == sent:
        return Outcome(Verdict.DELIVERED, "", rejections, imported)
    detail = f"Mixpanel counts {imported} imported and names {len(rejections)} refused, of {sent} sent"
    return Outcome(Verdict.SHORT, detail, rejections, imported)


def _rejections(failed: Any, events: Sequence[bytes], error: str, hide: Hide) -> tuple[Rejection, ...] | None:
    """The failed records, one per event; None: at least one of them is implausible."""
    if not isinstance(failed, list):
        return None
    ids: dict[int, str] = {}
    found: dict[int, tuple[str, str]] = {}
    for record in failed:
        if not isinstance(record, dict):
            return None
        index = record.get("index")
        if type(index) is not int or not 0 <= index < len(events):
            return None
        if index not in ids:
            _, ids[index] = name_of(events[index])
        if ids[index] and not _claims(record) <= {ids[index]}:
            return None
        field, message = found.get(index, ("", ""))
        found[index] = (_joined(field, record.get("field")), _joined(message, record.get("message")))
    indexes = sorted(found)
    fields = [found[index][0] for index in indexes]
    messages = [found[index][1] or error[:READ_MAX] for index in indexes]
    texts = [shown(text) for text in _hidden([*fields, *messages], hide)]
    return tuple(map(Rejection, indexes, texts[: len(indexes)], texts[len(indexes) :]))


def _hidden(texts: list[str], hide: Hide) -> list[str]:
    """*texts* without those that repeat the key; empty if several repeat it only together."""
    if not _repeats(texts, hide):
        return texts
    hidden = [hide(text) for text in texts]
    return [text and NOT_SHOWN for text in texts] if _repeats(hidden, hide) else hidden


def _repeats(texts: list[str], hide: Hide) -> bool:
    # Each run of equal texts once: most batches are refused for one reason.
    whole = "\n".join(text for text, _ in groupby(texts))
    return hide(whole) != whole


def _claims(record: dict[str, Any]) -> set[str]:
    # The documents use both names; the one real capture says insert_id.
    named = (record.get("insert_id"), record.get("$insert_id"))
    return {name for name in named if isinstance(name, str) and name}


def _joined(known: str, more: Any) -> str:
    if not isinstance(more, str) or len(known) > READ_MAX:
        return known
    more = more[:READ_MAX]
    if not known or more in known:
        return known or more
    return f"{known}; {more}"


def _contradiction(said: dict[str, Any]) -> str:
    """What in Mixpanel's JSON contradicts its HTTP 200; "": nothing."""
    code, status = said.get("code"), said.get("status")
    if code not in (None, 200):
        return f"code {code}"
    if status is not None and str(status).upper() not in ("OK", "1"):
        return f"status {shown(str(status), SAMPLE_MAX)!r}"
    return ""


def _imported(said: dict[str, Any]) -> int | None:
    """How many events were imported, by the answer; None: it does not say."""
    count = said.get("num_records_imported")
    return count if type(count) is int and 0 <= count < 2**53 else None


def _complaint(said: dict[str, Any], hide: Hide) -> str:
    """Mixpanel's words about a batch whose failed records are unusable."""
    failed = said.get("failed_records")
    records = failed[:3] if isinstance(failed, list) else [failed]
    messages = [record.get("message") if isinstance(record, dict) else record for record in records]
    found = [*messages, mixpanel_json.error_of(said)]
    texts = [text[:READ_MAX] for text in found if isinstance(text, str) and text]
    return shown("; ".join(dict.fromkeys(texts)), hide=hide) or "refused without a reason"
