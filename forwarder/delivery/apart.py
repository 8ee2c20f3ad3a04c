"""Events that fail for themselves, alone and again and again, while others pass: they are set apart.

A firewall doesn't like their words, or the far end stumbles over them. However many they are, they share one
schedule, so that they are as much of a burden as one of them would be; they take turns. When one of them gets
through, whatever it was may be over, and the next is tried at once.
"""

from __future__ import annotations

import math
from collections import deque

from forwarder.delivery.backlog import read_again
from forwarder.delivery.batch import Batch
from forwarder.delivery.evidence import Evidence
from forwarder.delivery.gate import Gate
from forwarder.delivery.resend import REFUSAL_PACE_S
from forwarder.spool import Consumer

# At most a tenth of the time goes into trying them, or one that always times out would take up a connection.
WAIT_PER_TRY = 9


class Apart:
    """Batches of one event, without their content. Instants are the caller's (monotonic).

    Attributes:
        gate: Their schedule.
    """

    def __init__(self, spool: Consumer, evidence: Evidence, gate: Gate) -> None:
        self._spool = spool
        self._evidence = evidence
        self._held: deque[Batch] = deque()
        self._out: Batch | None = None
        self._sent_at = 0.0
        self._urgent = 0
        self.gate = gate

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, batch: Batch) -> bool:
        """Whether it is the one that is out."""
        return batch is self._out

    def add(self, batch: Batch, now: float) -> None:
        """Set *batch* apart, or again after it was tried in vain; it has its turn after the others."""
        if batch in self:
            self.gate.back_off("", now, WAIT_PER_TRY * (now - self._sent_at))
            self._out = None
        elif not self._held and self._out is None:
            self.gate.back_off("", now)
        self._held.append(batch.emptied())

    def answered(self, batch: Batch) -> None:
        """*batch*, if it was the one that is out, has got through, or was refused as any other."""
        if batch in self:
            self._out = None
            self.gate.open()

    @property
    def is_hopeful(self) -> bool:
        """Whether the far end has said yes to something since the next one failed."""
        return bool(self._held) and self._evidence.is_judging_since(self._held[0].failed_at)

    @property
    def due_at(self) -> float:
        """When `pop` may be called: one is out at a time, or they might take up all connections."""
        if not self._held or self._out is not None:
            return math.inf
        return self._sent_at + REFUSAL_PACE_S if self._urgent else self.gate.opens_at

    def pop(self, now: float) -> Batch | None:
        """The one whose turn it is; None: it is gone.

        Raises:
            ForwarderError: the queue could not be read. Nothing has changed.
        """
        batch = read_again(self._spool, self._held[0])
        self._held.popleft()
        self._urgent = max(self._urgent - 1, 0)
        if batch is not None:
            self._out, self._sent_at = batch, now
        return batch

    def flush(self) -> None:
        """Let all be tried once, one after the other."""
        self._urgent = len(self._held)
