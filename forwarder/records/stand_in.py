"""Stands in for the kinds of profile and group updates until they are there: accepts what has its ids."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from forwarder.errors import EventError
from forwarder.records import event


class Updates:
    """Updates whose profile is named by *ids*."""

    def __init__(self, name: str, queue: str, ids: tuple[str, ...]) -> None:
        self.name, self.queue, self._ids = name, queue, ids
        self.noun, self.endpoint = f"{name} updates", f"/{queue}"
        self.content_type = "application/json"
        self.max_bytes, self.max_records, self.max_request_bytes = event.max_bytes, 2000, 9_500_000
        self.reasons: Sequence[str] = ("other",)
        self.probe = b"{}"
        self.advice: Mapping[int, str] = {}
        self.blames_future: Sequence[bytes] = ()

    def accept(self, line: bytes, now_ms: int, rules: bool = True) -> bytes:  # noqa: ARG002
        """As `Kind` says."""
        try:
            update = json.loads(line)
        except ValueError as error:
            raise EventError(f"not JSON: {error}") from None
        if not isinstance(update, dict):
            raise EventError("not an update: an object is expected")
        for name in ("$token", *self._ids):
            if update.get(name) in (None, ""):
                raise EventError(f"{name}, missing or empty")
        return line.strip()

    def word_for(self, _reason: str) -> str:
        """As `Kind` says."""
        return "other"

    def __getattr__(self, name: str) -> Any:
        return getattr(event, name)


PROFILES: Any = Updates("profile", "engage", ("$distinct_id",))
GROUPS: Any = Updates("group", "groups", ("$group_key", "$group_id"))
