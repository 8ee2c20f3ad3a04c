"""Gzip, unpacked as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from forwarder.records.reading.source import BLOCK_BYTES, BrokenInputError

MAGIC = b"\x1f\x8b"


def unzip(blocks: Iterable[bytes], raise_if_stopped: Callable[[], None]) -> Iterator[bytes]:
    """Unpack gzip data of one or more members (RFC 1952), also padded with zeros.

    Args:
        raise_if_stopped: Called between the pieces of a block, which may unpack to gigabytes.

    Yields:
        up to `BLOCK_BYTES` at a time, all that could be unpacked so far.

    Raises:
        BrokenInputError: after the last good byte, where the data is damaged or cut short.
    """
    from isal import isal_zlib

    damaged: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub names an instance
    stream, read_bytes = None, 0
    for block in blocks:
        read_bytes += len(block)
        # A piece of full length may leave more behind in the decompressor than it left of the block.
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
