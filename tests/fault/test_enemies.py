"""P2, P4 and P9 among external producers and enemies: the server, the queue's directory, its rows."""

import gzip
import json
import os
import pickle
import pty
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import persistqueue
import pytest
from persistqueue.serializers import json as plain_json

from forwarder import spool
from forwarder.cli import main
from forwarder.records.event import encode
from forwarder.sandbox import Fault
from forwarder.service import state as state_file
from forwarder.spool import EventQueue
from forwarder.spool.sqlite.room import RESERVE_BYTES

KIB, MIB = 1 << 10, 1 << 20
SECRET = "hunter2-s3cr3t"
MOST_MEMORY_KIB = 100 * KIB  # what a daemon may take at any backlog and rate
MOST_CPU_SHARE = 0.9
# Clears the screen, sets the title, writes right to left, and colours by a C1 control.
CONTROLS = "\x1b[2J\x1b]0;owned\x07\x1b[31mRED\r\x00\u202e\x9b31m"


def event(number, **properties):
    return {"event": "A", "properties": {"distinct_id": "x", "number": number, **properties}}


@pytest.fixture
def offer(queue):
    """Put events; returns their final bytes."""
    numbers = iter(range(1_000_000))

    def offer(count=1, **properties):
        events = [event(next(numbers), time=1_790_000_000, **properties) for _ in range(count)]
        for one in events:
            one["properties"]["$insert_id"] = f"id-{one['properties']['number']}"
        queue.put_many(events)
        return [encode(one) for one in events]

    return offer


# At the server

HEAD = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\n"
REFUSED = HEAD % b"400 Bad Request"


def flood(sock, start, piece, pause_s=0.0):
    """Send *start*, then *piece* for ever, until the other side has had enough."""
    sock.sendall(start)
    pause = threading.Event()
    while True:
        sock.sendall(piece)
        if pause_s:
            pause.wait(pause_s)


def plain(status, body, more=b""):
    """An answer as a whole."""
    return HEAD % status + more + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body


def records(count):
    """So many failed records that name the first event by its index, and another by its id."""
    one = b'{"index":0,"insert_id":"not-yours","field":"properties.time","message":"%s"},'
    return b'{"code":400,"num_records_imported":0,"failed_records":[' + one % (b"m" * 20) * count


TRICKS = {
    "1 GB": lambda sock: flood(sock, HEAD % b"200 OK" + b"Content-Length: 1073741824\r\n\r\n", b" " * MIB),
    "1 GB, in chunks": lambda sock: flood(
        sock, HEAD % b"200 OK" + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 65536 + b"\r\n"
    ),
    "a chunk of 16 EB": lambda sock: flood(
        sock, HEAD % b"200 OK" + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n", b" " * MIB
    ),
    "a million failed records": lambda sock: flood(
        sock, REFUSED + b"Content-Length: 99999999\r\n\r\n", records(10_000)
    ),
    "4 MB of failed records": lambda sock: sock.sendall(
        plain(b"400 Bad Request", records(39_000).rstrip(b",") + b"]}")
    ),
    "4 MB of brackets": lambda sock: sock.sendall(plain(b"200 OK", b"[" * 4_000_000)),
    "a number of a million digits": lambda sock: sock.sendall(
        plain(b"200 OK", b'{"code":200,"status":"OK","num_records_imported":' + b"9" * MIB + b"}")
    ),
    "a gzip bomb": lambda sock: sock.sendall(plain(b"200 OK", BOMB, b"Content-Encoding: gzip\r\n")),
    "drips for ever": lambda sock: flood(
        sock, HEAD % b"200 OK" + b"Content-Length: 9999\r\n\r\n", b" ", 0.05
    ),
    "a head that drips for ever": lambda sock: flood(sock, HEAD % b"200 OK" + b"X: ", b"y", 0.05),
    "headers without end": lambda sock: flood(sock, HEAD % b"200 OK", b"X-Header: value\r\n" * 1000),
    "a header without end": lambda sock: flood(sock, HEAD % b"200 OK" + b"X: ", b"y" * MIB),
    "a status line without end": lambda sock: flood(sock, b"HTTP/1.1 200 ", b"O" * MIB),
    "a flood of 100": lambda sock: flood(sock, b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "a flood of 103": lambda sock: flood(sock, b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 1000),
    "nothing but zeros": lambda sock: flood(sock, b"", bytes(MIB)),
    "controls in the error": lambda sock: sock.sendall(
        plain(b"401 No", json.dumps({"code": 401, "error": CONTROLS, "status": CONTROLS}).encode())
    ),
    "controls in the status line": lambda sock: sock.sendall(
        plain(b"500 " + CONTROLS.replace("\r", "").encode(), CONTROLS.encode())
    ),
    "controls in a page": lambda sock: sock.sendall(
        b"HTTP/1.1 403 No\r\nContent-Type: text/\x1b[2Jhtml\r\nContent-Length: 90\r\n\r\n"
        + b"<title>\x1b[2J\x1b]0;owned\x07\xc2\x9b31m\xe2\x80\xae</title>".ljust(90)
    ),
}
# Which event they are about is looked for first, request by request.
REFUSALS = {"4 MB of failed records"}
BOMB = gzip.compress(bytes(512 * MIB), 1)


class FarEnd:
    """A server that plays tricks while one is set, and else hands everything to the sandbox.

    Attributes:
        played: How often each trick has been played.
    """

    def __init__(self, behind):
        self._behind = behind
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.trick = None
        self.played = {}
        self._open = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def port(self):
        return self._listener.getsockname()[1]

    def _accept(self):
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._open.append(sock)
                self._threads.append(threading.Thread(target=self._serve, args=[sock]))
                self._threads[-1].start()

    def _serve(self, sock):
        with sock, suppress(OSError):
            trick = self.trick
            if trick is None:
                self._hand_over(sock)
                return
            self._read_request(sock)
            self.played[trick] = self.played.get(trick, 0) + 1
            TRICKS[trick](sock)

    def _read_request(self, sock):
        with sock.makefile("rb") as file:
            length = 0
            while (line := file.readline()).strip():
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            file.read(length)

    def _hand_over(self, sock):
        with socket.create_connection(("127.0.0.1", self._behind)) as behind:
            back = threading.Thread(target=self._copy, args=[behind, sock])
            back.start()
            self._copy(sock, behind)
            back.join()

    def _copy(self, source, target):
        with suppress(OSError):
            # A kept connection must not outlast the peace.
            while self.trick is None and (data := source.recv(65536)):
                target.sendall(data)
        for sock in (source, target):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self):
        for sock in (self._listener, *self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(20)


@pytest.fixture
def enemy(server, forwarder):
    """A server that can play tricks, and has the sandbox behind it."""
    made = FarEnd(int(server.url.rpartition(":")[2]))
    forwarder.environ["FORWARDER_MIXPANEL_URL"] = f"http://127.0.0.1:{made.port}"
    forwarder.is_fresh = True
    yield made
    forwarder.close()
    made.close()


def memory_kib(pid):
    """The most memory that a process has ever had resident."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1])


def cpu_s(pid):
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def is_harmless(text):
    """Whether a terminal takes nothing in it for a command, but the colours that we use."""
    rest = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "\x1b[31mRED" not in text
    wrong = {char for char in rest if not char.isprintable() and char not in "\r\n"}
    assert wrong == set(), (wrong, text)
    return True


def test_hostile_answers(enemy, forwarder, server, queue_path, offer, oracle, rows, until, figures):
    """Whatever the server sends, however much and however slowly, costs bounded time and memory, brings no
    control character into log or status and turns no event into a dead letter; then all is delivered."""
    daemon = forwarder.daemon(
        wait=False, FORWARDER_DELIVERY_READ_TIMEOUT_S="0.5", FORWARDER_LOG_FORMAT="console"
    )
    until(lambda: "daemon.started" in "".join(daemon.other_output), "it is ready")
    offered = []
    for trick in TRICKS:
        enemy.trick = trick
        began, used_s = time.monotonic(), cpu_s(daemon.process.pid)
        offered += offer(5)
        until(lambda trick=trick: enemy.played.get(trick, 0) >= 2, f"{trick}: tried again", timeout_s=15)
        if trick not in REFUSALS:
            until(lambda: state_file.read(spool.at(queue_path)).state in ("backing_off", "blocked"), trick)
        if trick.startswith("controls"):
            assert is_harmless(forwarder("status").stdout)
        assert time.monotonic() - began < 15, trick
        assert cpu_s(daemon.process.pid) - used_s < MOST_CPU_SHARE * (time.monotonic() - began), trick
        assert rows(queue_path, "dead_letters") == [], trick
        assert memory_kib(daemon.process.pid) < MOST_MEMORY_KIB, (trick, memory_kib(daemon.process.pid))
    enemy.trick = None
    until(lambda: not rows(queue_path), "all are delivered")
    oracle(queue_path, server, offered)
    assert figures(queue_path).delivered == len(offered) == 5 * len(TRICKS)
    # Where nothing gets through, samples are asked with.
    assert server.ledger.repeats <= len(TRICKS)
    assert daemon.process.poll() is None
    assert is_harmless("".join(daemon.other_output))


def test_redirect_carries_the_key_nowhere(forwarder, server, queue_path, offer, rows, until):
    """A redirect to another host blocks delivery; that host never sees so much as a connection."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.setblocking(False)
        daemon = forwarder.daemon()
        for status in (301, 302, 303, 307, 308):
            location = f"http://127.0.0.1:{other.getsockname()[1]}/import"
            redirect = server.inject(Fault.redirect(location, status), times=2)
            offer()
            until(lambda: not rows(queue_path), "it is delivered in the end")
            assert redirect.used == 2
            told = [line["reason"] for line in daemon.logged("delivery.blocked")]
            assert any(f"HTTP {status}: a redirect to 127.0.0.1, not followed" in text for text in told)
        server.inject(Fault.redirect(location), times=1)
        assert forwarder("check", "--online").returncode == 78
        with pytest.raises(BlockingIOError):
            other.accept()


def test_answer_of_many_keys_costs_little_memory(
    enemy, forwarder, queue_path, offer, rows, until, monkeypatch, figures
):
    """An answer of nearly 2 MB that is a fifth of a million things takes no more memory than any other."""
    body = b"{" + b",".join(b'"%d":0' % number for number in range(200_000)) + b"}"
    monkeypatch.setitem(TRICKS, "keys", lambda sock: sock.sendall(plain(b"200 OK", body)))
    enemy.trick = "keys"
    daemon = forwarder.daemon()
    offer()
    until(lambda: enemy.played.get("keys", 0) >= 3, "tried again")
    enemy.trick = None
    until(lambda: not rows(queue_path), "it is delivered")
    assert memory_kib(daemon.process.pid) < MOST_MEMORY_KIB
    assert figures(queue_path).delivered == 1


# On the terminal


def on_terminal(environ, *arguments):
    """What a command writes to a terminal."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "forwarder", *arguments], env=environ, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    seen = b""
    with open(master, "rb", buffering=0) as screen, suppress(OSError):
        while piece := screen.read(65536):
            seen += piece
    process.wait(20)
    return seen.decode()


def test_controls_do_not_reach_a_terminal(forwarder, server, queue, queue_path, until, rows, sql):
    """What an event, a row or the server says reaches a terminal escaped, whichever command shows it."""
    server.inject(Fault.control_characters(), times=1)
    forwarder.daemon()
    nasty = {"event": CONTROLS, "properties": {"distinct_id": CONTROLS, CONTROLS: CONTROLS}}
    with EventQueue(queue_path, min_free_bytes=0, rules=False) as lax:
        lax.put(nasty)
    sql(queue_path, "INSERT INTO ack_queue_default VALUES (NULL, ?, 1.6e9, 0)", (CONTROLS.encode(),))
    until(lambda: len(rows(queue_path, "dead_letters")) == 2, "both are dead")
    server.inject(Fault.unauthorized(CONTROLS))
    with EventQueue(queue_path, min_free_bytes=0, rules=False) as lax:
        lax.put(nasty)
    until(lambda: state_file.read(spool.at(queue_path)).state == "blocked")
    seen = ""
    for command in (
        ("dead-letters", "list"),
        ("dead-letters", "list", "--json"),
        ("dead-letters", "summary"),
        ("dead-letters", "show", "1", "2"),
        ("dead-letters", "retry", "--dry-run", "--all"),
        ("peek",),
        ("status",),
        ("check",),
    ):
        found = on_terminal(forwarder.environ, *command)
        assert is_harmless(found), command
        assert "owned" in found or command[0] in ("status", "check"), (command, found)
        seen += found
    assert "Traceback" not in seen


# In the settings

URLS = {
    "password": f"https://user:{SECRET}@mixpanel.invalid",
    "user": f"https://{SECRET}@mixpanel.invalid",
    "query": f"https://mixpanel.invalid/?token={SECRET}",
    "fragment": f"https://mixpanel.invalid/#{SECRET}",
    "odd port": f"https://mixpanel.invalid:{SECRET}/",
    "odd scheme": f"ftp://user:{SECRET}@mixpanel.invalid",
    "no host": f"https://user:{SECRET}@",
    "odd brackets": f"https://[{SECRET}",
    "controls": f"https://a\x1b[2J:{SECRET}@b",
}


@pytest.mark.parametrize("by", ["file", "environment"])
@pytest.mark.parametrize("name", URLS)
def test_secret_in_an_address_is_not_printed(name, by, monkeypatch, tmp_path, capfd, queue_path):
    """A secret that somebody puts into mixpanel.url is an error, 78, where the address is used; no command
    repeats it."""
    monkeypatch.setenv("FORWARDER_QUEUE_PATH", queue_path)
    if by == "environment":
        monkeypatch.setenv("FORWARDER_MIXPANEL_URL", URLS[name])
    else:
        file = tmp_path / "settings.toml"
        file.write_text(f"[mixpanel]\nurl = {json.dumps(URLS[name])}\n")
        monkeypatch.setenv("FORWARDER_CONFIG", str(file))
    for command in ("config show", "status", "check", "check --online", "run", "drain", "peek"):
        with pytest.raises(SystemExit) as ended:
            main(command.split())
        out, err = capfd.readouterr()
        assert ended.value.code == (0 if command in ("status", "peek") else 78), (command, out, err)
        assert SECRET not in out + err, (command, out, err)
        assert is_harmless(out + err)


def test_secret_in_an_address_at_reload(forwarder, offer, queue_path, rows, tmp_path, until, figures):
    """A reload that brings an address with a secret in it is refused without repeating it."""
    url = forwarder.environ.pop("FORWARDER_MIXPANEL_URL")
    file = tmp_path / "settings.toml"
    file.write_text(f'[mixpanel]\nurl = "{url}"\n')
    forwarder.environ["FORWARDER_CONFIG"] = str(file)
    daemon = forwarder.daemon()
    file.write_text(f'[mixpanel]\nurl = "{URLS["password"]}"\n')
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for("settings.refused")
    file.write_text(f'[mixpanel]\nurl = "{url}"\n')
    offer()
    until(lambda: not rows(queue_path), "the old settings stay in force")
    assert SECRET not in json.dumps(daemon.log) + "".join(daemon.other_output)
    assert SECRET not in json.dumps(forwarder.json("status"))
    assert figures(queue_path).delivered == 1


@pytest.mark.parametrize(
    "proxy", [f"http://user:{SECRET}@127.0.0.1:1", f"http://{SECRET}@[", f"x://{SECRET}@y:z"]
)
def test_secret_in_a_proxys_address_is_not_printed(forwarder, offer, queue_path, until, proxy):
    """The password of a proxy that does not work is in no log line and no status."""
    forwarder.environ["FORWARDER_MIXPANEL_URL"] = "https://mixpanel.invalid"
    forwarder.environ |= {"HTTPS_PROXY": proxy, "https_proxy": proxy}
    offer()
    daemon = forwarder.daemon(wait=False)
    until(lambda: daemon.process.poll() is not None or daemon.logged("delivery.backing_off"), "it has tried")
    said = [json.dumps(daemon.log), *daemon.other_output, *map(str, forwarder.json("status").values())]
    online = forwarder("check", "--online")
    assert SECRET not in "".join([*said, online.stdout, online.stderr])
    assert online.returncode in (69, 78)


# In the directory

NAMES = (
    *("data.db", "data.db-wal", "data.db-shm", "writer.lock", "reserve"),
    *("daemon.lock", "daemon.json", "daemon.json.new"),
)
CONTENTS = {"text": b"precious\n" * 100, "empty": b"", "zeros": bytes(RESERVE_BYTES), "none": None}
LINKS = [
    *(("new", name, content) for name in NAMES for content in CONTENTS),
    *(("used", name, content) for name in NAMES for content in CONTENTS),
    ("new", "data.db", "queue"),
    ("used", "data.db", "queue"),
]


def make_victim(file, content):
    """Make a file that is to stay as it is; returns its bytes, or None."""
    if content == "queue":
        plain = persistqueue.SQLiteAckQueue(str(file.parent / "elsewhere"), serializer=plain_json)
        plain.put(event(1))
        plain.close()
        sqlite3.connect(file.parent / "elsewhere" / "data.db").close()
        (file.parent / "elsewhere" / "data.db").rename(file)
    elif CONTENTS[content] is not None:
        file.write_bytes(CONTENTS[content])
    return file.read_bytes() if file.exists() else None


@pytest.mark.parametrize(
    ("there", "name", "content"),
    LINKS,
)
def test_symlinks_are_not_written_through(
    there, name, content, monkeypatch, tmp_path, capfd, server, queue_path
):
    """A link where a file of the queue should be is refused with a sentence, or done without; what it points
    at stays as it was, by whatever command."""
    monkeypatch.setenv("FORWARDER_QUEUE_PATH", queue_path)
    monkeypatch.setenv("FORWARDER_MIXPANEL_URL", server.url)
    monkeypatch.setenv("FORWARDER_MIXPANEL_TOKEN", "sandbox-token")
    monkeypatch.setenv("FORWARDER_QUEUE_MIN_FREE_BYTES", "0")
    os.mkdir(queue_path)
    if there == "used":
        with EventQueue(queue_path, min_free_bytes=0) as queue:
            queue.put(event(1))
    victim = tmp_path / "victim"
    before = make_victim(victim, content)
    (Path(queue_path) / name).unlink(missing_ok=True)
    (Path(queue_path) / name).symlink_to(victim)
    for command in ("enqueue -e A -d x", "drain --timeout 5", "status", "check", "peek", "pause"):
        with pytest.raises(SystemExit) as ended:
            main(command.split())
        out, err = capfd.readouterr()
        assert ended.value.code not in (70, None), (command, out, err)
        assert "Traceback" not in err
        assert (victim.read_bytes() if victim.exists() else None) == before, command
    assert not list(tmp_path.glob("victim-*"))


@pytest.mark.parametrize(
    "name",
    NAMES,
)
def test_pipes_in_the_way_stop_nobody_for_ever(name, forwarder, queue, queue_path):
    """A named pipe where a file of the queue should be makes no command wait for somebody to open its other
    end: it is refused with a sentence, or done without."""
    queue.put(event(1))
    queue.close()
    Path(queue_path, name).unlink(missing_ok=True)
    os.mkfifo(Path(queue_path, name))
    for command in ("status", "drain --timeout 1", "enqueue -e A -d x", "check", "peek"):
        done = forwarder(*command.split(), timeout_s=3)
        assert done.returncode not in (70, None), (command, done.stderr)
        assert "Traceback" not in done.stderr


def test_pipe_in_the_way_of_a_running_daemon(forwarder, server, queue_path, rows, offer, until, figures):
    """Named pipes that appear under a running daemon neither stop it nor those who ask how it is."""
    daemon = forwarder.daemon()
    for name in ("daemon.json.new", "daemon.json"):
        Path(queue_path, name).unlink(missing_ok=True)
        os.mkfifo(Path(queue_path, name))
    for _ in range(3):
        offer()
        until(lambda: not rows(queue_path), "it goes on delivering", timeout_s=3)
    assert forwarder("status", timeout_s=3).returncode == 0
    assert daemon.stop() == 0
    assert figures(queue_path).delivered == 3


# In the table


class Bomb:
    """Unpickled, it makes a directory."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickles_are_never_unpickled(forwarder, queue, queue_path, rows, sql, tmp_path, until, figures):
    """A pickle in a row is loaded by no command and not by the daemon: it ends as a dead letter, as it is."""
    mark = tmp_path / "mark"
    bomb = pickle.dumps(Bomb(str(mark)))
    for status in (0, 1, 2, 9):
        sql(queue_path, "INSERT INTO ack_queue_default VALUES (NULL, ?, 1.6e9, ?)", (bomb, status))
    assert forwarder("peek").returncode == 0
    forwarder.daemon()
    until(lambda: rows(queue_path, "dead_letters") == [bomb] * 4, "all are dead letters")
    for command in ("list", "summary", "show 1 2", "retry 1", "retry 2 --no-check", "delete 3"):
        assert "Traceback" not in forwarder("dead-letters", *command.split()).stderr, command
    exported = subprocess.run(
        [sys.executable, "-m", "forwarder", "dead-letters", "export", "--all"],
        env=forwarder.environ,
        capture_output=True,
    )
    assert bomb in exported.stdout
    assert forwarder("check").returncode == 0
    assert not mark.exists()
    pickle.loads(bomb)
    assert mark.exists(), "the bomb was none"
    assert figures(queue_path).dead_lettered >= 4


PLAIN_CONSUMER = """
import json, sqlite3, sys, time, persistqueue
import persistqueue.serializers.json as plain
path, ends_at = sys.argv[1], time.monotonic() + float(sys.argv[2])
took = [0, 0, 0, 0]
def attempt(what):
    try:
        return what()
    except (sqlite3.OperationalError, persistqueue.Empty):
        return None
while time.monotonic() < ends_at:
    queue = attempt(lambda: persistqueue.SQLiteAckQueue(path, serializer=plain))  # auto_resume is on
    if queue is None:
        continue
    for number in range(8):
        item = attempt(lambda: queue.get(block=False, raw=True))
        if item is None:
            continue
        took[number % 4] += 1
        step = (queue.ack, queue.nack, queue.ack_failed, None)[number % 4]
        if step is not None and attempt(lambda: step(id=item["pqid"])) is not None and number % 4 == 0:
            print(item["data"]["properties"]["$insert_id"], flush=True)
    try:
        # With its pickles by default: it can't read ours, and leaves the row as taken.
        persistqueue.SQLiteAckQueue(path).get(block=False)
    except Exception as error:
        assert type(error).__name__ in ("UnpicklingError", "Empty", "OperationalError", "KeyError"), error
print(json.dumps(took), file=sys.stderr)
"""


def test_plain_consumers_while_the_daemon_runs(
    forwarder, server, queue_path, offer, oracle, rows, until, figures
):
    """Plain persist-queue consumers with their defaults take, give back, give up and ack rows while the
    daemon runs under load: what one has acked counts as deleted or was delivered too; the rest is delivered
    as it was."""
    server.latency_s = 0.02
    daemon = forwarder.daemon(FORWARDER_DELIVERY_BATCH_EVENTS="50", FORWARDER_DELIVERY_CONNECTIONS="2")
    offered = offer(300)
    externals = [
        subprocess.Popen(
            [sys.executable, "-c", PLAIN_CONSUMER, queue_path, "1.5"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    while any(external.poll() is None for external in externals):
        offered += offer(20)
    acked, took = set(), [0] * 4
    for external in externals:
        out, err = external.communicate(timeout=30)
        assert external.returncode == 0, err
        acked |= set(out.split())
        took = [before + more for before, more in zip(took, json.loads(err.splitlines()[-1]), strict=True)]
    assert all(took), took
    until(lambda: not rows(queue_path), "the queue is empty", timeout_s=40)
    delivered = {insert_id: entry.data for insert_id, entry in server.ledger.events.items()}
    expected = {json.loads(data)["properties"]["$insert_id"]: data for data in offered}
    assert expected.keys() - delivered.keys() <= acked
    assert {key: expected.get(key) for key in delivered} == delivered
    assert rows(queue_path, "dead_letters") == []
    until(lambda: forwarder.json("status")["waiting"] == 0, "the books are closed")
    found = figures(queue_path)
    assert found.accepted == len(offered) == found.delivered + found.deleted
    assert len(expected.keys() - delivered.keys()) <= found.deleted <= len(acked)
    assert daemon.process.poll() is None


# Daemons


def test_daemons_that_start_at_once(forwarder, server, queue_path, offer, oracle, rows, until, figures):
    """Of many daemons that start in the same moment exactly one stays; the others end with 75 and say which
    it is; no event is sent twice."""
    offered = offer(500)
    daemons = [forwarder.daemon(wait=False, FORWARDER_DELIVERY_BATCH_EVENTS="50") for _ in range(5)]
    until(lambda: sum(one.process.poll() is None for one in daemons) == 1, "one is left")
    [winner] = [one for one in daemons if one.process.poll() is None]
    for loser in daemons:
        if loser is not winner:
            assert loser.process.returncode == 75
            until(lambda loser=loser: "another daemon already delivers" in "".join(loser.other_output))
    until(lambda: not rows(queue_path), "the queue is empty")
    oracle(queue_path, server, offered)
    assert server.ledger.repeats == 0
    assert figures(queue_path).delivered == 500
    winner.wait_for("daemon.started")
