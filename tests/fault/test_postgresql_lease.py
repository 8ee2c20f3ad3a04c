"""Two daemons, one of which hangs, is killed, is stopped or loses the server: the other delivers, and the one
that comes back settles nothing and sends nothing."""

import signal
from contextlib import closing
from dataclasses import replace

import pytest

from forwarder.sandbox import Fault
from forwarder.spool import TakenError
from tests.on_server import lines, proven

LEASE_S = 2


@pytest.fixture
def remote(remote):
    remote.point_at(replace(remote.address, lease_s=LEASE_S))
    return remote


def put(remote, *numbers):
    assert remote("enqueue", stdin=lines(*numbers)).returncode == 0


def test_one_that_hung_sends_nothing_more(remote, server, until):
    """It has batches to send again when it is stopped; when it goes on, another has had the queue."""
    server.inject(Fault.server_error())
    first = remote.daemon()
    second = remote.daemon(wait=False)
    second.wait_for("daemon.standing_by")
    put(remote, *range(50))
    server.wait_for(lambda ledger: ledger.request_count > 3)
    first.process.send_signal(signal.SIGSTOP)
    second.wait_for("daemon.started", LEASE_S + 5)
    until(lambda: remote.spool.holder().pid == second.process.pid, "the second has it")
    second.kill()
    until(lambda: server.ledger.in_progress == 0, "no request is in progress")
    sent = server.ledger.request_count
    first.process.send_signal(signal.SIGCONT)
    assert f":{second.process.pid} " in first.wait_for("daemon.standing_by")["detail"]
    assert server.ledger.request_count <= sent + 1, "more than what was out"
    server.clear()
    first.wait_for("daemon.takes_over", LEASE_S + 5)
    until(lambda: remote.figures().waiting == 0, "all is delivered")
    assert proven(remote.address, server, range(50)).delivered == 50


def test_one_that_hung_settles_nothing_more(remote, server, until):
    """What it had out is answered meanwhile, and was settled by the other."""
    server.inject(Fault.slow(0.3), times=1)
    first = remote.daemon()
    second = remote.daemon(wait=False)
    second.wait_for("daemon.standing_by")
    put(remote, *range(50))
    server.wait_for(lambda ledger: ledger.in_progress)
    first.process.send_signal(signal.SIGSTOP)
    second.wait_for("daemon.started", LEASE_S + 5)
    until(lambda: remote.figures().delivered == 50, "the second has delivered")
    first.process.send_signal(signal.SIGCONT)
    first.wait_for("daemon.standing_by")
    assert proven(remote.address, server, range(50)).delivered == 50
    assert second.process.poll() is None
    assert remote.spool.holder().pid == second.process.pid


def test_a_third_takes_over_from_two_that_are_killed(remote, server, until):
    """The holder, and the one that stood by for it."""
    server.inject(Fault.server_error())
    first, second = remote.daemon(), remote.daemon(wait=False)
    second.wait_for("daemon.standing_by")
    put(remote, *range(50))
    server.wait_for(lambda ledger: ledger.request_count)
    first.kill()
    second.kill()
    server.clear()
    third = remote.daemon(wait=False)
    third.wait_for("daemon.started", LEASE_S + 5)
    until(lambda: remote.figures().waiting == 0, "all is delivered")
    proven(remote.address, server, range(50))


def test_one_that_is_stopped_gives_the_lease_back(remote):
    """At once, however long it is; nobody else waits for its end."""
    remote.point_at(replace(remote.address, lease_s=600))
    daemon = remote.daemon()
    with pytest.raises(TakenError, match=f":{daemon.process.pid} "):
        remote.spool.take()
    assert daemon.stop() == 0
    presence = remote.spool.take()
    try:
        # Who stands by looks once a second.
        waits = remote.daemon(wait=False)
        waits.wait_for("daemon.standing_by")
    finally:
        presence.release()
    waits.wait_for("daemon.started", 5)


def test_one_that_is_cut_off_stops_sending_by_itself(remote, server, proxy, until):
    """It can't know that another has the queue now."""
    here = remote.address
    server.inject(Fault.server_error())
    remote.point_at(proxy.through(here))
    daemon = remote.daemon()
    remote.point_at(here)
    put(remote, *range(50))
    server.wait_for(lambda ledger: ledger.request_count > 3)
    proxy.stall()
    sent = server.ledger.request_count

    def take():
        try:
            return remote.spool.take()
        except TakenError:
            return None

    presence = until(take, "its lease is over")
    with closing(remote.spool.consumer(token=presence.token)) as consumer:
        assert server.ledger.request_count <= sent + 1, "more than what was out"
        sent = server.ledger.request_count
        proxy.flow()
        daemon.wait_for("daemon.standing_by")
        assert server.ledger.request_count == sent
        assert consumer.arrivals() == 50
    server.clear()
    presence.release()
    daemon.wait_for("daemon.takes_over")
    until(lambda: remote.figures().waiting == 0, "all is delivered")
    proven(here, server, range(50))


def test_one_that_stands_by_outlives_an_error_that_passes(replicated, cluster, server, until):
    """Such as a server that for a moment asks for no standby; then it takes over as ever."""
    first = replicated.daemon()
    second = replicated.daemon(wait=False)
    second.wait_for("daemon.standing_by")

    def ask_for(names):
        cluster.primary.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        cluster.primary.execute("SELECT pg_reload_conf()")

    ((names,),) = cluster.primary.execute("SHOW synchronous_standby_names")
    ask_for("")
    try:
        until(lambda: len(second.logged("daemon.standing_by")) == 2, "it meets the error")
    finally:
        ask_for(names)
    first.stop()
    second.wait_for("daemon.started")
    put(replicated, 1)
    until(lambda: replicated.figures().delivered == 1)
