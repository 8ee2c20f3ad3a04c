"""``--set`` and ``--unset``: change members of an event, and keep all others as written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from forwarder.errors import EventError, UsageError
from forwarder.records import EVENTS
from forwarder.records.kind import Kind

REMEDY = "A path is `event`, or `properties.` and a name; a dot in a name is written \\."
BY_HAND = "; export it with --with-reason, fix the text and enqueue it"
# Members that are refused beside `properties`, and so may be removed there.
BESIDE = [("time",), ("distinct_id",), ("$insert_id",)]
EVENT = "the event"
TIME = ("properties", "time")
INSERT_ID = ("properties", "$insert_id")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_gap = re.compile(r"[ \t\r\n]*").match
# Only to check that it is one JSON value: nothing is converted, so numbers may have any length.
_check_json = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant).decode
# Only to find the end of a value; NaN is allowed, since an edit can replace it.
_decoder = json.JSONDecoder(parse_int=str, parse_float=str)


@dataclass(frozen=True, slots=True)
class Edit:
    """Set the member at *path* to the JSON text *value*; None removes it."""

    path: tuple[str, ...]
    value: str | None


def understand(sets: Iterable[str], unsets: Iterable[str], kind: Kind = EVENTS) -> tuple[Edit, ...]:
    """Read the options: ``PATH=TEXT`` and ``PATH:=JSON`` of --set, ``PATH`` of --unset.

    In an event a path is ``event`` or within ``properties``; in an update any.

    Raises:
        UsageError: one is invalid, or two change the same member.
    """
    edits = [_understand_set(given, kind) for given in sets]
    for given in unsets:
        path, rest = _read_path(given)
        if rest:
            raise UsageError(f"--unset {given!r}: only a path is expected", REMEDY)
        if path not in BESIDE:
            _check_path(path, f"--unset {given!r}", kind)
        edits.append(Edit(path, None))
    paths = [edit.path for edit in edits]
    for path in paths:
        if any(other[: len(path)] == path for other in paths if other is not path):
            raise UsageError(f"two edits change {'.'.join(path)}, or a part of it", "Keep one of them")
    return tuple(edits)


def apply(data: bytes, edits: Sequence[Edit], kind: Kind = EVENTS) -> bytes:
    """The stored bytes of a record, edited.

    Raises:
        EventError: *data*, or a part on an edit's path, is not a JSON object; or the member to remove beside
            ``properties`` does not exist.
    """
    if not edits:
        return data
    try:
        text = data.decode()
        for edit in edits:
            text = _apply(text, edit.path, edit.value, f"the {kind.noun.removesuffix('s')}")
        return text.encode()
    except UnicodeDecodeError:
        raise EventError("can't be edited: it is not UTF-8") from None
    except RecursionError:
        raise EventError("can't be edited: it is nested too deeply") from None
    except ValueError as error:
        raise EventError(f"can't be edited: it is not JSON ({error}){BY_HAND}") from None


def renew(
    data: bytes, accepted_at: float, edits: Sequence[Edit], now_ms: int, rules: bool, kind: Kind = EVENTS
) -> bytes:
    """A dead letter's bytes, edited, checked and completed for a new delivery.

    ``$insert_id`` stays as it is; ``time``, where it is missing, becomes *accepted_at*.

    Raises:
        EventError: with the reason why it can't be delivered.
    """
    renewed = kind.accept(apply(data, edits, kind), int(accepted_at * 1000), False)
    return kind.accept(renewed, now_ms, True) if rules else renewed


def _understand_set(given: str, kind: Kind) -> Edit:
    option = f"--set {given!r}"
    path, rest = _read_path(given)
    if rest.startswith("="):
        if path == TIME:
            raise UsageError(
                f"{option}: time is a number, and = gives text", f"Write {given.partition('=')[0]}:=NUMBER"
            )
        return Edit(_check_path(path, option, kind), _json_string(rest[1:], option))
    if not rest.startswith(":="):
        raise UsageError(f"{option}: write PATH=TEXT or PATH:=JSON", REMEDY)
    try:
        rest.encode()
        _check_json(rest[2:])
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{option}: what follows := is not JSON: {error}", "For text write PATH=TEXT"
        ) from None
    return Edit(_check_path(path, option, kind), rest[2:].strip())


def _read_path(given: str) -> tuple[tuple[str, ...], str]:
    r"""The path that *given* begins with, and what follows it from ``=`` or ``:=`` on; \ quotes a sign."""
    names = [""]
    at = 0
    while at < len(given) and given[at] != "=" and not given.startswith(":=", at):
        if given[at] == "\\" and at + 1 < len(given):
            at += 1
            names[-1] += given[at]
        elif given[at] == ".":
            names.append("")
        else:
            names[-1] += given[at]
        at += 1
    return tuple(names), given[at:]


def _check_path(path: tuple[str, ...], option: str, kind: Kind) -> tuple[str, ...]:
    fits = path == ("event",) or (path[0] == "properties" and len(path) > 1)
    if not all(path) or (kind is EVENTS and not fits):
        close = "." not in path[0] and len(path) == 1 and path[0] not in ("", "properties")
        raise UsageError(
            f"{option} does not lead to a member of an event",
            f"Did you mean properties.{path[0]}? {REMEDY}" if close else REMEDY,
        )
    _json_string("".join(path), option)
    return path


def _json_string(text: str, option: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{option} is not UTF-8") from None
    return json.dumps(text, ensure_ascii=False)


def _apply(text: str, path: tuple[str, ...], value: str | None, where: str) -> str:
    members = _split(text, where)
    name, rest = path[0], path[1:]
    found = [index for index, (key, _) in enumerate(members) if json.loads(key) == name]
    if not found and value is None:
        if where == EVENT and not rest:
            raise EventError(f"there is no {name!r} beside 'properties'; did you mean properties.{name}?")
        return text
    if rest:
        if len(found) > 1:
            raise EventError(f"can't be edited: duplicate key {name!r}")
        value = _apply(members[found[0]][1] if found else "{}", rest, value, f"{name!r} in {where}")
    slot = found[0] if found else len(members)
    new = [] if value is None else [(json.dumps(name, ensure_ascii=False), value)]
    # Nothing before this member is removed, so its place does not change.
    kept = [member for index, member in enumerate(members) if index not in found]
    return "{" + ",".join(f"{key}:{raw}" for key, raw in kept[:slot] + new + kept[slot:]) + "}"


def _split(text: str, where: str) -> list[tuple[str, str]]:
    """The members of a JSON object, keys and values as written."""
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise EventError(f"can't be edited: {where} is not an object")
    members: list[tuple[str, str]] = []
    at = _skip(text, at + 1)
    closed = text[at : at + 1] == "}"
    while not closed:
        if text[at : at + 1] != '"':
            raise ValueError(f"a name is expected at character {at + 1}")
        _, end = _decoder.raw_decode(text, at)
        colon = _skip(text, end)
        if text[colon : colon + 1] != ":":
            raise ValueError(f"a colon is expected at character {colon + 1}")
        start = _skip(text, colon + 1)
        _, stop = _decoder.raw_decode(text, start)
        members.append((text[at:end], text[start:stop]))
        at = _skip(text, stop)
        closed = text[at : at + 1] == "}"
        if not closed:
            if text[at : at + 1] != ",":
                raise ValueError(f"a comma is expected at character {at + 1}")
            at = _skip(text, at + 1)
    if _skip(text, at + 1) != len(text):
        raise ValueError(f"more follows at character {at + 2}")
    return members


def _skip(text: str, at: int) -> int:
    found = _gap(text, at)
    assert found is not None
    return found.end()
