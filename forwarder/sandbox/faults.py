"""The available faults, as values.

A fault is its effect on a request. How often and how long it applies is given when it is injected
(:mod:`forwarder.sandbox.schedule`). Faults have the names of the functions here.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from forwarder.sandbox import alterations, answers
from forwarder.sandbox.alterations import Alteration, Predicate
from forwarder.sandbox.answers import Answer


class Ending(enum.Enum):
    """How a request ends."""

    ANSWER = "answered"
    RESET = "reset"
    HALF = "half an answer"
    HANG = "never answered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The effect on a request. The functions of this class create them; each is named after its fault.

    Attributes:
        instead: The answer, without examining the events; none are taken.
        ending, taken: What becomes of the answer, and whether the events are taken before.
        alter: Changes the verdict about the batch, before its events are taken.
        distort: Changes the answer after they were taken.
        delay_s, skew_s: Waits before anything else; sets the server's clock wrong.
        events_per_s: The rate above which requests are throttled, with `retry_after_s`.
        outage_s: How long connections are refused.
    """

    name: str
    instead: Answer | None = None
    ending: Ending = Ending.ANSWER
    taken: bool = True
    alter: Alteration | None = None
    distort: Callable[[Answer], Answer] | None = None
    delay_s: float = 0.0
    skew_s: float = 0.0
    events_per_s: float | None = None
    retry_after_s: float | None = None
    outage_s: float | None = None

    @property
    def final(self) -> bool:
        """Whether it decides how the request ends, so that no second such fault can apply."""
        return self.instead is not None or self.ending is not Ending.ANSWER

    # The connection

    @classmethod
    def outage(cls, for_s: float) -> Fault:
        """Connections are refused for *for_s* seconds; open ones are closed."""
        return cls(name="outage", outage_s=float(for_s))

    @classmethod
    def slow(cls, delay_s: float) -> Fault:
        """Each request waits."""
        return cls(name="slow", delay_s=float(delay_s))

    @classmethod
    def hang(cls, taken: bool = False) -> Fault:
        """The request is read and not answered until it is released: then the connection is closed."""
        return cls(name="hang", ending=Ending.HANG, taken=bool(taken))

    @classmethod
    def reset_before(cls) -> Fault:
        """The connection is reset (RST) before the events were taken."""
        return cls(name="reset_before", ending=Ending.RESET, taken=False)

    @classmethod
    def reset_after(cls) -> Fault:
        """The events are taken, then the connection is reset (RST)."""
        return cls(name="reset_after", ending=Ending.RESET)

    @classmethod
    def half_answer(cls) -> Fault:
        """The events are taken; the answer breaks off in the middle of its body."""
        return cls(name="half_answer", ending=Ending.HALF)

    # Answers without examining the events

    @classmethod
    def answer(cls, status: int, body: str = "", content_type: str = answers.JSON) -> Fault:
        """Any answer."""
        return cls(name="answer", instead=Answer(int(status), body.encode(), content_type))

    @classmethod
    def server_error(cls, status: int = 503) -> Fault:
        """500, 502, 503 or 504; 502 and 503 with Envoy's "upstream connect error…"."""
        return cls(name="server_error", instead=answers.server_error(int(status)))

    @classmethod
    def throttle(cls, retry_after_s: float | None = None, strict: bool = True) -> Fault:
        """429, with ``Retry-After`` if given; `strict` chooses one of its two shapes."""
        seconds = None if retry_after_s is None else float(retry_after_s)
        return cls(name="throttle", instead=answers.throttled(bool(strict), seconds))

    @classmethod
    def too_large(cls, limit_bytes: int = 2_097_152, html: bool = False) -> Fault:
        """413, whatever the size: in JSON that names the limit, or as a page without it."""
        return cls(name="too_large", instead=answers.too_large(int(limit_bytes), bool(html)))

    @classmethod
    def login_page(cls) -> Fault:
        """A captive portal's page, with status 200."""
        form = '<form method="post"><input name="user"><input name="password"></form>'
        return cls(name="login_page", instead=answers.page(200, "Sign in to continue", form))

    @classmethod
    def redirect(cls, location: str = "https://login.example.invalid/", status: int = 302) -> Fault:
        """3xx to *location*."""
        found = answers.page(int(status), "Found", "", ("Location", location))
        return cls(name="redirect", instead=found)

    @classmethod
    def unauthorized(cls, error: str = "Invalid credentials") -> Fault:
        """401."""
        return cls(name="unauthorized", instead=answers.unauthorized(error))

    @classmethod
    def forbidden(cls) -> Fault:
        """403 as an edge server sends it: a page (mixpanel-php issue 77)."""
        return cls(name="forbidden", instead=answers.page(403, "403 Forbidden"))

    @classmethod
    def not_found(cls) -> Fault:
        """404."""
        return cls(name="not_found", instead=answers.not_found())

    @classmethod
    def method_not_allowed(cls) -> Fault:
        """405."""
        return cls(name="method_not_allowed", instead=answers.method_not_allowed())

    @classmethod
    def request_timeout(cls) -> Fault:
        """408 (mixpanel-java issue 14)."""
        return cls(name="request_timeout", instead=answers.page(408, "Request Timeout"))

    @classmethod
    def bad_request(cls, error: str = "Bad Request") -> Fault:
        """400 without ``failed_records``."""
        return cls(name="bad_request", instead=answers.bad_request(error))

    @classmethod
    def temporary_failure(cls) -> Fault:
        """``{"status":0,"error":"a temporary failure occurred"}`` with status 200."""
        return cls(name="temporary_failure", instead=answers.temporary_failure())

    @classmethod
    def many_failed_records(cls, count: int = 1_000_000) -> Fault:
        """400 with *count* failed records, whatever was sent."""
        return cls(name="many_failed_records", instead=alterations.many_failed_records(int(count)))

    # Other verdicts

    @classmethod
    def failed_records(cls, kind: str) -> Fault:
        """``failed_records`` that can't be read: *kind* is ``strings`` (nothing is taken),
        ``out_of_range``, ``repeated`` or ``contradicting`` (all but the first event are taken)."""
        return cls(name="failed_records", alter=alterations.odd_failed_records(kind))

    @classmethod
    def control_characters(cls) -> Fault:
        """The first event fails, with a message that would clear a terminal."""
        message = "\x1b[2J\x1b]0;owned\x07 'properties.time'\r\nis\x00 invalid: \u202e\x9b31m"
        return cls(name="control_characters", alter=alterations.fail_first("properties.time", message))

    @classmethod
    def reject(
        cls,
        event: str | None = None,
        where: Predicate | None = None,
        field: str = "properties.time",
        message: str = "'properties.time' is invalid: must be specified as seconds since epoch",
    ) -> Fault:
        """Events of that name, or whose parsed form satisfies *where*, fail by rule."""
        return cls(name="reject", alter=alterations.reject(alterations.chosen(event, where), field, message))

    @classmethod
    def poison(cls, event: str | None = None, where: Predicate | None = None) -> Fault:
        """Any batch with such an event gets a 400 without a reason; none of it is taken."""
        return cls(name="poison", alter=alterations.poison(alterations.chosen(event, where)))

    @classmethod
    def drop(cls, event: str | None = None, by: int = 0) -> Fault:
        """Events of that name, or the last *by* of each batch, vanish: ``num_records_imported`` is lower and
        nothing failed, as with a drop filter (Mixpanel docs, changelog of May 2026)."""
        return cls(name="drop", alter=alterations.drop(event, int(by)))

    @classmethod
    def rate_limit(cls, events_per_s: float, retry_after_s: float | None = None) -> Fault:
        """429 for what comes faster. The events of one second may come at once."""
        seconds = None if retry_after_s is None else float(retry_after_s)
        return cls(name="rate_limit", events_per_s=float(events_per_s), retry_after_s=seconds)

    # Other answers, after the events were taken

    @classmethod
    def clock(cls, skew_s: float) -> Fault:
        """The server's clock is *skew_s* ahead: in ``Date``, and for the check of future times."""
        return cls(name="clock", skew_s=float(skew_s))

    @classmethod
    def huge_answer(cls, size_bytes: int = 64 * 1024 * 1024) -> Fault:
        """The usual JSON, padded to *size_bytes*."""
        size = int(size_bytes)

        def pad(answer: Answer) -> Answer:
            return replace(answer, body=answer.body[:-1].ljust(size - 1) + answer.body[-1:])

        return cls(name="huge_answer", distort=pad)

    @classmethod
    def odd_yes(cls, status: int = 226, word: str = "OK") -> Fault:
        """A wholly imported batch is answered with another status, or another word."""

        def change(answer: Answer) -> Answer:
            body = answer.body.replace(b'"OK"', f'"{word}"'.encode())
            return replace(answer, status=int(status), body=body) if answer.status == 200 else answer

        return cls(name="odd_yes", distort=change)

    @classmethod
    def named(cls, name: str, settings: Mapping[str, Any]) -> Fault:
        """The fault of that name.

        Raises:
                ValueError: with the existing names, or the settings that this fault takes.
        """
        if name not in NAMES:
            raise ValueError(f"no fault {name!r}; there are {', '.join(NAMES)}")
        make: Callable[..., Fault] = getattr(cls, name)
        parameters = [key for key in inspect.signature(make).parameters if key != "where"]
        unknown = [key for key in settings if key not in parameters]
        if unknown:
            takes = f"it takes {', '.join(parameters)}" if parameters else "it takes none"
            raise ValueError(f"fault {name!r} has no setting {unknown[0]!r}; {takes}")
        try:
            return make(**settings)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"fault {name!r}: {error}") from None


NAMES = tuple(
    name for name, value in vars(Fault).items() if isinstance(value, classmethod) and name != "named"
)
