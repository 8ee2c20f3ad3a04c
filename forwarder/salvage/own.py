"""The queue's own database, when it is damaged where nobody has come by yet."""

from __future__ import annotations

import os

from forwarder.errors import ConfigError, InputError, TryAgainError
from forwarder.spool.errors import DamagedError, NoQueueError
from forwarder.spool.sqlite.database import Database
from forwarder.spool.sqlite.directory import DATABASE, LOG, Identity, identity_of, size_of
from forwarder.spool.sqlite.errors import translated
from forwarder.spool.sqlite.schema import TABLES, used_up
from forwarder.spool.sqlite.set_aside import damaged
from forwarder.spool.sqlite.view import View


def is_own(file: str, path: str) -> bool:
    """Whether *file* is the database in use of the queue in *path*, or where that would be made."""
    own = os.path.join(path, DATABASE)
    if os.path.exists(own) and os.path.exists(file):
        return os.path.samefile(file, own)
    return os.path.realpath(file) == os.path.realpath(own)


def set_own_aside(path: str) -> str:
    """Set the database in use of the queue in *path* aside, if it is damaged.

    It is read to its end first, while others write. A daemon or producer that has it open begins anew.

    Returns:
        its new place; if somebody else has set it aside meanwhile, too.

    Raises:
        ConfigError: it is sound.
        InputError: there is none.
        TryAgainError: there is no room for what can be read of it, or it was replaced meanwhile.
        NotPermittedError, StorageError: it can't be set aside.
    """
    own = os.path.join(os.path.abspath(path), DATABASE)
    with translated(path):
        # Held, its number becomes no other file's; and to close this drops none of SQLite's locks.
        try:
            held = os.open(own, os.O_PATH)
        except FileNotFoundError:
            raise InputError(f"{own} is not there", _instead(path)) from None
        try:
            found = identity_of(os.fstat(held))
            queue = Database(path)
            try:
                queue.connect()
                # Otherwise it has been set aside already: by being opened, or by somebody else.
                if queue.files.database == found:
                    if not _is_damaged(path):
                        what = f"{own} is the queue's own database, and SQLite finds no fault in it"
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
        with View(path) as view, translated(path):
            view.figures()
            for table in TABLES:
                view.connection.execute(f"SELECT * FROM {table} LIMIT 1").fetchall()
            found = view.connection.execute("PRAGMA integrity_check(1)").fetchone()
            return found != ("ok",) or bool(used_up(view.connection))
    except (DamagedError, NoQueueError):  # the other: somebody else has just set it aside
        return True


def _instead(path: str) -> str:
    for file in damaged(path):
        return f"What was set aside is brought back by `forwarder salvage {file} --apply`"
    return "Salvage is for a damaged one"


def _require_room(path: str) -> None:
    disk = os.statvfs(path)
    free, most = disk.f_bavail * disk.f_frsize, size_of(path, DATABASE) + size_of(path, LOG)
    if free < most:
        raise TryAgainError(
            f"what can be read of the database in {path} may take {most:,} bytes once more, and the disk has"
            f" {free:,} free",
            "Nothing was changed; make room",
        )


def _place(found: Identity, path: str) -> str:
    for file in damaged(path):
        if os.path.exists(file) and identity_of(os.stat(file)) == found:
            return file
    raise TryAgainError(
        f"the database in {path} was replaced meanwhile", "`forwarder salvage` lists those set aside"
    )
