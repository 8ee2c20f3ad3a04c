"""Asking the far end how it is without giving it an event: with a made-up one, which it refuses by name."""

from __future__ import annotations

from forwarder.delivery import answer
from forwarder.delivery.batch import Batch
from forwarder.delivery.outcome import Kind, Outcome, Reply

# Its blank name, its missing time and $insert_id are each refused by name in strict mode ("Import Events" in
# Mixpanel's docs: all three are required), and without strict mode it can't be stored either.
PROBE = b'{"event":"","properties":{}}'


def probe_batch() -> Batch:
    """The probe, as a batch of no event of the queue's."""
    return Batch((), (PROBE,), len(PROBE) + 1)


def is_judgement(reply: Reply, outcome: Outcome, strict: bool) -> bool:
    """Whether *reply* to a probe, of *outcome*, shows that events are judged one by one."""
    if outcome.kind in (Kind.DELIVERED, Kind.SHORT):
        return True
    # Without strict mode "not imported" is all that it says.
    return not strict and reply.status == 200 and answer.is_plain_no(answer.parse(reply.body))
