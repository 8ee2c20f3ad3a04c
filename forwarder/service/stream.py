"""The records of one kind on their way: claimed, sent, settled."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from forwarder.config import Settings
from forwarder.delivery.batch import Batch
from forwarder.delivery.ordered import OrderedDispatcher
from forwarder.delivery.wire.outcome import CLOCK_BLOCKS_S
from forwarder.errors import ForwarderError, TryAgainError
from forwarder.records.kind import Kind
from forwarder.records.verdict import Outcome
from forwarder.service.counters import Counters
from forwarder.service.delivery_log import DeliveryLog
from forwarder.service.destination import Destination
from forwarder.spool import Consumer, SpoolFullError

TIDY_S = 0.05


class Stream:
    """Takes records of a *kind* from *consumer*, its own, and settles them. Instants are the caller's
    (monotonic).

    Args:
        to: Where the records go.
        counters, delivery_log: Get what happens; they outlive it.

    Attributes:
        dispatcher: What is sent when.
        is_untidy: The queue may have changed since its maintenance was complete.
        is_clock_right: A reply has shown that this host's clock is right.
    """

    def __init__(
        self,
        kind: Kind,
        consumer: Consumer,
        settings: Settings,
        to: Destination,
        counters: Counters,
        delivery_log: DeliveryLog,
    ) -> None:
        self.kind = kind
        self.consumer = consumer
        self._counters = counters
        self._log = delivery_log
        self.dispatcher = to.dispatcher(consumer, kind, settings)
        self._outcomes: deque[tuple[Batch, Outcome]] = deque()
        self._tidy_at = 0.0
        self.is_untidy = True
        self.is_clock_right = False

    def apply(self, settings: Settings) -> None:
        """Use new settings."""
        if isinstance(self.dispatcher, OrderedDispatcher):
            self.dispatcher.apply(settings.delivery, settings.intake.on_doubt)
        else:
            self.dispatcher.apply(settings.delivery)

    def notice(self, now: float) -> None:
        """There may be news in the queue."""
        self.is_untidy = True
        self.dispatcher.notice(now)

    def receive(self, batch: Batch, outcome: Outcome) -> None:
        """Settle an outcome in the next turn."""
        # What was sent from a queue that is gone can't be settled.
        if self.dispatcher.awaits(batch):
            self._outcomes.append((batch, outcome))
        self.is_untidy = True

    def settle(self, now: float) -> ForwarderError | None:
        """Settle the outcomes, in order; keep those that can't be settled. Returns the first one's error.

        Raises:
            ForwarderError: none could be settled. Nothing new may be sent then, or they would pile up.
        """
        waiting, self._outcomes = self._outcomes, deque()
        first_error = None
        is_settled = False
        while waiting:
            batch, outcome = waiting.popleft()
            try:
                report = self.dispatcher.settle(batch, outcome, now)
            except ForwarderError as error:
                first_error = first_error or error
                self._outcomes.append((batch, outcome))
                # Another may need less room, or free some. With a lock, each would wait as long again.
                if isinstance(error, TryAgainError) and not isinstance(error, SpoolFullError):
                    break
            else:
                is_settled = True
                self._log.settled(report, now)
                sent_bytes = batch.size_bytes if report.delivered else 0
                self._counters.settled(outcome, is_retry=report.is_retry, sent_bytes=sent_bytes)
                skew_s = outcome.clock_skew_s
                if skew_s is not None:
                    self.is_clock_right = abs(skew_s) <= CLOCK_BLOCKS_S
        self._outcomes += waiting
        if first_error and not is_settled:
            raise first_error
        return first_error

    def send(self, now: float, send: Callable[[Kind, Batch], None]) -> None:
        """Send what may be sent now."""
        while (batch := self.dispatcher.next(now)) is not None:
            send(self.kind, batch)

    def maintain(self, now: float, *, at_rest: bool) -> None:
        """Log which rows were no records, and maintain the queue; *at_rest*: nothing else is to do."""
        self._log.not_sent(*self.dispatcher.take_dead(), now)
        at_rest = at_rest and self.is_untidy and now >= self._tidy_at
        has_more = self.consumer.maintain(at_rest=at_rest)
        if at_rest:
            self.is_untidy = has_more
            self._tidy_at = now + TIDY_S
