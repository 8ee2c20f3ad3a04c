"""P1 to P4 and P8: producers, daemon, server and person killed at random, under load, lose nothing.

The server's own memory dies with it. So its process writes down each event that it takes, by one ``write``
to a file, before it answers: what a killed process has written, the kernel keeps. That file is the ledger.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from dataclasses import dataclass

import pytest

from forwarder import spool
from forwarder.sandbox import Entry, RemoteSandbox
from forwarder.service import state as state_file
from tests.conftest import each_engine

SEED = int(os.environ.get("FORWARDER_TEST_SEED", "20261"))
LONG_S = float(os.environ.get("FORWARDER_CRASH_S", "5"))
CHUNK = 40
WAITING_MOST = 3000

# Each takes lines "FIRST COUNT" on standard input, puts the events of these numbers, and says so.
EVENTS = """
    import json, sys
    def events(first, count):
        for number in range(first, first + count):
            known = {"time": 1_700_000_000 + number, "$insert_id": f"id-{number}", "distinct_id": "d"}
            yield {"event": "e", "properties": {**known, "time": 1} if number % 23 == 0 else known}
    def told(put):
        for line in sys.stdin:
            put(*map(int, line.split()))
            print(line, end="", flush=True)
"""
PRODUCERS = {
    "one by one": """
        from forwarder import EventQueue
        with EventQueue(sys.argv[1], min_free_bytes=0, rules=False) as queue:
            told(lambda first, count: [queue.put(event) for event in events(first, count)])
    """,
    "all at once": """
        from forwarder import EventQueue
        with EventQueue(sys.argv[1], min_free_bytes=0, rules=False) as queue:
            told(lambda first, count: queue.put_many(events(first, count)))
    """,
    "plain": """
        import persistqueue.serializers.json
        queue = persistqueue.SQLiteAckQueue(
            sys.argv[1], auto_resume=False, timeout=30, serializer=persistqueue.serializers.json
        )
        told(lambda first, count: [queue.put(event) for event in events(first, count)])
    """,
    "enqueue": None,
}
# In the producer's own transaction.
PLAIN_ON_A_SERVER = """
    import psycopg
    server = psycopg.connect(sys.argv[1], autocommit=True)
    insert = "INSERT INTO forwarder.queue (data) VALUES (%s)"
    def put(event):
        server.execute(insert, [json.dumps(event).encode()])
    told(lambda first, count: [put(event) for event in events(first, count)])
"""
# The forwarder's own `sandbox`, which writes down what it takes before it answers.
FAR_END = """
    import os, sys
    from forwarder.cli import main
    from forwarder.sandbox.ledger import Ledger
    fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_APPEND)
    take = Ledger.take
    def keep_and_take(ledger, events):
        events = list(events)
        text = b"".join(b"%s %s\\n" % (event.insert_id.encode(), event.data) for event in events)
        assert os.write(fd, text) == len(text)
        return take(ledger, events)
    Ledger.take = keep_and_take
    main(["sandbox", *sys.argv[2:]])
"""


def shaped(number, kind):
    """The final bytes of event *number*, put by a producer of that kind."""
    scope = {}
    exec(textwrap.dedent(EVENTS), scope)
    (event,) = scope["events"](number, 1)
    if kind in ("plain", "enqueue"):
        return json.dumps(event).encode()
    return json.dumps(event, separators=(",", ":")).encode()


def is_bad(number):
    return number % 23 == 0


class FarEnd:
    """The stand-in for Mixpanel as a process, which can be killed and comes back with its memory."""

    def __init__(self, scratch):
        self._file = scratch / "taken"
        self._program = scratch / "server.py"
        self._program.write_text(textwrap.dedent(FAR_END))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self):
        # What a kill has torn was never answered.
        if self._file.exists():
            data = self._file.read_bytes()
            os.truncate(self._file, data.rfind(b"\n") + 1)
        arguments = ["--port", str(self._port), "--latency-ms", "40", "--json"]
        self.process = subprocess.Popen(
            [sys.executable, str(self._program), str(self._file), *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def in_progress(self):
        """How many requests wait for its answer."""
        try:
            return RemoteSandbox(self.url).ledger.in_progress
        except (OSError, ValueError):
            return 0

    @property
    def ledger(self):
        return self

    @property
    def events(self):
        """What it has taken in all its lives, as a ledger has it."""
        found = {}
        for line in self._file.read_bytes().split(b"\n")[:-1]:
            insert_id, _, data = line.partition(b" ")
            before = found.get(insert_id.decode())
            if before is None:
                found[insert_id.decode()] = Entry(data, "", 1, False)
            else:
                changed = before.changed or before.data != data
                found[insert_id.decode()] = Entry(before.data, "", before.copies + 1, changed)
        return found


@dataclass
class Life:
    """One process of a producer, from its start to its kill."""

    process: subprocess.Popen
    asked: range | None = None


class Producer:
    """Puts events, a chunk after another, and starts a new process when the one it has was killed.

    What it was told is in `accepted`, what it was not told in `uncertain`: numbers of events.
    """

    def __init__(self, kind, start, numbers, hold):
        self.kind = kind
        self.accepted, self.uncertain = [], []
        self._start, self._numbers, self._hold = start, numbers, hold
        self._over = threading.Event()
        self.life = None
        self._thread = threading.Thread(target=self._produce)
        self._thread.start()

    def _produce(self):
        while not self._over.is_set():
            self.life = Life(self._start(self.kind))
            with self.life.process as process:
                if self.kind == "enqueue":
                    self._enqueue(process)
                else:
                    while self._is_fed(process):
                        pass
                    process.stdin.close()

    def _is_fed(self, process):
        self._hold(self._over)
        if self._over.is_set():
            return False
        numbers = self.life.asked = self._numbers()
        try:
            process.stdin.write(b"%d %d\n" % (numbers.start, len(numbers)))
            told = process.stdout.readline()
        except BrokenPipeError:
            told = b""
        return self._note(numbers, told.endswith(b"\n"))

    def _enqueue(self, process):
        self._hold(self._over)
        numbers = self.life.asked = self._numbers()
        text = b"\n".join(shaped(number, self.kind) for number in numbers) + b"\n"
        out, _ = process.communicate(text)
        self._note(numbers, b"accepted %d events" % len(numbers) in out)

    def _note(self, numbers, was_told):
        self.life.asked = None
        if was_told:
            self.accepted += numbers
        else:
            self.uncertain += numbers
        return was_told

    def close(self):
        self._over.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


class Storm:
    """Everything that runs at once, and what is killed of it when."""

    VICTIMS = ("daemon", "daemon", "daemon", "producer", "producer", "server", "person", "daemon, server")

    def __init__(self, forwarder, queue_path, scratch, dice):
        self.queue_path, self._forwarder, self._dice = queue_path, forwarder, dice
        self.kills, self.in_flight = Counter(), Counter()
        self.server = FarEnd(scratch)
        forwarder.environ["FORWARDER_MIXPANEL_URL"] = self.server.url
        forwarder.environ["FORWARDER_DELIVERY_BATCH_EVENTS"] = "50"
        self._next = 0
        self._lock = threading.Lock()
        self._pause = threading.Event()
        self._daemon = forwarder.daemon()
        self._persons = []
        self._programs = dict(PRODUCERS)
        if queue_path.startswith("postgresql://"):
            self._programs["plain"] = PLAIN_ON_A_SERVER
        self.producers = [Producer(kind, self._start, self._numbers, self._hold) for kind in PRODUCERS]

    def _start(self, kind):
        code = self._programs[kind]
        command = ["-m", "forwarder", "enqueue", "--no-check"]
        if code is not None:
            command = ["-c", textwrap.dedent(EVENTS) + textwrap.dedent(code), self.queue_path]
        return subprocess.Popen(
            [sys.executable, *command],
            env=self._forwarder.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def _numbers(self):
        with self._lock:
            first = self._next
            self._next += CHUNK
        return range(first, first + CHUNK)

    def _hold(self, over):
        """Let no producer get far ahead of delivery: what is not in flight soon can't be hit."""
        while self._next - self._settled > WAITING_MOST and not over.wait(0.02):
            pass

    _settled = 0

    def strike(self):
        """Kill one or two of them, at a random time, while they work; start them again."""
        self._pause.wait(self._dice.uniform(0.0, 0.2))
        for victim in self._dice.choice(self.VICTIMS).split(", "):
            {
                "daemon": self._kill_daemon,
                "server": self._kill_server,
                "producer": self._kill_producer,
                "person": self._kill_person,
            }[victim]()

    def _kill_daemon(self):
        process = self._daemon.process
        # Else most would be killed as they start, since that takes as long as the time between two kills.
        if self._dice.random() < 0.7:
            self._wait_for(lambda: self.server.in_progress(), 3.0)
            self._pause.wait(self._dice.uniform(0.0, 0.1))
        process.send_signal(signal.SIGSTOP)
        # Stopped, it can't read an answer any more: what it waits for now is unsettled when it dies.
        self._count("daemon", self.server.in_progress() > 0)
        self._daemon.close()
        assert process.returncode == -signal.SIGKILL, self._daemon.other_output
        self._daemon = self._forwarder.daemon(wait=False)

    def _kill_server(self):
        process = self.server.process
        process.send_signal(signal.SIGSTOP)
        # Stopped, it can't answer: requests that come or are there stay open until it dies.
        self._count("server", self._wait_for(self._daemon_waits, 0.5))
        process.kill()
        assert process.wait(20) == -signal.SIGKILL
        self._pause.wait(self._dice.choice((0, 0.3)))
        self.server.start()

    def _daemon_waits(self):
        state = state_file.read(spool.at(self.queue_path))
        return state is not None and state.in_flight > 0

    def _wait_for(self, condition, most_s):
        """Wait until *condition* holds, *most_s* at most; whether it does."""
        ends_at = time.monotonic() + most_s
        while not (holds := condition()) and time.monotonic() < ends_at:
            self._pause.wait(0.01)
        return bool(holds)

    def _kill_producer(self):
        producer = self._dice.choice(self.producers)
        self._wait_for(lambda: producer.life is not None and producer.life.asked is not None, 0.5)
        life = producer.life
        if life is None or life.process.poll() is not None:
            return
        life.process.send_signal(signal.SIGSTOP)
        self._count("producer", life.asked is not None)
        life.process.kill()

    def _kill_person(self):
        """Somebody puts all dead letters back; most of these are killed by the time of the next."""
        person = subprocess.Popen(
            [sys.executable, "-m", "forwarder", "dead-letters", "retry", "--all", "--yes", "--no-check"],
            env=self._forwarder.environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._pause.wait(self._dice.uniform(0.1, 0.6))
        self._count("person", person.poll() is None)
        person.kill()
        person.wait(20)

    def _count(self, victim, at_work):
        self.kills[victim] += 1
        self.in_flight[victim] += at_work

    def note(self, figures):
        """Take note of how far delivery is."""
        self._settled = figures.delivered + figures.dead_lettered - figures.retried

    def calm(self):
        """No more kills and no new events."""
        for producer in self.producers:
            producer.close()
        if self._daemon.process.poll() is not None:
            self._daemon = self._forwarder.daemon()

    def close(self):
        self._next = -1_000_000_000
        for producer in self.producers:
            producer.close()
        self._daemon.close()
        self.server.process.kill()
        self.server.process.wait(20)


@pytest.fixture
def storm(forwarder, queue_path, tmp_path):
    """All of it at once."""
    running = Storm(forwarder, queue_path, tmp_path, random.Random(SEED))
    yield running
    running.close()


@each_engine
@pytest.mark.timeout(LONG_S + 180)
def test_killed_at_random(storm, forwarder, queue_path, oracle, rows, figures, until, capsys):
    """Whoever is killed when: each event whose producer was told is delivered or dead, unchanged, no other
    is, and the books balance; many of the kills hit work that was under way."""
    with capsys.disabled():
        print(f"\nrandom kills: FORWARDER_TEST_SEED={SEED} FORWARDER_CRASH_S={LONG_S:g}")
    ends_at = time.monotonic() + LONG_S
    while time.monotonic() < ends_at or not storm.in_flight["daemon"] or not storm.in_flight["producer"]:
        storm.strike()
        storm.note(figures(queue_path))
    storm.calm()
    until(lambda: not rows(queue_path), "the queue is empty", 90)
    found = storm.server.events
    letters = {json.loads(data)["properties"]["$insert_id"] for data in rows(queue_path, "dead_letters")}
    offered, maybe = [], 0
    for producer in storm.producers:
        there = [number for number in producer.uncertain if f"id-{number}" in found.keys() | letters]
        maybe += len(there)
        offered += [shaped(number, producer.kind) for number in (*producer.accepted, *there)]
        assert producer.accepted, producer.kind
    untold = sum(len(producer.uncertain) for producer in storm.producers)
    again = sum(entry.copies > 1 for entry in found.values())
    oracle(queue_path, storm.server, offered)
    numbers = [int(one.removeprefix("id-")) for one in letters]
    assert all(map(is_bad, numbers)), "a good event is dead"
    assert not any(is_bad(int(one.removeprefix("id-"))) for one in found)
    figures(queue_path)
    assert forwarder("check").returncode == 0
    assert sum(storm.in_flight.values()) * 4 >= sum(storm.kills.values())
    with capsys.disabled():
        print(
            f"{sum(storm.kills.values())} kills {dict(storm.kills)}, with work under way"
            f" {dict(storm.in_flight)}; {len(offered)} events accepted, with {maybe} of the {untold} whose"
            f" producer was killed before it was told; {len(letters)} dead, {again} sent again, 0 lost"
        )
