"""Updates of profiles and of groups, for ``/engage`` and ``/groups``: all that `OrderedKind` asks for.

An update is an object with the project's ``$token``, the id of what it changes, and an operation.
Sources: docs.mixpanel.com, "User Profiles" and "Group Profiles"; what SDKs send.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from forwarder.errors import EventError
from forwarder.records.likeness import GROUP_IDS, GROUP_OPERATIONS, OPERATIONS
from forwarder.records.lines import content_of, without_breaks, without_mark
from forwarder.records.update import stored
from forwarder.records.update.rules import MAX_UPDATE_BYTES, REASONS, check, parse

if TYPE_CHECKING:
    from forwarder.records.kind import Lane
    from forwarder.records.verdict import Hide, Outcome

__all__ = ["GROUPS", "PROFILES", "Updates"]


class Updates:
    """One kind of updates; the attributes are those of `Kind`.

    Args:
        name, noun, queue, endpoint: As in `Kind`.
        ids: The members that say what an update changes, the most specific last.
        operations: The operations that Mixpanel has for it.
        final: What the stored bytes of each update have.
    """

    content_type = "application/json"
    encoding = ""
    is_signed = False
    is_ordered = True
    max_bytes = MAX_UPDATE_BYTES
    # "2000 profile updates per request" (docs, "User Profile Limits"). A request's size is not documented;
    # it is assumed to be that of events.
    max_records = 2000
    max_request_bytes = 9_500_000
    reasons: Sequence[str] = REASONS.words
    probe = b'{"$token":""}'
    advice: Mapping[int, str] = dict.fromkeys(
        (401, 403),
        "Mixpanel takes updates by their '$token' alone: look for a firewall or a proxy in between",
    )
    blames_future: Sequence[bytes] = ()

    def __init__(
        self,
        name: str,
        noun: str,
        queue: str,
        endpoint: str,
        ids: Sequence[str],
        operations: Sequence[str],
        final: type[stored.Final],
    ) -> None:
        self.name, self.noun, self.queue, self.endpoint = name, noun, queue, endpoint
        self._ids, self._operations = ids, operations
        self._stored = stored.Reader(final, ids, operations)
        self.is_final, self.are_final = self._stored.is_final, self._stored.are_final
        self.name_of, self.concerns = self._stored.name_of, self._stored.concerns

    def query(self, strict: bool, geolocate: bool, project_id: str) -> dict[str, str]:
        """As `Kind` says. Neither *strict* nor *project_id* means anything here."""
        del strict, project_id
        # Without it, Mixpanel gives each profile the location of this host's address.
        return {"verbose": "1"} if geolocate else {"verbose": "1", "ip": "0"}

    def accept(self, line: bytes, now_ms: int, rules: bool = True) -> bytes:
        """As `Kind` says. A missing ``$time`` becomes *now_ms*; one that is there stays as it is."""
        line = line.strip()
        if len(line) > MAX_UPDATE_BYTES:
            raise EventError(f"{len(line)} bytes long; Mixpanel's limit is {MAX_UPDATE_BYTES} bytes")
        update = parse(line, self.name, self._ids, self._operations)
        if rules:
            check(update, self._operations)
        if "$time" not in update:
            line = b'{"$time":%d,%b' % (now_ms, line[1:])
            if len(line) > MAX_UPDATE_BYTES:
                raise EventError(f"with '$time' filled in it has {len(line)} bytes, over 1 MB")
        return without_breaks(line)

    def accept_many(
        self, lines: Sequence[bytes], now_ms: int, rules: bool = True
    ) -> tuple[list[bytes], list[tuple[int, str]]]:
        """As `Kind` says."""
        accepted: list[bytes] = []
        refused: list[tuple[int, str]] = []
        for index, line in enumerate(lines):
            if line and not line.isspace():
                try:
                    accepted.append(self.accept(line, now_ms, rules))
                except EventError as error:
                    refused.append((index, str(error)))
        return accepted, refused

    def word_for(self, reason: str) -> str:
        """As `Kind` says."""
        return REASONS.word_for(reason)

    def complete(self, data: object, accepted_at: float, queue_id: str, row_id: int) -> bytes:
        """As `Kind` says: the row's timestamp becomes a missing ``$time``."""
        del queue_id, row_id
        return self.accept(without_mark(content_of(data)), int(accepted_at * 1000), rules=False)

    def lane(self, record: bytes) -> Lane:
        """As `OrderedKind` says."""
        return self._stored.lane(record)

    def pack(self, records: Sequence[bytes]) -> bytes:
        """As `Kind` says: a JSON array of the stored bytes."""
        return b"[" + b",".join(records) + b"]"

    def judge(self, status: int, body: bytes, records: Sequence[bytes], strict: bool, hide: Hide) -> Outcome:
        """As `Kind` says."""
        del strict
        # Not at the top: producers don't need it.
        from forwarder.records.update import judgement

        return judgement.judge(status, body, len(records), hide)


PROFILES = Updates(
    "profile", "profile updates", "engage", "/engage", ("$distinct_id",), OPERATIONS, stored.FinalProfile
)
GROUPS = Updates(
    "group", "group updates", "groups", "/groups", GROUP_IDS, GROUP_OPERATIONS, stored.FinalGroup
)
