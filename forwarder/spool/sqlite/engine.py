"""The embedded engine: a queue in a directory of this host, in SQLite."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from forwarder.spool import engine
from forwarder.spool.sqlite import set_aside, tables
from forwarder.spool.sqlite.producer import Producer

if TYPE_CHECKING:
    from forwarder.records.kind import Kind
    from forwarder.spool.sqlite.consumer import Consumer
    from forwarder.spool.sqlite.presence import Presence
    from forwarder.spool.sqlite.view import View
    from forwarder.spool.values import Finding, Holder


class Spool(engine.Spool):
    """The records of a *kind* in the directory *place*. See `forwarder.spool.Spool` for the verbs."""

    stands_by = False

    def __init__(self, place: str, kind: Kind) -> None:
        # The program may change its working directory.
        self.place = os.path.abspath(place)
        self.kind = kind
        self._tables = tables.of(kind)

    # Each verb loads what it needs: a producer has to start fast and needs little.

    def producer(self, *, max_bytes: int, min_free_bytes: int, lock_timeout_s: float) -> Producer:
        return Producer(self.place, max_bytes, min_free_bytes, lock_timeout_s, self._tables)

    def consumer(self, lock_timeout_s: float = 10.0, token: str = "") -> Consumer:
        # The kernel keeps others out while this process lives.
        del token
        from forwarder.spool.sqlite.consumer import Consumer

        return Consumer(self.place, lock_timeout_s, self._tables)

    def view(self, timeout_s: float = 10.0) -> View:
        from forwarder.spool.sqlite.view import View

        return View(self.place, timeout_s, self._tables)

    def pause(self) -> bool:
        from forwarder.spool.sqlite import control

        return control.pause(self.place)

    def resume(self) -> bool:
        from forwarder.spool.sqlite import control

        return control.resume(self.place)

    def request_flush(self) -> None:
        from forwarder.spool.sqlite import control

        control.request_flush(self.place)

    def retry_dead_letters(
        self, ids: Iterable[int], edit: Callable[[bytes, float], bytes]
    ) -> tuple[dict[int, int], list[tuple[int, str]]]:
        from forwarder.spool.sqlite import dead_letters

        return dead_letters.retry(self.place, self._tables, ids, edit)

    def delete_dead_letters(self, ids: Sequence[int]) -> int:
        from forwarder.spool.sqlite import dead_letters

        return dead_letters.delete(self.place, self._tables, ids)

    def hold(self, ids: Sequence[int]) -> int:
        from forwarder.spool.sqlite import waiting

        return waiting.hold(self.place, self._tables, ids)

    def release(self, ids: Sequence[int]) -> int:
        from forwarder.spool.sqlite import waiting

        return waiting.release(self.place, self._tables, ids)

    def delete_waiting(self, ids: Sequence[int]) -> int:
        from forwarder.spool.sqlite import waiting

        return waiting.delete(self.place, self._tables, ids)

    def take(self) -> Presence:
        from forwarder.spool.sqlite.presence import Presence

        return Presence(self.place)

    def holder(self) -> Holder | None:
        from forwarder.spool.sqlite import presence

        return presence.holder(self.place)

    def set_aside(self) -> list[str]:
        return set_aside.damaged(self.place)

    def findings(self, *, max_bytes: int, min_free_bytes: int, briefly: bool = False) -> Iterator[Finding]:
        from forwarder.spool.sqlite import findings

        return findings.findings(self.place, max_bytes, min_free_bytes, briefly)
