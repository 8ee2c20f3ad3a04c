"""Errors of the server and of the way to it, explained to a person."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from forwarder.errors import ConfigError, ForwarderError, NotPermittedError, StorageError, TryAgainError
from forwarder.spool.errors import FateUnknownError, SpoolFullError
from forwarder.text import printable

# https://www.postgresql.org/docs/current/errcodes-appendix.html
SERIALIZATION, DEADLOCK = "40001", "40P01"
_FULL = {"53100"}
_ABSENT = {"42P01", "3F000", "42883", "42703"}
_READ_ONLY = "25006"
_DAMAGED = ("XX001", "XX002", "58030")


class AbsentError(ConfigError):
    """There is no queue of this version."""


def is_passing(error: ForwarderError) -> bool:
    """Whether two transactions were in each other's way, and the same again is in order."""
    return getattr(error.__cause__, "sqlstate", None) in (SERIALIZATION, DEADLOCK)


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Turn errors of psycopg into those of :mod:`forwarder.errors`; *place* is the queue's, for people."""
    try:
        yield
    except psycopg.Error as error:
        raise explained(error, place) from error


def explained(error: psycopg.Error, place: str) -> ForwarderError:
    """What `translated` raises."""
    code, what = error.sqlstate or "", _words(error)
    if code in _FULL:
        return SpoolFullError(
            f"the disk of the server of the queue {place} is full: {what}",
            "Nothing was stored; accepted events are safe. Make room",
        )
    if code in _ABSENT:
        return AbsentError(
            f"there is no queue of this version at {place}: {what}", "`forwarder setup` makes or updates it"
        )
    if code.startswith("28") or code == "42501":
        return NotPermittedError(f"the server refuses this user at {place}: {what}", "See `forwarder setup`")
    if code.startswith("3D"):
        return ConfigError(f"the database of queue.url does not exist: {what}")
    if code == _READ_ONLY:
        return TryAgainError(f"the server at {place} is not the primary: {what}")
    if code.startswith(("40", "53", "55P03", "57014")):
        return TryAgainError(
            f"the server of the queue {place} is busy: {what}", "Nothing was stored; try again"
        )
    if not code or code.startswith(("08", "57")):
        return FateUnknownError(
            f"the connection to the queue {place} was lost: {what}", FateUnknownError.usual_remedy
        )
    if code in _DAMAGED:
        return StorageError(f"the server of the queue {place} reports damage: {what}", "See the server's log")
    return StorageError(f"the queue {place} can't be used: {what} ({code})")


def unreachable(error: psycopg.Error, place: str) -> ForwarderError:
    """There is no connection; nothing was asked for yet.

    The server's code is not known then (libpq gives only words), so this looks at the usual ones.
    """
    what, pgconn = _words(error), error.pgconn
    if pgconn is not None and (pgconn.needs_password or pgconn.used_password):
        return NotPermittedError(
            f"the server refuses the password, or wants one, at {place}: {what}",
            "Give it by queue.password_file, or in libpq's own ways",
        )
    if "pg_hba.conf" in what or "not permitted to log in" in what:
        return NotPermittedError(f"the server refuses this user at {place}: {what}")
    if "certificate" in what or "SSL was required" in what:
        return ConfigError(
            f"the connection to the queue {place} would not be safe: {what}",
            "sslrootcert in queue.url names the file of who has signed the server's certificate",
        )
    if "does not exist" in what and "FATAL" in what:
        return ConfigError(f"queue.url is wrong: {what}", "Correct it, or make what is missing")
    if "invalid" in what and "connection option" in what:
        return ConfigError(f"queue.url is wrong: {what}")
    return TryAgainError(
        f"the server of the queue {place} can't be reached: {what}", "Nothing was stored; try again"
    )


def _words(error: psycopg.Error) -> str:
    primary = error.diag.message_primary
    return printable(primary or " ".join(str(error).split()))
