"""Logging: how a line looks, what is never in it, and what of a long failure is told."""

import json
import logging
import os
import re
import socket
import threading
from contextlib import suppress
from io import StringIO

import pytest
import structlog

from forwarder import log
from forwarder.log import journald

SECRET = "0123456789abcdef"
UNTYPICAL = "a\nb\r\x1b[31m\x9b\u2028\u202e<3>forged"


@pytest.fixture(autouse=True)
def fresh_logging(monkeypatch, tmp_path):
    """Each test configures logging for itself, leaves nothing behind, and writes into no host's journal."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    monkeypatch.setattr(journald, "SOCKET", str(tmp_path / "no-journal"))
    handlers = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers[:] = handlers
    structlog.reset_defaults()


@pytest.fixture
def lines():
    """Configure logging to a text and give a function that returns its lines."""
    stream = StringIO()

    def configured(format, level="info"):
        log.configure(level, format, stream)
        return lambda: stream.getvalue().splitlines()

    return configured


@pytest.fixture
def journal(monkeypatch):
    """A stream that looks like the journal's, and a function that returns the lines it got."""
    reading, writing = socket.socketpair()
    status = os.fstat(writing.fileno())
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    with reading, writing, writing.makefile("w", encoding="utf-8") as stream:
        yield stream, lambda: reading.recv(65536).decode().splitlines()


def test_json_lines_are_objects_with_utc_time_level_message_and_fields(lines):
    """A JSON line has the time in UTC with milliseconds, level, message, part and fields, in this order."""
    read = lines("json")

    log.get("delivery").warning("batch.delayed", events=3, reason="déjà", wait_s=1.5)

    (line,) = read()
    fields = json.loads(line)
    assert line.isascii()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fields.pop("timestamp"))
    assert list(fields.items()) == [
        ("level", "warning"),
        ("event", "batch.delayed"),
        ("part", "delivery"),
        ("events", 3),
        ("reason", "déjà"),
        ("wait_s", 1.5),
    ]


def test_console_lines_are_for_people(lines):
    """A console line has time, level, message and fields, with quotes where a value needs them."""
    read = lines("console")

    log.get("delivery").info("batch.delivered", events=3, path="/a b", empty="", ok=True)

    (line,) = read()
    assert re.fullmatch(
        r"\S+Z info    batch\.delivered part=delivery events=3 path=\"/a b\" empty=\"\" ok=true", line
    )


def test_where_the_journal_is_not_there_a_line_has_a_priority_and_no_time(journal):
    """Without the journal's socket a line begins with its priority, see sd-daemon(3), without the time."""
    stream, read = journal
    log.configure("debug", "auto", stream)
    logger = log.get("service")

    for tell in (logger.debug, logger.info, logger.warning, logger.error, logger.critical):
        tell("daemon.started", pid=7)

    assert read() == [f"<{priority}>daemon.started part=service pid=7" for priority in (7, 6, 4, 3, 2)]


def test_auto_is_console_on_a_terminal():
    """On a terminal a person reads along."""
    leader, follower = os.openpty()
    with open(leader, "rb", buffering=0), open(follower, "w") as terminal:
        assert log.style("auto", terminal, {}) == "console"


def test_auto_is_json_for_files_pipes_and_containers(tmp_path):
    """What neither a terminal nor the journal reads is for a program."""
    with open(tmp_path / "log", "w") as file:
        assert log.style("auto", file, {}) == "json"
        assert log.style("auto", file, {"JOURNAL_STREAM": "8:1234567"}) == "json"
    assert log.style("auto", StringIO(), {}) == "json"
    assert log.style("auto", None, {}) == "json"


def test_auto_trusts_the_journals_variable_only_for_the_journals_stream(journal, tmp_path):
    """A child of a service whose output goes elsewhere inherits the variable and is not fooled by it."""
    stream, _ = journal
    with open(tmp_path / "log", "w") as file:
        assert log.style("auto", file, os.environ) == "json"
    assert log.style("auto", stream, os.environ) == "journal"


@pytest.mark.parametrize("format", ["console", "json", "journal"])
def test_a_named_format_is_kept_everywhere(format, journal):
    """Who names a format gets it, under the journal too."""
    stream, _ = journal

    assert log.style(format, stream, os.environ) == format


@pytest.mark.parametrize("format", ["console", "json", "journal"])
def test_nothing_in_a_value_breaks_a_line(format, lines, journal):
    """Line breaks, terminal controls and forged priorities in a field or message stay in their line."""
    stream, read = journal
    if format == "journal":
        log.configure("info", "auto", stream)
    else:
        read = lines(format)

    log.get("x").info(UNTYPICAL, **{UNTYPICAL: UNTYPICAL, "nested": {UNTYPICAL: [UNTYPICAL]}, "bell": "\a"})

    (line,) = read()
    assert line.isprintable()
    assert not line.startswith("<3>")


@pytest.mark.parametrize("format", ["console", "json"])
@pytest.mark.parametrize(
    "fields",
    [
        {"secret": SECRET},
        {"token": SECRET},
        {"project_token": SECRET},
        {"Password": SECRET},
        {"password": [SECRET]},
        {"headers": {"Authorization": f"Basic {SECRET}"}},
        {"headers": [{"Proxy-Authorization": SECRET}]},
        {"url": f"https://me:{SECRET}@example.com/import"},
        {"error": ValueError(f"no way to https://{SECRET}@example.com")},
        {"data": SECRET},
        {"properties": {"plan": SECRET}},
        {"dead_letter": {"properties": {"plan": SECRET}}},
        {"line": SECRET.encode()},
        {"line": bytearray(SECRET.encode())},
    ],
)
def test_secrets_and_payloads_are_not_logged(format, fields, lines):
    """Fields named for a secret or an event's data, raw bytes and a URL's password don't get into a line."""
    read = lines(format)

    log.get("x").error("request.failed", **fields)

    (line,) = read()
    assert "request.failed" in line
    assert SECRET not in line


def test_harmless_neighbours_of_secrets_are_logged(lines):
    """A field about a secret's place is no secret, and a missing one is told as missing."""
    read = lines("json")

    log.get("x").info("key.loaded", secret_file="/run/key", tokens=3, token=None)

    fields = json.loads(read()[0])
    assert (fields["secret_file"], fields["tokens"], fields["token"]) == ("/run/key", 3, None)


def test_any_value_can_be_logged(lines):
    """No value makes logging fail, and a JSON line stays JSON."""

    class Broken:
        def __str__(self):
            raise RuntimeError("no text")

    circle = {}
    circle["self"] = circle
    read = lines("json")

    log.get("x").info(
        "thing.seen",
        nan=float("nan"),
        infinite=float("-inf"),
        huge=10**5000,
        broken=Broken(),
        circle=circle,
        error=OSError(28, "No space left"),
        long="x" * 100_000,
        many=list(range(100_000)),
        keys={1: 2, None: 3},
        surrogate="\udcff",
        level="mine",
        timestamp="mine",
    )

    (line,) = read()
    fields = json.loads(line, parse_constant=pytest.fail)
    assert fields["error"] == "OSError: [Errno 28] No space left"
    assert fields["broken"] == "[Broken can't be shown: RuntimeError]"
    assert fields["level"] == "info"
    assert fields["level_"] == fields["timestamp_"] == "mine"
    assert len(line) < 5000


def test_tracebacks_stand_below_in_a_console_and_inside_elsewhere(lines):
    """On the console a traceback stands below and no line of it passes for a message; JSON has it inside."""
    for format in ("console", "json"):
        read = lines(format)
        before = len(read())
        try:
            raise ValueError("\x1b[2Jfirst\n2026-01-01 info forged")
        except ValueError:
            log.get("x").exception("daemon.failed")
        first, *rest = read()[before:]

        if format == "console":
            assert "error   daemon.failed" in first
            assert rest[-1] == "    | 2026-01-01 info forged"
            assert all(line.startswith("    | ") and line.isprintable() for line in rest)
        else:
            assert rest == []
            assert "first\n2026" in json.loads(first)["traceback"]


def test_lower_levels_are_left_out(lines):
    """Below its level nothing is logged."""
    read = lines("console", "warning")
    logger = log.get("x")

    logger.debug("a.b")
    logger.info("a.b")
    logger.warning("c.d")
    logger.error("e.f")

    assert [line.split()[2] for line in read()] == ["c.d", "e.f"]


def test_a_logger_got_early_follows_a_later_configuration(lines):
    """A logger got at import follows the settings, and their reload."""
    logger = log.get("x")
    read = lines("json", "error")
    logger.info("a.b")
    lines("console", "info")
    logger.info("c.d")

    (line,) = read()
    assert "info    c.d" in line


def test_unconfigured_logging_stays_off_standard_output(capfd):
    """Before anything is configured, messages go to standard error: standard output is for results."""
    log.get("x").warning("a.b")

    out, err = capfd.readouterr()
    assert out == ""
    assert "a.b" in err


def test_warnings_of_libraries_are_logged_once(lines):
    """What a library warns of is a line like ours, once also after a reload; its chatter is not logged."""
    lines("json")
    read = lines("json")

    logging.getLogger("urllib3.connectionpool").warning("Connection pool is %s", "full")
    logging.getLogger("urllib3.connectionpool").info("Starting new connection")

    (line,) = read()
    fields = json.loads(line)
    assert fields["event"] == "library.logged"
    assert fields["part"] == "urllib3.connectionpool"
    assert fields["message"] == "Connection pool is full"


def test_a_line_that_cannot_be_written_stops_nobody():
    """With the log's disk full, its reader gone or its stream closed, the caller goes on."""
    reading, writing = os.pipe()
    os.close(reading)
    for stream in (open("/dev/full", "w"), open(writing, "w"), open(os.devnull, "w")):  # noqa: SIM115
        if stream.name == os.devnull:
            stream.close()
        log.configure("info", "json", stream)
        log.get("x").info("a.b")
        with suppress(OSError):
            stream.close()  # tries once more what could not be written


def test_lines_of_threads_do_not_mix(tmp_path):
    """Lines written at the same moment come out whole."""
    path = tmp_path / "log"
    with open(path, "w") as stream:
        log.configure("info", "json", stream)
        start = threading.Barrier(8)

        def write():
            start.wait()
            for number in range(50):
                log.get("x").info("a.b", number=number, text="x" * 500)

        threads = [threading.Thread(target=write) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    numbers = [json.loads(line)["number"] for line in path.read_text().splitlines()]
    assert sorted(numbers) == sorted(list(range(50)) * 8)


# Repeats


def test_a_failure_is_told_at_first_then_ever_less_often():
    """A failure each second for two hours is told at once, then at doubling distances of at most an hour."""
    repeats = log.Repeats(interval_s=60, longest_s=3600)

    told = {now: repeat for now in range(7200) if (repeat := repeats.failed("timeout", 1000 + now))}

    assert list(told) == [0, 60, 180, 420, 900, 1860, 3780]
    assert told[0] == log.Repeat(failures=1, for_s=0)
    assert told[3780] == log.Repeat(failures=3781, for_s=3780)


def test_reminders_are_never_further_apart_than_the_longest():
    """However long it lasts, a failure is told again after the longest distance."""
    repeats = log.Repeats(interval_s=1, longest_s=4)

    assert [now for now in range(20) if repeats.failed("timeout", now)] == [0, 1, 3, 7, 11, 15, 19]


def test_a_recovery_is_told_once_with_count_and_duration():
    """The first success after a spell of failures is told, the next are not."""
    repeats = log.Repeats()
    for now in (100, 102, 106):
        repeats.failed("timeout", now)

    assert repeats.recovered(110) == log.Repeat(failures=3, for_s=10)
    assert repeats.recovered(111) is None


def test_success_without_failure_is_not_told():
    """Where nothing failed, nothing recovers."""
    assert log.Repeats().recovered(1) is None


def test_a_failure_after_a_recovery_and_a_quiet_time_is_news():
    """The next failure is told at once when nothing failed for long, with counts and distances of its own."""
    repeats = log.Repeats(interval_s=60)
    told = [repeats.failed("timeout", now) for now in (0, 60, 61)]
    assert repeats.recovered(62) == log.Repeat(failures=3, for_s=62)

    assert [repeat is not None for repeat in told] == [True, True, False]
    assert repeats.failed("timeout", 661) == log.Repeat(failures=1, for_s=0)
    assert repeats.recovered(663) == log.Repeat(failures=1, for_s=2)
    assert repeats.failed("timeout", 720) is None
    assert repeats.failed("timeout", 721) == log.Repeat(failures=2, for_s=1)


def test_a_failure_soon_after_a_recovery_is_told_by_the_schedule():
    """One that comes back waits for its reminder, and so does its recovery; a new reason does not wait."""
    repeats = log.Repeats(interval_s=60)
    repeats.failed("timeout", 0)
    repeats.recovered(1)

    assert [repeats.failed("timeout", 2), repeats.recovered(3)] == [None, None]
    assert repeats.failed("refused", 4) == log.Repeat(failures=2, for_s=2)
    assert repeats.recovered(5) == log.Repeat(failures=2, for_s=3)
    assert [repeats.failed("timeout", now) for now in (6, 63)] == [None, None]
    assert repeats.failed("timeout", 64) == log.Repeat(failures=3, for_s=58)


@pytest.mark.parametrize("reasons", [1, 2, 3])
@pytest.mark.parametrize("every_s", [2, 7])
def test_an_hour_of_coming_and_going_is_a_few_lines(every_s, reasons):
    """A third of the requests fails for an hour: at most 30 lines, whose counts hold nearly all failures."""
    repeats, failures, lines, counted = log.Repeats(), 0, 0, 0
    for request, now in enumerate(range(0, 3600, every_s)):
        if request % 3:
            told = repeats.recovered(now)
            counted += told.failures if told else 0
        else:
            failures += 1
            told = repeats.failed(f"HTTP {500 + failures % reasons}", now)
        assert told or request > 1, "the first failure and the first recovery"
        lines += told is not None

    assert 10 <= lines <= 30
    assert 0.8 * failures < counted <= failures


def test_an_outage_soon_after_a_long_one_is_told_before_long():
    """After hours the reminders are an hour apart; those of the next outage are not."""
    repeats = log.Repeats()
    for now in range(0, 7200, 10):
        repeats.failed("timeout", now)
    assert repeats.recovered(7200) == log.Repeat(failures=720, for_s=7200)
    assert repeats.failed("timeout", 7300)
    assert repeats.recovered(7301)

    told = [now for now in range(7310, 10_000, 10) if repeats.failed("timeout", now)]
    assert told[:2] == [7900, 9100]


def test_a_failure_that_is_tried_rarely_stays_the_same_failure():
    """However long nothing is tried, a failure is over only with a recovery: its counts go on."""
    repeats = log.Repeats()
    repeats.failed("HTTP 429", 0)

    assert repeats.failed("HTTP 429", 3600) == log.Repeat(failures=2, for_s=3600)
    assert repeats.recovered(7200) == log.Repeat(failures=2, for_s=7200)


def test_a_quiet_time_ends_a_spell():
    """Where no recovery can be seen, the next failure after a quiet time is told at once, as the first."""
    repeats = log.Repeats(interval_s=60, quiet_s=100)

    told = {now: repeat for now in (0, 50, 149, 249, 250) if (repeat := repeats.failed("timeout", now))}

    assert told == {0: log.Repeat(1, 0), 149: log.Repeat(3, 149), 249: log.Repeat(1, 0)}


def test_a_new_reason_is_told_at_once_and_an_old_one_is_not_new():
    """A change of reason is a transition; going back and forth between reasons is not."""
    repeats = log.Repeats(interval_s=60)

    told = [bool(repeats.failed(reason, now)) for now, reason in enumerate("ABABAB")]

    assert told == [True, True, False, False, False, False]


def test_reasons_that_differ_each_time_do_not_flood():
    """A reason with a number in it counts as new a few times only."""
    repeats = log.Repeats(interval_s=60)

    assert sum(bool(repeats.failed(f"port {now}", now)) for now in range(50)) == log.Repeats.MOST_REASONS
