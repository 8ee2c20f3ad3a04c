"""The programs that put events into the demo's queue, and the events of each."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from forwarder.cli.scratch import Scratch
from forwarder.errors import EventError, ForwarderError

# The name of the program and the event's number in it; both are in each event's properties.
Key = tuple[str, int]
Event = dict[str, Any]

FUTURE_S = 4_102_444_800  # 2100-01-01
NAMES = {
    "shop": "Order Placed",
    "app": "Screen Opened",
    "worker": "Job Finished",
    "legacy": "Page Viewed",
    "cron": "Backup Done",
    "site": "Page Opened",
}

APP = """\
import json, sys
from forwarder import EventError, EventQueue

path, first, last, spoilt = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]

def event(number):
    properties = {"distinct_id": f"user-{number % 500}", "program": "app", "number": number}
    return {"event": "Screen Opened", "properties": properties}

accepted = refused = 0
with EventQueue(path, min_free_bytes=0) as queue:
    for start in range(first, last, 100):
        accepted += queue.put_many(event(number) for number in range(start, min(start + 100, last)))
    final = event(last)
    if spoilt:
        final["properties"]["distinct_id"] = "undefined"
    try:
        queue.put(final)
        accepted += 1
    except EventError as error:
        refused += 1
        print(error, file=sys.stderr)
print(json.dumps({"accepted": accepted, "refused": refused}))
"""

# It does not import the forwarder.
WORKER = """\
import json, sys
import persistqueue.serializers.json
from persistqueue import SQLiteAckQueue

path, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
queue = SQLiteAckQueue(path, serializer=persistqueue.serializers.json)
for number in range(first, last + 1):
    properties = {"distinct_id": f"user-{number % 500}", "program": "worker", "number": number}
    event = {"event": "Job Finished", "properties": properties}
    if number == 250:
        properties["time"] = "yesterday"
    if number == 750:
        del event["event"]
    queue.put(event)
queue.close()
print(json.dumps({"accepted": last + 1 - first, "refused": 0}))
"""


# What Mixpanel's own SDKs send, in as few lines.
SITE = """\
import base64, http.client, json, sys, urllib.parse

address, token, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
connection = http.client.HTTPConnection(address)

def send(endpoint, item):
    data = base64.b64encode(json.dumps(item).encode())
    connection.request("POST", endpoint, urllib.parse.urlencode({"data": data, "verbose": 1}))
    return json.load(connection.getresponse())["status"]

accepted = 0
for number in range(1, last + 1):
    properties = {"token": token, "distinct_id": f"user-{number % 500}", "program": "site", "number": number}
    accepted += send("/track", {"event": "Page Opened", "properties": properties})
send("/engage", {"$token": token, "$distinct_id": "user-1", "$set": {"plan": "pro"}})
print(json.dumps({"accepted": accepted, "refused": 0}))
"""


@dataclass(frozen=True, slots=True)
class Program:
    """A program that runs as one or more processes, and the events that it offers to the queue.

    Attributes:
        name: As in its events.
        shown: How to start it, for the reader.
        commands: The arguments of Python for each process.
        accepted: The events that the queue is expected to accept, as offered.
        refused: The events that it is expected to refuse.
    """

    name: str
    shown: str
    commands: Sequence[Sequence[str]]
    accepted: Mapping[Key, Event]
    refused: Sequence[Key] = ()


@dataclass(slots=True)
class Run:
    """A program's processes, and what the queue reported to them."""

    program: Program
    files: Sequence[str]
    processes: Sequence[subprocess.Popen[bytes]]
    accepted: int = 0
    refused: int = 0
    reasons: list[str] = field(default_factory=list)

    @classmethod
    def start(cls, scratch: Scratch, program: Program) -> Run:
        """Start all processes of *program*."""
        files = [f"{program.name}-{min(program.accepted)[1]}-{n}" for n in range(len(program.commands))]
        started = [
            scratch.start(name, command) for name, command in zip(files, program.commands, strict=True)
        ]
        return cls(program, files, started)

    @property
    def is_over(self) -> bool:
        """Whether all processes have ended."""
        return all(process.poll() is not None for process in self.processes)

    def read(self, scratch: Scratch) -> None:
        """Read what the queue reported to the processes, from their output.

        Raises:
            ForwarderError: one has failed.
        """
        for name, process in zip(self.files, self.processes, strict=True):
            said = scratch.read(f"{name}.log").splitlines()
            if process.returncode not in (0, EventError.exit_code):
                raise ForwarderError(f"{name} has ended with {process.returncode}: {' '.join(said[-1:])}")
            told = json.loads(scratch.read(f"{name}.out").splitlines()[-1])
            self.accepted += told["accepted"]
            self.refused += told["refused"]
            self.reasons += said


def shop(scratch: Scratch, first: int, last: int, spoilt: bool) -> Program:
    """``forwarder enqueue`` of a file; if *spoilt*, three of its lines are invalid."""
    now_s = int(time.time())
    events: dict[Key, Event] = {}
    for number in range(first, last + 1):
        given = {"time": now_s - number % 3600, "$insert_id": f"order-{number}"}
        events["shop", number] = _event("shop", number, given)
    lines = {key: json.dumps(event) for key, event in events.items()}
    refused = [("shop", number) for number in (first + 16, first + 999, last - 7)] if spoilt else []
    if spoilt:
        cut, nameless, early = refused
        lines[cut] = lines[cut][:60]
        lines[nameless] = json.dumps({**events[nameless], "event": ""})
        lines[early] = json.dumps(_event(*early, {"time": FUTURE_S}))
    file = f"orders-{first}.ndjson"
    _write(scratch, file, lines.values())
    accepted = {key: event for key, event in events.items() if key not in refused}
    command = ["-m", "forwarder", "enqueue", "--json", file]
    return Program("shop", f"forwarder enqueue {file}", [command], accepted, refused)


def legacy(scratch: Scratch, last: int) -> Program:
    """``forwarder enqueue --no-check`` of a file: Mixpanel has to find the invalid events."""
    events = {("legacy", number): _event("legacy", number) for number in range(1, last + 1)}
    events["legacy", last // 4]["properties"]["$insert_id"] = "view #500"
    for number in (last // 2, last // 2 + 1):
        events["legacy", number]["properties"]["time"] = FUTURE_S
    _write(scratch, "legacy.ndjson", map(json.dumps, events.values()))
    command = ["-m", "forwarder", "enqueue", "--json", "--no-check", "legacy.ndjson"]
    return Program("legacy", "forwarder enqueue --no-check legacy.ndjson", [command], events)


def app(scratch: Scratch, first: int, last: int, spoilt: bool) -> Program:
    """A Python program with an `EventQueue`; if *spoilt*, its last event is refused."""
    _write(scratch, "app.py", APP.splitlines())
    accepted = {("app", number): _event("app", number) for number in range(first, last + 1 - spoilt)}
    command = ["app.py", scratch.queue_path, str(first), str(last), *(["spoilt"] if spoilt else [])]
    shown = "python app.py, a program that uses forwarder.EventQueue"
    return Program("app", shown, [command], accepted, [("app", last)] if spoilt else [])


def worker(scratch: Scratch, last: int) -> Program:
    """A program that knows only persist-queue, which refuses nothing."""
    _write(scratch, "worker.py", WORKER.splitlines())
    accepted = {("worker", number): _event("worker", number) for number in range(1, last + 1)}
    accepted["worker", 250]["properties"]["time"] = "yesterday"
    del accepted["worker", 750]["event"]
    command = ["worker.py", scratch.queue_path, "1", str(last)]
    shown = "python worker.py, a program that knows only persist-queue's SQLiteAckQueue"
    return Program("worker", shown, [command], accepted)


def cron(first: int, last: int) -> Program:
    """``forwarder enqueue -e``, a process for each event."""
    accepted = {("cron", number): _event("cron", number) for number in range(first, last + 1)}
    commands = []
    for number in range(first, last + 1):
        one = [
            "-e",
            NAMES["cron"],
            "-d",
            f"user-{number % 500}",
            "-p",
            "program=cron",
            "-p",
            f"number:={number}",
        ]
        commands.append(["-m", "forwarder", "enqueue", "--json", *one])
    shown = f'forwarder enqueue -e "{NAMES["cron"]}" -d user-{first} -p program=cron -p number:={first}'
    return Program("cron", f"{shown}; {len(commands)} such processes", commands, accepted)


def site(scratch: Scratch, address: str, token: str, last: int) -> Program:
    """A program with an SDK of Mixpanel's, whose URL leads to ``forwarder intake``."""
    _write(scratch, "site.py", SITE.splitlines())
    accepted = {("site", number): _event("site", number, {"token": token}) for number in range(1, last + 1)}
    shown = "python site.py, which sends what Mixpanel's SDKs send, to `forwarder intake`"
    return Program("site", shown, [["site.py", address, token, str(last)]], accepted)


def _event(program: str, number: int, more: Mapping[str, Any] | None = None) -> Event:
    properties = {"distinct_id": f"user-{number % 500}", "program": program, "number": number}
    return {"event": NAMES[program], "properties": {**properties, **(more or {})}}


def _write(scratch: Scratch, name: str, lines: Iterable[str]) -> None:
    with open(scratch.path(name), "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
