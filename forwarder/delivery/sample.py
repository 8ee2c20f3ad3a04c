"""One event of a batch that fails again and again, sent by itself: a yes to it shows that the far end works.

If that one fails too, as in an outage, nothing has happened: the batch is as it was, and is sent whole when
the far end says yes again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from forwarder.delivery.batch import Batch

# Its multiples, less their whole parts, are spread well: each sample comes from elsewhere in the batch.
_GOLDEN = 0.618


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The event at *index* of *whole*, as a *batch* of its own."""

    whole: Batch
    index: int
    batch: Batch

    @classmethod
    def of(cls, whole: Batch) -> Sample:
        """A sample of a batch of several events."""
        index = int(whole.failed_tries * _GOLDEN % 1 * len(whole))
        return cls(whole, index, replace(whole.part([index]), failures=0))

    def rejoined(self) -> Batch:
        """The whole, after the sample has failed."""
        whole, sample = self.whole, self.batch
        whole.tries, whole.failed_tries, whole.failed_at = sample.tries, sample.failed_tries, sample.failed_at
        return whole

    def rest(self) -> Batch:
        """The whole but for the sample."""
        return self.whole.without({self.index})
