"""What a 200 or 400 of ``/engage`` and ``/groups`` says about the updates that were sent.

Mixpanel answers 1 if one or more of them are valid, and 0 if none is; it does not say which ("Profile Batch
Update" in its docs). So 1 is an acknowledgement of all: to find an invalid one, the valid ones would have to
be sent again, and these would count twice. After 0 nothing was stored, so a part may be sent again.
"""

from __future__ import annotations

import re
from typing import Any

from forwarder.records import mixpanel_json
from forwarder.records.mixpanel_json import shown
from forwarder.records.verdict import Hide, Outcome, Verdict

# {"status":0,"error":"a temporary failure occurred"} is reported by users of mixpanel-python.
_IS_TEMPORARY = re.compile(
    r"temporar|rate limit|too many|try again|retry|timed? ?out|unavailable", re.IGNORECASE
)


def judge(status: int, body: bytes, count: int, hide: Hide) -> Outcome:
    """As `Kind.judge`, for *count* updates; never DELIVERED and REFUSED for parts of them."""
    said = mixpanel_json.parse(body)
    # Per-record errors come only in strict mode, which is not asked for. What they mean is not documented.
    is_per_record = isinstance(said, dict) and ("failed_records" in said or "num_records_imported" in said)
    if not is_per_record and status == 200 and _is_plain_yes(said):
        return Outcome(Verdict.DELIVERED, "", imported=count)
    if not is_per_record and (mixpanel_json.is_plain_no(said) or (status == 400 and _is_refusal(said))):
        return _refusal(said, hide)
    return Outcome(Verdict.UNREACHABLE, "but not in Mixpanel's words")


def _is_plain_yes(said: Any) -> bool:
    # With an error beside 1, some were not valid, and the others count.
    has_yes = isinstance(said, dict) and type(said.get("status")) is int and said["status"] == 1
    return has_yes or mixpanel_json.is_plain_yes(said)


def _is_refusal(said: Any) -> bool:
    return isinstance(said, dict) and mixpanel_json.is_mixpanels(said) and said.get("status") not in (1, "1")


def _refusal(said: Any, hide: Hide) -> Outcome:
    error = mixpanel_json.error_of(said)
    if mixpanel_json.blames_the_project(said):
        return Outcome(Verdict.MISCONFIGURED, "Check the '$token' of the updates and mixpanel.region")
    if _IS_TEMPORARY.search(error[:1000]):
        return Outcome(Verdict.UNREACHABLE, "a temporary failure")
    return Outcome(Verdict.REFUSED, shown(error, hide=hide) or "refused without a reason")
