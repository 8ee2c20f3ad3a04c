"""Records as lines: one piece of NDJSON, so that most pass without being examined one by one."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import overload

from forwarder.errors import EventError


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


def without_breaks(line: bytes) -> bytes:
    """One JSON text without line breaks, which are only between its tokens: in a string they are escaped."""
    return line.replace(b"\n", b" ").replace(b"\r", b" ")


def content_of(data: object) -> bytes:
    """The content of an external producer's row.

    Raises:
        EventError: it is neither text nor bytes.
    """
    if isinstance(data, str):
        data = data.encode(errors="surrogatepass")
    if not isinstance(data, bytes):
        raise EventError(f"not JSON: the row holds {type(data).__name__}, not bytes")
    return data


def without_mark(content: bytes) -> bytes:
    """*content* without the mark that some programs put before UTF-8."""
    return content.removeprefix(codecs.BOM_UTF8)


def text_of(records: Sequence[bytes]) -> bytes:
    """*records* as NDJSON, each with a line feed after it."""
    return records.text if isinstance(records, Lines) else b"\n".join(records) + b"\n"


def pack(records: Sequence[bytes]) -> bytes:
    """A request body of *records*: NDJSON, gzip. Equal records give equal bytes."""
    from isal import igzip

    # Level 1 of isal costs a quarter of zlib's, at about the same size.
    packed: bytes = igzip.compress(text_of(records), 1, mtime=0)
    return packed
