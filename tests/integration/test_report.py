"""``forwarder report``: everything about an installation in one file, and no secret."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from forwarder.spool import Dead, Settlement

SECRET = "q9Zr7TtKx2Wm5LpB8vNc4HsD1yFg6JaE"
PASSWORD = "pr0xy-pa55word-0f-theirs"
SECTIONS = ["Versions", "Settings", "Status", "Check", "Queue directory", "Dead letters", "Service", "Log"]


@pytest.fixture
def journal(forwarder, tmp_path: Path):
    """Makes a journal that holds some lines; what stands in for journalctl prints its arguments, too."""

    def holds(*lines: str) -> None:
        place = tmp_path / "bin"
        place.mkdir()
        program = place / "journalctl"
        program.write_text("#!/bin/sh\necho \"asked: $*\"\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n")
        program.chmod(0o755)
        forwarder.environ["PATH"] = f"{place}:{os.environ['PATH']}"

    return holds


def _sections(text: str) -> dict[str, str]:
    """What is below each title."""
    found, lines = {}, text.splitlines()
    places = [n for n, line in enumerate(lines) if line and set(line) == {"="}]
    for place, end in zip(places, [*(n - 1 for n in places[1:]), len(lines)], strict=True):
        found[lines[place - 1]] = "\n".join(lines[place + 1 : end])
    return found


def test_a_report_has_everything_and_only_its_owner_can_read_it(
    forwarder, consumer, queue, tmp_path, journal, sql
):
    """Versions, settings, status, check, files, causes of dead letters and log are in a file of mode 0600."""
    queue.put({"event": "Paid", "properties": {"email": "ada@example.org"}})
    claim = consumer.claim(10, 10**6)
    sql(
        queue.path,
        "INSERT INTO ack_queue_default (data, timestamp, status) VALUES (?, 1.6e9, 0)",
        (b"ada@example.org",),
    )
    reason = "'properties.email' is invalid: 'ada@example.org' is 15 characters long, unlike \"it's 7\""
    consumer.settle(Settlement(claim.ids, [Dead(claim.ids[0], claim.events[0], reason, "", 400)]))
    journal("delivery.blocked at 12:00")
    forwarder.environ.pop("FORWARDER_MIXPANEL_TOKEN")
    file = tmp_path / "report.txt"

    done = forwarder("report", str(file))

    assert (done.returncode, done.stderr) == (0, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = _sections(file.read_text())
    assert list(found) == SECTIONS
    assert "SQLite 3." in found["Versions"]
    assert "persist-queue 1." in found["Versions"]
    assert f'queue.path = "{forwarder.queue_path}"  # $FORWARDER_QUEUE_PATH' in found["Settings"]
    assert '"dead_letters": 1,' in found["Status"]
    assert "FAIL key: there is no key" in found["Check"]
    assert "ok books: dead letters" in found["Check"]
    assert "data.db-wal" in found["Queue directory"]
    assert found["Dead letters"].split(None, 2) == ["1", "400", found["Dead letters"].split(None, 2)[2]]
    assert "'properties.email' is invalid: … is … characters long, unlike …" in found["Dead letters"]
    assert "ada@example" not in file.read_text()
    assert "delivery.blocked at 12:00" in found["Log"]
    assert "--unit=forwarder\n" in found["Log"]


@pytest.mark.parametrize("where", ["secret_file", "beside", "variable", "credential", "section", "url"])
def test_no_secret_is_in_a_report(where: str, forwarder, tmp_path, journal):
    """Wherever a secret is given, and whatever repeats it, in the log too, it is left out; so are passwords
    of proxies."""
    file = tmp_path / "forwarder.toml"
    lines = ["[mixpanel]"]
    forwarder.environ.pop("FORWARDER_MIXPANEL_TOKEN")
    if where == "secret_file":
        (tmp_path / "key").write_text(f"{SECRET}\n")
        lines.append(f"secret_file = '{tmp_path}/key'")
    elif where == "beside":
        (tmp_path / "secret").write_text(SECRET)
    elif where == "variable":
        forwarder.environ["FORWARDER_MIXPANEL_SECRET"] = SECRET
    elif where == "credential":
        (tmp_path / "mixpanel-token").write_text(SECRET)
        forwarder.environ["CREDENTIALS_DIRECTORY"] = str(tmp_path)
    elif where == "section":
        lines.append(f"secret = '{SECRET}'")
    else:
        forwarder.environ.pop("FORWARDER_MIXPANEL_URL")
        lines.append(f"url = 'https://me:{SECRET}@example.org/'")
    file.write_text("\n".join(lines))
    in_log = [] if where in ("section", "url") else [f"odd answer: {SECRET}", f"half of it: {SECRET[4:20]}"]
    journal(
        *in_log,
        f"found http://other:{PASSWORD[::-1]}@proxy.example",
        f"said {PASSWORD}",
        "the last line",
    )
    forwarder.environ["HTTPS_PROXY"] = f"http://me:{PASSWORD}@proxy.example:3128"
    forwarder.environ["ALL_PROXY"] = f"me:{PASSWORD}@second.example:3128"

    done = forwarder("--config", str(file), "report", "-")

    assert done.returncode == 0, done.stderr
    found = _sections(done.stdout)
    for word in (SECRET, SECRET[4:20], PASSWORD, PASSWORD[::-1]):
        assert word not in done.stdout + done.stderr
    assert "# $HTTPS_PROXY leads to proxy.example:3128" in found["Settings"]
    assert "# $ALL_PROXY leads to second.example:3128" in found["Settings"]
    assert "found http://(not shown)@proxy.example" in found["Log"]
    assert found["Log"].endswith("the last line")
    assert "mixpanel.region" in found["Settings"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[queue]\npath = 7", "queue.path = 7"),
        ("[delivery]\nconnections = 0", "delivery.connections = 0"),
        ("[queue", "is not TOML"),
    ],
)
def test_a_report_comes_of_broken_settings_too(content: str, told: str, forwarder, tmp_path, journal):
    """Settings that are wrong are told as such, and the sections that do without them are there."""
    forwarder.environ.pop("FORWARDER_QUEUE_PATH")
    file = tmp_path / "forwarder.toml"
    file.write_text(content)
    journal("the last line")

    done = forwarder("report", "--config", str(file), "--unit", "forwarder@shop", "-")

    found = _sections(done.stdout)
    assert done.returncode == 0, done.stderr
    assert list(found) == SECTIONS
    assert told in found["Settings"]
    assert told in found["Check"]
    assert "--unit=forwarder@shop\nthe last line" in found["Log"]
    assert "Python 3." in found["Versions"]


def test_a_report_comes_of_a_damaged_queue_and_of_none(forwarder, queue_path):
    """Where there is no queue, or no database in it, each section that needs it says so."""
    found = _sections(forwarder("report", "-").stdout)
    assert "Not available: there is no queue" in found["Dead letters"]
    assert "FileNotFoundError" in found["Queue directory"]
    assert '"exists": false' in found["Status"]

    Path(queue_path).mkdir()
    Path(queue_path, "data.db").write_bytes(b"no database" * 1000)
    done = forwarder("report", "-")
    found = _sections(done.stdout)
    assert (done.returncode, list(found)) == (0, SECTIONS)
    assert found["Status"].startswith("Not available: ")
    assert found["Dead letters"].startswith("Not available: ")
    assert "data.db" in found["Queue directory"]
    assert "Python 3." in found["Versions"]


def test_a_report_replaces_no_file(forwarder, tmp_path):
    """A file that is there stays as it is, and the exit code is 73."""
    file = tmp_path / "report.txt"
    file.write_text("mine")
    done = forwarder("report", str(file))
    assert (done.returncode, file.read_text()) == (73, "mine")
    assert "report.txt can't be written: File exists" in done.stderr
