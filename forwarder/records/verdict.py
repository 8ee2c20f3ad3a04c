"""The values of a judgement, for any kind of records."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

# Makes a text safe to show: replaces what repeats a secret.
Hide = Callable[[str], str]


class Verdict(enum.Enum):
    """The seven meanings of a reply; see the table in :mod:`forwarder.delivery.wire.outcome`."""

    DELIVERED = "delivered"
    SHORT = "short count"
    TOO_LARGE = "too large"
    REFUSED = "unexplained refusal"
    THROTTLED = "throttled"
    UNREACHABLE = "unreachable"
    MISCONFIGURED = "misconfigured"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that Mixpanel refused: its index in what was sent, the field, the reason."""

    index: int
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """A reply's meaning. *detail* is one printable line for a person; "" if there is nothing to say.

    *rejections* are in the order of the records, one per record. *clock_skew_s* is positive if this host's
    clock is ahead of the server's; None: the reply does not say. *status*, *took_s*, *upload_s*,
    *is_fresh* and *is_cut* are the reply's. *is_plain_no*: without strict mode, Mixpanel said just 0.
    *is_doubtful*: the request may have reached the server, and the reply does not say what came of it.
    """

    verdict: Verdict
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
    is_doubtful: bool = False
