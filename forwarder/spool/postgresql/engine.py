"""The replicated engine: a queue in a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from forwarder.spool import engine
from forwarder.spool.postgresql import control, dead_letters, presence, waiting
from forwarder.spool.postgresql.address import Address
from forwarder.spool.postgresql.consumer import Consumer
from forwarder.spool.postgresql.presence import Presence
from forwarder.spool.postgresql.producer import Producer
from forwarder.spool.postgresql.tables import Tables
from forwarder.spool.postgresql.view import View

if TYPE_CHECKING:
    from forwarder.records.kind import Kind
    from forwarder.spool.values import Finding, Holder


class Spool(engine.Spool):
    """The records of a *kind* in the queue at *address*. See `forwarder.spool.Spool` for the verbs.

    `forwarder setup` makes the queue, no verb does.
    """

    stands_by = True

    def __init__(self, address: Address, kind: Kind) -> None:
        self.address = address
        self.place = address.place
        self.kind = kind
        self._tables = Tables(address.schema, kind)

    # A server's free disk space can't be known.
    def producer(self, *, max_bytes: int, min_free_bytes: int, lock_timeout_s: float) -> Producer:  # noqa: ARG002
        return Producer(self.address, max_bytes, lock_timeout_s, self._tables)

    def consumer(self, lock_timeout_s: float = 10.0, token: str = "") -> Consumer:
        return Consumer(self.address, lock_timeout_s, self._tables, token)

    def view(self, timeout_s: float = 10.0) -> View:
        return View(self.address, timeout_s, self._tables)

    def pause(self) -> bool:
        return control.pause(self.address, self._tables)

    def resume(self) -> bool:
        return control.resume(self.address, self._tables)

    def request_flush(self) -> None:
        control.request_flush(self.address, self._tables)

    def retry_dead_letters(
        self, ids: Iterable[int], edit: Callable[[bytes, float], bytes]
    ) -> tuple[dict[int, int], list[tuple[int, str]]]:
        return dead_letters.retry(self.address, self._tables, ids, edit)

    def delete_dead_letters(self, ids: Sequence[int]) -> int:
        return dead_letters.delete(self.address, self._tables, ids)

    def hold(self, ids: Sequence[int]) -> int:
        return waiting.hold(self.address, self._tables, ids)

    def release(self, ids: Sequence[int]) -> int:
        return waiting.release(self.address, self._tables, ids)

    def delete_waiting(self, ids: Sequence[int]) -> int:
        return waiting.delete(self.address, self._tables, ids)

    def take(self) -> Presence:
        return Presence(self.address, self._tables)

    def holder(self) -> Holder | None:
        return presence.holder(self.address, self._tables)

    def set_aside(self) -> list[str]:
        """Nothing: what is damaged on a server is its administrator's."""
        return []

    def findings(
        self,
        *,
        max_bytes: int,
        min_free_bytes: int,  # noqa: ARG002
        briefly: bool = False,
    ) -> Iterator[Finding]:
        from forwarder.spool.postgresql import findings

        return findings.findings(self.address, self._tables, max_bytes, briefly)
