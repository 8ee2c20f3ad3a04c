"""Reading the JSON answers of Mixpanel's endpoints. What was received may be anything.

Nothing here raises because of the content, and nothing decides.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from forwarder.records.verdict import Hide

NOT_SHOWN = "(not shown: it repeats the key)"
TEXT_MAX = 300
READ_MAX = 1200  # characters of a text that is cut to TEXT_MAX
SAMPLE_MAX = 80

# Beyond msgspec's own: an integer of thousands of digits, and endless nesting.
NOT_JSON = (msgspec.MsgspecError, ValueError, RecursionError)
_decode = msgspec.json.Decoder().decode
_PLAIN_MOST_BYTES = 64


class _Answer(msgspec.Struct):
    """The members of an object that are read. The rest, which may be a million keys, is skipped."""

    code: Any = msgspec.UNSET
    status: Any = msgspec.UNSET
    error: Any = msgspec.UNSET
    num_records_imported: Any = msgspec.UNSET
    failed_records: Any = msgspec.UNSET


_decode_object = msgspec.json.Decoder(_Answer).decode


def parse(body: bytes) -> Any:
    """The JSON value in *body*, of an object only the keys that Mixpanel uses; None: it isn't JSON."""
    try:
        if body.lstrip()[:1] != b"{":
            return _decode(body) if len(body) <= _PLAIN_MOST_BYTES else None
        said = _decode_object(body)
    except NOT_JSON:
        return None
    return {
        key: value for key in _Answer.__struct_fields__ if (value := getattr(said, key)) is not msgspec.UNSET
    }


def is_mixpanels(answer: dict[str, Any]) -> bool:
    """Whether a JSON object has the shape of Mixpanel's answers, not of a proxy's error page.

    Each documented or captured body has the figures, or an ``error`` in words with ``code`` or ``status``.
    The code is the HTTP status; the status is a word, 0 or 1.
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


def error_of(answer: Any) -> str:
    """The ``error`` of Mixpanel's JSON, as it came; "" without one."""
    error = answer.get("error") if isinstance(answer, dict) else None
    return error if isinstance(error, str) else ""


# Mixpanel's query API answers a wrong region with 400 "invalid project id for cluster". What the others say
# is not documented. Such words are never about one record; halving would dead-letter all of them.
_BLAMES_THE_PROJECT = re.compile(
    r"invalid project|for cluster|invalid credentials|unauthorized", re.IGNORECASE
)


def blames_the_project(answer: Any) -> bool:
    """Whether the ``error`` is about the project or the key, not about a record."""
    return bool(_BLAMES_THE_PROJECT.search(error_of(answer)[:1000]))


def shown(text: str, limit: int = TEXT_MAX, hide: Hide = str) -> str:
    """*text* on one line of at most *limit* characters; unprintable characters are escaped.

    *hide* gets it before it is cut, because it would not find half a key.
    """
    cut = hide(text[:READ_MAX])[: limit + 1]
    if not cut.isprintable():
        cut = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in cut)
    return cut if len(cut) <= limit else cut[: limit - 1] + "…"
