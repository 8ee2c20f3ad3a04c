"""Events, for ``/import``: all that `Kind` asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from forwarder import lazy
from forwarder.records.event.rules import MAX_EVENT_BYTES

if TYPE_CHECKING:
    from forwarder.records.event.acceptance import accept, accept_many, complete
    from forwarder.records.event.from_python import encode
    from forwarder.records.event.refusals import reasons, word_for
    from forwarder.records.event.stored import are_final, concerns, is_final, name_of
    from forwarder.records.lines import pack
    from forwarder.records.verdict import Hide, Outcome

# Listed in full, or mypy would not find the members of a `Kind` in this module.
__all__ = [
    "accept", "accept_many", "advice", "are_final", "blames_future", "complete", "concerns", "content_type",
    "encode", "encoding", "endpoint", "is_final", "is_ordered", "is_signed", "judge", "max_bytes",
    "max_records", "max_request_bytes", "name", "name_of", "noun", "pack", "probe", "query", "queue",
    "reasons", "word_for",
]  # fmt: skip

name, noun = "event", "events"
queue = "default"
endpoint = "/import"
content_type = "application/x-ndjson"
encoding = "gzip"
is_signed = True
is_ordered = False
max_bytes = MAX_EVENT_BYTES
# https://developer.mixpanel.com/reference/import-events: "2000 events and 10MB uncompressed per request".
# Whether that is 10^7 or 10 * 2^20 is not said, and the array's brackets and commas count too.
max_records = 2000
max_request_bytes = 9_500_000
# In strict mode its blank name, missing time and missing $insert_id are each refused by name ("Import
# Events" in Mixpanel's docs: all three are required). Without strict mode it can't be stored either.
probe = b'{"event":"","properties":{}}'
advice: Mapping[int, str] = {
    403: "Mixpanel's import does not answer 403: look for a firewall, a proxy, a block of this address"
}
blames_future: Sequence[bytes] = (b"must not be in the future",)

__getattr__ = lazy.names(
    __name__,
    {
        "forwarder.records.event.acceptance": "accept accept_many complete",
        "forwarder.records.event.from_python": "encode",
        "forwarder.records.event.refusals": "reasons word_for",
        "forwarder.records.event.stored": "are_final concerns is_final name_of",
        "forwarder.records.lines": "pack",
    },
)


def query(strict: bool, geolocate: bool, project_id: str) -> dict[str, str]:
    """As `Kind` says."""
    found = {"strict": "1" if strict else "0"}
    if project_id:
        found["project_id"] = project_id
    if not geolocate:
        # Without it, Mixpanel gives each event the location of this host's address.
        found["ip"] = "0"
    return found


def judge(status: int, body: bytes, records: Sequence[bytes], strict: bool, hide: Hide) -> Outcome:
    """As `Kind` says."""
    # Not at the top: producers don't need it.
    from forwarder.records.event import judgement

    return judgement.judge(status, body, records, strict, hide)
