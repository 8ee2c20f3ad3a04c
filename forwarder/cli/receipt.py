"""A receipt as a person sees it, and as a program does; and why what waits is not sent."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from forwarder.cli.command import Context
from forwarder.service import state as daemon_state
from forwarder.service.status import not_running
from forwarder.spool import MOST_AHEAD, Receipt, Run, count_of, runs_in, text_of
from forwarder.text import as_sentence, counted, duration, instant, latency, printable, since


class Standing:
    """How delivery of a kind of records is now: that of the queue that *context* names.

    Attributes:
        is_alone: Whether no daemon runs.
        trouble: Why nothing is sent, as a sentence; "": the daemon delivers.

    Raises:
        ForwarderError: as `daemon_state.read`, or the queue can't be read.
    """

    def __init__(self, context: Context) -> None:
        self.kind = context.kind
        self._deferred: list[tuple[list[Run], Mapping[str, Any]]] = []
        daemon = daemon_state.read(context.spool)
        self.is_alone = daemon is None
        if daemon is None:
            with context.spool.view() as view:
                why = not_running("relay" if context.server else "daemon", view.figures())
            self.trouble = as_sentence(why)
            return
        told = daemon.kinds.get(self.kind.name, {})
        state = told.get("state", daemon.state)
        reason = printable(told.get("state_reason", daemon.state_reason)).rstrip(".")
        self.trouble = "" if state == "running" else f"Delivery is {state.replace('_', ' ')}: {reason}."
        age_s = time.time() - daemon.updated_at
        for each in told.get("deferred", ()):
            next_s = each["next_s"]
            next_s = None if next_s is None else round(max(next_s - age_s, 0.0), 1)
            self._deferred.append((runs_in(each["ids"]), {**each, "next_s": next_s}))

    def deferred(self, receipt: Receipt) -> list[dict[str, Any]]:
        """What is deferred of the waiting records of *receipt*: ids, reason, tries, next_s."""
        found = []
        for runs, told in self._deferred if receipt.state == "waiting" else ():
            within = [
                (max(first, receipt.first), min(last, receipt.last))
                for first, last in runs
                if first <= receipt.last and last >= receipt.first
            ]
            if within:
                found.append({**told, "ids": text_of(within)})
        return found

    def fields(self, receipt: Receipt) -> dict[str, Any]:
        """What is known of the records of *receipt*."""
        found = asdict(receipt)
        return {**found, "at": instant(receipt.at), "deferred": self.deferred(receipt) or None}

    def line(self, receipt: Receipt) -> str:
        """The same for a person: the ids, then what became of them."""
        ids = text_of([(receipt.first, receipt.last)])
        return f"{ids}  {'; '.join((self._fate(receipt), *self._waits_for(receipt)))}"

    def _fate(self, receipt: Receipt) -> str:
        at = f"{(instant(receipt.at) or '')[:19]}Z" if receipt.at else "an unknown time"
        show = "" if self.kind.name == "event" else f" --kind {self.kind.name}"
        match receipt.state:
            case "waiting":
                age = f" ({duration(since(receipt.at, time.time()))})" if receipt.at else ""
                return f"waiting since {at}{age}, {_ahead(receipt)}"
            case "held":
                return f"held by a person (`forwarder waiting release`), accepted {at}"
            case "delivered":
                return self._delivered(receipt, at)
            case "dead":
                letter = receipt.dead_letter
                why = printable(receipt.reason or "")
                return f"a dead letter since {at}: {why}; `forwarder dead-letters show{show} {letter}`"
            case "retried":
                return f"dead letter {receipt.dead_letter}, retried {at} as {receipt.new_id}"
            case "released":
                return f"released {at} as {receipt.new_id}"
            case "deleted":
                refused = f", after it was refused in request {receipt.request}" if receipt.request else ""
                return f"deleted by a person{refused}"
            case "unknown":
                return f"not known: the delivery log goes back to {at}; it was delivered before, or deleted"
        return f"never accepted: the newest id is {receipt.newest}"

    def _delivered(self, receipt: Receipt, at: str) -> str:
        events = counted(receipt.events or 0, self.kind.noun.removesuffix("s"))
        tried = "the first try" if receipt.tries == 1 else f"try {receipt.tries}"
        text = f"by request {receipt.request} with {events}, at {tried}"
        if receipt.http_status is None:  # by a relay
            return f"handed over to the server {at}, {text}"
        some = " (others in it were refused)" if receipt.http_status == 400 else ""
        return f"delivered {at}, {text}: HTTP {receipt.http_status}{some} in {latency(receipt.took_s or 0.0)}"

    def _waits_for(self, receipt: Receipt) -> Iterator[str]:
        for told in self.deferred(receipt):
            which = "" if count_of(runs_in(told["ids"])) == receipt.count else f"{told['ids']} "
            tried = "once" if told["tries"] == 1 else f"{told['tries']} times"
            soon = "when others have succeeded"
            if told["next_s"] is not None:
                soon = f"in {duration(told['next_s'])}"
            yield f"{which}deferred: {printable(told['reason'])}; tried {tried}, next {soon}"


def _ahead(receipt: Receipt) -> str:
    more = " or more" if receipt.ahead == MOST_AHEAD else ""
    return f"{receipt.ahead:,}{more} before {'it' if receipt.count == 1 else 'them'}"


def named(runs: Sequence[Run], most: int) -> str:
    """The ids of *runs* for a person, of *most* of them at most."""
    more = f" and {count_of(runs[most:]):,} more" if len(runs) > most else ""
    return text_of(runs[:most]).replace(",", ", ") + more
