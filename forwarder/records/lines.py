"""Records as one piece of NDJSON, so that most pass without being examined one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload


class Lines(Sequence[bytes]):
    """Records in order; split only when one of them is needed.

    Args:
        text: The records, each with a line feed after it, and no other line feed.
        count: The number of records.
    """

    def __init__(self, text: bytes, count: int) -> None:
        self.text = text
        self._count = count
        self._cut: list[bytes] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if self._cut is None:
            self._cut = self.text.split(b"\n")[:-1]
        return self._cut[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


def text_of(records: Sequence[bytes]) -> bytes:
    """*records* as NDJSON, each with a line feed after it."""
    return records.text if isinstance(records, Lines) else b"\n".join(records) + b"\n"


def pack(records: Sequence[bytes]) -> bytes:
    """A request body of *records*: NDJSON, gzip. Equal records give equal bytes."""
    from isal import igzip

    # Level 1 of isal costs a quarter of zlib's, at about the same size.
    packed: bytes = igzip.compress(text_of(records), 1, mtime=0)
    return packed
