"""Where a queue is: in a directory, or on a server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from forwarder.errors import ConfigError
from forwarder.records import EVENTS
from forwarder.spool.sqlite import engine as embedded

if TYPE_CHECKING:
    from forwarder.config.settings import Queue
    from forwarder.records.kind import Kind
    from forwarder.spool.engine import Handover, Spool
    from forwarder.spool.postgresql.address import Address

SCHEMES = ("postgresql://", "postgres://")


def of(queue: Queue, kind: Kind = EVENTS) -> Spool:
    """The records of a *kind* in the queue that the settings name. Nothing is opened yet.

    Raises:
        ConfigError: it is on a server, and psycopg is not installed.
    """
    if not queue.url:
        return at(queue.path, kind)
    with _psycopg_needed():
        from forwarder.spool.postgresql import engine as replicated

        return replicated.Spool(_address(queue), kind)


def each(queue: Queue) -> list[Spool]:
    """The queue that the settings name, once for each kind; events are the first. Raises: as `of`."""
    from forwarder.records import KINDS

    return [of(queue, kind) for kind in KINDS.values()]


def at(
    place: str | os.PathLike[str],
    kind: Kind = EVENTS,
    *,
    schema: str = "forwarder",
    password_file: str = "",
) -> Spool:
    """The records of a *kind* in the queue at a *place*: a directory, or the URL of a server.

    The others are as in the settings. Nothing is opened yet.

    Raises:
        ConfigError: the place is not one that the settings would take, or as `of`.
    """
    place = os.fspath(place)
    if not place.startswith(SCHEMES):
        return embedded.Spool(place, kind)
    from forwarder.config.kinds import UnfitError
    from forwarder.config.settings import SETTINGS, Queue

    for name, value in (("url", place), ("schema", schema), ("password_file", password_file)):
        rule = SETTINGS[f"queue.{name}"].kind
        try:
            rule.check(value)
        except UnfitError as wrong:
            raise ConfigError(f"the queue's {name} {wrong.what}", wrong.remedy or rule.remedy) from None
    return of(Queue(url=place, schema=schema, password_file=password_file), kind)


def handover(queue: Queue, kind: Kind) -> Handover:
    """The way for records of a *kind* from this host's own queue into that on the server that the settings
    name. Nothing is opened yet. Raises: as `of`."""
    with _psycopg_needed():
        from forwarder.spool.postgresql.handover import Handover as Replicated
        from forwarder.spool.postgresql.tables import Tables

    return Replicated(_address(queue), Tables(queue.schema, kind))


def set_up(queue: Queue) -> list[str]:
    """Make what the queue needs on its server. Returns what there is now, a line each, for people.

    Raises:
        ConfigError, NotPermittedError: the server, or this user there, is not fit for it; or as `of`.
        TryAgainError, StorageError: the server can't be used now.
    """
    with _psycopg_needed():
        from forwarder.spool.postgresql import setup

        address = _address(queue)
    return setup.setup(address)


def set_up_sql(queue: Queue) -> str:
    """The SQL that makes it."""
    from forwarder.spool.postgresql import schema

    return schema.statements(queue.schema)


@contextmanager
def _psycopg_needed() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"a queue on a server needs psycopg, which can't be loaded: {error}",
            "`pip install 'mixpanel-forwarder[postgresql]'`, or install Debian's python3-psycopg",
        ) from None


def _address(queue: Queue) -> Address:
    from forwarder.config import find_password
    from forwarder.spool.postgresql.address import Address

    password = find_password(queue)
    return Address(queue.url, queue.schema, password.path if password else "", queue.standbys, queue.lease_s)
