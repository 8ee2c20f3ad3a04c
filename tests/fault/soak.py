"""Everything at once, for `test_soak`: who puts events in, who looks and meddles, and what is watched.

Each event is a function of its kind and number, so that nothing has to be kept of it but that it was offered.
"""

import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field

from forwarder import spool
from forwarder.sandbox import Fault
from forwarder.service import state as state_file
from forwarder.spool import Selection
from forwarder.spool.sqlite.view import View

MIB = 1 << 20
CONNECTIONS = 10
# What is far ahead of delivery is only disk space.
WAITING_MOST = 30_000
FILES = {"data.db", "data.db-wal", "data.db-shm", "writer.lock", "reserve", "paused", "flush"}
FILES |= {"daemon.lock", "daemon.json", "daemon.json.new"}

# Each takes lines "FIRST COUNT" on standard input, puts the events of these numbers, and says so.
EVENTS = """
    import json, sys
    PAD = "x" * 600
    def event(kind, number):
        known = {"time": 1_700_000_000 + number, "$insert_id": f"{kind}-{number}", "distinct_id": "d"}
        if number % 211 == 0:
            known["time"] = 1
        name = "poison" if number % 4999 == 1 else "$identify" if number % 4999 == 2 else "e"
        return {"event": name, "properties": {**known, "pad": PAD[:number % 600]}}
    def told(put):
        for line in sys.stdin:
            put(*map(int, line.split()))
            print(line, end="", flush=True)
"""
PRODUCERS = {
    "queue": """
        from forwarder import EventQueue
        with EventQueue(sys.argv[1], min_free_bytes=0, rules=False) as queue:
            told(lambda first, count: queue.put_many(event("queue", first + n) for n in range(count)))
    """,
    "plain": """
        import persistqueue.serializers.json
        queue = persistqueue.SQLiteAckQueue(
            sys.argv[1], auto_resume=False, timeout=30, serializer=persistqueue.serializers.json
        )
        told(lambda first, count: [queue.put(event("plain", first + n)) for n in range(count)])
    """,
    "enqueue": None,
}
_known = {}
exec(textwrap.dedent(EVENTS), _known)


def final(kind, number):
    """The bytes of an event as they are sent."""
    separators = (",", ":") if kind == "queue" else None
    return json.dumps(_known["event"](kind, number), separators=separators).encode()


def is_bad(number):
    """Whether the server refuses it: by name, or without a reason, or by a string."""
    return number % 211 == 0 or number % 4999 in (1, 2)


def digest(data):
    """As the server's ledger keeps it."""
    return hashlib.sha256(data).hexdigest()


class Life:
    """A thread that does something again and again until it is told to end."""

    def __init__(self, do):
        self.failure = None
        self._do = do
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._live)
        self._thread.start()

    def _live(self):
        try:
            while not self.over.is_set():
                self._do(self.over)
        except BaseException as error:
            self.failure = error

    def end(self):
        """End it, and raise what it has met."""
        self.over.set()
        self._thread.join(120)
        assert not self._thread.is_alive()
        if self.failure is not None:
            raise self.failure


class Producer:
    """Puts events of one kind, at a rate that varies and with bursts; sometimes it is killed.

    `accepted` are the numbers whose process was told, as ranges; `uncertain` those whose was not.
    """

    def __init__(self, kind, queue_path, environ, dice, behind):
        self.kind, self.accepted, self.uncertain, self.kills, self.bursts = kind, [], [], 0, 0
        self._queue_path, self._environ, self._dice, self._behind = queue_path, environ, dice, behind
        self._process, self._next, self._burst = None, 0, 0
        self.life = Life(self._turn)

    def _turn(self, over):
        if self._burst == 0 and self._dice.random() < 0.02:
            self._burst = self._dice.randint(3, 8)
            self.bursts += 1
        if self._behind() > WAITING_MOST:
            over.wait(0.2)
            return
        count = self._dice.randint(300, 1000) if self._burst else self._dice.choice((1, 10, 50))
        if self.kind == "plain":
            count = min(count, 60)  # a commit for each
        numbers = range(self._next, self._next + count)
        self._next += count
        is_killed = self._dice.random() < 0.01
        done = (self._enqueue if PRODUCERS[self.kind] is None else self._put)(numbers, is_killed)
        (self.accepted if done else self.uncertain).append(numbers)
        if self._burst:
            self._burst -= 1
        else:
            over.wait(self._dice.uniform(0.02, 0.4) * (4 if self.kind == "enqueue" else 1))

    def _start(self, *command):
        self._process = subprocess.Popen(
            [sys.executable, *command],
            env=self._environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _put(self, numbers, is_killed):
        if self._process is None:
            code = textwrap.dedent(EVENTS) + textwrap.dedent(PRODUCERS[self.kind])
            self._start("-c", code, self._queue_path)
        line = b"%d %d\n" % (numbers.start, len(numbers))
        self._process.stdin.write(line)
        self._process.stdin.flush()
        if is_killed:
            self._process.kill()
            self.kills += 1
        if self._process.stdout.readline() == line:
            if is_killed:
                self._end()
            return True
        assert is_killed, self._process.stderr.read().decode()
        self._end()
        return False

    def _enqueue(self, numbers, is_killed):
        self._start("-m", "forwarder", "enqueue", "--no-check")
        text = b"\n".join(final(self.kind, number) for number in numbers) + b"\n"
        if is_killed:
            killer = threading.Timer(self._dice.uniform(0.1, 0.3), self._process.kill)
            killer.start()
        out, error = self._process.communicate(text)
        if is_killed:
            killer.cancel()
            killer.join()
            self.kills += self._process.returncode == -signal.SIGKILL
        done = b"accepted %d event" % len(numbers) in out
        assert done or is_killed, error.decode()
        self._process = None
        return done

    def _end(self):
        self._process.kill()
        self._process.communicate()
        self._process = None

    def end(self):
        """No more events."""
        try:
            self.life.end()
        finally:
            if self._process is not None:
                self._end()


@dataclass
class Watch:
    """The most that was seen of each thing, by its name; what a long reader may have caused, apart."""

    queue_path: str
    most: dict[str, int] = field(default_factory=dict)
    samples: int = 0
    externals: set[str] = field(default_factory=set)

    def look(self, pid, is_read_long):
        """Take note of how it is now."""
        with suppress(FileNotFoundError, ProcessLookupError):  # it was killed meanwhile
            with open(f"/proc/{pid}/status", encoding="ascii") as file:
                status = dict(line.split(":", 1) for line in file)
            if "VmRSS" in status:
                self._note("RSS of the daemon, KiB", int(status["VmRSS"].split()[0]))
                self._note("threads of the daemon", int(status["Threads"]))
                self._note("descriptors of the daemon", len(os.listdir(f"/proc/{pid}/fd")))
        log = "WAL with a long reader, bytes" if is_read_long else "WAL, bytes"
        self._note(log, self._size("data.db-wal"))
        self._note("database, bytes", self._size("data.db"))
        names = set(os.listdir(self.queue_path))
        self._note("files in the directory", len(names))
        self.externals |= names - FILES
        self.samples += 1

    def disk_bytes(self):
        """What the database takes now, with its log."""
        return self._size("data.db") + self._size("data.db-wal")

    def _note(self, name, value):
        self.most[name] = max(value, self.most.get(name, 0))

    def _size(self, name):
        try:
            return os.stat(os.path.join(self.queue_path, name)).st_size
        except FileNotFoundError:
            return 0


# In each of these an event that is good is neither blamed by its name nor dropped. For how long is said when
# they are injected; they end by themselves.
FAULTS = {
    "outage": lambda s: Fault.outage(s),
    "slow": lambda s: Fault.slow(0.3),
    "hang": lambda s: Fault.hang(),
    "hang, taken": lambda s: Fault.hang(taken=True),
    "reset before": lambda s: Fault.reset_before(),
    "reset after": lambda s: Fault.reset_after(),
    "half an answer": lambda s: Fault.half_answer(),
    "503": lambda s: Fault.server_error(),
    "429": lambda s: Fault.throttle(retry_after_s=0.2),
    "rate limit": lambda s: Fault.rate_limit(500.0, retry_after_s=0.2),
    "login page": lambda s: Fault.login_page(),
    "401": lambda s: Fault.unauthorized(),
    "403": lambda s: Fault.forbidden(),
    "redirect": lambda s: Fault.redirect(),
    "408": lambda s: Fault.request_timeout(),
    "status 0": lambda s: Fault.temporary_failure(),
    # As long as an answer that names each event of a batch.
    "huge answer": lambda s: Fault.huge_answer(MIB // 2),
    "clock ahead": lambda s: Fault.clock(3 * 3600.0),
    "clock behind": lambda s: Fault.clock(-3 * 3600.0),
}


class Weather:
    """The server's faults, one after another with calm in between, now and then two at once."""

    def __init__(self, server, queue_path, dice, longest_s):
        self.seen = Counter()
        self._server, self._queue_path, self._dice, self._longest_s = server, queue_path, dice, longest_s
        self._left = []
        server.inject(Fault.poison(event="poison"))
        self.life = Life(self._turn)

    def _turn(self, over):
        chosen = [self._draw() for _ in range(self._dice.choice((1, 1, 2)))]
        for_s = self._dice.uniform(0.2, 1.0) * self._longest_s
        injections = {name: self._server.inject(FAULTS[name](for_s), for_s=for_s) for name in set(chosen)}
        over.wait(for_s)
        state = state_file.read(spool.at(self._queue_path))
        self._server.release()
        for name, injection in injections.items():
            # Nobody comes through an outage: only the daemon can tell.
            met = name == "outage" and state is not None and state.failures > 0
            self.seen[name] += injection.used or met
        over.wait(self._dice.uniform(0.2, 1.0) * self._longest_s)

    def _draw(self):
        if not self._left:
            self._left = self._dice.sample(list(FAULTS), len(FAULTS))
        return self._left.pop()


class Person:
    """Looks and meddles by commands, one after another; each must do what it says.

    `deleted` are the ids of the events whose dead letters it has deleted.
    """

    LOOKING = ("status", "peek", "summary", "list", "check")
    MEDDLING = ("retry", "delete", "pause", "flush", "reload", "read long")

    def __init__(self, soak, dice):
        self.done, self.deleted = Counter(), {}
        self.is_reading_at = 0.0
        self._soak, self._dice, self._left = soak, dice, []
        self.life = Life(self._turn)

    def _turn(self, over):
        if not self._left:
            acts = self.LOOKING * (2 if self.done else 1) + self.MEDDLING
            self._left = self._dice.sample(acts, len(acts))
        act = self._left.pop()
        if getattr(self, "_" + act.replace(" ", "_"))(over) is not False:
            self.done[act] += 1
        over.wait(self._dice.uniform(0.1, 0.8))

    def _run(self, *arguments, codes=(0,)):
        done = self._soak.forwarder(*arguments)
        assert done.returncode in codes, (arguments, done)
        return done

    def _status(self, over):
        found = json.loads(self._run("status", "--json").stdout)
        left = found["accepted"] - found["delivered"] - found["dead_lettered"] - found["deleted"]
        assert left == found["waiting"], found

    def _peek(self, over):
        self._run("peek", "--json", "-n", "200")

    def _summary(self, over):
        self._run("dead-letters", "summary", "--json")

    def _list(self, over):
        self._run("dead-letters", "list", "--json")

    def _check(self, over):
        self._run("check")

    def _retry(self, over):
        done = self._run("dead-letters", "retry", "--all", "--yes", "--no-check", "--json")
        return json.loads(done.stdout)["retried"] > 0

    def _delete(self, over):
        with View(self._soak.queue_path) as view:
            letters = view.dead_letters(Selection(), limit=20)
        if not letters:
            return False
        ids = [str(letter.id) for letter in letters]
        done = self._run("dead-letters", "delete", "--json", *ids)
        assert json.loads(done.stdout)["deleted"] == len(ids), done
        self.deleted |= {letter.insert_id: letter.data for letter in letters}
        return True

    def _pause(self, over):
        self._run("pause")
        over.wait(self._dice.uniform(0.2, 1.0))
        self._run("resume")

    def _flush(self, over):
        return self._run("flush", codes=(0, 69)).returncode == 0

    def _reload(self, over):
        return self._soak.reload()

    def _read_long(self, over):
        path = f"file:{self._soak.queue_path}/data.db?mode=ro"
        with closing(sqlite3.connect(path, uri=True, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM ledger").fetchall()
            self.is_reading_at = float("inf")
            over.wait(self._dice.uniform(0.3, 1.0) * self._soak.longest_s)
            reader.execute("COMMIT")
        self.is_reading_at = time.monotonic()


class Soak:
    """All of it, with a daemon that is killed, stopped and started again in the first part of the time."""

    def __init__(self, forwarder, server, queue_path, seed, lasts_s):
        self.forwarder, self.server, self.queue_path = forwarder, server, queue_path
        self.longest_s = min(10.0, max(1.0, lasts_s / 15))
        self.kills, self.in_flight, self.stops = 0, 0, 0
        self._calm_at = time.monotonic() + lasts_s * 0.6
        self._waiting = 0
        self._daemon_lock = threading.Lock()
        forwarder.environ["FORWARDER_DELIVERY_READ_TIMEOUT_S"] = "5"
        self.daemon = forwarder.daemon()
        self.watch = Watch(queue_path)
        self.watch.look(self.daemon.process.pid, False)
        self.at_rest = dict(self.watch.most)
        dice = [random.Random(f"{seed} {n}") for n in range(7)]
        self.weather = Weather(server, queue_path, dice[0], self.longest_s)
        self.person = Person(self, dice[1])
        self.producers = [
            Producer(kind, queue_path, forwarder.environ, one, self._behind)
            for kind, one in zip(PRODUCERS, dice[2:5], strict=True)
        ]
        self.watching = Life(self._look)
        self._dice = dice[5]
        self._striking = Life(self._strike)

    def _behind(self):
        return self._waiting

    def _look(self, over):
        # The log is reset by the first to write after the reader has gone, and a checkpoint.
        is_read_long = time.monotonic() < self.person.is_reading_at + 10.0
        self.watch.look(self.daemon.process.pid, is_read_long)
        with View(self.queue_path) as view:
            self._waiting = view.figures().waiting
        over.wait(1.0 if self.longest_s > 5 else 0.2)

    def _strike(self, over):
        over.wait(self._dice.uniform(1.0, 3.0) * self.longest_s)
        if over.is_set() or (time.monotonic() > self._calm_at and self.in_flight and self.stops):
            return
        with self._daemon_lock:
            if (self.stops and self._dice.random() < 0.7) or not self.in_flight:
                ends_at = time.monotonic() + 3.0
                while not self.server.ledger.in_progress and time.monotonic() < ends_at:
                    over.wait(0.005)
                self.daemon.process.send_signal(signal.SIGSTOP)
                # Stopped, it reads no answer any more: what is asked now is unsettled when it dies.
                self.in_flight += self.server.ledger.in_progress > 0
                self.daemon.close()
                self.kills += 1
            else:
                assert self.daemon.stop() == 0
                self.daemon.close()
                self.stops += 1
            over.wait(self._dice.uniform(0.0, 0.5))
            self.daemon = self.forwarder.daemon()

    def reload(self):
        """Let the daemon read its settings again; False: it is being replaced."""
        if not self._daemon_lock.acquire(blocking=False):
            return False
        try:
            self.daemon.process.send_signal(signal.SIGHUP)
            return True
        finally:
            self._daemon_lock.release()

    @property
    def has_done_everything(self):
        """Whether there was at least one of each."""
        acts = {*Person.LOOKING, *Person.MEDDLING}
        return bool(
            self.in_flight
            and self.stops
            and self.person.done.keys() >= acts
            and all(producer.accepted for producer in self.producers)
            and sum(producer.bursts for producer in self.producers)
            and sum(map(bool, self.weather.seen.values())) >= 5
        )

    @property
    def failure(self):
        """What one of them has met; None: all are well."""
        lives = (self.watching, self._striking, self.weather.life, self.person.life)
        found = [one.failure for one in (*lives, *(producer.life for producer in self.producers))]
        return next((one for one in found if one is not None), None)

    def calm(self):
        """No new events, no faults, no kills; the server takes all again."""
        for producer in self.producers:
            producer.end()
        for life in (self._striking, self.person.life, self.weather.life):
            life.end()
        self.server.release()
        self.server.listen_again()
        self.forwarder("resume")
        self.forwarder("flush")

    def close(self):
        """End all, whatever has happened."""
        lives = (self._striking, self.person.life, self.weather.life, self.watching)
        for end in (*(one.end for one in (*self.producers, *lives)),):
            with suppress(Exception):
                end()
