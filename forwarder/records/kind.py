"""What a kind of records is."""

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, Protocol

from forwarder.records.verdict import Hide, Outcome


class Kind(Protocol):
    """Records that go to one endpoint: their form, how they are sent, what an answer says about them.

    Attributes:
        name: The kind, in one word, as in ``--kind``.
        noun: The records' name for people, in the plural.
        queue: The name by which persist-queue knows their queue.
        endpoint: The path they are posted to, after the API's base.
        content_type: Of a request's body before compression.
        encoding: How a body is compressed, as HTTP names it; "": not at all.
        is_signed: Whether a request carries the key. Else each record names its project.
        is_ordered: Whether the order counts, and each repeat: nothing is dropped as a duplicate. Then it is
            an `OrderedKind`.
        max_bytes: The size limit of one record.
        max_records, max_request_bytes: The limits of one request; bytes before compression.
        reasons: The words for the reasons of a refusal, used for counting.
        probe: An invalid record that the endpoint refuses by name and never stores. It shows whether records
            are judged, without delivering one.
        advice: What a person must do about a status that means something special at this endpoint.
        blames_future: What the endpoint says of a record from the future. If this host's clock is ahead, the
            record is not at fault.
    """

    name: str
    noun: str
    queue: str
    endpoint: str
    content_type: str
    encoding: str
    is_signed: bool
    is_ordered: bool
    max_bytes: int
    max_records: int
    max_request_bytes: int
    reasons: Sequence[str]
    probe: bytes
    advice: Mapping[int, str]
    blames_future: Sequence[bytes]

    def query(self, strict: bool, geolocate: bool, project_id: str) -> dict[str, str]:
        """The query parameters of a request."""

    def accept(self, line: bytes, now_ms: int, rules: bool = True) -> bytes:
        """Check and complete one record; returns its final bytes. Raises `EventError` with the reason."""

    def accept_many(
        self, lines: Sequence[bytes], now_ms: int, rules: bool = True
    ) -> tuple[list[bytes], list[tuple[int, str]]]:
        """`accept` for many lines: the final bytes, and (index, reason) of each refused line."""

    def word_for(self, reason: str) -> str:
        """The word of `reasons` that fits a *reason* of `accept`."""

    def complete(self, data: object, accepted_at: float, queue_id: str, row_id: int) -> bytes:
        """`accept` for a row of an external producer: the same bytes each time."""

    def is_final(self, data: bytes) -> bool:
        """Whether *data* is one record's final bytes."""

    def are_final(self, text: bytes, count: int) -> bool:
        """Whether *text* is *count* lines, each one record's final bytes."""

    def name_of(self, data: bytes | str | None) -> tuple[str, str]:
        """A name and an id that identify a dead letter; empty if they can't be read."""

    def concerns(self, data: bytes | None, user: str) -> bool:
        """Whether stored *data* belong to a user of this id, by whichever of its ids."""

    def pack(self, records: Sequence[bytes]) -> bytes:
        """A request's body, compressed by `encoding`; the same bytes for the same records."""

    def judge(self, status: int, body: bytes, records: Sequence[bytes], strict: bool, hide: Hide) -> Outcome:
        """What the endpoint's answer, with *status* 200 or 400, says about the *records* that were sent.

        Never raises. With UNREACHABLE and MISCONFIGURED the detail only says why; the caller puts the
        server's words before it.
        """


class Lane(NamedTuple):
    """What a record changes: records with the same *key* change the same.

    *repeats*: sent twice, it leaves the same state as sent once.
    """

    key: Hashable
    repeats: bool


class OrderedKind(Kind, Protocol):
    """Records whose order counts, if they change the same."""

    def lane(self, record: bytes) -> Lane:
        """What a final *record* changes. Never raises."""
