"""What the daemon logs: transitions, not repetitions; no event's properties, no secrets."""

from __future__ import annotations

import logging
import time

from forwarder import log, spool
from forwarder.config import Settings
from forwarder.errors import ForwarderError


class DaemonLog:
    """Logs what happens to the daemon and its queue, and remembers the last error for `status`.

    Args:
        passing: It is a short run, whose start and end are not logged.

    Attributes:
        last_error, last_error_at: The last error, "" for none, and its time, in seconds since the epoch.
    """

    def __init__(self, passing: bool = False) -> None:
        self.last_error, self.last_error_at = "", 0.0
        self._life = logging.DEBUG if passing else logging.INFO
        self._log = log.get("daemon")
        self._storage = log.Repeats()
        self._told_damaged: set[str] = set()

    def failed(self, text: str) -> None:
        """There was an error."""
        self.last_error, self.last_error_at = text, time.time()

    def started(self, settings: Settings, place: str, proxy: str) -> None:
        """The daemon is ready to deliver to *place*; *proxy* is the one in between, or ""."""
        self._log.log(
            self._life,
            "daemon.started",
            queue=spool.of(settings.queue).place,
            url=place,
            strict=settings.mixpanel.strict,
            config=settings.file or "defaults",
            **({"proxy": proxy} if proxy else {}),
        )

    def listening(self, url: str) -> None:
        """Pages for monitoring are served."""
        self._log.info("metrics.listening", url=url)

    def secrets_warned(self, warnings: list[str]) -> None:
        """Other users can read a secret."""
        for warning in warnings:
            self._log.warning("secret.exposed", detail=warning)

    def stopping(self, in_flight: int, hurry: bool) -> None:
        """The daemon was asked to stop."""
        self._log.info("daemon.stopping", in_flight=in_flight, hurry=hurry)

    def stopped(self, in_flight: int) -> None:
        """The daemon ends."""
        if in_flight:
            self._log.warning(
                "daemon.stopped",
                unanswered=in_flight,
                detail="these events still wait in the queue and will be sent again; Mixpanel drops repeats",
            )
        else:
            self._log.log(self._life, "daemon.stopped")

    def reloaded(self, settings: Settings, place: str, warnings: list[str]) -> None:
        """New settings are in force; it delivers to *place*."""
        self._log.info("settings.reloaded", config=settings.file or "defaults", url=place)
        self.secrets_warned(warnings)

    def reload_failed(self, error: ForwarderError) -> None:
        """New settings can't be used."""
        self.failed(f"reload: {error}")
        self._log.error("settings.refused", detail=str(error), now="the old settings stay in force")

    def needs_restart(self, key: str) -> None:
        """A setting has changed that is only read at the start."""
        self._log.warning("settings.restart_needed", key=key, now="the old value stays in force")

    def flushed(self) -> None:
        """A person asked to try now."""
        self._log.info("delivery.flushed")

    def paused(self, paused: bool) -> None:
        """A person paused or resumed delivery."""
        self._log.info("delivery.paused" if paused else "delivery.resumed")

    def discarded(self, count: int) -> None:
        """Dead letters were deleted because of their age."""
        if count:
            self._log.info("dead_letters.expired", count=count)

    def storage_failed(self, error: ForwarderError, now: float) -> None:
        """The queue can't be read or written."""
        self.failed(str(error))
        told = self._storage.failed(str(error), now)
        if told:
            self._log.error("queue.failed", detail=str(error), failures=told.failures)

    def set_aside(self, files: list[str]) -> None:
        """Damaged databases were set aside and wait for a person."""
        for file in files:
            if file not in self._told_damaged:
                self._told_damaged.add(file)
                self.failed(f"a damaged database was set aside: {file}")
                self._log.error(
                    "queue.damaged",
                    file=file,
                    detail="set aside; the queue continues with a fresh one",
                    remedy=f"`forwarder salvage {file}` brings back what can be read",
                )

    def replaced(self, orphaned: str) -> None:
        """Files of the queue were moved, deleted or replaced; *orphaned* says what only the old ones hold."""
        if orphaned:
            self.failed(f"files of the queue were moved or replaced, and only the old ones hold {orphaned}")
            self._log.error(
                "queue.replaced",
                detail=f"only the old files hold {orphaned}; the queue continues with those at its path",
                remedy="restore the old files, or recover their content with `forwarder salvage`",
            )

    def storage_recovered(self, now: float) -> None:
        """The queue can be read and written again."""
        told = self._storage.recovered(now)
        if told:
            self._log.info("queue.recovered", failures=told.failures, after_s=round(told.for_s, 1))
