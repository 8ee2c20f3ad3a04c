"""The command ``enqueue`` as a process of its own: what it takes in, what it refuses, what it says."""

import codecs
import gzip
import json
import os
import re
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

DEADLINE_S = 20.0


def event(n: int, **properties: object) -> bytes:
    """Event number *n* as a line without its newline."""
    return json.dumps({"event": "E", "properties": {"distinct_id": f"u{n}", "n": n, **properties}}).encode()


def ndjson(count: int, start: int = 0) -> bytes:
    """*count* events, numbered from *start*, one a line."""
    return b"".join(event(n) + b"\n" for n in range(start, start + count))


class Desk:
    """A queue of its own, and the command that fills it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "queue"
        self.environ = {**os.environ, "FORWARDER_QUEUE_PATH": str(self.path)}
        # Buffered, as people run it: what can't be flushed at exit is a fault of its own.
        self.environ.pop("PYTHONUNBUFFERED", None)

    def file(self, name: str, content: bytes) -> str:
        """A file of that content, by its name in the working directory."""
        (self.directory / name).write_bytes(content)
        return name

    def start(self, *arguments: str, **options) -> subprocess.Popen:
        """Start ``forwarder enqueue`` with *arguments*."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(
            [sys.executable, "-m", "forwarder", "enqueue", *arguments],
            **{**pipes, "cwd": self.directory, "env": self.environ, **options},
        )

    def enqueue(self, *arguments: str, text: bytes = b"", **options) -> subprocess.CompletedProcess:
        """Run it to its end with *text* as standard input."""
        with self.start(*arguments, **options) as process:
            out, err = process.communicate(text, timeout=60)
        told = [(stream or b"").decode() for stream in (out, err)]
        return subprocess.CompletedProcess(process.args, process.returncode, *told)

    def stored(self, column: str = "data") -> list:
        """That column of all events in the queue, in order."""
        database = self.path / "data.db"
        if not database.exists():
            return []
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            try:
                rows = connection.execute(f"SELECT {column} FROM ack_queue_default ORDER BY _id").fetchall()
            except sqlite3.OperationalError:
                return []  # not made yet
        return [value for (value,) in rows]

    def numbers(self) -> list[int]:
        """The numbers of all events in the queue, in order."""
        return [json.loads(data)["properties"]["n"] for data in self.stored()]

    def count(self) -> int:
        """How many events are in the queue."""
        return len(self.stored("_id"))

    def wait_for(self, count: int) -> float:
        """Wait until the queue holds at least *count* events; the moment it did."""
        deadline = time.monotonic() + DEADLINE_S
        while self.count() < count:
            assert time.monotonic() < deadline, f"{self.count()} of {count} events are in"
        return time.monotonic()


@pytest.fixture
def desk(tmp_path):
    """A fresh queue and the command that fills it."""
    return Desk(tmp_path)


# What is taken in


@pytest.mark.parametrize(
    "content",
    [
        ndjson(3),
        ndjson(3).replace(b"\n", b"\r\n"),
        ndjson(3).rstrip(),
        codecs.BOM_UTF8 + ndjson(3),
        b"\n\n" + ndjson(3),
        b"[" + b",\n".join(map(event, range(3))) + b"]",
        json.dumps([json.loads(event(n)) for n in range(3)], indent=4).encode(),
        gzip.compress(ndjson(3)),
        gzip.compress(ndjson(2)) + gzip.compress(ndjson(1, 2)),
        gzip.compress(b"[" + b",".join(map(event, range(3))) + b"]"),
        b"[%s]\n[%s,%s]\n" % tuple(map(event, range(3))),
        b"[\n%s\n]\n[\n%s,\n%s,\n]" % tuple(map(event, range(3))),
        b"\n".join(json.dumps(json.loads(event(n)), indent=2).encode() for n in range(3)),
        ndjson(2).replace(b"\n", b" ") + event(2),
        ndjson(3).replace(b"\n", b",\n"),
        b"".join(codecs.BOM_UTF8 + event(n) + b"\n" for n in range(3)),
        b"".join(gzip.compress(codecs.BOM_UTF8 + event(n)) for n in range(3)),
        b"\0" * 4000 + event(0) + b"\n" + b"\0" * 3_000_000 + event(1) + b"\n" + event(2) + b"\0" * 50,
    ],
    ids=[
        *(
            "lines",
            "crlf",
            "unended",
            "bom",
            "blank",
            "array",
            "indented",
            "gzip",
            "members",
            "gzipped-array",
        ),
        *("array a line", "arrays", "over lines", "on a line", "commas", "boms", "member's boms", "nuls"),
    ],
)
def test_every_form_is_taken_in(desk, content):
    """Each accepted form of input, from a file and from standard input, ends up as the same events."""
    from_file = desk.enqueue(desk.file("input", content))
    from_stdin = desk.enqueue(text=content)
    for told in (from_file, from_stdin):
        assert (told.returncode, told.stdout, told.stderr) == (0, "accepted 3 events\n", "")
    assert desk.numbers() == [0, 1, 2] * 2
    assert all(b"\n" not in data and b"\r" not in data for data in desk.stored())


def test_files_are_taken_in_order(desk):
    """Several files, standard input among them as "-", are taken in in the order given."""
    first, last = desk.file("a", ndjson(2)), desk.file("b", ndjson(2, 4))
    told = desk.enqueue(first, "-", last, text=ndjson(2, 2))
    assert told.stdout == "accepted 6 events\n"
    assert desk.numbers() == list(range(6))


def test_long_input_is_taken_in_completely(desk):
    """Input of many chunks loses, doubles and reorders nothing, as lines and as an array."""
    array = b"[" + b",".join(event(n) for n in range(60_000, 120_000)) + b"]"
    told = desk.enqueue(desk.file("a", ndjson(60_000)), desk.file("b", array))
    assert told.stdout == "accepted 120,000 events\n"
    assert desk.numbers() == list(range(120_000))


def test_numbers_stay_as_written(desk):
    """Numbers, escapes and layout reach the queue as they were written."""
    odd = b'{"event":"E","properties":{"a":1.10,"b":1e400,"c":123456789012345678901234567890,"d":"\\u00e9"}}'
    assert desk.enqueue(text=odd).returncode == 0
    assert odd[28:-2] in desk.stored()[0]


def test_empty_input_is_no_error(desk):
    """Empty input is zero events, and success."""
    for content in (b"", b"\n\n", b"[]"):
        told = desk.enqueue(text=content)
        assert (told.returncode, told.stdout, told.stderr) == (0, "accepted 0 events\n", "")


def test_fifo_is_read(desk):
    """A FIFO is waited for and read to its end, however late its writer comes."""
    os.mkfifo(desk.directory / "fifo")
    with desk.start("fifo") as process:
        (desk.directory / "fifo").write_bytes(ndjson(3))
        assert process.communicate(timeout=DEADLINE_S)[0] == b"accepted 3 events\n"


def test_socket_is_read(desk):
    """A socket as standard input, as systemd and inetd hand one over, is read to its end."""
    ours, theirs = socket.socketpair()
    with ours, theirs, desk.start(stdin=theirs) as process:
        theirs.close()
        ours.sendall(ndjson(3))
        ours.shutdown(socket.SHUT_WR)
        assert process.communicate(timeout=DEADLINE_S)[0] == b"accepted 3 events\n"


# What is refused


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"nonsense", "not JSON"),
        (b"{", "not JSON"),
        (b'"text"', "a single value"),
        (b"17", "a single value"),
        (b'{"event": "E"}', "'properties' must not be missing"),
        (b'{"event": "E", "properties": []}', "'properties' must be an object, not an array"),
        (b'{"event": "E", "properties": "a"}', "'properties' must be an object, not a single value"),
        (b'{"event": "E", "properties": {"time": 1, "time": 2}}', "duplicate key 'time'"),
        (b'{"event": "E", "properties": {"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}}", "nested"),
        (b'{"event": "E", "properties": {"a": "\xff"}}', "UTF-8"),
        (b'{"event": "E", "properties": {"a": NaN}}', "NaN"),
        (b'{"event": "E", "properties": {"a": "' + b"x" * 1_000_000 + b'"}}', "1000000 bytes"),
        (b"x" * 5_000_000, "1000000 bytes"),
        (b'{"event": "E", "properties": {"time": "yesterday"}}', "time"),
        (b'\x00{"event": "E", "properties": ', "not JSON"),
        (b'{"event": "E", "time": 1, "properties": {}}', "'time' beside 'properties'"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_bad_line_is_refused_alone(desk, bad, why):
    """A bad line is reported by file, line and reason, its neighbours are in, and the exit code is 65."""
    told = desk.enqueue(desk.file("input", event(0) + b"\n\n" + bad + b"\n" + event(1)))
    assert told.returncode == 65
    assert told.stderr.startswith("input:3: ")
    assert why in told.stderr
    assert told.stderr.count("\n") == 1
    assert told.stdout == "accepted 2 events, refused 1\n"
    assert desk.numbers() == [0, 1]


def test_bad_element_is_refused_alone(desk):
    """In an array the elements are numbered, and one that is bad inside does not stop the others."""
    told = desk.enqueue(text=b"[\n" + b",\n".join([event(0), b'{"a": nope}', b"3", event(1)]) + b"\n]")
    assert told.returncode == 65
    assert [line[:10] for line in told.stderr.splitlines()] == ["<stdin>:2:", "<stdin>:3:"]
    assert desk.numbers() == [0, 1]


def test_bad_event_of_several_on_a_line_is_named(desk):
    """Where a line holds several events, a refusal says which of them; the others are in."""
    line = b"[%s,%s,%s]" % (event(0), b'{"event": "", "properties": {}}', event(1))
    told = desk.enqueue(desk.file("input", event(2) + b"\n" + line + b"\n"))
    assert told.returncode == 65
    assert told.stderr.startswith("input:2: event 2 of 3: 'event' must not be missing or blank")
    assert told.stdout == "accepted 3 events, refused 1\n"
    assert sorted(desk.numbers()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("-", "jq -c . | forwarder enqueue"),
        ("a b.json", "jq -c . 'a b.json' | forwarder enqueue"),
        ("packed.gz", "jq -c . | forwarder enqueue"),
    ],
)
def test_indented_object_that_is_broken_is_told_the_remedy(desk, name, remedy):
    """Where the first line is a lone {, that line's refusal says, once, how to put one event on a line."""
    text = b"{\n" + b'"a": nope,\n' * 10 + b"}\n"
    desk.file(name, gzip.compress(text) if name.endswith(".gz") else text)
    told = desk.enqueue(name, text=text)
    first, *others = told.stderr.splitlines()
    assert first.endswith(f". One event per line is expected: {remedy}")
    assert len(others) > 10
    assert "forwarder enqueue" not in "".join(others)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (b"name,time,user\nE,1700000000,u\n", "It looks like a table: give --event NAME"),
        (b'"name";"time"\n"E";1700000000\n', "It looks like a table: give --event NAME"),
        (b'{"event":"E","distinct_id":"u","a":1}', "the properties: give --event-column event"),
        (b'{"type":"E","distinct_id":"u","a":1}', "give --event NAME, or --event-column with its column"),
        (
            b'{"events": [%s, %s]}' % (event(0), event(1)),
            r"one event per line with jq -c '\.events\[\]'",
        ),
        (b'{"type":"track","event":"E","userId":"u","properties":{}}', "looks like an event of Segment"),
    ],
    ids=["csv", "semicolons", "flat", "unnamed", "events", "segment"],
)
def test_other_forms_are_told_the_remedy_once(desk, text, hint):
    """What looks like another form is named as such, once, with the command that makes events of it."""
    told = desk.enqueue(desk.file("input", text))
    assert told.returncode == 65
    assert len(re.findall(hint, told.stderr)) == 1
    assert desk.stored() == []


def test_bad_lines_end_no_live_stream(desk):
    """Whatever comes down a live stream, cut-off arrays too, what comes later is taken in."""
    parts = [b"[%s]\n" % event(0), b'[{"event":"E","pr\n', b'[{"event":"E","properties":{}\n', b"[LOG] x\n"]
    parts += [b"[%s,%s]\n" % (event(1), event(2)), b"{\n", b'"a": [\n', event(3) + b"\n"]
    with desk.start() as process:
        for index, part in enumerate(parts):
            process.stdin.write(part)
            process.stdin.flush()
            if index in (0, 4):
                desk.wait_for(1 if index == 0 else 3)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 65
    assert out == b"accepted 4 events, refused 5\n"
    assert len(err.splitlines()) == 5
    assert desk.numbers() == [0, 1, 2, 3]


# Many refusals


def test_many_refusals_are_counted_by_reason(desk):
    """The first 20 refused lines are shown, the others counted for each reason."""
    lines = [b'{"event":"E","properties":{"time":"t%d"}}\n' % n for n in range(30_000)]
    lines += [b'{"event":"E","properties":{"a":[%s]}}\n' % b",".join([b"1"] * n + [b"NaN"]) for n in range(9)]
    told = desk.enqueue(text=b"".join(lines))
    assert told.returncode == 65
    shown = told.stderr.splitlines()
    assert [int(line.split(":")[1]) for line in shown[:20]] == list(range(1, 21))
    assert shown[20] == "29,989 more refused; --rejects FILE keeps them all:"
    assert re.match(r" +29,980  'properties.time' is invalid: .* not the text 't20'", shown[21])
    assert re.match(r" +9  'properties.a\[0\]' is invalid: NaN", shown[22])
    assert len(shown) == 23
    assert told.stdout == "accepted 0 events, refused 30,009\n"


def test_very_many_different_reasons_are_summed_up(desk):
    """Of a great many reasons the most frequent are shown."""
    names = [bytes([97 + n // 676, 97 + n // 26 % 26, 97 + n % 26]) for n in range(3000)]
    told = desk.enqueue(text=b"".join(b'{"event":"E","properties":{"%s":NaN}}\n' % name for name in names))
    *_, last = told.stderr.splitlines()
    assert len(told.stderr.splitlines()) == 42
    assert last == "    2,960  other reasons"


@pytest.mark.parametrize("check", [(), ("--check",)])
def test_rejects_keep_what_was_refused(desk, check):
    """Every refused line is kept with its place and reason, as JSON, text or base64."""
    text = (
        event(0) + b'\n{"event":"E","properties":{"n":1.50,"time":"x"}}\nnot {JSON}\n\xff\n' + b"bad\n" * 30
    )
    text += b"x" * 5_000_000 + b"\n[%s,{}]\n" % event(1)
    desk.file("rejects", b'{"kept": "before"}\n')
    told = desk.enqueue(*check, "--rejects", "rejects", desk.file("input", text))
    assert told.returncode == 65
    before, *lines = (desk.directory / "rejects").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    assert before == '{"kept": "before"}'
    assert len(kept) == 35
    assert [one["line"] for one in kept] == [*range(2, 35), 35, 36]
    assert {one["file"] for one in kept} == {"input"}
    assert '"event": {"event":"E","properties":{"n":1.50,"time":"x"}}}' in lines[0]
    assert (kept[1]["event"], kept[1]["text"]) == (None, "not {JSON}")
    assert kept[2]["base64"] == "/w=="
    assert (kept[33]["event"], "longer than" in kept[33]["reason"]) == (None, True)
    assert kept[34]["event"] == {}
    assert "event 2 of 2" in kept[34]["reason"]
    assert "15 more refused:" in told.stderr
    assert len(desk.stored()) == (0 if check else 2)


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["--rejects", "input", "input"], 64, "this file is also an input"),
        (["--rejects", "no/such", "input"], 73, "--rejects no/such: can't be written: No such file"),
        (["--rejects", "x", "-e", "E"], 64, "no --rejects"),
    ],
)
def test_rejects_that_can_not_be_kept_are_an_error(desk, arguments, code, why):
    """Where there can be no such file nothing is taken in."""
    desk.file("input", ndjson(1))
    told = desk.enqueue(*arguments)
    assert told.returncode == code
    assert why in told.stderr
    assert desk.stored() == []


def test_rejects_that_find_no_room_stop_the_intake(desk):
    """Where refused lines can't be kept, their chunk is not in, and how to go on is said."""
    told = desk.enqueue("--rejects", "/dev/full", desk.file("input", ndjson(2) + b"bad\n"))
    assert told.returncode == 74
    assert "can't write to the file of --rejects: No space left" in told.stderr
    assert desk.stored() == []


def test_refusals_are_told_in_order(desk):
    """A line too long to be held and lines bad otherwise are told in the order of their lines, or skipped."""
    text = b"bad\n" + b"x" * 5_000_000 + b"\nbad\n" + event(0)
    for skip in range(4):
        told = desk.enqueue("--skip", str(skip), text=text)
        assert [int(line.split(":")[1]) for line in told.stderr.splitlines()] == [1, 2, 3][skip:]
        assert told.returncode == (65 if skip < 3 else 0)
    assert desk.numbers() == [0] * 4


def test_reason_is_safe_for_a_terminal(desk):
    """Control characters of the input, or of a file's name, reach the terminal only escaped."""
    name = desk.file("in\x07", b'{"event":"E","properties":{"\\u0007":[%s0]}}\n' % (b"0," * 300))
    told = desk.enqueue(name)
    assert told.returncode == 65
    assert "\x07" not in told.stderr
    assert told.stderr.count("\\x07") == 2


def test_what_follows_gzip_is_named(desk):
    """Of a gzip file with something else after it all lines are in, and the place is named."""
    told = desk.enqueue(desk.file("input.gz", gzip.compress(ndjson(3)) + b"junk"))
    assert (told.returncode, desk.numbers()) == (65, [0, 1, 2])
    assert told.stderr.startswith("input.gz:4: what follows here after the gzip data is not gzip. ")


def test_gzip_that_is_damaged_from_its_start_has_nothing_to_skip(desk):
    """Where nothing of a damaged file could be read, no --skip is proposed."""
    told = desk.enqueue(desk.file("input.gz", gzip.compress(ndjson(3))[:15]))
    assert (told.returncode, told.stdout) == (65, "accepted 0 events, refused 1\n")
    assert told.stderr.startswith("input.gz:1: ")
    assert "--skip" not in told.stderr


def test_utf16_is_refused_with_the_remedy(desk):
    """A file in UTF-16 is refused as a whole, once, with the command that converts it."""
    told = desk.enqueue(desk.file("input", ndjson(3).decode().encode("utf-16")))
    assert told.returncode == 66
    assert told.stderr.startswith("input: ")
    assert "iconv -f UTF-16" in told.stderr
    assert told.stderr.count("\n") == 1


def test_truncated_gzip_says_how_to_go_on(desk):
    """Of a gzip file that is cut short, complete lines are in; with the whole file --skip loses nothing."""
    whole = gzip.compress(b"".join(event(n, noise=os.urandom(20).hex()) + b"\n" for n in range(3000)))
    told = desk.enqueue(desk.file("input.gz", whole[: len(whole) // 2]))
    assert told.returncode == 65
    assert "cut short" in told.stderr
    taken = len(desk.stored())
    assert 0 < taken < 3000
    assert told.stderr.startswith(f"input.gz:{taken + 1}: ")
    arguments = re.search(r"continue with (--skip \d+ input.gz)", told.stderr)[1].split()
    desk.file("input.gz", whole)
    assert desk.enqueue(*arguments).returncode == 0
    assert desk.numbers() == list(range(3000))


def test_broken_array_says_how_to_go_on(desk):
    """Of an array with a syntax error, what comes before it is in, and once mended --skip loses nothing."""
    told = desk.enqueue(desk.file("a.json", b"[" + event(0) + b"," + event(1) + event(2) + b"]"))
    assert told.returncode == 65
    assert re.match(r"a\.json:3: not JSON: .* at byte \d+\. The rest was not read", told.stderr)
    assert desk.numbers() == [0, 1]
    desk.file("a.json", b"[" + b",".join(map(event, range(3))) + b"]")
    assert (
        desk.enqueue(*re.search(r"continue with (--skip 2 a.json)", told.stderr)[1].split()).returncode == 0
    )
    assert desk.numbers() == [0, 1, 2]


def test_unreadable_file_does_not_stop_the_others(desk):
    """A missing file and a directory are named, and files around them are taken in."""
    os.mkdir(desk.directory / "folder")
    told = desk.enqueue(desk.file("a", ndjson(1)), "missing", "folder", desk.file("b", b"x\n" + ndjson(1, 1)))
    assert told.returncode == 66
    assert told.stderr.splitlines()[0] == "missing: can't be read: No such file or directory"
    assert told.stderr.splitlines()[1].startswith("folder: is a directory")
    assert told.stderr.splitlines()[2].startswith("b:1: ")
    assert desk.numbers() == [0, 1]


AS_ANOTHER_USER = """
    import os, sys
    from forwarder.cli import main
    def check(file):
        try:
            main(["enqueue", "--check", file])
        except SystemExit as ended:
            return ended.code
    check(sys.argv[1])  # loads what the other user may not be able to
    if os.geteuid() == 0:
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
    sys.exit(check(sys.argv[2]))
"""


def test_forbidden_file_is_exit_77(desk):
    """A file that this user may not read is named, with exit 77."""
    good = desk.directory / desk.file("good", ndjson(1))
    with tempfile.TemporaryDirectory() as directory:  # pytest's own is closed to other users
        os.chmod(directory, 0o755)
        forbidden = Path(directory, "a")
        forbidden.touch(0)
        command = [sys.executable, "-c", textwrap.dedent(AS_ANOTHER_USER), str(good), str(forbidden)]
        told = subprocess.run(command, env=desk.environ, capture_output=True, text=True, timeout=60)
    assert told.returncode == 77
    assert told.stderr.startswith(f"{forbidden}: can't be read: permission denied")


def test_closed_standard_input_is_an_error(desk):
    """Without standard input and without a FILE there is an error, not silent success."""
    command = f'"{sys.executable}" -m forwarder enqueue <&-'
    told = subprocess.run(
        ["sh", "-c", command], env=desk.environ, capture_output=True, text=True, check=False
    )
    assert told.returncode == 66
    assert "standard input is closed" in told.stderr


def test_endless_line_takes_no_memory(desk):
    """A line of 200 MB is refused without being held: the process stays below 100 MiB."""
    with desk.start() as process:
        process.stdin.write(ndjson(1) + b'{"')
        for _ in range(200):
            process.stdin.write(b"x" * 1_000_000)
        process.stdin.flush()
        status = Path(f"/proc/{process.pid}/status").read_text()
        out, err = process.communicate(b"\n" + event(1), timeout=DEADLINE_S)
    assert (out, process.returncode) == (b"accepted 2 events, refused 1\n", 65)
    assert err == b"<stdin>:2: longer than 1000000 bytes, Mixpanel's limit\n"
    assert int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) < 100 * 1024


# Live streams, interruptions


def test_pause_commits(desk):
    """Lines of a live stream are in the queue promptly once it pauses; a line that is not whole is not."""
    with desk.start() as process:
        paused_s = []
        process.stdin.write(event(0)[:9])
        for n in range(6):
            process.stdin.write(event(n)[9:] + b"\n" + event(n + 1)[:9])
            process.stdin.flush()
            written_at = time.monotonic()
            took_s = desk.wait_for(n + 1) - written_at
            paused_s += [took_s] * (n > 0)  # the first waits for the process to start
            assert desk.numbers() == list(range(n + 1))
        out, _ = process.communicate(event(6)[9:], timeout=DEADLINE_S)
    assert (out, process.returncode) == (b"accepted 7 events\n", 0)
    assert statistics.median(paused_s) < 0.1 + 0.1, paused_s  # 0.1 s, and the commit


def test_trickle_commits(desk):
    """A stream that never pauses for long is committed all the same."""
    stop = threading.Event()

    def trickle(process: subprocess.Popen) -> None:
        n = 0
        while not stop.wait(0.005):
            process.stdin.write(event(n) + b"\n")
            process.stdin.flush()
            n += 1

    with desk.start() as process:
        writer = threading.Thread(target=trickle, args=(process,))
        writer.start()
        try:
            desk.wait_for(20)
        finally:
            stop.set()
            writer.join()
        process.communicate(timeout=DEADLINE_S)
    assert desk.numbers() == list(range(len(desk.stored())))


@pytest.mark.parametrize("form", ["lines", "array", "gzip", "csv"])
def test_interrupted_file_goes_on_with_skip(desk, form):
    """After SIGINT during a long file, --skip with the number it said loses nothing and doubles nothing."""
    padded = [event(n, pad="x" * 300) for n in range(100_000)]
    content = b"[" + b",".join(padded) + b"]" if form == "array" else b"\n".join(padded)
    if form == "csv":
        rows = (f'E,u{n},{n},"{"x" * 150}\n{"x" * 150}"\n' for n in range(100_000))
        content = b"event,distinct_id,n,pad\n" + "".join(rows).encode()
    name = desk.file("input", gzip.compress(content, 1) if form == "gzip" else content)
    with desk.start(name) as process:
        desk.wait_for(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    said = re.fullmatch(r"interrupted: (\d+) lines are done; continue with --skip (\d+)\n", err.decode())
    taken = int(said[1])
    assert 0 < taken < 100_000
    assert taken == int(said[2]) == desk.count()
    assert out.decode() == f"accepted {taken:,} events\n"
    assert desk.enqueue("--skip", said[2], name).stdout == f"accepted {100_000 - taken:,} events\n"
    assert desk.numbers() == list(range(100_000))


def test_interrupted_live_stream_says_what_is_in(desk):
    """SIGTERM ends a waiting live stream at once: complete lines are in, the begun one is not."""
    with desk.start("--json") as process:
        process.stdin.write(b"bad\n" + ndjson(3) + event(3)[:-1])
        process.stdin.flush()
        desk.wait_for(3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 143
        told = json.loads(process.stdout.read())
        assert process.stderr.read() == (
            b"<stdin>:1: not JSON: Expecting value (column 1), at 'bad'\n"
            b"interrupted: 4 lines are done; continue with --skip 4\n"
        )
    assert told == {"accepted": 3, "refused": 1, "lines": 4, "ids": "1-3"}
    assert desk.numbers() == [0, 1, 2]


def test_waiting_fifo_can_be_interrupted(desk):
    """SIGHUP, as when its terminal is closed, ends a process that waits for a FIFO's writer."""
    os.mkfifo(desk.directory / "fifo")
    with desk.start(desk.file("a", ndjson(1)), "fifo") as process:
        desk.wait_for(1)
        process.send_signal(signal.SIGHUP)
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 129
    assert err == b"interrupted: 1 line is done; continue with --skip 1\n"


def test_interruption_leaves_out_files_that_could_not_be_read(desk):
    """When a file could not be read before the interruption, --skip counts without it and says so."""
    whole, cut = gzip.compress(ndjson(5)), gzip.compress(ndjson(5))[:-4]
    assert whole != cut
    desk.file("cut.gz", cut)
    with desk.start("missing", "cut.gz", desk.file("a", ndjson(2, 5)), "-") as process:
        desk.wait_for(7)
        process.send_signal(signal.SIGINT)
        process.wait(DEADLINE_S)  # before its input is closed, whose end would be as good a reason to stop
        err = process.stderr.read()
    assert err.splitlines()[-1] == (
        b"interrupted: 7 lines are done; continue with --skip 2, leaving out missing cut.gz"
    )


def test_full_queue_says_how_to_go_on(desk):
    """When the queue is full during a file, it ends with 75, and --skip later loses and doubles nothing."""
    name = desk.file("input", ndjson(100_000))
    limit = {"FORWARDER_QUEUE_MAX_BYTES": "4MiB"}
    told = desk.enqueue(name, env={**desk.environ, **limit})
    assert told.returncode == 75
    taken = int(re.search(r"(\d+) lines are done; continue with --skip \1\n", told.stderr)[1])
    assert 0 < taken < 100_000
    assert "othing was stored" not in told.stderr
    assert taken == desk.count()
    assert desk.enqueue("--skip", str(taken), name).returncode == 0
    assert desk.numbers() == list(range(100_000))


# Options


def test_skip_counts_over_all_files(desk):
    """--skip counts lines over all files, blank and bad ones included, and elements of an array."""
    lines = desk.file("a", b"bad\n\n" + ndjson(2))
    array = desk.file("b", b"[" + b",\n".join([event(2), b"3", event(3)]) + b"]")
    for skip, expected, bad in (
        (1, [0, 1, 2, 3], 1),
        (3, [1, 2, 3], 1),
        (5, [3], 1),
        (6, [3], 0),
        (7, [], 0),
    ):
        before = len(desk.stored())
        told = desk.enqueue("--skip", str(skip), lines, array)
        assert desk.numbers()[before:] == expected
        assert (told.returncode, told.stderr.count("\n")) == ((65, 1) if bad else (0, 0))


def test_skip_keeps_line_numbers(desk):
    """A refusal names the line of the file, whatever was skipped."""
    assert desk.enqueue("--skip", "2", text=ndjson(3) + b"bad\n").stderr.startswith("<stdin>:4: ")


def test_skip_beyond_the_end_is_an_error(desk):
    """--skip with more lines than there are is an error: it can't be the same input."""
    told = desk.enqueue("--skip", "4", text=ndjson(3))
    assert told.returncode == 66
    assert "no more than 3 lines" in told.stderr
    assert desk.enqueue("--skip", "3", text=ndjson(3)).returncode == 0
    assert desk.stored() == []


def test_skip_needs_the_files_it_counts(desk):
    """A file that can't be read, where lines are still to be skipped, ends it: the count would be off."""
    told = desk.enqueue("--skip", "2", "missing", desk.file("a", ndjson(3)))
    assert told.returncode == 66
    assert "missing: can't be read" in told.stderr
    assert desk.stored() == []


def test_check_stores_nothing(desk):
    """--check reports as usual and needs no queue, and makes none."""
    told = desk.enqueue("--check", text=ndjson(2) + b"bad\n")
    assert (told.returncode, told.stdout) == (65, "would accept 2 events, refused 1\n")
    assert told.stderr.startswith("<stdin>:3: not JSON")
    assert not desk.path.exists()


def test_no_check_leaves_the_rules_to_mixpanel(desk):
    """--no-check takes what breaks only Mixpanel's rules, completed; what is no event is still refused."""
    odd = b'{"event": "E", "properties": {"n": 1, "distinct_id": "anon"}}\n'
    assert desk.enqueue(text=odd).returncode == 65
    told = desk.enqueue("--no-check", text=odd + b"bad\n")
    assert (told.returncode, told.stdout) == (65, "accepted 1 event, refused 1\n")
    properties = json.loads(desk.stored()[0])["properties"]
    assert properties.keys() == {"n", "distinct_id", "time", "$insert_id"}


def test_json_counts(desk):
    """--json prints one object with what was accepted and refused, and how many lines there were."""
    told = desk.enqueue("--json", text=ndjson(2) + b"\nbad\n")
    assert json.loads(told.stdout) == {"accepted": 2, "refused": 1, "lines": 4, "ids": "1-2"}


def test_one_event_by_options(desk):
    """Every option that describes one event ends up in it; raw JSON is kept as it was written."""
    told = desk.enqueue(
        *("-e", "Größe", "-d", "u=1", "-p", "plan=p=q", "-p", "n:=1.10", "-p", 'list:=[1, {"a": null}]'),
        *("-p", "empty=", "--time", "2025-01-31T12:00:00+02:00", "--insert-id", "abc-1"),
    )
    assert (told.returncode, told.stdout, told.stderr) == (0, "accepted 1 event\n", "")
    (data,) = desk.stored()
    assert b'"n":1.10,' in data
    assert json.loads(data) == {
        "event": "Größe",
        "properties": {
            "distinct_id": "u=1",
            "time": 1738317600000,
            "$insert_id": "abc-1",
            "plan": "p=q",
            "n": 1.10,
            "list": [1, {"a": None}],
            "empty": "",
        },
    }


def test_one_event_is_completed(desk):
    """An event of a name alone gets its time and id."""
    before_ms = time.time_ns() // 1_000_000
    told = json.loads(desk.enqueue("--json", "-e", "E").stdout)
    assert told == {"accepted": 1, "refused": 0, "lines": 1, "ids": "1"}
    properties = json.loads(desk.stored()[0])["properties"]
    assert before_ms <= properties["time"] <= time.time_ns() // 1_000_000
    assert re.fullmatch("[0-9A-Za-z-]{1,36}", properties["$insert_id"])


def test_one_refused_event(desk):
    """One event that breaks a rule is refused with the reason, exit 65."""
    told = desk.enqueue("-e", "E", "-d", "anonymous")
    assert (told.returncode, told.stdout) == (65, "accepted 0 events, refused 1\n")
    assert "distinct_id" in told.stderr
    assert desk.stored() == []


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("1738317600", 1738317600),
        ("1738317600.5", 1738317600500),
        ("1738317600123", 1738317600123),
        ("1738317600123456", 1738317600123),
        ("2025-01-31T10:00:00Z", 1738317600000),
        ("2025-01-31 10:00:00.25+00:00", 1738317600250),
    ],
)
def test_forms_of_time(desk, given, stored):
    """--time takes seconds, milliseconds and ISO 8601."""
    assert desk.enqueue("-e", "E", "--time", given).returncode == 0
    assert json.loads(desk.stored()[0])["properties"]["time"] == stored


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["-e", "E", "-d", "u", "file"], "describe one event"),
        (["-e", "E", "--skip", "1"], "no --skip"),
        (["-d", "u1"], "-e NAME"),
        (["-p", "a=b"], "-e NAME"),
        (["-e", "E", "-p", "a"], "KEY=TEXT"),
        (["-e", "E", "-p", "=b"], "KEY=TEXT"),
        (["-e", "E", "-p", ":=1"], "KEY=TEXT"),
        (["-e", "E", "-p", "a:=b"], "not JSON"),
        (["-e", "E", "-p", 'a:=1,"b":2'], "not JSON"),
        (["-e", "E", "-p", "a:=NaN"], "NaN"),
        (["-e", "E", "-p", "a=1", "-p", "a:=2"], "given twice"),
        (["-e", "E", "-d", "u", "-p", "distinct_id=v"], "given twice"),
        (["-e", "E", "--time", "2025-01-31T12:00:00"], "time zone"),
        (["-e", "E", "--time", "noon"], "ISO 8601"),
        (["-e", "E", "-p", "time=1738317600"], "-p time:=NUMBER"),
        (["-e", "E", "-p", "time=2025-01-31T10:00:00Z"], "Write --time T"),
        (["-e", b"\xff"], "not UTF-8"),
        (["--skip", "-1"], "--skip"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value[-1]),
)
def test_usage_errors(desk, arguments, why):
    """A command line that contradicts itself or can't be understood is exit 64 and stores nothing."""
    told = desk.enqueue(*arguments)
    assert told.returncode == 64
    assert why in told.stderr
    assert not desk.path.exists()


# The terminal and the pipes around it


def test_reader_of_refusals_may_go(desk):
    """When whoever reads standard error goes away, the events are still taken in."""
    (read_fd, write_fd) = os.pipe()
    os.close(read_fd)
    told = desk.enqueue(text=b"bad\n" * 20_000 + ndjson(2), stderr=write_fd)
    os.close(write_fd)
    assert (told.returncode, told.stdout) == (65, "accepted 2 events, refused 20,000\n")
    assert desk.numbers() == [0, 1]


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_count_that_finds_no_room_is_told_elsewhere(desk, arguments):
    """With standard output on a full device it ends with 74, and standard error says how many are in."""
    with open("/dev/full", "wb") as full:
        told = desk.enqueue(*arguments, text=ndjson(2), stdout=full)
    assert told.returncode == 74
    count, error = told.stderr.splitlines()
    assert count == "accepted 2 events"
    assert error == "forwarder: can't write to standard output: No space left on device"
    assert desk.numbers() == [0, 1]


def test_reader_of_the_count_may_go(desk):
    """When nobody reads standard output, the exit code is still that of the intake, and nothing is said."""
    (read_fd, write_fd) = os.pipe()
    os.close(read_fd)
    told = desk.enqueue(text=ndjson(2), stdout=write_fd)
    os.close(write_fd)
    assert (told.returncode, told.stderr) == (0, "")


def read_terminal(fd: int) -> bytes:
    """What was shown on a terminal since the last reading; b"" when its last user has gone."""
    try:
        return os.read(fd, 65536)
    except OSError:  # how Linux tells it
        return b""


def test_long_input_shows_a_bar_on_a_terminal(desk):
    """Input that takes longer than a second shows a bar, and refusals stay whole lines above it."""
    ours, theirs = os.openpty()
    shown, parts = bytearray(), 0
    seen = threading.Event()

    def feed(stdin) -> None:
        nonlocal parts
        with stdin:
            while not seen.wait(0.02):
                stdin.write(b"bad\n" + ndjson(9))
                stdin.flush()
                parts += 1

    with desk.start(stderr=theirs, env={**desk.environ, "TERM": "xterm"}) as process:
        os.close(theirs)
        writer = threading.Thread(target=feed, args=(process.stdin,))
        writer.start()
        try:
            while piece := read_terminal(ours):
                shown += piece
                if b" events" in shown and re.search("[━╸]", shown.decode(errors="ignore")):
                    seen.set()
        finally:
            seen.set()
            writer.join()
            os.close(ours)
        assert process.stdout.read() == f"accepted {9 * parts:,} events, refused {parts:,}\n".encode()
    assert re.search("[━╸]", shown.decode())
    numbers = [int(n) for n in re.findall(r"^<stdin>:(\d+): not JSON", plain(shown.decode()), re.MULTILINE)]
    assert numbers == list(range(1, 10 * parts, 10))[:20]


def plain(shown: str) -> str:
    """What a terminal was sent, without the sequences that move the cursor and colour."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n")


def test_short_input_shows_no_bar(desk):
    """Input that is taken in at once shows nothing on the terminal."""
    ours, theirs = os.openpty()
    with desk.start(desk.file("input", ndjson(3)), stderr=theirs) as process:
        os.close(theirs)
        assert read_terminal(ours) == b""
        os.close(ours)
        assert process.communicate(timeout=DEADLINE_S)[0] == b"accepted 3 events\n"


def test_terminal_as_input_says_what_is_expected(desk):
    """Without a FILE, on a terminal, the command says that it reads from there; Ctrl-D ends it."""
    ours, theirs = os.openpty()
    with desk.start(stdin=theirs) as process:
        os.close(theirs)
        os.write(ours, ndjson(1))
        desk.wait_for(1)
        os.write(ours, b"\x04")
        out, err = process.communicate(timeout=DEADLINE_S)
        os.close(ours)
    assert out == b"accepted 1 event\n"
    assert b"Ctrl-D" in err


def test_producer_starts_light():
    """Taking in events loads neither the network half nor the progress bar."""
    code = (
        "import sys; from forwarder.cli import main\n"
        "try: main(['enqueue', '--check', '-e', 'E'])\n"
        "except SystemExit: pass\n"
        "unused = {'requests', 'rich', 'structlog', 'isal', 'ssl', 'urllib3', 'forwarder.records.verdict'}\n"
        "print(*(unused & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "would accept 1 event\n\n"
