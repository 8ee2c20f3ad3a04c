"""``forwarder check``: whether everything is in place, and what is not."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from forwarder.cli.command import Context, command, json_option
from forwarder.cli.table import size, styled
from forwarder.errors import (
    ConfigError,
    ForwarderError,
    NotPermittedError,
    StorageError,
    TryAgainError,
    UnavailableError,
    UsageError,
    printable,
)

if TYPE_CHECKING:
    from forwarder.config import Settings
    from forwarder.spool import View
    from forwarder.spool.sqlite.books import Finding

OK, WARNING, FAIL = "ok", "warning", "FAIL"
UNBALANCED = 1
# With less than this share of queue.max_bytes left, there is still time to act.
SCARCE = 0.1
_COLOURS = {OK: "green", WARNING: "yellow", FAIL: "red"}
_PRIORITIES = {OK: 6, WARNING: 4, FAIL: 3}


@dataclass(frozen=True, slots=True)
class Result:
    """What one check has found; *exit_code* is 0 unless it fails."""

    name: str
    result: str
    detail: str
    exit_code: int = 0


@command("check", short_help="Check settings, permissions, disk, database and books.")
@click.option("--online", is_flag=True, help="Also ask Mixpanel whether it takes the key; nothing is stored.")
@click.option("--settings", "briefly", is_flag=True, help="Only what `run` can't do without, at once.")
@json_option
def check(context: Context, online: bool, briefly: bool, as_json: bool) -> int:
    """Check settings, key, permissions, disk, database and books, and whether a daemon runs.

    Each is a line: ok, warning or FAIL, then its name. Nothing is changed, and the daemon may go on. The
    database is read through; where millions wait, what takes too long is left out, and that is said.

    With --settings only settings, key and permissions are checked, without which no daemon can run, however
    full or broken the queue is: what a unit asks before it starts or reloads one.

    Exit code: 0 if nothing fails, else that of the first that does: 78 settings or key, 77 permissions, 75
    no room, 74 a damaged database, 1 books that do not balance; with --online 78 if Mixpanel does not take
    the key or the address is wrong, 69 if it can't be reached.
    """
    if briefly and online:
        raise UsageError("--settings and --online exclude each other", "Give one of them")
    code = 0
    for found in examine(context, online, briefly):
        code = code or found.exit_code
        if as_json:
            click.echo(json.dumps({"name": found.name, "result": found.result, "detail": found.detail}))
        else:
            click.echo(_line(found))
    return code


def _line(found: Result) -> str:
    from forwarder import log

    lines = (printable(line).strip() for line in found.detail.splitlines())
    if log.style("auto", sys.stdout, os.environ) == "journal":
        # Each line is an entry there, with the priority that stands in front of it.
        return f"<{_PRIORITIES[found.result]}>{found.result} {found.name}: {' '.join(lines)}"
    word = styled(f"{found.result:<7}", fg=_COLOURS[found.result])
    return f"{word} {found.name}: " + "\n        ".join(lines)


def examine(context: Context, online: bool, briefly: bool = False) -> Iterator[Result]:
    """Check one thing after the other; without good settings there is nothing to check."""
    try:
        settings = context.settings
    except ForwarderError as error:
        yield _failed("settings", error)
        return
    yield Result("settings", OK, settings.file or "there is no settings file; defaults and environment")
    yield from _check_listen(settings.metrics.listen)
    key = list(_check_key(settings))
    yield from key
    directory = list(_check_directory(settings.queue.path))
    yield from directory
    if briefly:
        return
    if not any(found.exit_code for found in directory) and os.path.isdir(settings.queue.path):
        yield _check_disk(settings)
        yield from _check_queue(settings)
    yield _check_daemon(settings.queue.path)
    if online and not any(found.exit_code for found in key):
        yield _ask_mixpanel(settings)


def _failed(name: str, error: ForwarderError) -> Result:
    return Result(name, FAIL, str(error), error.exit_code)


def _check_listen(listen: str) -> Iterator[Result]:
    from forwarder.config.addresses import host_and_port, is_loopback

    if listen and not is_loopback(host_and_port(listen)[0]):
        detail = f"metrics.listen is {listen}: whoever reaches it from the network can read the figures"
        yield Result("metrics", WARNING, f"{detail}; 127.0.0.1 is for this host alone")


def _check_key(settings: Settings) -> Iterator[Result]:
    from forwarder.config import load_credentials

    try:
        credentials, warnings = load_credentials(settings)
    except ForwarderError as error:
        shown = os.environ.get("CREDENTIALS_DIRECTORY", "")
        if shown and not os.access(shown, os.R_OK | os.X_OK):
            # In a reload: systemd 252 mounts them for what it starts, and names them to all.
            yield Result("key", OK, "not checked here: systemd shows its credentials to the daemon alone")
        else:
            yield _failed("key", error)
        return
    for warning in warnings:
        yield Result("key", WARNING, warning)
    if not warnings:
        yield Result("key", OK, "a service account" if credentials.project_id else "a project's token")


def _check_directory(path: str) -> Iterator[Result]:
    name = "directory"
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        yield _check_parent(path)
        return
    except OSError as error:
        yield Result(name, FAIL, f"{path}: {error.strerror}", NotPermittedError.exit_code)
        return
    if not stat.S_ISDIR(mode):
        yield Result(name, FAIL, f"{path} is not a directory", ConfigError.exit_code)
    elif os.statvfs(path).f_flag & os.ST_RDONLY:
        detail = f"the file system under {path} is mounted read-only"
        yield Result(name, FAIL, detail, StorageError.exit_code)
    elif not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        detail = f"this user can't write in {path}, which reading the queue needs too"
        yield Result(name, FAIL, detail, NotPermittedError.exit_code)
    else:
        yield from _find_closed_files(path)
        open_to = list(_find_strangers_rights(path))
        for detail in open_to:
            yield Result(name, WARNING, detail)
        if not open_to:
            yield Result(name, OK, f"{path}, mode {stat.S_IMODE(mode):o}")


def _check_parent(path: str) -> Result:
    parent = os.path.dirname(path)
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    if os.access(parent, os.W_OK | os.X_OK):
        return Result("directory", OK, f"{path} is not there yet; the first event makes it")
    detail = f"{path} is not there, and this user can't make it in {parent}"
    return Result("directory", FAIL, detail, NotPermittedError.exit_code)


def _find_closed_files(path: str) -> Iterator[Result]:
    from forwarder.spool.sqlite.directory import DATABASE, INDEX, LOG

    for file in (os.path.join(path, name) for name in (DATABASE, LOG, INDEX)):
        if os.path.exists(file) and not os.access(file, os.R_OK | os.W_OK):
            detail = f"this user can't write {file}, which reading needs too: chgrp and chmod 660 it"
            yield Result("database", FAIL, detail, NotPermittedError.exit_code)


def _find_strangers_rights(path: str) -> Iterator[str]:
    from forwarder.spool.sqlite.directory import DATABASE

    for place, remedy in ((path, "chmod o= it"), (os.path.join(path, DATABASE), "chmod 660 it")):
        try:
            mode = os.stat(place).st_mode
        except OSError:
            continue
        if mode & stat.S_IWOTH:
            yield f"everyone on this host can write {place}, and so put in or delete events: {remedy}"
        elif mode & stat.S_IROTH:
            yield f"everyone on this host can read {place}: {remedy}"


def _check_disk(settings: Settings) -> Result:
    disk = os.statvfs(settings.queue.path)
    free, least = disk.f_bavail * disk.f_frsize, settings.queue.min_free_bytes
    detail = f"{size(free)} free; queue.min_free_bytes is {size(least)}"
    # With a limit of 0, a disk without any room is full all the same.
    if free < max(least, 1):
        return Result("disk", FAIL, f"{detail}: no more events are taken in", TryAgainError.exit_code)
    return Result("disk", OK, detail)


def _check_queue(settings: Settings) -> Iterator[Result]:
    from forwarder.spool import NoQueueError, View
    from forwarder.spool.sqlite import books, set_aside
    from forwarder.spool.sqlite.directory import DATABASE

    for file in set_aside.damaged(settings.queue.path):
        detail = f"{file} was damaged: `forwarder salvage {file}` brings back what can be read"
        yield Result("set aside", FAIL, detail, StorageError.exit_code)
    try:
        with View(settings.queue.path) as view:
            yield _check_room(view, settings.queue.max_bytes)
            for finding in books.check(view):
                yield _judged(finding, settings.queue.path)
    except NoQueueError as error:
        # What plain persist-queue has put there waits, and can't be counted yet.
        is_there = os.path.exists(os.path.join(settings.queue.path, DATABASE))
        yield Result("queue", WARNING if is_there else OK, str(error))
    except ForwarderError as error:
        yield _failed("queue", error)


def _judged(finding: Finding, path: str) -> Result:
    if finding.ok:
        return Result(finding.name, OK, finding.detail)
    if finding.name == "journal":
        return Result(finding.name, WARNING, finding.detail)
    if finding.name != "integrity":
        return Result(finding.name, FAIL, finding.detail, UNBALANCED)
    from forwarder.spool import damaged

    return _failed(finding.name, damaged(path, finding.detail))


def _check_room(view: View, max_bytes: int) -> Result:
    used = view.used_bytes()
    detail = f"{size(used)} used; queue.max_bytes is {size(max_bytes)}"
    if used >= max_bytes:
        return Result("room", FAIL, f"{detail}: no more events are taken in", TryAgainError.exit_code)
    return Result("room", WARNING if used > max_bytes * (1 - SCARCE) else OK, detail)


def _check_daemon(path: str) -> Result:
    from forwarder.service import state
    from forwarder.service.instance import named

    try:
        daemon = state.read(path)
    except NotPermittedError:
        return Result("daemon", WARNING, "can't be seen by this user")
    except ForwarderError as error:
        return Result("daemon", WARNING, str(error))
    if daemon is None:
        return Result("daemon", WARNING, "none runs; events are taken in, and wait")
    if daemon.orphaned:
        detail = (
            f"files of the queue were moved or replaced under it; only the old ones hold {daemon.orphaned}"
        )
        return Result("daemon", FAIL, detail, StorageError.exit_code)
    reason = f": {daemon.state_reason}" if daemon.state_reason else ""
    detail = f"{named(daemon.pid)}, {daemon.state}{reason}"
    return Result("daemon", OK if daemon.state == "running" else WARNING, detail)


def _ask_mixpanel(settings: Settings) -> Result:
    from forwarder.delivery.wire.asking import ask
    from forwarder.records import EVENTS

    try:
        found = ask(settings, EVENTS)
    except ForwarderError as error:
        return _failed("Mixpanel", error)
    if found.taken:
        return Result("Mixpanel", OK, found.detail)
    kind = ConfigError if found.misconfigured else UnavailableError
    return Result("Mixpanel", FAIL, found.detail, kind.exit_code)
