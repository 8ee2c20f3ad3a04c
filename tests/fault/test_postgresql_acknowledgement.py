"""P1 on three servers: while no standby answers, nobody hears an acknowledgement, however the wait ends."""

import json
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, closing

import pytest

from forwarder.errors import TryAgainError
from forwarder.spool import EventQueue, Settlement
from tests.on_server import LIMITS, MIB, consumer_of, data, dead, event, figures, lines, long, proven

WAITING = "SELECT {} FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'forwarder'"
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]
PUTS = """
import sys
from forwarder import EventQueue
url, schema, record = sys.argv[1:]
with EventQueue(url, schema=schema) as queue:
    queue.put(__import__("json").loads(record))
    print("acknowledged", flush=True)
"""


@pytest.fixture
def primary(replicated, cluster):
    """The primary, when no standby answers any more; at the end, both do."""
    for standby in cluster.standbys:
        standby.halt()
    yield cluster.primary
    cluster.mend()


@pytest.fixture
def waits(primary, until):
    """Wait until the commit of a client of ours does, and do something to those that wait."""

    def wait(what="pid"):
        return until(lambda: primary.execute(WAITING.format(what)), "a commit waits")

    return wait


def put(producer):
    producer.append([data(1)])


def put_dead(producer):
    producer.append([data(1)], [(b"[1", "not JSON")])


@pytest.mark.parametrize("step", [put, put_dead])
@pytest.mark.parametrize("end", ["cancel", "cancel request", "terminate", "time limit", "kill"])
def test_a_producer_is_not_acknowledged(replicated, cluster, server, primary, waits, step, end):
    """It is to try again, and what it offered is in, as a whole, or not."""
    limits = LIMITS | ({"lock_timeout_s": 1} if end == "time limit" else {})
    with closing(replicated.spool.producer(**limits)) as producer:
        heard = []
        thread = threading.Thread(target=lambda: heard.append(outcome(step, producer)))
        thread.start()
        waits()
        if end == "cancel request":
            producer._client._connection.cancel()
        elif end == "kill":
            primary.kill()
        elif end != "time limit":
            waits(f"pg_{end}_backend(pid)")
        thread.join(20)
    assert isinstance(heard[0], TryAgainError)
    cluster.mend()
    found = (
        proven(replicated.address, server, [], unknown=[1]) if step is put else figures(replicated.address)
    )
    assert found.accepted in ((0, 1) if step is put else (0, 2))
    assert len(dead(replicated.address)) == found.accepted - found.waiting


def test_a_role_that_hears_no_warnings_hears_this_one(replicated, cluster, primary, waits):
    """Or a wait that was cancelled would look like an acknowledgement."""
    name = f"{replicated.address.schema}_quiet"
    for standby in cluster.standbys:
        standby.go_on()
    primary.execute(f"CREATE ROLE {name} LOGIN IN ROLE {replicated.address.schema}_producer")
    primary.execute(f"ALTER ROLE {name} SET client_min_messages = error")
    for standby in cluster.standbys:
        standby.halt()
    with EventQueue(cluster.url(user=name), schema=replicated.address.schema) as queue:
        heard = []
        thread = threading.Thread(target=lambda: heard.append(outcome(queue.put, event(1))))
        thread.start()
        waits("pg_cancel_backend(pid)")
        thread.join(20)
    assert isinstance(heard[0], TryAgainError)


def outcome(step, *arguments):
    """What it raises, or None."""
    try:
        step(*arguments)
    except BaseException as error:
        return error


@pytest.mark.parametrize(
    ("program", "ends"),
    [
        ("enqueue", ["cancel"]),
        ("EventQueue", ["cancel"]),
        ("EventQueue", SIGNALS),
        pytest.param("enqueue", SIGNALS, marks=long),  # it waits for its time to be over
    ],
)
def test_a_process_that_ends_is_not_acknowledged(
    replicated, cluster, server, primary, waits, ends, program, until
):
    """By a signal, or because its COMMIT is cancelled: neither by what it prints nor by its exit code."""
    with ExitStack() as stack:
        started = [start(stack, replicated, program, number) for number, _ in enumerate(ends)]
        until(lambda: len(waits()) == len(ends), "all wait")
        if ends == ["cancel"]:
            waits("pg_cancel_backend(pid)")
        else:
            for process, number in zip(started, ends, strict=True):
                process.send_signal(number)
        codes = [process.wait(20) for process in started]
        printed = [process.stdout.read().decode() for process in started]
    assert 0 not in codes
    assert "acknowledged" not in "".join(printed)
    if program == "enqueue":
        assert not any(json.loads(each)["accepted"] for each in printed if each)
    cluster.mend()
    proven(replicated.address, server, [], unknown=range(len(ends)))


def start(stack, replicated, program, number):
    """A process that hands one event over."""
    address = replicated.address
    command = ["-m", "forwarder", "enqueue", "--json"]
    if program == "EventQueue":
        command = ["-c", PUTS, address.url, address.schema, json.dumps(event(number))]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, *command], env=replicated.environ, **streams)
    stack.enter_context(process)
    process.stdin.write(lines(number).encode())
    process.stdin.close()
    return process


@pytest.mark.parametrize("how", ["cancel", "terminate"])
def test_a_settlement_that_is_not_acknowledged_is_repeated(replicated, cluster, primary, waits, how):
    """And counts once."""
    for standby in cluster.standbys:
        standby.go_on()
    with EventQueue(replicated.address.url, schema=replicated.address.schema) as queue:
        queue.put_many(map(event, range(3)))
    with consumer_of(replicated.address) as consumer:
        consumer.arrivals()
        settlement = Settlement(consumer.claim(10, MIB).ids)
        for standby in cluster.standbys:
            standby.halt()
        heard = []
        thread = threading.Thread(target=lambda: heard.append(outcome(consumer.settle, settlement)))
        thread.start()
        waits()
        waits(f"pg_{how}_backend(pid)")
        thread.join(20)
        assert isinstance(heard[0], TryAgainError)
        for standby in cluster.standbys:
            standby.go_on()
        consumer.settle(settlement)
    found = figures(replicated.address)
    assert (found.delivered, found.waiting) == (3, 0)


def test_who_waits_is_acknowledged_when_a_standby_answers(replicated, cluster, server, waits):
    """So that the others of these tests were not refused for another reason."""
    with EventQueue(replicated.address.url, schema=replicated.address.schema) as queue:
        thread = threading.Thread(target=queue.put, args=(event(1),))
        thread.start()
        waits()
        cluster.standbys[0].go_on()
        thread.join(20)
    cluster.mend()
    proven(replicated.address, server, [1])
