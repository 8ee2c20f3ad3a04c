"""What the journal is sent: entries whose fields can be searched for, and that nothing can forge."""

import array
import ast
import json
import logging
import re
import socket
import struct
from contextlib import suppress
from io import StringIO
from pathlib import Path

import pytest
import structlog

import forwarder
from forwarder import log
from forwarder.log import journald
from forwarder.log.sentences import SENTENCES


@pytest.fixture(autouse=True)
def fresh_logging():
    """Each test leaves nothing behind."""
    handlers = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers[:] = handlers
    structlog.reset_defaults()


@pytest.fixture
def journal(tmp_path, monkeypatch):
    """A socket in place of the journal's; returns what reads the fields of the next entry."""
    path = str(tmp_path / "journal")
    monkeypatch.setattr(journald, "SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(10)
        yield lambda: understood(received(sock))


@pytest.fixture
def stderr():
    """Log to the journal with this in place of standard error."""
    stream = StringIO()
    log.configure("info", "journal", stream)
    return stream


def received(sock):
    """The content of the next datagram, or of the file that came with it."""
    content, ancillary, _, _ = sock.recvmsg(1 << 20, socket.CMSG_SPACE(4))
    for _, _, data in ancillary:
        (fd,) = array.array("i", data)
        with open(fd, "rb") as file:
            file.seek(0)
            return file.read()
    return content


def understood(content):
    """The fields of an entry, as journald reads them (see the protocol's page)."""
    fields = []
    while content:
        line, _, content = content.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", content[:8])
            value, content = content[8 : 8 + length], content[8 + length + 1 :]
        fields.append((name.decode(), value.decode()))
    assert len(dict(fields)) == len(fields)
    return dict(fields)


def test_an_entry_has_a_sentence_a_priority_and_every_field(journal, stderr):
    """An operator reads a sentence; each field, its name in capitals, can be searched for."""
    log.get("daemon").warning("batch.short", short=3, sent=5, batches=1, strict=True, nothing=None)

    assert journal() == {
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "forwarder",
        "MESSAGE": "Mixpanel counted 3 events fewer than it took, twice; drop filters do this [batch.short]",
        "FORWARDER_EVENT": "batch.short",
        "FORWARDER_PART": "daemon",
        "FORWARDER_SHORT": "3",
        "FORWARDER_SENT": "5",
        "FORWARDER_BATCHES": "1",
        "FORWARDER_STRICT": "true",
    }
    assert stderr.getvalue() == ""


@pytest.mark.parametrize(("level", "priority"), [("info", "6"), ("warning", "4"), ("error", "3")])
def test_priorities_are_those_of_syslog(level, priority, journal, stderr):
    """``journalctl -p warning`` shows what is at least that grave."""
    getattr(log.get("x"), level)("thing.seen")

    assert journal()["PRIORITY"] == priority


def test_a_message_without_a_sentence_shows_its_fields(journal, stderr):
    """What has no sentence, or not the fields for it, is shown by its name and what it has."""
    log.get("x").info("thing.seen", count=3)
    log.get("x").info("batch.short", sent=5)

    assert journal()["MESSAGE"] == "thing.seen part=x count=3"
    assert journal()["MESSAGE"] == "batch.short part=x sent=5"


def test_no_value_and_no_name_passes_for_another_field(journal, stderr):
    """Line breaks and equal signs in a value or name forge no field, and no message."""
    forged = "x\nPRIORITY=0\nMESSAGE=forged\n"

    log.get("x").info(forged, **{"reason": forged, forged: forged, "_pid": 1, "n" * 100: 2})

    fields = journal()
    assert fields["PRIORITY"] == "6"
    assert "\n" not in fields["MESSAGE"]
    assert fields["FORWARDER_REASON"] == forged
    assert all(len(name) <= 64 and name.replace("_", "").isalnum() for name in fields)
    assert {name for name in fields if not name.startswith("FORWARDER_")} == {
        "PRIORITY",
        "MESSAGE",
        "SYSLOG_IDENTIFIER",
    }


def test_a_traceback_stands_below_the_sentence(journal, stderr):
    """What a bug leaves is there to be read, and its lines can't pass for entries of their own."""
    try:
        raise ValueError("first\n\x1b[2Jsecond")
    except ValueError:
        log.get("x").exception("daemon.failed")

    fields = journal()
    assert fields["MESSAGE"].splitlines()[0] == "daemon.failed part=x"
    assert fields["MESSAGE"].splitlines()[-2:] == ["ValueError: first", "\\x1b[2Jsecond"]
    assert "Traceback" in fields["FORWARDER_TRACEBACK"]


def test_an_entry_too_large_for_a_datagram_arrives_whole(journal, stderr):
    """The journal gets it as a file in memory, which nobody can change any more."""
    many = [[["x" * 1900] * 50] * 10]

    log.get("x").info("thing.seen", many=many)

    assert json.loads(journal()["FORWARDER_MANY"]) == many


def test_values_that_are_not_text_are_sent_all_the_same(journal, stderr):
    """Half a surrogate, as in a file's name, costs neither the entry nor the daemon."""
    log.get("x").info("thing.seen", name="\udcff", map={"a": 1})

    fields = journal()
    assert fields["FORWARDER_NAME"] == "\\udcff"
    assert json.loads(fields["FORWARDER_MAP"]) == {"a": 1}


def test_secrets_are_in_no_field(journal, stderr):
    """What is not shown in a line is not shown in an entry."""
    log.get("x").info("thing.seen", token="0123456789abcdef", url="https://me:0123456789abcdef@host/")

    assert "0123456789abcdef" not in repr(journal())


def test_a_journal_that_takes_nothing_stops_nobody(tmp_path, monkeypatch):
    """A journal that is stopped costs an entry its time limit, and then the entry."""
    path = str(tmp_path / "journal")
    monkeypatch.setattr(journald, "SOCKET", path)
    monkeypatch.setattr(journald, "SEND_TIMEOUT_S", 0.01)
    stream = StringIO()
    log.configure("info", "journal", stream)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stopped:
        stopped.bind(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.connect(path)
            other.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    other.send(b"MESSAGE=full\n")

        log.get("x").info("thing.seen")

    assert stream.getvalue() == ""


def test_every_message_of_the_daemon_has_its_sentence():
    """Each message of the service and of the intake that is not for debugging has a sentence, and no sentence
    is left over."""
    told = set()
    rooms = [Path(forwarder.__file__).parent / room for room in ("service", "intake")]
    for path in (path for room in rooms for path in room.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and re.search(r"\b_log\.(?!debug)", ast.unparse(node.func)):
                words = (leaf for arg in node.args for leaf in ast.walk(arg))
                told |= {leaf.value for leaf in words if isinstance(leaf, ast.Constant)}
    # Written elsewhere, or with the breaker's state in their name.
    others = {"library.logged", "log.dropped", "delivery.backing_off", "delivery.blocked"}
    assert told | others == SENTENCES.keys()
