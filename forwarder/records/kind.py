"""What a kind of records is."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from forwarder.records.verdict import Hide, Outcome


class Kind(Protocol):
    """Records that go to one endpoint: what they are, how they are sent, what an answer says of them.

    Attributes:
        name: Which kind it is, in one word.
        noun: What they are called for people, in the plural.
        endpoint: The path they are posted to, behind the API's base.
        content_type: Of a request's body, before it is compressed.
        max_bytes: The most that one record may have.
        max_records, max_request_bytes: The most that one request may hold; bytes before they are compressed.
        reasons: The words for why a record is refused, to count by.
        probe: A made-up record that the endpoint refuses by name and never stores: it asks whether records
            are judged, without delivering one.
        advice: What a person is to do about a status that the endpoint gives a meaning of its own.
        blames_future: What the endpoint says of a record from the future, which is no fault of the record's
            where this host's clock is ahead.
    """

    name: str
    noun: str
    endpoint: str
    content_type: str
    max_bytes: int
    max_records: int
    max_request_bytes: int
    reasons: Sequence[str]
    probe: bytes
    advice: Mapping[int, str]
    blames_future: Sequence[bytes]

    def query(self, strict: bool, geolocate: bool, project_id: str) -> dict[str, str]:
        """The parameters of a request's address."""

    def accept(self, line: bytes, now_ms: int, rules: bool = True) -> bytes:
        """Check and complete one record; returns its final bytes. Raises `EventError` with the reason."""

    def accept_many(
        self, lines: Sequence[bytes], now_ms: int, rules: bool = True
    ) -> tuple[list[bytes], list[tuple[int, str]]]:
        """`accept` for many lines: the final bytes, and (index, reason) of each refused one."""

    def word_for(self, reason: str) -> str:
        """The one of `reasons` that fits the *reason* which `accept` has given."""

    def complete(self, data: object, accepted_at: float, queue_id: str, row_id: int) -> bytes:
        """`accept` for what an external producer has put into the queue: the same bytes each time."""

    def is_final(self, data: bytes) -> bool:
        """Whether *data* are one record's final bytes."""

    def are_final(self, text: bytes, count: int) -> bool:
        """Whether *text* is *count* lines, each a record's final bytes."""

    def name_of(self, data: bytes | str | None) -> tuple[str, str]:
        """A name and an id, to know a dead letter by; empty where they can't be read."""

    def concerns(self, data: bytes | None, user: str) -> bool:
        """Whether stored *data* belong to a user of this id, by whichever of its ids."""

    def pack(self, records: Sequence[bytes]) -> bytes:
        """A request's body, gzip; the same bytes for the same records."""

    def judge(self, status: int, body: bytes, records: Sequence[bytes], strict: bool, hide: Hide) -> Outcome:
        """What the endpoint's answer, of *status* 200 or 400, says of the *records* that were sent.

        Never raises. Of UNREACHABLE and MISCONFIGURED the detail only says why: what the server said is put
        before it.
        """
