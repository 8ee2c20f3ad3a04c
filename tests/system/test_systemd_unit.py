"""The unit, as systemd reads it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from forwarder.errors import ConfigError, NotPermittedError, TryAgainError, UsageError
from forwarder.service.daemon import STOP_S
from forwarder.spool.directory import DIRECTORY_MODE

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = SYSTEMD / "forwarder.service"
INSTALLED = "/usr/bin/forwarder"


def _values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    """systemd understands every line: it would pass over an unknown key, and its protection with it."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not on this machine")
    command = Path(sys.executable).with_name("forwarder")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(INSTALLED, str(command)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, timeout=60
    )
    # Other units of the machine may have faults of their own.
    assert [line for line in done.stderr.splitlines() if UNIT.stem in line] == []
    if done.returncode != 0:
        pytest.skip(f"systemd-analyze does not work on this machine: {done.stderr}")


def test_each_line_of_the_unit_is_a_section_a_setting_or_a_comment() -> None:
    """Where systemd can't be asked, the unit has at least its three sections and nothing but settings."""
    lines = [line for line in UNIT.read_text().splitlines() if line and not line.startswith("#")]
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
    """systemd gives the daemon more time to stop than the daemon gives the far end to answer."""
    (timeout_s,) = _values("TimeoutStopSec")
    assert float(timeout_s) > STOP_S + 5


def test_producers_of_the_group_share_the_directory() -> None:
    """The unit and the tmpfiles line make the directory as the forwarder does, for the group of its user."""
    mode = f"{DIRECTORY_MODE:o}"
    assert _values("StateDirectoryMode") == [mode]
    assert _values("UMask") == ["0007"]
    assert _values("User") == _values("Group") == _values("StateDirectory") == ["forwarder"]
    tmpfiles = (SYSTEMD / "forwarder.tmpfiles.conf").read_text()
    assert f"d /var/lib/forwarder {mode} forwarder forwarder -" in tmpfiles.splitlines()
    assert re.search(r"^u forwarder ", (SYSTEMD / "forwarder.sysusers.conf").read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", [*_values("ExecStart"), *_values("ExecReload")])
def test_what_the_unit_calls_exists(line: str, forwarder) -> None:
    """Each command of the unit is one that the forwarder has."""
    command, *arguments = line.split()
    if command != INSTALLED:
        assert line == "/bin/kill -HUP $MAINPID"
        return
    done = forwarder(*arguments, "--help")
    assert done.returncode == 0, done.stderr
