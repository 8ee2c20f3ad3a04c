"""P6 on a server, as far as it holds: one that hangs, and one that vanishes, keep nobody waiting for longer
than was said; the daemon goes on by itself afterwards."""

import threading
import time
from contextlib import closing
from dataclasses import replace

import pytest

from forwarder.errors import ForwarderError, TryAgainError
from forwarder.spool import EventQueue
from tests.on_server import LIMITS, Remote, data, event, lines, long, proven

PATIENCE_S = 2.0
# On a busy machine.
SLACK_S = 1.0


class Gone:
    """A server that answers nothing, in one way or another, until it is back."""

    def __init__(self, vanish, come_back, address):
        self.vanish, self.come_back, self.address = vanish, come_back, address


@pytest.fixture(params=["hangs", "vanishes"])
def gone(request, remote, postgres):
    """The queue's server, to be made so: its processes stop, or the way to it lets nothing through."""
    if request.param == "hangs":
        yield Gone(postgres.halt, postgres.go_on, remote.address)
        postgres.go_on()
    else:
        proxy = request.getfixturevalue("proxy")
        yield Gone(proxy.stall, proxy.flow, proxy.through(remote.address))
        proxy.flow()


def took_s(step, *arguments):
    started_at = time.monotonic()
    with pytest.raises(TryAgainError):
        step(*arguments)
    return time.monotonic() - started_at


@pytest.mark.parametrize("is_connected", [True, False])
def test_a_put_returns_in_time(remote, server, gone, is_connected):
    """On a connection that it has, and on one that it has to make; the same queue goes on afterwards."""
    address = gone.address
    with EventQueue(address.url, schema=address.schema, lock_timeout_s=PATIENCE_S) as queue:
        if is_connected:
            queue.put(event(1))
        gone.vanish()
        assert took_s(queue.put, event(2)) < PATIENCE_S + SLACK_S
        gone.come_back()
        queue.put(event(5))
    proven(remote.address, server, [1, 5] if is_connected else [5], unknown=[2])


def test_threads_share_the_time(remote, server, gone):
    """Those that wait for the one that uses the connection wait no longer, either, though they come later and
    have only a moment left to connect."""
    address = gone.address
    with EventQueue(address.url, schema=address.schema, lock_timeout_s=PATIENCE_S) as queue:
        queue.put(event(0))
        gone.vanish()
        took = []
        threads = [
            threading.Thread(target=lambda n=n: took.append(took_s(queue.put, event(n)))) for n in range(1, 6)
        ]
        for thread in threads:
            thread.start()
            thread.join(PATIENCE_S / 16)
        for thread in threads:
            thread.join(20)
        gone.come_back()
    assert len(took) == 5
    assert max(took) < PATIENCE_S + SLACK_S
    proven(remote.address, server, [0], unknown=range(1, 6))


@pytest.mark.parametrize("gone", ["hangs", pytest.param("vanishes", marks=long)], indirect=True)
def test_commands_end_and_the_daemon_goes_on(remote, server, gone, until):
    """`enqueue` exits with 75, `status` says what is wrong; what waits is delivered afterwards."""
    here = remote.address
    remote.point_at(gone.address)
    daemon = remote.daemon()
    assert remote("enqueue", stdin=lines(1)).returncode == 0
    until(lambda: server.ledger.accepted == 1, "it is delivered")
    gone.vanish()
    codes = {}
    commands = [["enqueue"], ["status"], ["peek"], ["pause"], ["check"]]

    def run(command):
        codes[command[0]] = remote(*command, stdin=lines(2), timeout_s=30)

    threads = [threading.Thread(target=run, args=(command,)) for command in commands]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    gone.come_back()
    assert {name: done.returncode for name, done in codes.items()} == dict.fromkeys(codes, 75), codes
    for name in ("enqueue", "status", "peek"):
        assert remote.address.url in codes[name].stderr.replace("\n", " "), codes[name].stderr
    assert len(codes) == len(commands)
    assert remote("enqueue", stdin=lines(3)).returncode == 0
    until(lambda: "id-3" in server.ledger.events, "the daemon goes on", 40)
    remote.point_at(here)
    until(lambda: remote.figures().waiting == 0, "all is settled")
    proven(here, server, [1, 3], unknown=[2])
    assert daemon.process.poll() is None


@long
def test_one_of_three_hangs(replicated, cluster, server):
    """A standby that hangs costs time, but not the event; a primary that hangs keeps nobody for longer."""
    limits = LIMITS | {"lock_timeout_s": 10.0}
    first = cluster.servers.index(cluster.primary)
    hung = cluster.standbys[0]
    hung.halt()
    with closing(replicated.spool.producer(**limits)) as producer:
        producer.append([data(1)])
    hung.go_on()
    with closing(replicated.spool.producer(**limits)) as producer:
        cluster.servers[first].halt()
        assert took_s(producer.append, [data(2)]) < 10 + SLACK_S
    cluster.mend()
    proven(replicated.address, server, [1], unknown=[2])


def test_a_way_that_drops_packets(remote, server, tmp_path):
    """Nothing answers, not even a refusal: a connection to such an address ends in time."""
    # 192.0.2.0/24 is for documents; whatever this host's routes do with it, no server is there.
    address = replace(remote.address, url="postgresql://postgres@192.0.2.1/postgres?sslmode=disable")
    with closing(
        Remote(address, server.url).spool.producer(**LIMITS | {"lock_timeout_s": PATIENCE_S})
    ) as producer:
        started_at = time.monotonic()
        with pytest.raises(ForwarderError, match="can't be reached"):
            producer.append([data(1)])
        assert time.monotonic() - started_at < PATIENCE_S + SLACK_S
