"""N12: what a person does with very many dead letters."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing

from benchmarks import commands, events
from benchmarks.table import Number
from forwarder.spool import Dead, Settlement
from forwarder.spool.sqlite.consumer import Consumer

BATCH_EVENTS, BATCH_BYTES = 2000, 2 << 20


def measure(place: str, count: int) -> Iterator[Number]:
    """*count* dead letters exported and then deleted; that these cost the same each is proved by a test."""
    path = os.path.join(place, "dead")
    add_dead_letters(path, count)
    for what, command, target in (
        ("export", ("export", "--all"), "<= 30"),
        ("delete", ("delete", "--all", "--yes"), "<= 60"),
    ):
        million_s = commands.command_s(path, "dead-letters", *command) / count * 1e6
        name = f"`dead-letters {what}` of {count:,}, s for a million"
        yield Number("N7", name, million_s, target, million_s)
    shutil.rmtree(path)


def add_dead_letters(path: str, count: int) -> None:
    """A queue with *count* dead letters."""
    events.fill(path, count)
    with closing(Consumer(path)) as consumer:
        last_id = 0
        while (claim := consumer.claim_behind(last_id, BATCH_EVENTS, BATCH_BYTES)).ids:
            dead = [Dead(n, data, "bad thing") for n, data in zip(claim.ids, claim.events, strict=True)]
            consumer.settle(Settlement(claim.ids, dead))
            last_id = claim.last_id
