"""How far files of records are in the queue, in its database: moved in the commit of their records."""

from __future__ import annotations

import sqlite3

from forwarder.spool.engine import KEPT_BOOKMARKS
from forwarder.spool.errors import BookmarkMovedError
from forwarder.spool.sqlite.tables import Tables
from forwarder.spool.values import Bookmark, Move


def read(connection: sqlite3.Connection, tables: Tables, path: str, file: str) -> list[Bookmark]:
    """Those of files with that *path*, or that are that *file*."""
    query = f"SELECT path, file, done, digest FROM {tables.bookmarks} WHERE path = ? OR file = ?"
    return [Bookmark(*row) for row in connection.execute(query, (path, file))]


def save(connection: sqlite3.Connection, tables: Tables, move: Move) -> None:
    """Do what *move* says; inside a write transaction.

    Raises:
        BookmarkMovedError: another process has moved it.
    """
    old = f"DELETE FROM {tables.bookmarks} WHERE path = ? AND file = ? AND done = ? AND digest = ?"
    new = f"INSERT OR IGNORE INTO {tables.bookmarks} (path, file, done, digest) VALUES (?, ?, ?, ?)"
    for statement, bookmark in [*((old, one) for one in move.old), (new, move.new)]:
        if not connection.execute(statement, bookmark).rowcount:
            raise BookmarkMovedError(move.new.path)
    connection.execute(
        f"DELETE FROM {tables.bookmarks} WHERE id <="
        f" (SELECT id FROM {tables.bookmarks} ORDER BY id DESC LIMIT 1 OFFSET {KEPT_BOOKMARKS})"
    )
