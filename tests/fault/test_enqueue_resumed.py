"""P1, P2: ``enqueue --resume``, killed at any moment, stores each line once, though it has no id."""

import json
import os
import random
import signal
import subprocess
import sys

import pytest

from forwarder.spool import EventQueue
from tests.conftest import each_engine

SEED = int(os.environ.get("FORWARDER_TEST_SEED", "20261"))
# Some lines a commit, so that there is much to interrupt. From the block KILL_AT on it is killed in KILL_S;
# before the block HALT_AT it waits for its standard input.
PROGRAM = """
import itertools, os, threading
import forwarder.records.reading.source as source
from forwarder.cli import main
source.BLOCK_BYTES = 700
blocks = itertools.count()
read_block = source.Source.read_block
def read(self):
    block = str(next(blocks))
    if block == os.environ.get("KILL_AT"):
        threading.Timer(float(os.environ["KILL_S"]), os.kill, (os.getpid(), 9)).start()
    if block == os.environ.get("HALT_AT"):
        print("halted", flush=True)
        input()
    return read_block(self)
source.Source.read_block = read
main()
"""


def line(number):
    return json.dumps({"event": "E", "properties": {"n": number}}) + "\n"


def is_bad(number):
    return number % 100 == 7


def text(numbers):
    return "".join("bad\n" if is_bad(number) else line(number) for number in numbers)


@pytest.fixture
def stored(rows, queue_path):
    """The numbers of the events in the queue, which is there."""
    EventQueue(queue_path).close()

    def look():
        return [json.loads(data)["properties"]["n"] for data in rows(queue_path)]

    return look


@pytest.fixture
def start(forwarder, tmp_path):
    """Start the command for files in the test's directory, with small chunks."""
    started = []

    def run(*arguments, **environ):
        command = [sys.executable, "-c", PROGRAM, "enqueue", "--resume", *arguments]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        environ = {name: str(value) for name, value in environ.items()}
        started.append(
            subprocess.Popen(command, env=forwarder.environ | environ, cwd=tmp_path, text=True, **pipes)
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


@each_engine
def test_killed_again_and_again(start, stored, tmp_path):
    """Each line of two files is in once, in order, one of which grows; what is refused is kept each time."""
    chance = random.Random(SEED)
    arguments = ("--rejects", "rejects", "a", "b")
    (tmp_path / "a").write_text(text(range(1000)))
    (tmp_path / "b").write_text(text(range(5000, 5500)))
    kills = [0]
    for _ in range(5):
        # The blocks up to where it is in are read twice.
        at = kills[-1] // 6 + chance.randrange(1, 15)
        process = start(*arguments, KILL_AT=at, KILL_S=chance.random() * 0.01)
        process.communicate(timeout=60)
        if process.returncode != -signal.SIGKILL:
            break
        kills.append(len(stored()))
    assert len({*kills}) > 2, "it was hardly killed while it stored"
    with (tmp_path / "a").open("a") as file:
        file.write(text(range(1000, 1200)))
    before = len(stored())
    last = start(*arguments)
    out, err = last.communicate(timeout=60)
    assert last.returncode in (0, 65), err
    assert f"accepted {len(stored()) - before:,} events" in out
    # The end of a, which has grown, is behind the begin of b.
    expected = [number for number in [*range(1200), *range(5000, 5500)] if not is_bad(number)]
    assert sorted(stored()) == expected
    kept = {
        (each["file"], each["line"])
        for each in map(json.loads, (tmp_path / "rejects").read_text().splitlines())
    }
    assert kept == {("a", n + 1) for n in range(1200) if is_bad(n)} | {
        ("b", n + 1) for n in range(500) if is_bad(n)
    }
    again = start(*arguments)
    out, err = again.communicate(timeout=60)
    assert (again.returncode, out) == (0, "accepted 0 events\n")
    assert err == (
        "a: 1,200 lines are in already, going on with line 1,201\n"
        "b: 500 lines are in already, going on with line 501\n"
    )


@each_engine
def test_two_at_once(start, stored, tmp_path):
    """One that was overtaken by an equal command stops with 75 and says why; each line is in once."""
    (tmp_path / "a").write_text("".join(map(line, range(1500))))
    first = start("a", HALT_AT=5)
    assert first.stdout.readline() == "halted\n"
    assert 0 < len(stored()) < 1500
    second = start("a")
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert "lines are in already" in err
    out, err = first.communicate("\n", timeout=60)
    assert first.returncode == 75, out
    assert "/a is being stored by another process at the same time" in err
    assert "the same command continues" in err
    assert stored() == [*range(1500)]
