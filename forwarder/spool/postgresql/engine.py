"""Stand-in: the replicated engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from forwarder.spool import engine
from forwarder.spool.engine import Consumer, Presence, Producer, View
from forwarder.spool.postgresql.address import Address
from forwarder.spool.values import Finding, Holder

if TYPE_CHECKING:
    from forwarder.records.kind import Kind


class Spool(engine.Spool):
    """The records of a *kind* in the queue at an *address*."""

    def __init__(self, address: Address, kind: Kind) -> None:
        self.address = address
        self.place = address.place
        self.kind = kind

    def producer(self, *, max_bytes: int, min_free_bytes: int, lock_timeout_s: float) -> Producer:
        raise NotImplementedError

    def consumer(self, lock_timeout_s: float = 10.0, token: str = "") -> Consumer:
        raise NotImplementedError

    def view(self, timeout_s: float = 10.0) -> View:
        raise NotImplementedError

    def pause(self) -> bool:
        raise NotImplementedError

    def resume(self) -> bool:
        raise NotImplementedError

    def request_flush(self) -> None:
        raise NotImplementedError

    def retry_dead_letters(
        self, ids: Iterable[int], edit: Callable[[bytes, float], bytes]
    ) -> tuple[dict[int, int], list[tuple[int, str]]]:
        raise NotImplementedError

    def delete_dead_letters(self, ids: Sequence[int]) -> int:
        raise NotImplementedError

    def hold(self, ids: Sequence[int]) -> int:
        raise NotImplementedError

    def release(self, ids: Sequence[int]) -> int:
        raise NotImplementedError

    def delete_waiting(self, ids: Sequence[int]) -> int:
        raise NotImplementedError

    def take(self) -> Presence:
        raise NotImplementedError

    def holder(self) -> Holder | None:
        raise NotImplementedError

    def set_aside(self) -> list[str]:
        raise NotImplementedError

    def findings(self, *, max_bytes: int, min_free_bytes: int, briefly: bool = False) -> Iterator[Finding]:
        raise NotImplementedError
