"""Checks of the directory and its files, the disk and the database."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from forwarder.errors import ConfigError, ForwarderError, NotPermittedError, StorageError, TryAgainError
from forwarder.spool.errors import NoQueueError
from forwarder.spool.findings import room
from forwarder.spool.sqlite import tables
from forwarder.spool.sqlite.directory import DATABASE, INDEX, LOG
from forwarder.spool.sqlite.set_aside import damaged
from forwarder.spool.sqlite.view import View
from forwarder.spool.values import FAIL, OK, WARNING, Finding
from forwarder.text import size


def findings(path: str, max_bytes: int, min_free_bytes: int, briefly: bool) -> Iterator[Finding]:
    """Check one thing after the other; *briefly*, only what a daemon needs.

    Args:
        path: The queue's directory.
        max_bytes, min_free_bytes: The settings that say how much room there is.
    """
    found = list(_check_directory(path))
    yield from found
    if any(each.exit_code for each in found) or not os.path.isdir(path):
        return
    if briefly:
        yield from _check_version(path)
        return
    yield _check_disk(path, min_free_bytes)
    for file in damaged(path):
        detail = f"{file} is damaged: `forwarder salvage {file}` shows what can be recovered"
        yield Finding("set aside", FAIL, detail, StorageError.exit_code)
    try:
        with View(path) as view:
            yield room(view.used_bytes(), max_bytes)
        for each in tables.each():
            with View(path, tables=each) as view:
                yield from view.check()
    except NoQueueError as error:
        # What plain persist-queue has added waits, and can't be counted yet.
        is_there = os.path.exists(os.path.join(path, DATABASE))
        yield Finding("queue", WARNING if is_there else OK, str(error))
    except ForwarderError as error:
        yield Finding("queue", FAIL, str(error), error.exit_code)


def _check_version(path: str) -> Iterator[Finding]:
    """Whether the database is one that this forwarder can use; what else is wrong with it keeps no daemon."""
    try:
        View(path).close()
    except ConfigError as error:
        yield Finding("queue", FAIL, str(error), error.exit_code)
    except ForwarderError:
        pass


def _check_directory(path: str) -> Iterator[Finding]:
    name = "directory"
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        yield _check_parent(path)
        return
    except OSError as error:
        yield Finding(name, FAIL, f"{path}: {error.strerror}", NotPermittedError.exit_code)
        return
    if not stat.S_ISDIR(mode):
        yield Finding(name, FAIL, f"{path} is not a directory", ConfigError.exit_code)
    elif os.statvfs(path).f_flag & os.ST_RDONLY:
        detail = f"the file system under {path} is mounted read-only"
        yield Finding(name, FAIL, detail, StorageError.exit_code)
    elif not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        detail = f"this user can't write in {path}; reading the queue needs it too"
        yield Finding(name, FAIL, detail, NotPermittedError.exit_code)
    else:
        yield from _find_closed_files(path)
        open_to = list(_find_open_rights(path))
        for detail in open_to:
            yield Finding(name, WARNING, detail)
        if not open_to:
            yield Finding(name, OK, f"{path}, mode {stat.S_IMODE(mode):o}")


def _check_parent(path: str) -> Finding:
    parent = os.path.dirname(path)
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    if os.access(parent, os.W_OK | os.X_OK):
        return Finding("directory", OK, f"{path} does not exist yet; the first event creates it")
    detail = f"{path} does not exist, and this user can't create it in {parent}"
    return Finding("directory", FAIL, detail, NotPermittedError.exit_code)


def _find_closed_files(path: str) -> Iterator[Finding]:
    for file in (os.path.join(path, name) for name in (DATABASE, LOG, INDEX)):
        if os.path.exists(file) and not os.access(file, os.R_OK | os.W_OK):
            detail = f"this user can't write {file}; reading needs it too: chgrp and chmod 660 it"
            yield Finding("database", FAIL, detail, NotPermittedError.exit_code)


def _find_open_rights(path: str) -> Iterator[str]:
    for place, remedy in ((path, "chmod o= it"), (os.path.join(path, DATABASE), "chmod 660 it")):
        try:
            mode = os.stat(place).st_mode
        except OSError:
            continue
        if mode & stat.S_IWOTH:
            yield f"everyone on this host can write {place}, and so add or delete events: {remedy}"
        elif mode & stat.S_IROTH:
            yield f"everyone on this host can read {place}: {remedy}"


def _check_disk(path: str, least: int) -> Finding:
    disk = os.statvfs(path)
    free = disk.f_bavail * disk.f_frsize
    detail = f"{size(free)} free; queue.min_free_bytes is {size(least)}"
    # With a limit of 0, a disk without any room is still full.
    if free < max(least, 1):
        return Finding("disk", FAIL, f"{detail}: new events are refused", TryAgainError.exit_code)
    return Finding("disk", OK, detail)
