"""Unpacking gzip data as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from forwarder.records.reading.source import BLOCK_BYTES, BrokenInputError

MAGIC = b"\x1f\x8b"


def unzip(blocks: Iterable[bytes], raise_if_stopped: Callable[[], None]) -> Iterator[bytes]:
    """Unpack gzip data of one or more members (RFC 1952), also padded with zeros.

    Args:
        raise_if_stopped: Called between the pieces of a block, which may unpack to gigabytes.

    Yields:
        up to `BLOCK_BYTES` at a time, as soon as they can be unpacked.

    Raises:
        BrokenInputError: after the last good byte; the rest is damaged or missing.
    """
    from isal import isal_zlib

    damaged: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub names an instance
    stream, read_bytes = None, 0
    for block in blocks:
        read_bytes += len(block)
        # After a piece of full length the decompressor may hold more output, even without more input.
        piece = b""
        while block or len(piece) == BLOCK_BYTES:
            if stream is None:
                block = block.lstrip(b"\0")
                if not block:
                    break
                if not MAGIC.startswith(block[:2]):
                    raise BrokenInputError("what follows here after the gzip data is not gzip")
                stream = isal_zlib.decompressobj(wbits=31)
            if piece:
                raise_if_stopped()
            try:
                piece = stream.decompress(block, BLOCK_BYTES)
            except damaged as error:
                raise BrokenInputError(f"the gzip data is damaged here ({error})") from None
            if piece:
                yield piece
            if stream.eof:
                block, piece, stream = stream.unused_data, b"", None
            else:
                block = stream.unconsumed_tail
    if stream is not None:
        raise BrokenInputError(f"the gzip data is cut short here, after {read_bytes} bytes")
