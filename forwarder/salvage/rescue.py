"""Recover what a damaged database contains: every readable event, rather twice than not at all.

Also from the queue's own database, if it has damage that no program has met yet.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from forwarder.errors import ConfigError, EventError, InputError, TryAgainError
from forwarder.records import EVENTS, KINDS
from forwarder.records.kind import Kind
from forwarder.salvage.found import Books, Row, found
from forwarder.salvage.pages import Losses, Pages
from forwarder.spool.errors import DamagedError, NoQueueError
from forwarder.spool.sqlite import schema, tables, waiting
from forwarder.spool.sqlite.database import Database
from forwarder.spool.sqlite.dead_letters import NewDeadLetter, add
from forwarder.spool.sqlite.directory import DATABASE, LOG, Identity, identity_of, size_of
from forwarder.spool.sqlite.errors import translated
from forwarder.spool.sqlite.set_aside import damaged, mark_salvaged, salvaged_name
from forwarder.spool.sqlite.tables import Tables
from forwarder.spool.sqlite.view import View
from forwarder.spool.statuses import HELD, READY, SENT

CHUNK_ROWS = 500


@dataclass(slots=True)
class Salvage:
    """What was found in a damaged database.

    Attributes:
        events, dead_letters: How many of each can be read.
        waiting, dead_lettered: How many of each there should be by its own totals; None: not readable.
        losses: What can't be read.
        before: How many of them an earlier, interrupted try has already recovered.
    """

    events: int = 0
    dead_letters: int = 0
    waiting: int | None = None
    dead_lettered: int | None = None
    losses: Losses = field(default_factory=Losses)
    before: int = 0

    @property
    def missing(self) -> int | None:
        """How many events and dead letters are missing; None: not known."""
        if self.waiting is None or self.dead_lettered is None:
            return None
        return max(self.waiting - self.events, 0) + max(self.dead_lettered - self.dead_letters, 0)


def plan(file: str) -> Salvage:
    """Read a damaged database to its end; nothing is changed.

    Raises:
        InputError: the file can't be opened.
    """
    result = Salvage()
    for item in _items(file, result, Books()):
        _count(item, result)
    return result


def apply(file: str, path: str, told: Callable[[int], None] = lambda _: None) -> Salvage:
    """Put the content of a damaged database into the queue in *path*; durable on return.

    Events are accepted again, completed as they would have been. Dead letters become dead letters again, and
    so do rows with damaged content. If interrupted, it continues from there the next time.

    Args:
        file: The damaged database; a set-aside one is marked as salvaged.
        told: Called with the number recovered so far.

    Raises:
        TryAgainError, StorageError: the queue can't be written, or another process salvages *file*.
        ConfigError: *file* is the queue's own database.
        InputError: as `plan`.
    """
    if is_own(file, path):
        raise ConfigError(f"{file} is the queue's own database", "It must be set aside first")
    result, books, source = Salvage(), Books(), _source(file)
    queue = Database(path)
    try:
        with queue.transaction() as connection:
            result.before = position = _position(connection, source)
        items = _items(file, result, books)
        for item in islice(items, position):
            _count(item, result)
        while chunk := list(islice(items, CHUNK_ROWS)):
            with queue.transaction() as connection:
                if _position(connection, source) != position:
                    raise TryAgainError(f"another process salvages {file}", "Wait for it to finish")
                position += len(chunk)
                for item in chunk:
                    _bring_back(path, connection, item, books)
                connection.execute(
                    "INSERT OR REPLACE INTO salvages (source, position) VALUES (?, ?)", (source, position)
                )
            for item in chunk:
                _count(item, result)
            told(position)
    finally:
        queue.close()
    with translated(path):
        mark_salvaged(file)
    return result


def _source(file: str) -> str:
    """The key for a file's progress: a file of the same name with other content has another key."""
    marks = [salvaged_name(file)]
    for part in (file, file + LOG.removeprefix(DATABASE)):
        with suppress(OSError):
            found = os.stat(part)
            marks.append(f"{found.st_size}@{found.st_mtime_ns}")
    return " ".join(marks)


def _position(connection: sqlite3.Connection, source: str) -> int:
    row = connection.execute("SELECT position FROM salvages WHERE source = ?", (source,)).fetchone()
    return row[0] if row else 0


def _items(file: str, result: Salvage, books: Books) -> Iterator[Row | NewDeadLetter]:
    try:
        pages = Pages(file)
    except OSError as error:
        raise InputError(f"{file} can't be read: {error.strerror}", "Name a database file") from error
    try:
        yield from found(pages, books)
    finally:
        pages.close()
    result.losses, result.waiting, result.dead_lettered = pages.losses, books.waiting, books.dead_letters


def _count(item: Row | NewDeadLetter, result: Salvage) -> None:
    if isinstance(item, Row):
        result.events += 1
    else:
        result.dead_letters += 1


def _bring_back(path: str, connection: sqlite3.Connection, item: Row | NewDeadLetter, books: Books) -> None:
    now = time.time()
    if isinstance(item, NewDeadLetter):
        kind, _ = _completed(item.data or b"", item.accepted_at, _NOBODY, 0)
        _add_dead_letter(connection, tables.of(kind), item)
        return
    put_at = item.put_at or books.created_at or now
    kind, data = _completed(item.data, put_at, books.queue_id or _NOBODY, item.id)
    its = tables.of(kind)
    if isinstance(data, EventError):
        name, insert_id = kind.name_of(item.data)
        reason = f"damaged on disk: {data}"
        _add_dead_letter(
            connection, its, NewDeadLetter(0, item.data, name, insert_id, reason, "", None, put_at, now)
        )
    else:
        status = SENT if item.status == SENT else READY
        row_id = connection.execute(its.insert, (data, put_at, status)).lastrowid
        if item.status == HELD and row_id is not None:
            waiting.hold_rows(path, connection, its, [row_id])


def _completed(data: bytes, put_at: float, queue_id: str, row_id: int) -> tuple[Kind, bytes | EventError]:
    """What a row holds, and its kind; the schema that says which table it was in may be lost."""
    found: EventError | None = None
    for kind in KINDS.values():
        try:
            return kind, kind.complete(data, put_at, queue_id, row_id)
        except EventError as error:
            found = found or error
    assert found is not None
    return EVENTS, found


def _add_dead_letter(connection: sqlite3.Connection, its: Tables, letter: NewDeadLetter) -> None:
    """Add it as accepted and dead-lettered at once, or the books would not balance."""
    row_id = connection.execute(its.insert, (letter.data or b"", letter.accepted_at, READY)).lastrowid
    assert row_id is not None
    connection.execute(f"DELETE FROM {its.queue} WHERE _id = ?", (row_id,))
    add(connection, its, [letter._replace(event_id=row_id)])
    connection.execute(f"UPDATE {its.ledger} SET dead_lettered = dead_lettered + 1")


# In place of the queue's identity, if that can't be read: external producers' rows get their id from it.
_NOBODY = "00000000-0000-0000-0000-000000000000"


def is_own(file: str, path: str) -> bool:
    """Whether *file* is the database of the queue in *path*, or its place."""
    own = os.path.join(path, DATABASE)
    if os.path.exists(own) and os.path.exists(file):
        return os.path.samefile(file, own)
    return os.path.realpath(file) == os.path.realpath(own)


def set_own_aside(path: str) -> str:
    """Set aside the database of the queue in *path*, if it is damaged.

    It is read to its end first, while others write. Daemons and producers that have it open reopen the queue.

    Returns:
        its new place, also if another process has set it aside meanwhile.

    Raises:
        ConfigError: it is sound.
        InputError: there is no database.
        TryAgainError: there is no room for its readable content, or it was replaced meanwhile.
        NotPermittedError, StorageError: it can't be set aside.
    """
    own = os.path.join(os.path.abspath(path), DATABASE)
    with translated(path):
        # Held open, so that no other file gets its inode; closing this drops none of SQLite's locks.
        try:
            held = os.open(own, os.O_PATH)
        except FileNotFoundError:
            raise InputError(f"{own} does not exist", _instead(path)) from None
        try:
            found = identity_of(os.fstat(held))
            queue = Database(path)
            try:
                queue.connect()
                # Otherwise it is already set aside: because it was opened, or by another process.
                if queue.files.database == found:
                    if not _is_damaged(path):
                        what = f"{own} is the queue's own database, and SQLite finds no damage in it"
                        raise ConfigError(what, _instead(path))
                    _require_room(path)
                    queue.replace_damaged()
            finally:
                queue.close()
            return _place(found, path)
        finally:
            os.close(held)


def _is_damaged(path: str) -> bool:
    try:
        for each in tables.each():
            with View(path, tables=each) as view:
                view.figures()
        with View(path) as view, translated(path):
            for name in ("salvages", *(name for each in tables.each() for name in each.names)):
                view.connection.execute(f"SELECT * FROM {name} LIMIT 1").fetchall()
            found = view.connection.execute("PRAGMA integrity_check(1)").fetchone()
            return found != ("ok",) or bool(schema.used_up(view.connection))
    except (DamagedError, NoQueueError):  # the other: another process has just set it aside
        return True


def _instead(path: str) -> str:
    for file in damaged(path):
        return f"To recover what was set aside: `forwarder salvage {file} --apply`"
    return "Salvage is only for a damaged one"


def _require_room(path: str) -> None:
    disk = os.statvfs(path)
    free, most = disk.f_bavail * disk.f_frsize, size_of(path, DATABASE) + size_of(path, LOG)
    if free < most:
        raise TryAgainError(
            f"recovering the database in {path} may take {most:,} bytes more, and the disk has {free:,} free",
            "Nothing was changed; make room",
        )


def _place(found: Identity, path: str) -> str:
    for file in damaged(path):
        if os.path.exists(file) and identity_of(os.stat(file)) == found:
            return file
    raise TryAgainError(
        f"the database in {path} was replaced meanwhile", "`forwarder salvage` lists those set aside"
    )
