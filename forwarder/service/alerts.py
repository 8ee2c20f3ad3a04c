"""Telling a person, by a command of theirs, when something needs them, and when that is over.

A thread of its own looks at the queue as `status` does. A command that fails, hangs or is slow holds up
nothing but the next message.
"""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from forwarder import config, log, spool
from forwarder.config import Settings
from forwarder.config.settings import Alerts
from forwarder.errors import ForwarderError
from forwarder.service.state import Heartbeat
from forwarder.service.status import OTHER_KINDS, gather, sentence
from forwarder.spool import Period, gaps
from forwarder.text import counted, duration, instant, printable

LOOK_S = 5.0
COMMAND_S = 30.0
# While delivery tries again, it may look for a moment as if all were well.
SURE = 2
MOST_OUTPUT = 500
# While it runs, its output is read so often, and so much of it.
PACE_S, MOST_AT_ONCE = 0.1, 64 * 1024
# So many minutes after a start it is still told.
START_MINUTES = 30


@dataclass(frozen=True, slots=True)
class Alert:
    """A message: its *name*, and in brief what a person needs to know. *is_over*: that is no longer so."""

    name: str
    text: str
    is_over: bool = False


def needs(found: Mapping[str, Any], alerts: Alerts) -> Iterator[tuple[str, str]]:
    """What needs a person now, by the values of `status`: names, and what to say."""
    if found["state"] == "blocked":
        yield "blocked", f"delivery is blocked: {found['state_reason']}"
    oldest_s = max(each["oldest_waiting_s"] for each in _kinds(found))
    # Whoever has paused it knows.
    if oldest_s > alerts.oldest_s and found["state"] != "paused":
        yield "late", f"what waits longest has waited for {duration(oldest_s)}"
    for name, key, what in (("queue_full", "full_in_s", "queue"), ("disk_full", "disk_full_in_s", "disk")):
        in_s = found[key]
        if in_s == 0:
            yield name, f"the {what} is full: new events are refused"
        elif in_s is not None and in_s < alerts.full_s:
            yield name, f"the {what} will be full in about {duration(in_s)}: new events will be refused"
    if found["set_aside"]:
        waits = "waits" if found["set_aside"] == 1 else "wait"
        yield "damaged", f"{counted(found['set_aside'], 'damaged database')} {waits} for `forwarder salvage`"
    if found["orphaned"]:
        yield "replaced", f"files of the queue were moved; only the old ones hold {found['orphaned']}"


def restart(minutes: Sequence[Period], run: float, repeat_s: float) -> str:
    """That the daemon that started at *run* came after another, for a person; "": not known, or the
    person knows it of one *repeat_s* ago."""
    began = next((number for number, each in enumerate(minutes) if each.run == run), 0)
    if not began or run - minutes[began - 1].run < repeat_s:
        return ""
    off = gaps(minutes[began - 1 : began + 1])
    was_off = f"; before that none ran for {duration(off[0].until - off[0].since)}" if off else ""
    return f"the daemon was started again at {instant(run)}{was_off}"


def _kinds(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [found, *(found[name] for name in OTHER_KINDS)]


@dataclass(slots=True)
class _Need:
    """How often it was seen lately, `SURE` at most; whether the person knows of it, and since when."""

    seen: int = 0
    is_known: bool = False
    known_at: float = -math.inf


class Watcher:
    """Decides what a person gets to know: what has been there for `SURE` looks, and its end.

    Each once in ``repeat_s``.

    Args:
        tell: Tells it. False: it could not; then the next look tries again.
    """

    def __init__(self, tell: Callable[[Alert], bool]) -> None:
        self._tell = tell
        self._needs: defaultdict[str, _Need] = defaultdict(_Need)
        self._dead: int | None = None

    def look(self, found: Mapping[str, Any], alerts: Alerts, now: float) -> None:
        """Look at the values of `status`, at an instant (monotonic)."""
        active = dict(needs(found, alerts))
        for name, need in self._needs.items():
            if name in active:
                continue
            need.seen = max(need.seen - 1, 0)
            if need.is_known and not need.seen:
                need.is_known = not self._tell(Alert(name, "this is over", is_over=True))
        for name, text in active.items():
            need = self._needs[name]
            need.seen = min(need.seen + 1, SURE)
            if need.seen == SURE and not need.is_known and now >= need.known_at + alerts.repeat_s:
                need.is_known = self._tell(Alert(name, text))
                need.known_at = now if need.is_known else need.known_at
        self._count_dead(sum(each["dead_lettered"] for each in _kinds(found)), alerts, now)

    def _count_dead(self, total: int, alerts: Alerts, now: float) -> None:
        if self._dead is None or total < self._dead:  # the first look, or another database
            self._dead = total
        more = total - self._dead
        need = self._needs["dead_letters"]
        if more and now >= need.known_at + alerts.repeat_s:
            text = f"{counted(more, 'more dead letter')}; `forwarder dead-letters summary` says why"
            if self._tell(Alert("dead_letters", text)):
                self._dead, need.known_at = total, now


def message(alert: Alert, found: Mapping[str, Any]) -> str:
    """What the command reads: a line in brief, how things are, and where."""
    name = f"{'over: ' * alert.is_over}{alert.name.replace('_', ' ')}"
    return (
        f"forwarder on {socket.gethostname()}: {name}: {printable(alert.text)}\n\n"
        f"{sentence(found)}\n"
        f"Queue {printable(found['queue_path'])}, {instant(time.time())}.\n"
    )


class Command:
    """Runs a person's command, one at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, command: str, alert: Alert, text: str) -> str:
        """Run *command* with *text* on its standard input. Returns why it failed; "": it did not.

        What it leaves running in the background is not waited for.
        """
        environ = {name: value for name, value in os.environ.items() if name not in config.SECRET_VARIABLES}
        environ |= {
            "FORWARDER_ALERT": alert.name,
            "FORWARDER_ALERT_STATE": "over" if alert.is_over else "begun",
        }
        try:
            self._process = process = subprocess.Popen(  # noqa: S603 - it is the operator's own
                ["/bin/sh", "-c", command],
                bufsize=0,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return error.strerror or str(error)
        with process:
            output = _talk(process, text.encode(), time.monotonic() + COMMAND_S)
            if output is None:
                self.kill()
                return f"it took longer than {COMMAND_S:g} s, and was killed"
        if not process.returncode:
            return ""
        said = printable(output.decode(errors="replace").strip())
        return f"exit code {process.returncode}{': ' if said else ''}{said}"

    def kill(self) -> None:
        """End what runs, with all that it has started."""
        process = self._process
        if process and process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # it leads a group of its own
            process.wait()


def _talk(process: subprocess.Popen[bytes], text: bytes, deadline: float) -> bytes | None:
    """Give it *text* until it ends. Returns the end of its output; None: the time is up.

    What it prints is read no faster than a person's command needs, and not kept.
    """
    assert process.stdin
    assert process.stdout
    into, out = process.stdin.fileno(), process.stdout.fileno()
    os.set_blocking(into, False)
    os.set_blocking(out, False)
    output = b""
    ready = select.poll()
    ready.register(out, select.POLLIN)
    ready.register(into, select.POLLOUT)
    while True:
        # Others may still have its output open.
        is_over = process.poll() is not None
        for descriptor, _ in ready.poll(0 if is_over else PACE_S * 1000):
            if descriptor == out:
                more = _read(out)
                output = (output + more)[-MOST_OUTPUT:]
                if not more:
                    ready.unregister(out)
            else:
                text = text[_write(into, text) :]
                if not text:
                    ready.unregister(into)
                    process.stdin.close()
        if is_over:
            return output
        if time.monotonic() >= deadline:
            return None
        time.sleep(PACE_S / 10)


def _read(descriptor: int) -> bytes:
    with suppress(BlockingIOError):
        return os.read(descriptor, MOST_AT_ONCE)
    return b""


def _write(descriptor: int, text: bytes) -> int:
    """How much of *text* need not be written again."""
    with suppress(BlockingIOError):
        try:
            return os.write(descriptor, text)
        except BrokenPipeError:  # it need not read
            return len(text)
    return 0


class Messenger:
    """Looks every `LOOK_S` while a command is set, in a thread of its own.

    Args:
        heartbeat: Gives the loop's last beat, with the settings in force.
    """

    def __init__(self, heartbeat: Callable[[], Heartbeat]) -> None:
        self._heartbeat = heartbeat
        self._log = log.get("alerts")
        self._failures = log.Repeats()
        self._command = Command()
        self._watcher = Watcher(self._tell)
        self._found: Mapping[str, Any] = {}
        self._is_new = True
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def apply(self, settings: Settings) -> None:
        """Begin, if there is a command now and none was before."""
        if settings.alerts.command and self._thread is None:
            self._thread = threading.Thread(target=self._work, name="alerts", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End; what tells a person at this moment is cut off."""
        self._end.set()
        self._command.kill()

    def _work(self) -> None:
        while not self._end.wait(LOOK_S):
            beat = self._heartbeat()
            if beat.settings.alerts.command:
                # What can't be seen now is seen at the next look.
                with suppress(ForwarderError, OSError):
                    self._look(beat)

    def _look(self, beat: Heartbeat) -> None:
        alerts = beat.settings.alerts
        self._found = gather(beat.settings.queue, read=lambda _: beat.state, late_s=alerts.oldest_s)
        self._watcher.look(self._found, alerts, time.monotonic())
        if self._is_new:
            with spool.of(beat.settings.queue).view() as view:
                minutes = view.history(START_MINUTES)
            text = restart(minutes, beat.state.started_at, alerts.repeat_s)
            self._is_new = bool(text) and not self._tell(Alert("restarted", text))

    def _tell(self, alert: Alert) -> bool:
        text = message(alert, self._found)
        why = self._command.run(self._heartbeat().settings.alerts.command, alert, text)
        now = time.monotonic()
        if not why:
            self._failures.recovered(now)
            self._log.info("alert.sent", alert=alert.name, text=text.partition("\n")[0])
        elif not self._end.is_set() and (told := self._failures.failed(why, now)):
            self._log.error("alert.failed", alert=alert.name, detail=why, failures=told.failures)
        return not why
