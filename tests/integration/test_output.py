"""Standard output that can't be written, or that nobody reads any more: all commands end alike."""

import os
import subprocess
import sys

import pytest

from forwarder.spool import Dead, EventQueue, Settlement
from forwarder.spool.sqlite.consumer import Consumer

COMMANDS = [
    "--help",
    "--version",
    "enqueue --help",
    "status",
    "status --json",
    "status --watch",
    "peek",
    "peek --json",
    "config show",
    "config show --json",
    "check",
    "check --json",
    "dead-letters list",
    "dead-letters summary",
    "dead-letters show 1",
    "dead-letters export --all",
    "dead-letters export 1 --with-reason",
    "dead-letters retry 1 --dry-run",
    "pause",
    "resume",
    "drain --timeout 0",
    "sandbox --port 0",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run a command on a queue in which an event waits and one is dead, with that standard output."""
    path = str(tmp_path_factory.mktemp("output") / "queue")
    consumer = Consumer(path)
    with EventQueue(path, min_free_bytes=0) as queue:
        queue.put_many([{"event": "E", "properties": {}}] * 2)
    batch = consumer.claim_behind(0, 1, 10**6)
    letter = Dead(batch.ids[0], batch.events[0], "bad thing", "properties.n", 400)
    consumer.settle(Settlement(batch.ids, [letter], http_status=400))
    consumer.close()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FORWARDER_")}
    # Buffered, as people run it: what can't be flushed at the interpreter's exit is a fault of its own.
    environ.pop("PYTHONUNBUFFERED", None)
    environ |= {
        "FORWARDER_CONFIG": os.devnull,
        "FORWARDER_QUEUE_PATH": path,
        "FORWARDER_QUEUE_MIN_FREE_BYTES": "0",
        "FORWARDER_MIXPANEL_TOKEN": "token",
        "FORWARDER_MIXPANEL_URL": "http://127.0.0.1:9",
        "FORWARDER_LOG_LEVEL": "error",
    }

    def command(line, unbuffered=False, **streams):
        done = subprocess.run(
            [sys.executable, "-m", "forwarder", *line.split()],
            env=environ | ({"PYTHONUNBUFFERED": "1"} if unbuffered else {}),
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
        )
        return done.returncode, (done.stdout or b"").decode(), (done.stderr or b"").decode()

    return command


@pytest.fixture
def unread():
    """A pipe whose reader has gone."""
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    yield write_fd
    os.close(write_fd)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_full_device_is_said(line, run):
    """What can't be written for lack of room ends a command with 74 and that sentence alone."""
    with open("/dev/full", "wb") as full:
        code, _, err = run(line, stdout=full)

    assert (code, err) == (74, "forwarder: can't write to standard output: No space left on device\n")


@pytest.mark.parametrize("line", COMMANDS)
def test_a_reader_that_has_gone_is_no_news(line, run, unread):
    """When nobody reads any more, a command ends silently with 141, as if by SIGPIPE."""
    assert run(line, stdout=unread) == (141, "", "")


@pytest.mark.parametrize("line", ["status", "--help"])
def test_buffering_makes_no_difference(line, run, unread):
    """With PYTHONUNBUFFERED set, both are as they are without."""
    with open("/dev/full", "wb") as full:
        assert run(line, unbuffered=True, stdout=full)[0] == 74
    assert run(line, unbuffered=True, stdout=unread) == (141, "", "")


@pytest.mark.parametrize(("line", "expected"), [("config show", 0), ("peek -n 0", 64), ("flush", 69)])
def test_standard_error_that_fails_changes_no_exit_code(line, expected, run, unread):
    """What can't be said on standard error is left unsaid: the exit code is still the command's own."""
    out = run(line)[1]
    with open("/dev/full", "wb") as full:
        assert run(line, stderr=full)[:2] == (expected, out)
    assert run(line, stderr=unread)[:2] == (expected, out)


def test_closed_standard_output_is_nobody(run):
    """Started without a standard output, a command does its work and ends as ever."""
    script = f'"{sys.executable}" -m forwarder --version >&-; echo $?'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert (done.stdout, done.stderr) == ("0\n", "")
