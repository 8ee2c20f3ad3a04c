"""``forwarder config show``, as a process."""

import json
import os
import subprocess
import sys
import tomllib

import pytest

from forwarder.config import SETTINGS

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def forwarder():
    """Run ``forwarder`` with arguments and variables; no setting of this machine gets in."""

    def run(*arguments, **variables):
        environ = {name: value for name, value in os.environ.items() if not name.startswith("FORWARDER_")}
        environ.pop("CREDENTIALS_DIRECTORY", None)
        return subprocess.run(
            [sys.executable, "-m", "forwarder", *arguments],
            env=environ | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
def file(tmp_path):
    """A settings file that sets one thing."""
    path = tmp_path / "forwarder.toml"
    path.write_text('[queue]\nmax_bytes = "20GiB"\n')
    return str(path)


def test_config_file_is_named_before_between_or_after(forwarder, file):
    """--config means the same wherever it stands on the line."""
    for arguments in (
        ("--config", file, "config", "show"),
        ("config", "--config", file, "show"),
        ("config", "show", "--config", file),
    ):
        result = forwarder(*arguments)

        assert result.returncode == 0, result.stderr
        assert f"# Settings file: {file}" in result.stdout
        assert 'queue.max_bytes = "20GiB"' in result.stdout


def test_the_table_is_a_settings_file(forwarder, file):
    """What is printed has a file's own syntax, and beside each value where it came from."""
    result = forwarder("config", "show", "--config", file, FORWARDER_LOG_LEVEL="debug")

    table = tomllib.loads(result.stdout)
    source = {line.split(" ")[0]: line.split("  # ")[1] for line in result.stdout.splitlines()[1:-2]}
    assert table["queue"]["max_bytes"] == "20GiB"
    assert table["log"]["level"] == "debug"
    assert source["queue.max_bytes"] == file
    assert source["log.level"] == "$FORWARDER_LOG_LEVEL"
    assert source["log.format"] == "default"


def test_json_is_one_object_a_line(forwarder, file):
    """With --json each line is an object with key, value and source, sizes in bytes."""
    result = forwarder("config", "show", "--json", "--config", file)

    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert all(list(row) == ["key", "value", "source"] for row in rows)
    assert {"key": "queue.max_bytes", "value": 20 * 2**30, "source": file} in rows
    assert {"key": "mixpanel.strict", "value": True, "source": "default"} in rows


def test_only_the_settings_asked_for_are_printed(forwarder, file):
    """A key is one line, a section its keys; what is neither is named, with exit code 64."""
    done = forwarder("config", "show", "--config", file, "log", "queue.max_bytes", "--json")
    keys = [json.loads(line)["key"] for line in done.stdout.splitlines()]
    assert keys == ["queue.max_bytes", *(key for key in SETTINGS if key.startswith("log."))]
    done = forwarder("config", "show", "queue.pth")
    assert done.returncode == 64
    assert "'queue.pth'" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_secrets_are_not_printed(form, forwarder, file, tmp_path):
    """Of secrets only the source is printed, wherever they come from."""
    (tmp_path / "mixpanel-secret").write_text(SECRET)

    result = forwarder(
        "config",
        "show",
        *form,
        "--config",
        file,
        CREDENTIALS_DIRECTORY=str(tmp_path),
        FORWARDER_MIXPANEL_TOKEN=SECRET,
    )

    assert result.returncode == 0
    assert SECRET not in result.stdout + result.stderr
    assert "systemd credential mixpanel-secret" in result.stdout
    assert "$FORWARDER_MIXPANEL_TOKEN" in result.stdout


def test_wrong_settings_end_with_78_and_everything_that_is_wrong(forwarder, tmp_path):
    """Wrong settings print nothing but what is wrong, all of it, and end with exit code 78."""
    path = tmp_path / "wrong.toml"
    path.write_text(f"[mixpanel]\nurl = 'https://me:{SECRET}@example.com'\n[delivery]\nconnections = 0\n")

    result = forwarder("config", "show", "--config", str(path), FORWARDER_LOG_LEVEL="loud")

    assert result.returncode == 78
    assert result.stdout == ""
    for key in ("mixpanel.url", "delivery.connections = 0", "log.level = 'loud'"):
        assert key in result.stderr
    assert SECRET not in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_file_ends_with_78(forwarder, tmp_path):
    """A named file that is not there is said, with exit code 78."""
    result = forwarder("--config", str(tmp_path / "missing.toml"), "config", "show")

    assert result.returncode == 78
    assert "missing.toml, named by --config, does not exist" in result.stderr


def test_controls_in_a_value_do_not_reach_the_terminal(forwarder, tmp_path):
    """A file's name with terminal controls in it is printed escaped."""
    path = tmp_path / "a\x1b[31m\nb.toml"
    path.write_text("[log]\nlevel = 'debug'\n")

    result = forwarder("config", "show", "--config", str(path))

    assert result.returncode == 0
    named = [line for line in result.stdout.splitlines() if line.endswith(r"a\x1b[31m\nb.toml")]
    assert [line.split()[:2] for line in named] == [["#", "Settings"], ["log.level", "="]]
    assert "\x1b" not in result.stdout


def test_settings_cost_a_producer_no_heavy_import(tmp_path):
    """Loading the defaults imports nothing that only a daemon, a settings file or an error needs."""
    program = (
        "import sys; before = set(sys.modules)\n"
        "from forwarder.config import reading\n"
        f"reading.DEFAULT_FILE = {str(tmp_path / 'none')!r}\n"
        "reading.load(None, {})\n"
        "print(*set(sys.modules) - before)"
    )

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    heavy = {"requests", "structlog", "rich", "click", "tomllib", "difflib", "urllib", "ipaddress", "logging"}
    imported = {name.split(".")[0] for name in result.stdout.split()}
    assert "forwarder" in imported
    assert heavy.isdisjoint(imported)
