"""Decompressing data as it comes: gzip, bzip2, xz and zstd, told by their first bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

from forwarder.errors import InputError
from forwarder.records.reading.source import BLOCK_BYTES, BrokenInputError

# How many bytes from the start of the data `codec_of` needs.
MAGIC_BYTES = 4
# The package zstandard can't bound its output: 128 KiB of it may come from 4 bytes.
_ZSTD_BYTES = 1024


class Codec(NamedTuple):
    """A form of compression; *make* returns a decompressor and what it raises about damaged data."""

    name: str
    begins: Callable[[bytes], object]
    make: Callable[[], tuple[Any, tuple[type[Exception], ...]]]
    remedy: str


def codec_of(head: bytes) -> Codec | None:
    """How the data that begin with *head* are compressed; None: not by one of these."""
    return next((codec for codec in _CODECS if codec.begins(head)), None)


def decompress(
    blocks: Iterable[bytes], codec: Codec, raise_if_stopped: Callable[[], None]
) -> Iterator[bytes]:
    """Decompress data of one or more members (streams, frames), also padded with zeros.

    Args:
        raise_if_stopped: Called between the pieces of a block, which may hold gigabytes.

    Yields:
        up to `BLOCK_BYTES` at a time, as soon as they can be decompressed.

    Raises:
        InputError: it needs a module that is not there.
        BrokenInputError: after the last good byte; the rest is damaged or missing.
    """
    name, stream, read_bytes, lead = codec.name, None, 0, b""
    damaged: tuple[type[Exception], ...] = ()
    for block in blocks:
        read_bytes += len(block)
        # After a piece of full length the decompressor may hold more output, even without more input.
        piece = b""
        while block or len(piece) == BLOCK_BYTES:
            if stream is None:
                block, lead = (lead + block).lstrip(b"\0"), b""
                if len(block) < MAGIC_BYTES:
                    lead = block
                    break
                if not codec.begins(block):
                    raise BrokenInputError(f"what follows here after the {name} data is not {name}")
                try:
                    stream, damaged = codec.make()
                except ImportError as error:
                    raise InputError(f"it is compressed with {name}: {error}", codec.remedy) from None
            if piece:
                raise_if_stopped()
            try:
                piece = stream.decompress(block, BLOCK_BYTES)
            except damaged as error:
                raise BrokenInputError(f"the {name} data is damaged here ({error})") from None
            if piece:
                yield piece
            if stream.eof:
                block, piece, stream = stream.unused_data, b"", None
            else:
                block = getattr(stream, "unconsumed_tail", b"")
    if lead:
        raise BrokenInputError(f"what follows here after the {name} data is not {name}")
    if stream is not None:
        raise BrokenInputError(f"the {name} data is cut short here, after {read_bytes} bytes")


def _gzip() -> tuple[Any, tuple[type[Exception], ...]]:
    from isal import isal_zlib

    damaged: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub names an instance
    return isal_zlib.decompressobj(wbits=31), (damaged,)


def _bzip2() -> tuple[Any, tuple[type[Exception], ...]]:
    import bz2

    return bz2.BZ2Decompressor(), (OSError,)


def _xz() -> tuple[Any, tuple[type[Exception], ...]]:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ), (lzma.LZMAError,)


def _zstd() -> tuple[Any, tuple[type[Exception], ...]]:
    try:
        zstd = import_module("compression.zstd")  # from Python 3.14 on
    except ImportError:
        return _Zstandard(), (import_module("zstandard").ZstdError,)
    return zstd.ZstdDecompressor(), (zstd.ZstdError,)


class _Zstandard:
    """The package zstandard's decompressor, with a bound to what comes of one call."""

    def __init__(self) -> None:
        self._stream = import_module("zstandard").ZstdDecompressor().decompressobj()
        self.eof, self.unused_data, self.unconsumed_tail = False, b"", b""

    def decompress(self, data: bytes, _max_length: int) -> bytes:
        """What the first part of *data* holds; the rest is `unconsumed_tail`."""
        self.unconsumed_tail = data[_ZSTD_BYTES:]
        piece: bytes = self._stream.decompress(data[:_ZSTD_BYTES])
        self.eof = self._stream.eof
        if self.eof:
            self.unused_data = self._stream.unused_data + self.unconsumed_tail
        return piece


def _unpack(tool: str) -> str:
    return f"Install that, or decompress it before: {tool} FILE | forwarder enqueue"


_CODECS = (
    Codec("gzip", re.compile(rb"\x1f\x8b").match, _gzip, _unpack("zcat")),
    Codec("bzip2", re.compile(rb"BZh[1-9]").match, _bzip2, _unpack("bzcat")),
    Codec("xz", re.compile(rb"\xfd7zX").match, _xz, _unpack("xzcat")),
    Codec(
        "zstd",
        # Also a frame to be skipped, with which pzstd begins (RFC 8878, 3.1.2).
        re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18").match,
        _zstd,
        _unpack("zstdcat"),
    ),
)
