"""What the daemon logs about one kind's delivery: transitions, not repetitions; no event's properties."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from forwarder import log
from forwarder.delivery.report import Report
from forwarder.records import EVENTS
from forwarder.records.kind import Kind
from forwarder.records.verdict import Verdict

CLOCK_WARNS_S = 300.0
SUMMARY_S = 300.0
# If a cause does not occur for this long, its next occurrence is logged at once.
QUIET_S = 600.0
# The server names the causes, so there may be any number; the rest is logged as one.
MOST_CAUSES = 50
OTHER = "other causes"
_AWAY = (Verdict.THROTTLED, Verdict.UNREACHABLE, Verdict.MISCONFIGURED)
_REFUSED = (Verdict.REFUSED, Verdict.TOO_LARGE)


class DeliveryLog:
    """Logs how the records of a *kind* are delivered.

    Args:
        failed: Called with each error, for `status`.
    """

    def __init__(self, kind: Kind, failed: Callable[[str], None]) -> None:
        self._kind = kind
        self._failed = failed
        self._log = log.get("daemon")
        if kind is not EVENTS:
            self._log = self._log.bind(kind=kind.name)
        self._server = log.Repeats()
        # The end of these is not visible.
        self._short = log.Repeats(quiet_s=QUIET_S)
        self._refusals = log.Repeats(quiet_s=QUIET_S)
        self._failing = log.Repeats(quiet_s=QUIET_S)
        self._causes = Causes()
        self._clock = log.Repeats(interval_s=3600.0)
        self._delivered = self._dead = 0
        self._summary_at = float("-inf")

    def not_sent(self, count: int, reason: str, now: float) -> None:
        """Rows became dead letters when they were claimed; *reason* is that of the first.

        They were no records, or an earlier daemon had sent them and ended.
        """
        if count:
            self._dead += count
            more = " (the first of them)" if count > 1 else ""
            self._dead_lettered(
                "no event" if self._kind is EVENTS else "not sent", count, now, reason=f"{reason}{more}"
            )

    def settled(self, report: Report, now: float) -> None:
        """A reply was settled."""
        outcome = report.outcome
        self._log.debug(
            "batch.settled",
            outcome=outcome.verdict.value,
            status=report.outcome.status,
            sent=report.sent,
            delivered=report.delivered,
            dead=report.dead,
        )
        if report.dead and outcome.verdict in _AWAY:
            # They may have counted, and must not be repeated blindly.
            self._dead += report.dead
            reason = f"doubtful: {outcome.detail}"
            self._dead_lettered("doubtful", report.dead, now, reason=reason, status=outcome.status)
        if report.is_stale:
            return
        if outcome.verdict in _AWAY and report.state == "running":
            self._stumbled(report, now)
            return
        # A refusal blocks delivery if everything is refused.
        if outcome.verdict in _AWAY or (outcome.verdict in _REFUSED and report.state == "blocked"):
            self._away(report, now)
            return
        if report.state == "running":
            self._returned(now)
        self._delivered += report.delivered
        if report.dead:
            self._refused(report, now)
        if report.short:
            self._shortfall(report, now)
        if outcome.verdict in _REFUSED and report.sent:  # else it was a probe, made to be refused
            self._failed(outcome.detail)
            self._halving(report, now)
        self._watch_clock(outcome.clock_skew_s, now)
        if now >= self._summary_at + SUMMARY_S:
            self._summary_at = now
            self.summarise()

    def _refused(self, report: Report, now: float) -> None:
        said = report.outcome.rejections
        first = said[0].message if said else report.outcome.detail
        self._failed(first)
        self._dead += report.dead
        words = next((rejection.message for rejection in said if not rejection.field), first)
        words = words or "refused alone"
        counts = Counter(rejection.field for rejection in said) or Counter({"": report.dead})
        for field, count in counts.items():
            if field:
                # Without the server's words, which may quote an event's values.
                self._dead_lettered(field, count, now, field=field, status=report.outcome.status)
            else:
                self._dead_lettered(
                    "no field named", count, now, words, reason=words, status=report.outcome.status
                )

    def _dead_lettered(self, cause: str, count: int, now: float, words: str = "", **fields: object) -> None:
        told = self._causes.add(cause, count, now, words)
        if told:
            which = "" if self._kind is EVENTS else f" --kind {self._kind.name}"
            detail = f"`forwarder dead-letters summary{which}` says why"
            self._log.warning("events.dead_lettered", count=told, **fields, detail=detail)

    def _halving(self, report: Report, now: float) -> None:
        # It takes some twenty refusals to find one bad event.
        told = self._refusals.failed(report.outcome.detail, now)
        if told:
            self._log.info(
                "batch.refused",
                reason=report.outcome.detail,
                sent=report.sent,
                status=report.outcome.status,
                refusals=told.failures,
                detail="looking for the bad event; the others are delivered",
            )

    def _stumbled(self, report: Report, now: float) -> None:
        detail = report.outcome.detail
        self._failed(detail)
        told = self._failing.failed(detail, now)
        if told:
            self._log.warning(
                "batch.failed",
                reason=detail,
                sent=report.sent,
                status=report.outcome.status,
                failures=told.failures,
                detail="the others go on; this one is sent again, in parts if it fails again",
            )

    def _shortfall(self, report: Report, now: float) -> None:
        # With a drop filter every batch is short.
        told = self._short.failed("short", now)
        if told:
            self._log.warning(
                "batch.short",
                short=report.short,
                sent=report.sent,
                batches=told.failures,
                detail="Mixpanel counted fewer events than it accepted, twice; drop filters do this",
            )

    def _away(self, report: Report, now: float) -> None:
        detail = report.reason if report.outcome.verdict in _REFUSED else report.outcome.detail
        self._failed(detail)
        told = self._server.failed(f"{report.outcome.verdict.value}: {detail}", now)
        if told:
            write = self._log.error if report.state == "blocked" else self._log.warning
            write(
                f"delivery.{report.state}",
                reason=detail,
                status=report.outcome.status,
                failures=told.failures,
                **({"next_try_s": round(report.wait_s, 1)} if math.isfinite(report.wait_s) else {}),
                detail="nothing is lost; events wait in the queue",
            )

    def _returned(self, now: float) -> None:
        told = self._server.recovered(now)
        if told:
            self._log.info("delivery.recovered", failures=told.failures, after_s=round(told.for_s, 1))

    def _watch_clock(self, skew_s: float | None, now: float) -> None:
        if skew_s is not None and abs(skew_s) > CLOCK_WARNS_S:
            side = "ahead of" if skew_s > 0 else "behind"
            detail = f"this host's clock is {abs(skew_s) / 60:.0f} minutes {side} Mixpanel's"
            self._failed(detail)
            if self._clock.failed("clock", now):
                self._log.warning("clock.wrong", detail=detail, skew_s=round(skew_s))
        else:
            self._clock.recovered(now)

    def summarise(self) -> None:
        """Log what was settled since the last time."""
        if self._delivered or self._dead:
            causes = [{"cause": cause, "count": count} for cause, count in self._causes.take_totals().items()]
            more = {"causes": causes} if causes else {}
            self._log.info("events.settled", delivered=self._delivered, dead=self._dead, **more)
        self._delivered = self._dead = 0


class Causes:
    """Counts dead letters by cause, and says which counts to log now. For one thread."""

    def __init__(self) -> None:
        self._repeats: dict[str, log.Repeats] = {}
        self._untold: Counter[str] = Counter()
        self._totals: Counter[str] = Counter()

    def add(self, cause: str, count: int, now: float, words: str = "") -> int:
        """Count *count* more of *cause*.

        Args:
            words: The server's words about them; new words are logged at once.
            now: Any clock that doesn't go back, in seconds.

        Returns:
            how many to log: those since the last time; 0: none, the cause was logged lately.
        """
        if cause not in self._repeats and len(self._repeats) >= MOST_CAUSES:
            cause = OTHER
        self._untold[cause] += count
        self._totals[cause] += count
        repeats = self._repeats.setdefault(cause, log.Repeats(quiet_s=QUIET_S))
        if repeats.failed(words, now) is None:
            return 0
        return self._untold.pop(cause)

    def take_totals(self) -> dict[str, int]:
        """How many of each cause since the last call, the most frequent first."""
        totals = dict(self._totals.most_common())
        self._totals.clear()
        return totals
