"""``forwarder report``: what somebody who helps needs to know, in one text file without secrets."""

from __future__ import annotations

import json
import os
import platform
import re
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import click

import forwarder
from forwarder import spool
from forwarder.cli.check import examine
from forwarder.cli.command import Context, any_file, command
from forwarder.cli.table import say
from forwarder.errors import CannotCreateError, ForwarderError
from forwarder.service.status import gather, without_quotes
from forwarder.text import instant, kind_of, printable, unquoted

if TYPE_CHECKING:
    from forwarder.config import Settings
    from forwarder.spool import Spool

LOG_LINES = 200
PROGRAM_TIMEOUT_S = 20
HEAD = """\
forwarder report of {at}

Secrets are left out, and so is what stands in events. A reason may still quote a value of an event, above all
in the log: read the report before you pass it on.
"""
# What stands before the host of an address.
_userinfo = re.compile(r"(?<=://)\S*@").sub


@command("report", short_help="Write all about this installation into a file, without secrets.")
@click.argument("file", required=False, shell_complete=any_file)
@click.option("--unit", metavar="NAME", help="The unit whose log is read [default: by the settings file].")
def report(context: Context, file: str | None, unit: str | None) -> None:
    """Write a report for somebody who helps: one text file, which only you can read.

    It has the versions, the settings and where each came from, `status`, `check`, the files of the queue,
    the reasons of dead letters with their counts, and the end of the daemon's log. Secrets, proxies'
    passwords and what stands in events are left out. A section that is not available says why.

    FILE must not exist yet; without it, one is made in this directory. - is standard output.
    """
    now = time.time()
    name = file or f"forwarder-report-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}.txt"
    if name == "-":
        click.echo(_text(context, unit, now), nl=False)
        return
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as target:
            target.write(_text(context, unit, now))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", error)
        raise CannotCreateError(f"{printable(name)} can't be written: {why}", "Name another FILE") from None
    say(f"The report is in {printable(name)}. Read it before you pass it on.")


def _text(context: Context, unit: str | None, now: float) -> str:
    hide = _redactor(context)
    unit = unit or _unit(context)
    sections: dict[str, Callable[[], Iterator[str]]] = {
        "Versions": _versions,
        "Settings": lambda: _settings(context),
        "Status": lambda: _status(context),
        "Check": lambda: _check(context),
        "Queue directory": lambda: _directory(context),
        "Dead letters": lambda: _dead_letters(context.spool),
        "Service": lambda: _service(unit),
        "Log": lambda: _log(unit),
    }
    lines = HEAD.format(at=instant(now)).splitlines()
    for title, section in sections.items():
        lines += ["", title, "=" * len(title)]
        try:
            for line in section():
                lines.append(hide(line))
        except Exception as error:  # each section is worth having without the others
            kind = "" if isinstance(error, ForwarderError) else f"{type(error).__name__}: "
            lines += [f"Not available: {kind}{hide(one)}" for one in str(error).splitlines() or [""]]
    return "".join(f"{printable(line)}\n" for line in lines)


def _lenient(context: Context) -> tuple[Settings, list[str]]:
    """The settings, with those that are wrong at their defaults, and what is wrong."""
    from forwarder import config

    faults: list[str] = []
    return config.load(context.config_file, used=(), warn=faults.append), faults


def _redactor(context: Context) -> Callable[[str], str]:
    """What takes every secret that can be found out of a line."""
    from forwarder.config import known_secrets
    from forwarder.delivery.wire.redact import Redactor

    try:
        secrets = known_secrets(_lenient(context)[0])
    except ForwarderError:
        secrets = known_secrets(None)
    for _, address in _proxies():
        userinfo = address.rpartition("@")[0].rpartition("//")[2]
        secrets.append(unquote(userinfo.partition(":")[2]))
    redact = Redactor(secrets)
    return lambda line: redact(_userinfo("(not shown)@", line))


def _proxies() -> Iterator[tuple[str, str]]:
    return (pair for pair in sorted(os.environ.items()) if pair[0].lower().endswith("_proxy"))


def _versions() -> Iterator[str]:
    yield f"forwarder {forwarder.__version__} in {Path(forwarder.__file__).parent}"
    yield f"Python {platform.python_version()}, {spool.engine_version()}"
    yield f"{platform.system()} {platform.release()} {platform.machine()}"
    needed = (line for line in metadata.requires("mixpanel-forwarder") or () if "extra ==" not in line)
    names = (re.split(r"[^\w.-]", line)[0] for line in needed)
    yield ", ".join(f"{name} {_version_of(name)}" for name in names)
    yield next(_output("systemctl", "--version"))
    yield platform.freedesktop_os_release()["PRETTY_NAME"]


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _settings(context: Context) -> Iterator[str]:
    from forwarder.config import describe

    settings, faults = _lenient(context)
    yield f"Settings file: {settings.file or 'none'}"
    yield from (f"Wrong, and at its default below: {fault}" for fault in faults)
    yield from (f"{row.text}  # {row.source}" for row in describe(settings))
    # What stands behind the last @ is the proxy's place.
    yield from (f"# ${name} leads to {value.rpartition('@')[2]}" for name, value in _proxies())


def _status(context: Context) -> Iterator[str]:
    found = without_quotes(gather(context.queue, context.server, late_s=context.late_s))
    yield from json.dumps(found, indent=1).splitlines()


def _check(context: Context) -> Iterator[str]:
    for found in examine(context, online=False):
        for line in found.detail.splitlines():
            yield f"{found.result} {found.name}: {unquoted(line.strip())}"


def _directory(context: Context) -> Iterator[str]:
    path = context.directory
    if not path:
        yield f"There is none: the queue is {context.spool.place}"
        return
    yield path
    for name in ("", *sorted(os.listdir(path))):
        found = os.lstat(os.path.join(path, name))
        mode, owner = stat.filemode(found.st_mode), f"{found.st_uid}:{found.st_gid}"
        yield f"{mode} {owner:>11} {found.st_size:>14,} {instant(found.st_mtime)} {name or '.'}"


def _dead_letters(queue: Spool) -> Iterator[str]:
    counts: Counter[str] = Counter()
    with queue.view() as view:
        for group in view.summary(spool.Selection()):
            counts[f"{group.http_status or '-'}  {kind_of(group.reason)}"] += group.count
    yield from (f"{count:>9,}  {kind}" for kind, count in counts.most_common(LOG_LINES))
    if not counts:
        yield "There are none."


def _unit(context: Context) -> str:
    """The unit that by convention runs with the settings file."""
    file = Path(context.config_file or os.environ.get("FORWARDER_CONFIG") or "forwarder.toml")
    is_one_of_several = file.parent == Path("/etc/forwarder") and file.stem != "forwarder"
    return f"forwarder@{file.stem}" if is_one_of_several else "forwarder"


def _service(unit: str) -> Iterator[str]:
    names = (
        "Id,LoadState,UnitFileState,ActiveState,SubState,Result,NRestarts,ActiveEnterTimestamp,DropInPaths"
    )
    return _output("systemctl", "show", f"--property={names}", "--", unit)


def _log(unit: str) -> Iterator[str]:
    return _output("journalctl", "--no-pager", "--output=short-iso", f"--lines={LOG_LINES}", f"--unit={unit}")


def _output(*arguments: str) -> Iterator[str]:
    """What a program of the system prints."""
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments, and no shell
            arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROGRAM_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        yield str(error)
        return
    text = (done.stdout + done.stderr).decode(errors="replace")
    yield from text.splitlines() or [f"{arguments[0]} prints nothing."]
