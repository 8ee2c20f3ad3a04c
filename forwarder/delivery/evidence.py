"""What the far end has said yes to, to tell whether what fails is at fault itself.

Batches are numbered in the order of their sending: a yes to one that was sent after another had failed says
that the far end works, and the other failed for itself.
"""

from __future__ import annotations

from forwarder.delivery.batch import Batch

# So many events refused alone, one after the other without a yes: the far end may be at fault.
MANY = 3
# So many without an import, whatever was judged: nothing may be imported at all, and there is no hurry.
TOO_MANY = 20
# How many events may be given up for what is imported: so many with each import, and one for each hundred
# events of it; but a far end that has been good for long may turn bad as well.
CREDIT, EVENTS_FOR_ONE, CREDIT_MOST = 3, 100, 20


class Evidence:
    """Numbers only; it decides nothing.

    Attributes:
        sent: How many batches have been sent.
        judged: The last of them that the far end has said yes to.
        credit: How many events may still be given up.
    """

    def __init__(self) -> None:
        self.sent = self.judged = 0
        self.credit = 0
        self._imported = 0
        self._refusals = 0
        self._unpaid = 0

    def number(self, batch: Batch) -> None:
        """*batch* is about to be sent."""
        self.sent += 1
        batch.number = self.sent
        batch.tries += 1

    def said_yes(self, batch: Batch, imported: int) -> None:
        """The far end has judged *batch* event by event, and *imported* so many."""
        self.judged = max(self.judged, batch.number)
        self._refusals = 0
        if imported:
            self._imported = max(self._imported, batch.number)
            self._unpaid = 0
            self.credit = min(self.credit + CREDIT + imported // EVENTS_FOR_ONE, CREDIT_MOST)

    def refused(self, batch: Batch) -> None:
        """*batch*, of any size, was refused without a reason."""
        if batch.refused_at is None or self.is_judging_since(batch.refused_at):
            batch.refusals += 1
        if batch.doubted_at is None:
            batch.doubted_at = self.sent
        batch.refused_at = self.sent

    def refused_alone(self) -> None:
        """And it was of one event, which is held or given up now."""
        self._refusals += 1
        self._unpaid += 1

    def failed(self, batch: Batch) -> None:
        """*batch* got no answer, or none from Mixpanel."""
        if batch.failed_at is not None and self.is_judging_since(batch.failed_at):
            batch.failures += 1
        batch.failed_tries += 1
        batch.failed_at = self.sent

    def is_judging_since(self, sent: int | None) -> bool:
        """Whether something was judged that was sent after the first *sent*; None: those never were."""
        return sent is None or self.judged > sent

    def is_importing_since(self, sent: int | None) -> bool:
        """Whether something was imported that was sent after the first *sent*."""
        return sent is not None and self._imported > sent

    @property
    def are_unpaid(self) -> bool:
        """Whether `MANY` events were refused alone since the last import."""
        return self._unpaid >= MANY

    @property
    def are_too_many(self) -> bool:
        """Whether `TOO_MANY` events were refused alone since the last import."""
        return self._unpaid >= TOO_MANY

    @property
    def are_many(self) -> bool:
        """Whether `MANY` events were refused alone since the last yes."""
        return self._refusals >= MANY
