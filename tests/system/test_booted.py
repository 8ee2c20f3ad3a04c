"""The service in a booted systemd: started, watched, reloaded, stopped and told of by systemd's own tools."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from docutils import nodes
from docutils.core import publish_doctree

sys.path.insert(0, str(Path(__file__).parent))
from box import ROOT, booted
from installed import PORT, TOKEN, Service, install

# A hang that no timer would notice: the loop's own work stands still once the file is there.
HANG = """
import os, threading
from forwarder.service import worker
turn = worker.Worker.work
def work(*arguments):
    if os.path.exists("/run/hang"):
        threading.Event().wait()
    return turn(*arguments)
worker.Worker.work = work
"""
MILLION = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1] + "/data.db")
connection.execute(
    "INSERT INTO ack_queue_default (data, timestamp, status)"
    " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)"
    " SELECT CAST(printf('{\\"event\\":\\"E\\",\\"properties\\":{\\"time\\":1700000000,'"
    " || '\\"$insert_id\\":\\"id-%d\\",\\"distinct_id\\":\\"d\\"}}', i) AS BLOB), 1700000000, 1 FROM n"
)
connection.commit()
"""


@pytest.fixture(scope="module")
def box():
    """A booted system with the service installed, for all tests of this file."""
    with booted() as box:
        install(box)
        yield box


@pytest.fixture
def service(box):
    """The plain service, not started, with settings and key, an empty queue and an empty journal."""
    return Service.renewed(box)


def test_it_is_ready_once_lock_storage_and_settings_are_good(service, until):
    """`systemctl start` returns when it delivers; and not while another daemon has the queue."""
    hold = ["flock", service.queue, "sleep", "infinity"]
    service.box.run("systemd-run", "-q", "--unit=holder", *hold)
    until(lambda: service.box.run("flock", "-n", service.queue, "true", check=False).returncode)
    assert service.systemctl("start", check=False) != 0
    until(lambda: int(service["NRestarts"]) >= 2, "tried again")
    assert service["ActiveEnterTimestampMonotonic"] == "0"

    service.box.run("systemctl", "stop", "holder")

    until(lambda: service["ActiveState"] == "active")
    assert service.logged("daemon.started")


def _units_of(section: str) -> list[str]:
    """The units' lines that a section of the operators' page has."""
    page = publish_doctree((ROOT / "docs/operate.rst").read_text())
    (found,) = (node for node in page.findall(nodes.section) if section in node["ids"])
    return [block.astext() for block in found.findall(nodes.literal_block)]


def test_a_failure_is_told_by_the_unit_of_the_page(service, until):
    """What the page has for OnFailure= sends a message for wrong settings, and none when it is killed."""
    notify, change = _units_of("a-message-when-it-fails")
    box = service.box
    box.write("/etc/systemd/system/notify@.service", notify)
    box.write("/etc/systemd/system/forwarder.service.d/override.conf", change)
    box.write(
        "/usr/local/bin/mail",
        '#!/bin/sh\n{ echo "to: $*"; cat; } >>/run/mail.new; cp /run/mail.new /run/mail\n',
        0o755,
    )
    box.run("systemctl", "daemon-reload")
    service.systemctl("start")
    box.run("systemctl", "kill", "-s", "KILL", "forwarder")
    until(lambda: service["NRestarts"] == "1" and service["ActiveState"] == "active", "started again")
    assert not (box.root / "run/mail").exists()

    service.systemctl("stop")
    service.configure('[log]\nlevel = "loud"\n')
    assert service.systemctl("start", check=False) != 0

    mail = until(lambda: (box.root / "run/mail").exists() and (box.root / "run/mail").read_text(), "mailed")
    assert mail.startswith("to: -s forwarder.service failed on ")
    assert mail.count("to: ") == 1, "once, and not of the kill"
    assert "log.level = 'loud'" in mail


@pytest.mark.parametrize(
    ("more", "about"),
    [("[delivery]\nlinger = 3\n", "settings"), ('[log]\nlevel = "loud"\n', "settings")],
    ids=["toml", "value"],
)
def test_wrong_settings_end_it_and_are_not_tried_again(more, about, service, until):
    """What a person has to put right ends in `failed` with 78, once; the journal says what it is."""
    service.configure(more)

    assert service.systemctl("start", check=False) != 0

    # It would be "activating" while systemd waits to start it again.
    assert (service["ActiveState"], service["Result"]) == ("failed", "exit-code")
    assert (service["ExecMainStatus"], service["NRestarts"]) == ("78", "0")
    assert [entry for entry in service.journal("PRIORITY=3") if entry["MESSAGE"].startswith(f"FAIL {about}")]


@pytest.mark.parametrize("content", [None, ""], ids=["missing", "empty"])
def test_without_a_key_it_fails_once_and_says_what_to_do(content, service):
    """The first start on a host that has no secret yet: `failed`, with the sentence, and not tried again."""
    service.box.run("rm", service.key)
    if content is not None:
        service.box.write(service.key, content, 0o600)

    assert service.systemctl("start", check=False) != 0

    assert (service["ActiveState"], service["ExecMainStatus"], service["NRestarts"]) == ("failed", "78", "0")
    [entry] = [entry for entry in service.journal("PRIORITY=3") if "there is no key" in entry["MESSAGE"]][:1]
    assert "mixpanel-token" in entry["MESSAGE"]


def test_a_queue_that_is_none_ends_it_before_it_is_ready(service):
    """Something else in the place of the database is refused before systemd hears that all is ready."""
    service.box.run("mkdir", f"{service.queue}/data.db")

    assert service.systemctl("start", check=False) != 0

    assert service["ActiveEnterTimestampMonotonic"] == "0"


def test_a_full_queue_is_a_reason_to_start(service, until):
    """The check before the start lets a daemon run that will make room."""
    service.enqueue("A", "B")
    service.start_server()
    service.box.run("sed", "-i", "s/^min_free_bytes.*/min_free_bytes = '1024TiB'/", service.config)
    assert re.search("^FAIL +disk", service.forwarder("check", check=False).stdout, re.MULTILINE)

    service.systemctl("start")

    until(lambda: service.figures["delivered"] == 2)


def test_its_figures_are_all_there_for_prometheus(service):
    """Hardened as it is, it serves the figures of the queue, and of its process."""
    service.configure('[metrics]\nlisten = "127.0.0.1:9464"\n')
    service.systemctl("start")
    fetch = "urllib.request.urlopen('http://127.0.0.1:9464/metrics', timeout=9).read().decode()"
    script = f"import urllib.request; print({fetch})"
    page = service.box.run("/opt/forwarder/python/bin/python3", "-c", script).stdout
    for name in ("forwarder_waiting_events", "process_resident_memory_bytes", "process_cpu_seconds_total"):
        assert re.search(rf"^{name} [0-9.e+]+$", page, re.MULTILINE), name


def test_it_boots_without_a_network_and_delivers_once_there_is_one(service, until):
    """Enabled, it starts with the system; `systemctl status` shows depth, rate and state all the way."""
    service.box.run("systemctl", "enable", service.unit)
    service.enqueue("A", "B", "C")
    assert "multi-user.target" in service["WantedBy"]
    # The box boots with less than that.
    service.box.run("systemctl", "add-wants", "box.target", f"{service.unit}.service")
    service.box.reboot()

    until(lambda: service["ActiveState"] == "active")
    until(
        lambda: re.search(
            r'Status: "backing off: 3 events wait, 0\.0 delivered a second.*; ', service.status()
        )
    )
    assert service["NRestarts"] == "0"

    service.start_server()

    until(lambda: service.figures["delivered"] == 3)
    until(lambda: re.search(r'Status: "running: 0 events wait, [^"]* delivered a second', service.status()))
    # However often it tried: a line when it began, at most one more for another reason, one at the end.
    assert 1 <= len(service.logged("delivery.backing_off")) <= 2
    assert len(service.logged("delivery.recovered")) == 1


def test_killed_it_is_started_again_and_delivers(service, until):
    """SIGKILL costs nothing that was accepted."""
    service.systemctl("start")
    pid = service.pid
    service.enqueue("A")
    service.box.run("kill", "-KILL", str(pid))

    until(lambda: service["NRestarts"] == "1" and service["ActiveState"] == "active")
    service.start_server()

    until(lambda: service.figures["delivered"] == 1)
    assert service.pid != pid


def test_stopped_in_its_tracks_it_is_started_again(service, until):
    """A daemon that does nothing any more is ended by the watchdog."""
    service.change("WatchdogSec=3", "watchdog")
    service.systemctl("start")
    pid = service.pid
    service.box.run("kill", "-STOP", str(pid))

    until(lambda: int(service["NRestarts"]) >= 1 and service["ActiveState"] == "active", timeout_s=30)

    assert service.pid != pid
    assert [entry for entry in service.journal() if "Watchdog timeout" in str(entry["MESSAGE"])]


def test_a_loop_that_hangs_is_ended_and_the_journal_says_where(service, until):
    """While its other threads and its process live, a loop that does not come round is as good as dead."""
    service.box.write(
        "/opt/forwarder/hang/sitecustomize.py",
        "import sys\nsys.path[:0] = " + repr(["/opt/forwarder/checkout", "/opt/forwarder/packages"]) + HANG,
    )
    service.change("WatchdogSec=3\nEnvironment=PYTHONPATH=/opt/forwarder/hang", "watchdog")
    service.systemctl("start")
    service.box.write("/run/hang", "")

    until(lambda: service["Result"] == "watchdog" or int(service["NRestarts"]) >= 1, timeout_s=30)
    service.box.run("rm", "/run/hang")

    until(lambda: int(service["NRestarts"]) >= 1 and service["ActiveState"] == "active")
    assert [entry for entry in service.journal() if "sitecustomize.py" in str(entry["MESSAGE"])]
    service.start_server()
    service.enqueue("A")
    until(lambda: service.figures["delivered"] == 1)


def test_a_reload_takes_new_settings_and_refuses_wrong_ones(service, until):
    """`systemctl reload` fails where the settings are wrong, and the daemon goes on with those it has."""
    service.start_server(port=PORT + 1)
    service.systemctl("start")
    pid = service.pid
    service.enqueue("A")
    service.configure(port=PORT + 1)
    service.systemctl("reload")
    until(lambda: service.figures["delivered"] == 1)

    service.box.run("sed", "-i", "s/linger_s/linger/", service.config)
    assert service.systemctl("reload", check=False) != 0

    refused = [entry["MESSAGE"] for entry in service.journal("PRIORITY=3")]
    assert any("delivery.linger" in message and "is not a setting" in message for message in refused)
    assert (service.pid, service["ActiveState"], service["NRestarts"]) == (pid, "active", "0")
    service.configure(port=PORT + 1)
    service.enqueue("B")
    until(lambda: service.figures["delivered"] == 2)


def test_stopped_it_waits_for_what_is_in_flight(service, until):
    """`systemctl stop` lets a request get its answer, and ends as soon as it is there."""
    service.start_server()
    service.systemctl("start")
    service.signal_server("STOP")
    service.enqueue("A")
    until(lambda: service.figures["in_flight"] == 1)

    service.box.run("systemctl", "--no-block", "stop", service.unit)
    until(lambda: service.logged("daemon.stopping"))
    assert service["ActiveState"] == "deactivating"
    service.signal_server("CONT")

    until(lambda: service["ActiveState"] == "inactive")
    assert service["Result"] == "success"
    assert service.figures["delivered"] == 1
    assert len(service.logged("daemon.stopped")) == 1


def test_the_journal_has_priorities_and_fields_of_its_own(service, until):
    """`journalctl` finds messages by what they are about, and shows a sentence."""
    service.systemctl("start")
    service.enqueue("A")
    until(lambda: service.logged("delivery.backing_off"))

    (started,) = service.logged("daemon.started")
    assert started["FORWARDER_QUEUE"] == service.queue
    assert started["FORWARDER_URL"] == f"http://127.0.0.1:{PORT}/import"
    assert (started["PRIORITY"], started["SYSLOG_IDENTIFIER"]) == ("6", "forwarder")
    assert started["_SYSTEMD_UNIT"] == "forwarder.service"
    assert started["_PID"] == str(service.pid)
    assert started["MESSAGE"].startswith(f"Delivering from {service.queue} to http://")
    (away, *_) = service.journal("PRIORITY=4", "FORWARDER_PART=daemon")
    assert away["FORWARDER_FAILURES"] == "1"
    assert "nothing is lost" in away["MESSAGE"]


def test_the_key_is_a_credential_and_nowhere_else(service, until):
    """The key is in no environment, argument, property or log line, and the daemon can't read root's file."""
    service.start_server()
    service.systemctl("start")
    service.enqueue("A")
    until(lambda: service.figures["delivered"] == 1)

    process = service.box.root / f"proc/{service.pid}"
    shown = {name: (process / name).read_text() for name in ("environ", "cmdline")}
    shown["unit"] = service.box.run("systemctl", "show", service.unit).stdout
    shown["journal"] = str(service.journal())
    assert "CREDENTIALS_DIRECTORY=" in shown["environ"]
    assert [name for name, text in shown.items() if TOKEN in text] == []
    assert service.box.run("cat", "/etc/forwarder/token", user="forwarder", check=False).returncode != 0


def test_an_alert_gets_out_of_the_service(service, until):
    """Within the limits of the unit its command can start programs and reach the network; no key is in its
    environment."""
    service.start_server("--fault", "unauthorized")
    told = service.box.root / "var/lib/forwarder/told"
    script = f"exec 3<>/dev/tcp/127.0.0.1/{service.port} && cd /var/lib/forwarder"
    script += " && cat > told.new && env >> told.new && mv told.new told"
    service.configure(f"[alerts]\ncommand = \"bash -c '{script}'\"\n")
    service.systemctl("start")
    service.enqueue("A")
    text = until(lambda: told.exists() and told.read_text(), timeout_s=40)
    assert ": blocked: delivery is blocked: " in text
    assert TOKEN not in text
    until(lambda: service.logged("alert.sent"))


def test_with_a_million_waiting_it_is_ready_in_a_second(service, until):
    """The start costs a second at most beyond that of an empty queue, however many events wait."""

    def start_s():
        service.systemctl("start")
        began, ready = (
            int(service[name])
            for name in ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
        )
        return (ready - began) / 1e6

    empty_s = start_s()
    service.systemctl("stop")
    python = ("env", "LD_LIBRARY_PATH=/opt/forwarder/python/lib", "/opt/forwarder/python/bin/python3")
    service.box.run(*python, "-c", MILLION, service.queue, user="forwarder")

    assert start_s() <= empty_s + 1
    until(lambda: "1,000,000 events wait" in service.status())


def test_members_of_the_group_may_enqueue_and_others_neither_read_nor_write(service):
    """A local user in group `forwarder` is a producer, whoever made the files; any other gets exit 77."""
    service.box.run("useradd", "-G", "forwarder", "producer")
    service.box.run("useradd", "external")
    one = ("enqueue", "-e", "A", "-d", "d")
    # Before the daemon has ever run, with it, and after it.
    service.forwarder(*one, user="producer")
    service.systemctl("start")
    service.forwarder(*one, user="producer")
    service.systemctl("stop")
    service.forwarder(*one, user="producer")
    service.systemctl("start")
    assert service.figures["waiting"] == 3
    assert service.forwarder("status", user="producer").stdout

    for arguments in (one, ("status",), ("peek",), ("pause",)):
        done = service.forwarder(*arguments, user="external", check=False)
        assert (done.returncode, done.stdout) == (77, ""), arguments
    for command in (
        ["ls", service.queue],
        ["cat", f"{service.queue}/data.db"],
        ["touch", f"{service.queue}/x"],
    ):
        assert service.box.run(*command, user="external", check=False).returncode != 0
    assert service.figures["accepted"] == 3


def test_several_queues_are_isolated_from_each_other(service, box, until):
    """Each instance has a user, directory, settings and key of its own, and can't get at another's."""
    one = Service(box, "forwarder@one", 8091, "token-of-project-one")
    two = Service(box, "forwarder@two", 8092, "token-of-project-two")
    both = (one, two)
    try:
        for instance in both:
            instance.prepare()
            instance.start_server()
            instance.systemctl("start")
        one.enqueue("A")
        two.enqueue("B", "C")

        until(lambda: [instance.figures["delivered"] for instance in both] == [1, 2])
        assert one.forwarder("status", user="forwarder-two", check=False).returncode == 77
        assert two.forwarder("enqueue", "-e", "X", "-d", "d", user="forwarder", check=False).returncode == 77
        for here, other in ((one, two), (two, one)):
            inside = ["nsenter", f"--target={here.pid}", "--mount", "--"]
            credentials = box.run(*inside, "ls", "/run/credentials").stdout.split()
            assert credentials == [f"{here.unit}.service"]
            found = box.run(*inside, "stat", "-c", "%a %U %G", here.queue, other.queue).stdout.splitlines()
            names = [instance.unit.replace("@", "-") for instance in (here, other)]
            assert found == [f"2770 {name} {name}" for name in names]
            assert "ro," in box.run(*inside, "findmnt", "-n", "-o", "OPTIONS", "-T", other.queue).stdout
        one.systemctl("stop")
        assert two["ActiveState"] == "active"
    finally:
        for instance in both:
            instance.remove()
    assert box.run("stat", "-c", "%a %U %G", service.queue).stdout.strip() == "2770 forwarder forwarder"
