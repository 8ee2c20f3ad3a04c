"""What the intake logs: its life, refusals ever more rarely, trouble with the queue. No bodies or queries."""

from __future__ import annotations

import time
from collections.abc import Sequence

from forwarder import log, spool
from forwarder.config import Settings
from forwarder.errors import ForwarderError
from forwarder.intake.items import SHOWN_CHARACTERS
from forwarder.text import printable

# If a cause does not occur for this long, its next occurrence is logged at once.
QUIET_S = 600.0
# Clients may find any number of ways; the rest is logged as one.
_MOST_CAUSES = 50
_MOST_PATH = 100


class IntakeLog:
    """For the loop's thread."""

    def __init__(self) -> None:
        self._log = log.get("intake")
        self._storage = log.Repeats()
        self._causes: dict[tuple[str, int], log.Repeats] = {}

    def started(self, settings: Settings, places: Sequence[str], tokens: Sequence[str]) -> None:
        """It is ready at *places*."""
        self._log.info(
            "intake.started",
            places=list(places),
            queue=spool.of(settings.door).place,
            accepts=[f"{token[:SHOWN_CHARACTERS]}..." for token in tokens],
            config=settings.file or "defaults",
        )

    def stopping(self, connections: int) -> None:
        """It was asked to stop."""
        self._log.info("intake.stopping", connections=connections)

    def stopped(self) -> None:
        """It ends."""
        self._log.info("intake.stopped")

    def reloaded(self, settings: Settings) -> None:
        """New settings are in force."""
        self._log.info("intake.reloaded", config=settings.file or "defaults")

    def reload_failed(self, error: ForwarderError) -> None:
        """New settings can't be used."""
        self._log.error("settings.refused", detail=str(error), now="the old settings stay in force")

    def needs_restart(self, key: str) -> None:
        """A setting has changed that is only read at the start."""
        self._log.warning("settings.restart_needed", key=key, now="the old value stays in force")

    def broken(self, error: Exception) -> None:
        """A bug has kept a request from being answered."""
        self._log.error("intake.failed", detail=type(error).__name__, exc_info=error)

    def not_accepting(self, error: OSError) -> None:
        """No connection can be taken at the moment."""
        if told := self._repeats("accept", 0).failed("accept", time.monotonic()):
            self._log.error("intake.full", detail=str(error.strerror), failures=told.failures)

    def not_listening(self, error: ForwarderError) -> None:
        """The socket in the queue's directory can't be opened."""
        self._log.warning("intake.no_socket", detail=str(error))

    def refused(self, peer: str, path: str, code: int, reason: str) -> None:
        """A request was refused as a whole."""
        told = self._repeats(path, code).failed(reason, time.monotonic())
        if told:
            self._log.warning(
                "request.refused",
                peer=peer,
                path=printable(path[:_MOST_PATH]),
                code=code,
                reason=reason,
                refusals=told.failures,
            )

    def malformed(self, peer: str, path: str, count: int, word: str) -> None:
        """*count* items of a request were no records, the first for the reason that *word* stands for."""
        told = self._repeats(path, 200).failed(word, time.monotonic())
        if told:
            self._log.warning(
                "items.malformed", peer=peer, path=path, count=count, reason=word, requests=told.failures
            )

    def storage_failed(self, error: ForwarderError) -> None:
        """The queue can't be written."""
        told = self._storage.failed(str(error), time.monotonic())
        if told:
            self._log.error("queue.failed", detail=str(error), failures=told.failures)

    def storage_recovered(self) -> None:
        """The queue can be written."""
        told = self._storage.recovered(time.monotonic())
        if told:
            self._log.info("queue.recovered", failures=told.failures, after_s=round(told.for_s, 1))

    def _repeats(self, path: str, code: int) -> log.Repeats:
        key = (path, code) if len(self._causes) < _MOST_CAUSES or (path, code) in self._causes else ("", 0)
        return self._causes.setdefault(key, log.Repeats(quiet_s=QUIET_S))
