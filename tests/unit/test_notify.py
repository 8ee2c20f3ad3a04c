"""What systemd is told while the loop turns, and that nothing is told when it does not."""

import os
import socket
from contextlib import closing

import pytest

from forwarder.service.notify import IDLE_STATUS_S, PINGS, STATUS_S, Supervisor


@pytest.fixture
def told(tmp_path, monkeypatch):
    """A socket in systemd's place, with a watchdog of 8 s; returns what reads all that was told."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "8000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)

        def read():
            found = []
            while True:
                try:
                    found.append(sock.recv(4096).decode())
                except BlockingIOError:
                    return found

        yield read


def test_each_turn_feeds_the_watchdog_but_not_more_often_than_needed(told):
    """It is fed several times in its time by a loop that turns, and never by itself."""
    supervisor = Supervisor(lambda: "")

    fed = {}
    for now in range(9):
        supervisor.turned(now, False)
        fed[now] = told()

    assert {now for now, messages in fed.items() if messages == ["WATCHDOG=1"]} == {0, 2, 4, 6, 8}
    assert PINGS >= 2


@pytest.mark.parametrize("pid", [str(os.getpid() + 1), "junk"])
def test_another_process_s_watchdog_is_not_fed(pid, told, monkeypatch):
    """A child that inherited the variables keeps nobody's watchdog quiet."""
    monkeypatch.setenv("WATCHDOG_PID", pid)

    Supervisor(lambda: "").turned(0, True)

    assert told() == []


@pytest.mark.parametrize("usec", ["", "junk", "0x"])
def test_without_a_watchdog_there_is_nothing_to_feed(usec, told, monkeypatch):
    """Nothing that systemd's variable might hold ends the daemon."""
    monkeypatch.setenv("WATCHDOG_USEC", usec)

    supervisor = Supervisor(lambda: "")
    supervisor.turned(0, True)
    supervisor.turned(1e9, True)

    assert "WATCHDOG=1" not in told()[1:]


def test_status_is_told_soon_when_there_is_news_and_rarely_without(told, monkeypatch):
    """To read the figures costs something, so an idle daemon does it four times a minute."""
    monkeypatch.delenv("WATCHDOG_USEC")
    asked = []
    supervisor = Supervisor(lambda: asked.append(1) or f"asked {len(asked)}")

    supervisor.turned(0, False)
    assert told() == ["STATUS=asked 1"]
    supervisor.turned(STATUS_S / 2, True)
    assert told() == []
    # The news of before is still news.
    supervisor.turned(STATUS_S, False)
    assert told() == ["STATUS=asked 2"]
    supervisor.turned(STATUS_S + IDLE_STATUS_S - 1, False)
    assert told() == []
    supervisor.turned(STATUS_S + IDLE_STATUS_S, False)
    assert told() == ["STATUS=asked 3"]


def test_the_same_status_is_not_told_again(told, monkeypatch):
    """What has not changed is no news for systemd."""
    monkeypatch.delenv("WATCHDOG_USEC")
    supervisor = Supervisor(lambda: "running")

    for now in range(0, 1000, 10):
        supervisor.turned(now, True)

    assert told() == ["STATUS=running"]


def test_outside_of_systemd_no_figures_are_read(told, monkeypatch):
    """Where nobody listens, the status is not asked for."""
    monkeypatch.delenv("NOTIFY_SOCKET")
    asked = []

    supervisor = Supervisor(lambda: asked.append(1) or "")
    supervisor.turned(0, True)
    supervisor.tell()

    assert asked == []
