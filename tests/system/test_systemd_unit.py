"""The units, as systemd reads them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from forwarder.errors import ConfigError, NotPermittedError, TryAgainError, UsageError
from forwarder.service.daemon import LOCK_TIMEOUT_S
from forwarder.service.destination import STOP_S
from forwarder.spool.sqlite.directory import DIRECTORY_MODE

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = SYSTEMD / "forwarder.service"
INSTANCE = SYSTEMD / "forwarder@.service"
UNITS = [*sorted(SYSTEMD.glob("*.service")), *sorted(SYSTEMD.glob("*.socket"))]
INTAKES = (SYSTEMD / "forwarder-intake.service", SYSTEMD / "forwarder-intake@.service")
RELAYS = (SYSTEMD / "forwarder-relay.service", SYSTEMD / "forwarder-relay@.service")
DAEMONS = (UNIT, INSTANCE, *INTAKES, *RELAYS)
SOCKETS = (SYSTEMD / "forwarder-intake.socket", SYSTEMD / "forwarder-intake@.socket")
INSTALLED = "/usr/bin/forwarder"
# Of 10, as systemd-analyze sums up what a service could do; below 2 it calls it OK.
MOST_EXPOSURE = 1.5


def _values(key: str, unit: Path = UNIT) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", unit.read_text(), re.MULTILINE)


@pytest.fixture
def analyze(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run systemd-analyze on a copy of a unit that starts the command which is installed here."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not on this machine")
    command = Path(sys.executable).with_name("forwarder")
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text().replace(INSTALLED, str(command)))

    def run(verb: str, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["systemd-analyze", verb, *options, tmp_path / name], capture_output=True, text=True, timeout=60
        )

    return run


@pytest.mark.parametrize(
    "name",
    [
        *("forwarder.service", "forwarder@one.service"),
        *("forwarder-intake.service", "forwarder-intake@one.service"),
        *("forwarder-intake.socket", "forwarder-intake@one.socket"),
        *("forwarder-relay.service", "forwarder-relay@one.service"),
    ],
)
def test_systemd_finds_no_fault_with_the_unit(name: str, analyze, tmp_path: Path) -> None:
    """systemd understands every line: it would pass over an unknown key, and its protection with it."""
    (tmp_path / name).write_text((tmp_path / name.replace("one", "")).read_text())
    done = analyze("verify", name, "--man=no")
    # Other units of the machine may have faults of their own.
    assert [line for line in done.stderr.splitlines() if UNIT.stem in line] == []
    if done.returncode != 0:
        pytest.skip(f"systemd-analyze does not work on this machine: {done.stderr}")


@pytest.mark.parametrize("unit", DAEMONS, ids=lambda unit: unit.stem)
def test_the_service_can_do_little_besides_its_work(unit: Path, analyze) -> None:
    """What systemd-analyze finds a taken-over daemon could still do is at most 1.5 of 10."""
    options = ("--offline=yes", f"--threshold={MOST_EXPOSURE * 10:.0f}", "--no-pager")
    done = analyze("security", unit.name, *options)
    if "unrecognized option" in done.stderr:
        pytest.skip("systemd-analyze is too old: it can't look at a file")
    found = re.search(r"exposure level for .*: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= MOST_EXPOSURE, done.stdout


@pytest.mark.parametrize("units", [DAEMONS[:2], INTAKES, RELAYS, SOCKETS], ids=lambda units: units[0].name)
def test_an_instance_differs_from_the_plain_unit_only_where_its_name_stands(units: tuple[Path, Path]) -> None:
    """The two units can't drift apart: what differs is the name, and who makes the user."""
    plain, instance = ([line for line in unit.read_text().splitlines() if line[:1] != "#"] for unit in units)
    for name, others in {
        "Requires=forwarder-user@%i.service": "",
        "After=forwarder-user@%i.service": "",
        "Environment=FORWARDER_CONFIG=/etc/forwarder/%i.toml": "",
        " forwarder-user@%i.service": "",
        ", queue %i": "",
        "queue %i": "queue",
        "forwarder-%i": "forwarder",
        "@%i": "",
        "/%i.": "/",
    }.items():
        instance = [line.replace(name, others) for line in instance]
    assert list(filter(None, instance)) == list(filter(None, plain))


@pytest.mark.parametrize("unit", DAEMONS, ids=lambda unit: unit.stem)
def test_each_line_of_the_unit_is_a_section_a_setting_or_a_comment(unit: Path) -> None:
    """Where systemd can't be asked, the unit has at least its three sections and nothing but settings."""
    lines = [line for line in unit.read_text().splitlines() if line and not line.startswith("#")]
    sections = [line for line in lines if line.startswith("[")]
    assert sections == ["[Unit]", "[Service]", "[Install]"]
    settings = [line for line in lines if line not in sections]
    assert [line for line in settings if not re.fullmatch(r"[A-Z]\w+=.*", line)] == []


def test_what_a_person_has_to_put_right_is_not_restarted_in_vain() -> None:
    """Wrong settings, permissions and command lines end the service; a queue that is taken does not."""
    (prevented,) = _values("RestartPreventExitStatus")
    codes = {int(code) for code in prevented.split()}
    assert codes == {UsageError.exit_code, NotPermittedError.exit_code, ConfigError.exit_code}
    assert TryAgainError.exit_code not in codes
    assert _values("Restart") == ["on-failure"]


def test_requests_in_flight_are_waited_for_before_systemd_kills() -> None:
    """systemd gives the daemon more time to stop than the daemon gives the server to answer."""
    (timeout_s,) = _values("TimeoutStopSec")
    assert float(timeout_s) > STOP_S + 5


def test_a_turn_that_waits_for_locks_is_not_taken_for_a_hang() -> None:
    """systemd's watchdog has more patience than the daemon has for other writers and a slow disk."""
    (watchdog,) = _values("WatchdogSec")
    assert watchdog.endswith("min")
    assert float(watchdog.removesuffix("min")) * 60 > 10 * LOCK_TIMEOUT_S


def test_producers_of_the_group_share_the_directory() -> None:
    """The unit and the tmpfiles line make the directory as the forwarder does, for the group of its user."""
    mode = f"{DIRECTORY_MODE:o}"
    assert _values("StateDirectoryMode") == [mode]
    assert _values("UMask") == ["0007"]
    assert _values("User") == _values("Group") == _values("StateDirectory") == ["forwarder"]
    tmpfiles = (SYSTEMD / "forwarder.tmpfiles.conf").read_text()
    assert f"d /var/lib/forwarder {mode} forwarder forwarder -" in tmpfiles.splitlines()
    assert re.search(r"^u forwarder ", (SYSTEMD / "forwarder.sysusers.conf").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "line",
    sorted(
        {
            line
            for unit in DAEMONS
            for key in ("ExecStartPre", "ExecStart", "ExecReload")
            for line in _values(key, unit)
        }
    ),
)
def test_what_the_unit_calls_exists(line: str, forwarder) -> None:
    """Each command of the unit is one that the forwarder has."""
    command, *arguments = line.removeprefix("-").split()
    if command != INSTALLED:
        assert line == "/bin/sh -c 'kill -HUP $MAINPID'"
        return
    done = forwarder(*arguments, "--help")
    assert done.returncode == 0, done.stderr
