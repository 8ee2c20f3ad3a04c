"""`forwarder demo`, as somebody runs it who has just installed the package."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from forwarder.cli.demo.balance import compare

ROOT = str(Path(__file__).parents[2])
# Whatever of it reached the demo's processes would make them fail.
HOSTILE = {
    "FORWARDER_CONFIG": "/nowhere/settings.toml",
    "FORWARDER_MIXPANEL_URL": "http://127.0.0.1:9",
    "FORWARDER_MIXPANEL_SERVICE_ACCOUNT": "somebody",
    "FORWARDER_DELIVERY_CONNECTIONS": "many",
    "http_proxy": "http://127.0.0.1:9",
    "ALL_PROXY": "http://127.0.0.1:9",
    "NOTIFY_SOCKET": "/nowhere/notify",
}


@contextmanager
def begun(directory: Path, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """A demo in *directory*, with ``tmp`` there as its place for temporary files; gone in the end."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "forwarder", "demo"],
        env={**os.environ, "PYTHONPATH": ROOT, "TMPDIR": str(directory / "tmp"), **environ},
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                # Not at once by SIGKILL, which would leave its processes behind.
                process.terminate()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo that has just begun, in *tmp_path*."""
    (tmp_path / "tmp").mkdir()
    with begun(tmp_path) as started:
        yield started


def processes_of(place: Path) -> dict[int, list[str]]:
    """The processes whose command line or environment names *place*: their ids and command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            command, environ = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        if entry.name.isdecimal() and os.fsencode(place) in command + environ:
            found[int(entry.name)] = command.decode().split("\0")
    return found


def figures(output: str) -> dict[str, list[int]]:
    """The rows of the table in *output*."""
    _, _, table = output.partition("program  offered")
    rows = re.findall(r"^(\w+) +([\d,]+(?: +[\d,]+){6})$", table, re.MULTILINE)
    return {name: [int(cell.replace(",", "")) for cell in cells.split()] for name, cells in rows}


@dataclass(frozen=True)
class Played:
    """A demo that was let run to its end in *directory*."""

    directory: Path
    code: int
    output: str
    errors: str
    took_s: float


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """The demo, played once, for somebody whose settings and directory are full of traps."""
    directory = tmp_path_factory.mktemp("demo")
    (directory / "tmp").mkdir()
    (directory / "queue.py").write_text("raise SystemExit('somebody else\\'s module was imported')")
    began_at = time.monotonic()
    with begun(directory, **HOSTILE) as process:
        output, errors = process.communicate(timeout=60)
    return Played(directory, process.returncode, output, errors, time.monotonic() - began_at)


def test_the_books_balance(played: Played) -> None:
    """It ends well, and its table accounts for every event."""
    assert (played.code, played.errors) == (0, "")
    assert "The books balance" in played.output
    rows = figures(played.output)
    assert list(rows) == ["shop", "app", "worker", "legacy", "cron", "site", "all"]
    for offered, refused, accepted, delivered, dead, waiting, lost in rows.values():
        assert offered == refused + accepted
        assert accepted == delivered + dead + waiting + lost
        assert (waiting, lost) == (0, 0)
    assert [sum(column) for column in zip(*list(rows.values())[:-1], strict=True)] == rows["all"]
    assert rows["all"] == [17510, 4, 17506, 17502, 4, 0, 0]


def test_what_it_tells_to_type_can_be_typed(played: Played) -> None:
    """The commands for afterwards name the program by the way it was started, where no PATH leads to it."""
    _, _, what_next = played.output.partition("To do the same by hand")
    calls = re.findall(r"^  (.*(?:sandbox|enqueue .*|drain|status|check --online))$", what_next, re.MULTILINE)
    assert len(calls) == 5
    for call in calls:
        done = subprocess.run(
            [*shlex.split(call)[:4], "--help"], capture_output=True, env={"PYTHONPATH": ROOT}, text=True
        )
        assert "Usage: forwarder" in done.stdout, call


def test_it_takes_seconds_and_leaves_nothing_behind(played: Played) -> None:
    """No process and no file is left, and nobody has to wait long."""
    assert played.took_s < 30
    assert list((played.directory / "tmp").iterdir()) == []
    assert processes_of(played.directory) == {}


def test_in_a_pipe_it_is_plain_text(played: Played) -> None:
    """There are no control characters for a log to trip over, and no spaces at a line's end."""
    assert not re.search(r"[^\n -~]", played.output)
    assert not re.search(r" $", played.output, re.MULTILINE)


@pytest.mark.parametrize(
    "shown",
    [
        "goes down before it answers",
        "refused the connection; nothing is lost, ",
        "answers 503 to ",
        "drops the copies",
        "orders-1.ndjson:17: not JSON",
        "(HTTP 400): '$insert_id' is invalid",
        "(never sent): 'event' must not be missing",
        "1 dead letter put back into the queue.",
    ],
)
def test_it_shows_what_it_is_there_to_show(played: Played, shown: str) -> None:
    """The outage, the refusals and the repair have really happened."""
    assert shown in played.output


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_leaves_nothing_behind(
    process: subprocess.Popen[str], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Stopped in its middle, as by Ctrl-C, it takes programs, daemon and all files away."""
    _read_until(process, "3 such processes")
    assert len(processes_of(tmp_path)) > 2
    # As a terminal does it: to the whole group.
    os.killpg(process.pid, number)
    process.communicate(timeout=20)

    assert process.returncode == code
    assert list((tmp_path / "tmp").iterdir()) == []
    assert processes_of(tmp_path) == {}


def test_a_reader_that_goes_away_ends_it(process: subprocess.Popen[str], tmp_path: Path) -> None:
    """With its output cut off, as by `head`, it ends early and leaves nothing behind."""
    _read_until(process, "is ready as process")
    assert process.stdout is not None
    process.stdout.close()
    process.wait(20)

    assert process.returncode == 141
    assert list((tmp_path / "tmp").iterdir()) == []
    assert processes_of(tmp_path) == {}


def test_a_failure_is_told_and_its_files_kept(process: subprocess.Popen[str], tmp_path: Path) -> None:
    """When the daemon is killed it ends with 70, says so, and keeps the files, but no process."""
    _read_until(process, "is ready as process")
    [daemon] = [pid for pid, command in processes_of(tmp_path).items() if "run" in command]
    os.kill(daemon, signal.SIGKILL)
    _, errors = process.communicate(timeout=20)

    assert process.returncode == 70
    [kept] = (tmp_path / "tmp").iterdir()
    assert "the daemon has ended by itself with -9" in errors
    assert f"kept in {kept}" in errors
    assert (kept / "daemon.log").is_file()
    assert processes_of(tmp_path) == {}


EVENT = {"event": "e", "properties": {"program": "p", "number": 1, "x": 1}}
DELIVERED = {"event": "e", "properties": {**EVENT["properties"], "time": 1, "$insert_id": "i"}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("delivered", "dead", "fault"),
    [
        ([DELIVERED], [], None),
        ([], [EVENT], None),
        ([], [], "1 event is lost, such as p 1"),
        ([DELIVERED], [EVENT], "in two places"),
        ([DELIVERED, DELIVERED], [], "delivered twice"),
        ([{**DELIVERED, "event": "f"}], [], "not as it was offered"),
        ([{"event": "e", "properties": {**DELIVERED["properties"], "x": 2}}], [], "not as it was offered"),  # type: ignore[dict-item]
        ([{"event": "e", "properties": {**DELIVERED["properties"], "y": 2}}], [], "not as it was offered"),  # type: ignore[dict-item]
        ([EVENT], [], "without time or $insert_id"),
        ([DELIVERED], [{"event": "e", "properties": {"program": "p", "number": 2}}], "never accepted"),
    ],
)
def test_the_comparison_finds_what_is_wrong(
    delivered: list[Mapping[str, Any]], dead: list[Mapping[str, Any]], fault: str | None
) -> None:
    """An event that is lost, doubled, changed or strange is found by its content."""
    found = {
        "delivered": [json.dumps(event).encode() for event in delivered],
        "dead": [json.dumps(event).encode() for event in dead],
        "waiting": [],
    }
    faults = compare({("p", 1): EVENT}, found).faults

    assert (faults == []) if fault is None else any(fault in found for found in faults)


def _read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"it has ended without {text!r}")
