"""Parquet files: rows of a table, a batch at a time."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, time
from functools import partial
from json.encoder import encode_basestring as quoted
from math import isfinite
from typing import TYPE_CHECKING, Any

from forwarder.errors import EventError, InputError
from forwarder.records.event.from_python import encode_value
from forwarder.records.json_object import path_to
from forwarder.records.reading.array import CHUNK_LINES
from forwarder.records.reading.chunk import Chunk, Record
from forwarder.records.reading.source import BrokenInputError, Source

if TYPE_CHECKING:
    from forwarder.records.event.mapping import EventMapping
    from forwarder.records.reading.table import Chosen

MAGIC = b"PAR1"
_PACKAGE = "pip install 'mixpanel-forwarder[parquet]'"


class Parquet:
    """A table in a Parquet file; its rows are numbered from 1.

    Attributes:
        names: The columns'.

    Raises:
        InputError: it is no file of its own, or pyarrow is not there.
        BrokenInputError: it is damaged.
    """

    def __init__(self, source: Source) -> None:
        try:
            import pyarrow.parquet
        except ImportError:
            raise InputError("it is Parquet, which needs pyarrow", f"Install it: {_PACKAGE}") from None
        if not stat.S_ISREG(os.fstat(source.fd).st_mode):
            raise InputError(
                "it is Parquet, which can't be read from a pipe", "Write it to a file, and name that"
            )
        if os.pread(source.fd, len(MAGIC), 0) != MAGIC:
            raise InputError(
                "it is not a Parquet file, or it is compressed as a whole",
                "Decompress it into a file, and name that",
            )
        self._source = source
        self._damaged = (pyarrow.ArrowException, OSError, ValueError)
        self._arrow = pyarrow
        try:
            # Not ahead of what is needed, and with a buffer, or memory grows with the row groups.
            self._file = pyarrow.parquet.ParquetFile(
                os.fdopen(source.fd, "rb", closefd=False),
                pre_buffer=False,
                buffer_size=1 << 20,
                coerce_int96_timestamp_unit="us",
            )
        except self._damaged as error:
            raise BrokenInputError(f"the Parquet data is damaged ({error})") from None
        self.names: list[str] = self._file.schema_arrow.names

    def read(self, mapping: EventMapping) -> Iterator[Chunk]:
        """The rows, up to `CHUNK_LINES` at a time.

        Raises:
            UsageError: as `EventMapping.choose`.
            BrokenInputError: after the last good row.
        """
        chosen, first = mapping.choose(self.names), 1
        for batch in self._batches([self.names[index] for index in chosen.indexes]):
            self._source.raise_if_stopped()
            refused: dict[int, str] = {}
            columns = [self._tokens(name, batch.column(name), chosen, refused) for name in batch.schema.names]
            records: list[bytes | Record] = [
                {name: token for name, token in zip(batch.schema.names, row, strict=True) if token}
                for row in zip(*columns, strict=True)
            ]
            for index in refused:
                records[index] = b""
            found: list[tuple[int, str, bytes | None]] = [
                (first + index, reason, None) for index, reason in sorted(refused.items())
            ]
            yield Chunk(range(first, first + batch.num_rows), records, found, mapping)
            first += batch.num_rows

    def _batches(self, names: list[str]) -> Iterator[Any]:
        batches = self._file.iter_batches(CHUNK_LINES, columns=names, use_threads=False)
        while True:
            try:
                batch = next(batches, None)
            except self._damaged as error:
                raise BrokenInputError(f"the Parquet data is damaged here ({error})") from None
            if batch is None:
                return
            self._source.read_bytes = os.lseek(self._source.fd, 0, os.SEEK_CUR)
            yield batch

    def _tokens(self, name: str, column: Any, chosen: Chosen, refused: dict[int, str]) -> list[str]:
        """The cells of a *column* as JSON text, "" for what has no value; what has no JSON is *refused*."""
        types = self._arrow.types
        if types.is_timestamp(column.type):
            # Python has no nanoseconds.
            column = column.cast(self._arrow.timestamp("us", column.type.tz), safe=False)
        make: Callable[[Any], str]
        if types.is_string(column.type) or types.is_large_string(column.type):
            make = quoted
        elif types.is_integer(column.type):
            make = str
        elif types.is_float64(column.type):
            make = partial(_number, name)
        elif name == chosen.time and types.is_timestamp(column.type):
            make = _moment
        else:
            where = path_to("properties", name)

            def make(value: Any) -> str:
                return "" if value != value else encode_value(_plain(value, where), where).decode()

        if name in chosen.texts and make is not quoted:
            make = _text_of(make)
        # With the option it takes ten times as long.
        nested = {"maps_as_pydicts": "lossy"} if types.is_nested(column.type) else {}
        found = []
        for index, value in enumerate(column.to_pylist(**nested)):
            try:
                found.append("" if value is None else make(value))
            except EventError as error:
                found.append("")
                refused.setdefault(index, str(error))
        return found


def _number(name: str, value: float) -> str:
    if isfinite(value):
        return repr(value)
    if value != value:
        return ""  # as pandas writes a cell without a value
    raise EventError(f"'{path_to('properties', name)}' is {value}, which is not JSON")


def _moment(value: datetime) -> str:
    return quoted(value.isoformat())


def _text_of(make: Callable[[Any], str]) -> Callable[[Any], str]:
    def text(value: Any) -> str:
        token = make(value)
        return token if token[:1] in ("", '"', "[", "{") else quoted(token)

    return text


def _plain(value: Any, where: str) -> Any:
    """*value* in types that `encode_value` takes: a time without a zone is written as it stands."""
    if isinstance(value, dict):
        return {key: _plain(member, where) for key, member in value.items()}
    if isinstance(value, list):
        return [_plain(member, where) for member in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise EventError(
                f"'{where}' is invalid: bytes that are not UTF-8; --drop-columns leaves the column out"
            ) from None
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return value.isoformat() if isinstance(value, time) else value
