"""Commands fail only on settings that they use."""

import json

import pytest

from forwarder.spool import EventQueue

WRONG = '[delivery]\nlinger = 3\n[mixpanel]\nservice_account = "a"\n'


@pytest.fixture
def wrong(forwarder, tmp_path, queue_path):
    """A queue in use, and settings in which what concerns delivery is wrong."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put({"event": "A", "properties": {}})
    file = tmp_path / "forwarder.toml"
    file.write_text(f'[queue]\npath = "{queue_path}"\nmin_free_bytes = 0\n{WRONG}')
    for name in [name for name in forwarder.environ if name.startswith("FORWARDER_")]:
        del forwarder.environ[name]
    forwarder.environ["FORWARDER_CONFIG"] = str(file)
    return forwarder


@pytest.mark.parametrize(
    "command",
    [
        ("enqueue", "-e", "B"),
        ("status",),
        ("peek",),
        ("pause",),
        ("resume",),
        ("dead-letters", "list"),
        ("dead-letters", "summary"),
        ("salvage",),
    ],
    ids=" ".join,
)
def test_a_mistake_elsewhere_is_a_warning(wrong, command):
    """What has to do with the queue alone is done, and the mistake is named on standard error."""
    done = wrong(*command)
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("forwarder: warning: ")]
    assert len(warnings) == 2
    assert "delivery.linger" in warnings[0]
    assert "mixpanel.service_account" in warnings[1]


def test_looking_needs_only_the_place(wrong):
    """A size that only producers use keeps nobody from looking and pausing; a typo of the place does."""
    wrong.environ["FORWARDER_QUEUE_MAX_BYTES"] = "abc"
    for command in ("status", "peek", "pause", "resume", "waiting list", "dead-letters list", "salvage"):
        done = wrong(*command.split())
        assert (done.returncode, "queue.max_bytes" in done.stderr) == (0, True), done
    assert wrong("enqueue", "-e", "B").returncode == 78
    wrong.environ["FORWARDER_QUEUE_PTH"] = "/nowhere"
    assert wrong("status").returncode == 78


@pytest.mark.parametrize("command", [("run",), ("drain",), ("check",), ("config", "show")], ids=" ".join)
def test_what_uses_all_settings_fails(wrong, command):
    """All mistakes are told by what delivers and by what checks."""
    done = wrong(*command)
    assert done.returncode == 78
    assert "delivery.linger" in done.stdout + done.stderr


def test_json_stays_clean(wrong):
    """Warnings are not among what a program reads."""
    done = wrong("status", "--json")
    assert json.loads(done.stdout)["waiting"] == 1
