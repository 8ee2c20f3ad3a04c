"""From rows and flat records to events: which of their columns are the name, the time and the ids."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from functools import cached_property, lru_cache
from json.encoder import encode_basestring as quoted

import msgspec

from forwarder.errors import EventError, UsageError
from forwarder.records import json_object
from forwarder.records.event import when
from forwarder.records.reading.chunk import Record
from forwarder.records.reading.table import Chosen

_EPOCH = datetime(1970, 1, 1)
_MILLISECOND = timedelta(milliseconds=1)
# How many of them are a second.
UNITS = {"s": 1, "ms": 1000, "us": 10**6, "ns": 10**9}
# What JSON text of a string, an object or an array begins with, and "" of nothing.
_NO_SCALAR = frozenset(['"', "{", "[", ""])
# Columns that are taken by themselves.
_TIME, _DISTINCT_ID, _INSERT_IDS = "time", "distinct_id", ("$insert_id", "insert_id")
# What often are the time and the person under another name, compared in small letters.
_LIKE_TIME = re.compile(
    r"timestamp|ts|date|datetime|event_?time(?:stamp)?|(?:created|occurred)_?at"
).fullmatch
_LIKE_ID = re.compile(r"user(?:_?id|_pseudo_id)?|uid|distinctid|anonymous_?id|client_id").fullmatch

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text = msgspec.json.Decoder(str).decode
_is_number = re.compile(r"-?[0-9]+(?:\.[0-9]+)?", re.ASCII).fullmatch
# BigQuery, Athena and Snowflake write a space before the zone, and UTC.
_before_zone = re.compile(r" (?=(?:Z|[+-][0-9]{2}:?[0-9]{2})$)").sub


@dataclass(frozen=True)
class EventMapping:
    """What a person says of the columns of a table, or of the members of flat JSON records.

    Attributes:
        name: The name of all events; "": a column has it.
        event, distinct_id, time, insert_id: Columns; None: the one of that name, if there is one; "": none.
        time_format: Of times: a key of `UNITS`, or as ``strptime`` takes it; "": epoch or ISO 8601.
        zone: Of times without one, and of the times of Mixpanel's own exports.
        only: The columns that become properties; None: all others.
        dropped: Columns that are left out.
        texts: Columns whose cells stay text.
    """

    name: str = ""
    event: str | None = None
    distinct_id: str | None = None
    time: str | None = None
    insert_id: str | None = None
    time_format: str = ""
    zone: tzinfo | None = None
    only: Sequence[str] | None = None
    dropped: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()

    @cached_property
    def names_columns(self) -> bool:
        """Whether anything but a time zone is given."""
        return self != EventMapping(zone=self.zone)

    def choose(self, names: Sequence[str]) -> Chosen:
        """What to read of a table with columns of these *names*.

        Raises:
            UsageError: a column that is named is not there, or one that is read has no name or the name of
                another.
        """
        event, distinct_id, time, insert_ids = self._roles
        insert_id = next((name for name in insert_ids if name in names), "")
        listed = f"The columns are: {', '.join(names)}"
        for option, columns in self._named.items():
            if missing := [name for name in columns if name and name not in names]:
                raise UsageError(f"{option}: there is no column {missing[0]!r}", listed)
        if not self.name and event not in names:
            raise UsageError(
                "no column is named event", f"Give --event NAME or --event-column COLUMN. {listed}"
            )
        taken = {"" if self.name else event, distinct_id, time, insert_id} - {""}
        indexes = [
            index
            for index, name in enumerate(names)
            if name in taken or (name not in self.dropped and (self.only is None or name in self.only))
        ]
        read = [names[index] for index in indexes]
        if unnamed := [index + 1 for index in indexes if not names[index]]:
            raise UsageError(f"column {unnamed[0]} has no name", "Name it, or give --drop-columns ''")
        if twice := [name for name in read if read.count(name) > 1]:
            raise UsageError(
                f"the column {twice[0]!r} is there twice", f"Rename one, or --drop-columns {twice[0]}"
            )
        for name in (_TIME, _DISTINCT_ID, _INSERT_IDS[0]):
            if name in read and name not in taken:
                raise UsageError(
                    f"the column {name!r} would be a property of that name, beside the one that is named",
                    f"Give --drop-columns {name}",
                )
        if missed := self._missed(read, taken):
            raise UsageError(missed)
        texts = self.texts | {distinct_id, insert_id}
        return Chosen(indexes, texts | {time} if self.time_format else texts, time)

    @property
    def _named(self) -> dict[str, Iterable[str]]:
        return {
            "--event-column": [self.event or ""],
            "--distinct-id-column": [self.distinct_id or ""],
            "--time-column": [self.time or ""],
            "--insert-id-column": [self.insert_id or ""],
            "--columns": self.only or (),
            "--drop-columns": self.dropped,
            "--text-columns": self.texts,
        }

    def _missed(self, names: Iterable[str], taken: Iterable[str] = ()) -> str:
        """What an unnamed column looks like, if no column is the time, or the person; "": nothing."""
        for given, own, is_alike, option in (
            (self.time, _TIME, _LIKE_TIME, "--time-column"),
            (self.distinct_id, _DISTINCT_ID, _LIKE_ID, "--distinct-id-column"),
        ):
            if given is None and own not in names and own not in self.dropped:
                for name in names:
                    if is_alike(name.lower()) and name not in taken:
                        return (
                            f"no column is named {own}, but {name!r} may be it: give {option} {name}, or "
                            f"{option} '' if it is a property"
                        )
        return ""

    def event_of(self, record: Record) -> bytes:
        """The event of a row or flat record, to be accepted as any other.

        Raises:
            EventError: with the reason.
        """
        rest = dict(record)
        take = rest.pop
        event, distinct_id, time, insert_ids = self._roles
        name = quoted(self.name) if self.name else _as_text(take(event, ""))
        parts = []
        if (token := take(time, "")) and (moment := self._time_of(token)):
            parts.append(f'"time":{moment}')
        if token := _as_text(take(distinct_id, "")):
            parts.append(f'"distinct_id":{token}')
        for key in insert_ids:
            if key in rest:
                if token := _as_text(take(key)):
                    parts.append(f'"$insert_id":{token}')
                break
        if self.names_columns:
            rest = self._properties(rest)
        parts += [f"{_key(key)}{token}" for key, token in rest.items()]
        try:
            return f'{{"event":{name or "null"},"properties":{{{",".join(parts)}}}}}'.encode()
        except UnicodeEncodeError:
            wrong = next(key for key, token in record.items() if not json_object.is_whole(token))
            raise EventError(
                f"not UTF-8, in '{wrong}'; convert it, for example with iconv -f LATIN1 -t UTF-8"
            ) from None

    @cached_property
    def _roles(self) -> tuple[str, str, str, Sequence[str]]:
        """The columns of name, distinct_id and time, and those that may be the ``$insert_id``."""

        def column(given: str | None, own: str) -> str:
            return ("" if own in self.dropped else own) if given is None else given

        return (
            column(self.event, "event"),
            column(self.distinct_id, _DISTINCT_ID),
            column(self.time, _TIME),
            [name for own in _INSERT_IDS if (name := column(self.insert_id, own))],
        )

    def _properties(self, rest: dict[str, str]) -> dict[str, str]:
        if self.only is not None:
            rest = {key: rest[key] for key in self.only if key in rest}
        for key in self.dropped:
            rest.pop(key, None)
        for key in self.texts & rest.keys():
            rest[key] = _as_text(rest[key]) or rest[key]
        return rest

    def with_zone(self, record: Record) -> bytes:
        """An event in the form of Mixpanel's exports, with a numeric ``time`` taken as local time.

        Projects made before 2023 export it so: "in the project's time zone", as seconds since the epoch.

        Raises:
            EventError: columns are named, which an event does not have.
        """
        if self.names_columns:
            raise EventError(
                "an event with 'properties' is no flat record; of the options for columns it takes only "
                "--time-zone"
            )
        properties = read_record(record["properties"].encode()) or {}
        time = properties.get("time", "")
        if _is_number(time) and 0 <= float(time) < when.MICROSECONDS_FROM:
            given = float(time)
            local = _EPOCH + round(given if given >= when.MILLISECONDS_FROM else given * 1000) * _MILLISECOND
            properties["time"] = str(when.from_moment(local.replace(tzinfo=self.zone)))
        elif time.startswith('"'):
            properties["time"] = self._time_of(time)
        return _object({**record, "properties": _object(properties)}).encode()

    def _time_of(self, token: str) -> str:
        """The JSON text of ``time``; "": there is none."""
        if token.isdigit() and not self.time_format:
            return token
        text = (_text(token) if token.startswith('"') else token).strip()
        if text in ("", "null"):
            return ""
        if self.time_format in UNITS:
            from decimal import Decimal

            if not _is_number(text):
                raise EventError(
                    f"'properties.time' is invalid: {json_object.cut(text)!r} is not a number of "
                    f"{self.time_format} since the epoch"
                )
            return str(when.from_milliseconds(int(Decimal(text) * 1000 / UNITS[self.time_format])))
        if not self.time_format and _is_number(text):
            return text
        return str(when.from_moment(self._moment_of(text)))

    def _moment_of(self, text: str) -> datetime:
        try:
            moment = datetime.strptime(text, self.time_format) if self.time_format else _from_iso(text)
        except ValueError:
            form = f"of the form {self.time_format}" if self.time_format else "in ISO 8601"
            raise EventError(
                f"'properties.time' is invalid: {json_object.cut(text)!r} is not a time {form}; "
                "--time-format says what it is, like '%d.%m.%Y %H:%M:%S'"
            ) from None
        if moment.tzinfo is None:
            if self.zone is None:
                raise EventError(
                    f"'properties.time' is invalid: {json_object.cut(text)!r} has no time zone; give "
                    "--time-zone ZONE, like Europe/Berlin or UTC"
                )
            moment = moment.replace(tzinfo=self.zone)
        return moment

    def in_columns(self, reason: str) -> str:
        """A *reason* of a refusal, with the names of columns instead of paths in an event."""
        event, distinct_id, time, insert_ids = self._roles
        insert_id = insert_ids[0] if insert_ids else ""
        for place, column in (
            ("event", event),
            ("properties.time", time),
            ("properties.distinct_id", distinct_id),
            ("properties.$insert_id", insert_id),
        ):
            reason = reason.replace(f"'{place}'", f"'{column}'") if column else reason
        return reason.replace("'properties.", "'")

    def events_of(self, lines: Sequence[bytes | Record]) -> tuple[list[bytes], list[tuple[int, str]]]:
        """The events that rows of a table or lines of flat records are.

        Returns:
            one for each of *lines*, b"" for none, and (index, reason) of each that can't be one.
        """
        events: list[bytes] = []
        refused: list[tuple[int, str]] = []
        for index, line in enumerate(lines):
            try:
                events.append(self._mapped(line))
            except EventError as error:
                events.append(b"")
                refused.append((index, str(error)))
        return events, refused

    def _mapped(self, line: bytes | Record) -> bytes:
        if not isinstance(line, bytes):
            return self.event_of(line)
        record = read_record(line)
        if record is None:
            return line  # refused as what it is
        if record.get("properties", "").startswith("{"):
            return self.with_zone(record)
        if missed := self._missed(record):
            raise EventError(missed)
        return self.event_of(record)


def text_of(record: Record) -> bytes | None:
    """A row as a flat JSON record, which may be mapped again; None: it is not UTF-8."""
    try:
        return _object(record).encode()
    except UnicodeEncodeError:
        return None


def read_record(line: bytes) -> dict[str, str] | None:
    """The members of a JSON object, as JSON text; None: it is not one.

    Raises:
        EventError: two have the same key.
    """
    try:
        record = {key: bytes(raw).decode() for key, raw in _members(line).items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    # What has more quotes may have a key twice, of which the decoder keeps one.
    if line.count(b'"') != 2 * len(record) + sum(token.count('"') for token in record.values()):
        json_object.read(line, "event")
    return record


def _object(members: Mapping[str, str]) -> str:
    return "{" + ",".join([f"{_key(key)}{token}" for key, token in members.items()]) + "}"


@lru_cache(4096)
def _key(name: str) -> str:
    return f"{quoted(name)}:"


def _as_text(token: str) -> str:
    """A JSON value as text, but objects and arrays as they are; "": null."""
    if token[:1] in _NO_SCALAR:
        return token
    return "" if token.startswith("n") else f'"{token}"'


def _from_iso(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return datetime.fromisoformat(_before_zone("", re.sub(" ?UTC$", "Z", text)))
