"""``enqueue --ack``: each line of a pipe gets its answer when it is stored."""

import codecs
import json
import signal
import subprocess
import sys

import pytest

from tests.conftest import each_engine


def line(n):
    return json.dumps({"event": "E", "properties": {"n": n}}).encode() + b"\n"


@pytest.fixture
def start(forwarder):
    """Start the command with a pipe at each end."""
    started = []

    def run(*arguments, **environ):
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, "-m", "forwarder", "enqueue", "--ack", *arguments]
        started.append(subprocess.Popen(command, env=forwarder.environ | environ, **pipes))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def ask(process, *lines):
    """Give it *lines* at once; the answers."""
    process.stdin.write(b"".join(lines))
    process.stdin.flush()
    return [process.stdout.readline().decode().removesuffix("\n") for _ in lines]


@each_engine
def test_answers_come_while_the_pipe_is_open(start, rows, queue_path):
    """One after the other, and many at once in one commit: with the answer it is stored, by that id."""
    process = start()
    for number in (1, 2):
        assert ask(process, line(number)) == [str(number)]
        assert len(rows(queue_path)) == number
    assert ask(process, *map(line, range(3, 503))) == [str(number) for number in range(3, 503)]
    assert [json.loads(data)["properties"]["n"] for data in rows(queue_path)] == [*range(1, 503)]
    out, err = process.communicate()
    assert (process.returncode, out, err) == (0, b"", b"")


def test_many_at_once_are_one_commit(start, sql, queue_path):
    """What has come together has the same moment of acceptance."""
    process = start()
    ask(process, line(0))
    ask(process, *map(line, range(500)))
    commits = "SELECT count(*) FROM ack_queue_default GROUP BY timestamp ORDER BY min(_id)"
    assert sql(queue_path, commits) == [(1,), (500,)]


def test_each_line_gets_one_answer(start):
    """Blank and bad ones, arrays, one that is too long, and the last without its end, in their order."""
    text = [line(1), b"\n", b"bad\n", b" \r\n", b"[" + line(2)[:-1] + b"]\n", b"x" * 3_000_000 + b"\n"]
    text += [line(3)[:-1] + b"\r\n", codecs.BOM_UTF8 + line(4), b'{"event": "\xff"}\n', line(5)[:-1]]
    out, err = start().communicate(b"".join(text))
    answers = out.decode().splitlines()
    beginnings = [
        "1", "refused the line is blank", "refused not JSON", "refused the line is blank",
        "refused not an event", "refused 1", "2", "refused not JSON", "refused not UTF-8", "3",
    ]  # fmt: skip
    assert [answer[: len(begin)] for answer, begin in zip(answers, beginnings, strict=True)] == beginnings
    assert "Mixpanel's limit" in answers[5]
    assert err == b""


def test_full_queue_says_later(start, forwarder):
    """It goes on: what is given again when there is room is stored."""
    process = start(FORWARDER_QUEUE_MAX_BYTES=str(1 << 20))
    big = json.dumps({"event": "E", "properties": {"x": "y" * 600_000}}).encode() + b"\n"
    assert [*ask(process, big), *ask(process, big)] == ["1", "2"]
    later, refused = ask(process, big, b"bad\n")
    assert refused.startswith("refused not JSON")
    assert later.startswith("later the queue in ")
    assert "try again" in later
    assert forwarder("waiting", "delete", "--all", "--yes").returncode == 0
    assert ask(process, big) == ["3"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_ended_by_a_signal(start, rows, queue_path, number):
    """What was answered is stored, and no more is; the exit code says the signal."""
    process = start()
    assert ask(process, line(1), line(2)) == ["1", "2"]
    process.stdin.write(line(3)[:-1])
    process.stdin.flush()
    process.send_signal(number)
    assert process.wait(20) == (-number if number == signal.SIGKILL else 128 + number)
    assert (process.stdout.read(), process.stderr.read()) == (b"", b"")
    assert len(rows(queue_path)) == 2


def test_nobody_reads_the_answers(start):
    """It ends without a word."""
    process = start()
    assert ask(process, line(1)) == ["1"]
    process.stdout.close()
    process.stdin.write(line(2))
    process.stdin.flush()
    assert process.wait(20) == 141
    assert process.stderr.read() == b""


@pytest.mark.parametrize(
    "argument", ["file", "-eE", "--check", "--skip=1", "--resume", "--rejects=r", "--wait", "--json"]
)
def test_only_answers_lines(run, argument):
    """With what is for files or for one event, it is exit 64."""
    code, out, err = run("enqueue", "--ack", argument)
    assert (code, out) == (64, "")
    assert "--ack only answers the lines of standard input" in err


def test_locale_that_can_not_write_a_reason(start):
    """The answers are UTF-8, as the lines are: what is stored beside that line gets its answer."""
    process = start(PYTHONIOENCODING="ascii")
    refused = '{"event": "E", "properties": {"distinct_id": "日本", "time": "ü"}}\n'.encode()
    answers = ask(process, line(1), refused)
    assert answers[0] == "1"
    assert "'ü'" in answers[1]


@pytest.mark.parametrize(("closed", "code"), [("0<&-", 66), ("1>&-", 74)])
def test_closed_pipe_is_an_error(forwarder, rows, queue_path, closed, code):
    """Before anything is read: no other file that has its number is taken for it, and nothing is stored."""
    command = f'exec "{sys.executable}" -m forwarder enqueue --ack {closed}'
    done = subprocess.run(
        ["sh", "-c", command], input=line(1), env=forwarder.environ, capture_output=True, timeout=30
    )
    assert done.returncode == code
    assert b"is closed" in done.stderr
    assert b"Traceback" not in done.stderr
    assert rows(queue_path) == []
