"""The run that is recorded: producers of every kind, the daemon, killed once, and a server with faults.

``python power_loss_run.py DISK SAID``: the queue is in DISK/queue, and is made by the run. What a producer
or a person was told, and what the server has taken, is written to files under SAID, as it is said:

- ``accepted-*``: a line with the numbers of records, FIRST-LAST, that a producer was told are accepted;
- ``taken``: the records themselves, one a line, before the server answers;
- ``paused``: a line once ``forwarder pause`` has returned, and before ``forwarder resume`` is called.

``python power_loss_run.py PRODUCER DISK SAID FIRST COUNT`` is one of its producers.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import persistqueue.serializers.json

from forwarder import spool
from forwarder.errors import ForwarderError
from forwarder.records import EVENTS, GROUPS, PROFILES
from forwarder.records.event import encode
from forwarder.records.kind import Kind
from forwarder.sandbox import Fault, Sandbox
from forwarder.spool import EventQueue

STRANGE = range(30_000, 40_000)
# Put by the intake, so many in a request; each next request has another kind.
INTAKE = range(50_000, 60_000)
TOGETHER = 4
KINDS: tuple[Kind, ...] = (EVENTS, PROFILES, GROUPS)
PATHS = ("/import", "/engage", "/groups")
TIMEOUT_S = 60.0


def kind_of(number: int) -> Kind:
    """What the record of that number is."""
    return KINDS[number // TOGETHER % 3] if number in INTAKE else EVENTS


def record(number: int) -> dict[str, Any]:
    """The event of that number, or the update."""
    kind = kind_of(number)
    if kind is EVENTS:
        return event(number)
    user = f"user-{number % 9}"
    ids = {"$distinct_id": user} if kind is PROFILES else {"$group_key": "k", "$group_id": user}
    pad = "x" * (6000 if number % 17 == 3 else number % 300)
    return {"$token": "sandbox-token", "$time": number, **ids, "$set": {"number": number, "pad": pad}}


def event(number: int) -> dict[str, Any]:
    """The event of that number; those of plain persist-queue come without identity and time."""
    name = "poison" if number == 10_107 else "refused" if number % 10 == 5 else "good"
    properties: dict[str, Any] = {"number": number, "distinct_id": f"user-{number % 9}"}
    # Now and then one that is longer than a page of the database.
    properties["pad"] = "x" * (6000 if number % 17 == 3 else number % 300)
    if number not in STRANGE:
        properties |= {"time": 1_700_000_000 + number, "$insert_id": f"event-{number}"}
    return {"event": name, "properties": properties}


def final(number: int) -> bytes:
    """The bytes of that record that must arrive."""
    return kind_of(number).accept(encode(record(number)), time.time_ns() // 1_000_000)


def say(path: Path, text: bytes) -> None:
    """Say something: one system call, so that it has one place in the order of things."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, text)
    os.close(fd)


def _accepted(said: Path, name: str, first: int, last: int) -> None:
    say(said / f"accepted-{name}", b"%d-%d\n" % (first, last))


def one_by_one(disk: Path, said: Path, first: int, count: int) -> None:
    """`EventQueue.put`."""
    with EventQueue(disk / "queue", min_free_bytes=0) as queue:
        for number in range(first, first + count):
            queue.put(event(number))
            _accepted(said, f"put-{first}", number, number)


def together(disk: Path, said: Path, first: int, count: int) -> None:
    """`EventQueue.put_many`, through a queue that is opened again each time."""
    for start in range(first, first + count, 20):
        with EventQueue(disk / "queue", min_free_bytes=0) as queue:
            queue.put_many(map(event, range(start, start + 20)))
            _accepted(said, f"many-{first}", start, start + 19)


def by_command(disk: Path, said: Path, first: int, count: int) -> None:
    """``forwarder enqueue``: its own words are what is taken down."""
    for start in range(first, first + count, 15):
        lines = b"".join(encode(event(number)) + b"\n" for number in range(start, start + 15))
        with open(said / f"accepted-command-{start}-{start + 14}", "wb") as output:
            _forwarder(disk, "enqueue", input=lines, stdout=output)


def external(disk: Path, said: Path, first: int, count: int) -> None:
    """Plain persist-queue."""
    queue = persistqueue.SQLiteAckQueue(str(disk / "queue"), serializer=persistqueue.serializers.json)
    for number in range(first, first + count):
        queue.put(event(number))
        _accepted(said, f"strange-{first}", number, number)
    queue.close()


class _Connection(http.client.HTTPConnection):
    """One to the Unix socket that is named as the host."""

    def connect(self) -> None:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.connect(self.host)
        except OSError:
            made.close()
            raise
        self.sock = made


def by_intake(disk: Path, said: Path, first: int, count: int) -> None:
    """``forwarder intake`` with a client, or two for many records."""
    with tempfile.TemporaryDirectory(prefix="fwd") as place:  # a socket's path must be short
        environ = _environ(disk) | {"FORWARDER_INTAKE_SOCKET": f"{place}/s"}
        with subprocess.Popen(_command("intake"), env=environ) as intake:
            _until(lambda: _answers(f"{place}/s"), "the intake listens")
            half = count // 2 if count > 10 * TOGETHER else count
            clients = [
                threading.Thread(
                    target=_send, args=(f"{place}/s", said, start, min(half, first + count - start))
                )
                for start in range(first, first + count, half)
            ]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            intake.send_signal(signal.SIGTERM)
            assert intake.wait(TIMEOUT_S) == 0


def _answers(place: str) -> bool:
    connection = _Connection(place)
    try:
        connection.request("GET", "/healthz", headers={"Host": "localhost"})
        return connection.getresponse().status == 200
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    finally:
        connection.close()


def _send(place: str, said: Path, first: int, count: int) -> None:
    connection = _Connection(place)
    for start in range(first, first + count, TOGETHER):
        body = b"[%s]" % b",".join(encode(record(number)) for number in range(start, start + TOGETHER))
        path = PATHS[KINDS.index(kind_of(start))]
        connection.request("POST", path, body, {"Host": "localhost"})
        assert connection.getresponse().read() == b"1"
        _accepted(said, f"intake-{first}", start, start + TOGETHER - 1)
    connection.close()


PRODUCERS: dict[str, Callable[[Path, Path, int, int], None]] = {
    "one_by_one": one_by_one,
    "together": together,
    "by_command": by_command,
    "external": external,
    "by_intake": by_intake,
}


def _forwarder(disk: Path, *arguments: str, **options: Any) -> None:
    subprocess.run(_command(*arguments), env=_environ(disk), check=True, timeout=TIMEOUT_S, **options)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "forwarder", *arguments]


def _environ(disk: Path, url: str = "http://127.0.0.1:1") -> dict[str, str]:
    return {
        **os.environ,
        "FORWARDER_QUEUE_PATH": str(disk / "queue"),
        "FORWARDER_QUEUE_MIN_FREE_BYTES": "0",
        "FORWARDER_MIXPANEL_TOKEN": "sandbox-token",
        "FORWARDER_MIXPANEL_URL": url,
        "FORWARDER_DELIVERY_BATCH_EVENTS": "40",
        "FORWARDER_DELIVERY_LINGER_S": "0.02",
        "FORWARDER_DELIVERY_RETRY_INITIAL_S": "0.05",
        "FORWARDER_DELIVERY_RETRY_MAX_S": "0.1",
        "FORWARDER_INTAKE_TOKENS": "sandbox-token",
        "FORWARDER_LOG_LEVEL": "error",
    }


def _until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"still not so: {what}"
        pause.wait(0.01)


class Run:
    """The whole of it."""

    def __init__(self, disk: Path, said: Path) -> None:
        self._disk = disk
        self._said = said
        self._server = Sandbox()
        take = self._server.ledger.take

        def taken(events: Any) -> tuple[int, int]:
            say(said / "taken", b"".join(one.data + b"\n" for one in events))
            return take(events)

        self._server.ledger.take = taken  # type: ignore[method-assign]
        for profiles in (self._server.users, self._server.groups):
            profiles.take = self._saying(profiles.take)  # type: ignore[method-assign]

    def _saying(self, take: Callable[[Sequence[bytes]], tuple[int, str]]) -> Callable[..., tuple[int, str]]:
        def taken(items: Sequence[bytes]) -> tuple[int, str]:
            say(self._said / "taken", b"".join(item + b"\n" for item in items))
            return take(items)

        return taken

    def __call__(self) -> None:
        """Do it."""
        with self._server as server, ExitStack() as stack:
            server.inject(Fault.reject(event="refused"))
            server.inject(Fault.poison(event="poison"))
            server.inject(Fault.slow(0.01))
            server.inject(Fault.reset_after(), times=2)
            first = [self._start(stack, "one_by_one", 0, 40), self._start(stack, "together", 10_000, 200)]
            daemon = self._daemon(stack)
            _until(lambda: self._figures(EVENTS, "accepted"), "the queue is made")
            rest = [self._start(stack, "external", 30_000, 60), self._start(stack, "by_command", 20_000, 45)]
            rest.append(self._start(stack, "by_intake", INTAKE.start, 48 * TOGETHER))
            server.wait_for(lambda ledger: ledger.accepted > 100 and ledger.in_progress, TIMEOUT_S)
            daemon.kill()
            daemon.wait(TIMEOUT_S)
            daemon = self._daemon(stack)
            for producer in first + rest:
                assert producer.wait(TIMEOUT_S) == 0
            self._emptied()
            server.clear()
            self._stop(daemon)
            self._pause_and_retry()
            daemon = self._daemon(stack)
            self._emptied()
            self._stop(daemon)

    def _pause_and_retry(self) -> None:
        _forwarder(self._disk, "pause", stderr=subprocess.DEVNULL)
        say(self._said / "paused", b"yes\n")
        _forwarder(
            self._disk, "dead-letters", "retry", "--event", "refused", "--yes", stdout=subprocess.DEVNULL
        )
        say(self._said / "paused", b"no\n")
        _forwarder(self._disk, "resume", stderr=subprocess.DEVNULL)

    def _start(self, stack: ExitStack, name: str, first: int, count: int) -> subprocess.Popen[bytes]:
        given = [name, str(self._disk), str(self._said), str(first), str(count)]
        return stack.enter_context(subprocess.Popen([sys.executable, __file__, *given]))

    def _daemon(self, stack: ExitStack) -> subprocess.Popen[bytes]:
        environ = _environ(self._disk, self._server.url)
        return stack.enter_context(subprocess.Popen(_command("run"), env=environ))

    def _stop(self, daemon: subprocess.Popen[bytes]) -> None:
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(TIMEOUT_S) == 0

    def _emptied(self) -> None:
        for kind in KINDS:
            _until(lambda kind=kind: self._figures(kind, "waiting") == 0, "all is delivered")

    def _figures(self, kind: Kind, name: str) -> Any:
        try:
            with spool.at(str(self._disk / "queue"), kind).view() as view:
                return getattr(view.figures(), name)
        except ForwarderError:
            return None  # the queue is being made


def main(arguments: list[str]) -> None:
    """The run, or one of its producers."""
    if arguments[0] in PRODUCERS:
        name, disk, said, first, count = arguments
        PRODUCERS[name](Path(disk), Path(said), int(first), int(count))
    else:
        disk, said = arguments
        Run(Path(disk), Path(said))()


def numbers_of(who: str, text: bytes) -> range:
    """Which events a line to ``accepted-*`` is about."""
    if "command" in who:
        count = json.loads(text.split()[1])
        first, last = map(int, who.split("-")[2:])
        assert count == last - first + 1, text
    else:
        first, last = map(int, text.split(b"-"))
    return range(first, last + 1)


if __name__ == "__main__":
    main(sys.argv[1:])
