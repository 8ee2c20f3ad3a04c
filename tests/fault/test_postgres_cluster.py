"""The replicated PostgreSQL that the fault tests attack is one: it dies, hangs, fails over and comes back as
real ones do, so that what is shown on it means something."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests import postgres as harness
from tests.conftest import until
from tests.postgres import Server
from tests.postgres_cluster import Cluster

ROOT = Path(__file__).parents[2]
LEAVES_ITS_SERVER = """
from tests.postgres import Server
server = Server(durable=False)
server.create()
server.halt()
print(server.directory, server.data.joinpath("postmaster.pid").read_text().split()[0], flush=True)
input()
"""


@pytest.fixture
def whole(cluster: Cluster) -> Cluster:
    """All three run, and table `yes` is empty."""
    cluster.mend()
    cluster.primary.execute("DROP TABLE IF EXISTS yes")
    cluster.primary.execute("CREATE TABLE yes (n integer)")
    cluster.wait_replicated()
    return cluster


def numbers(server: Server) -> set[int]:
    """What stands in table `yes`."""
    return {n for (n,) in server.execute("SELECT n FROM yes")}


class Writer:
    """Puts 1, 2, 3, ... where *url* leads to, a commit each; *accepted* are those with a yes."""

    def __init__(self, url: str) -> None:
        self.accepted: set[int] = set()
        self._url = url
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)
        assert not self._thread.is_alive(), "a commit still waits"

    def _run(self) -> None:
        import psycopg

        offered: Iterator[int] = iter(range(1, 10**9))
        while not self._ended.is_set():
            with suppress(psycopg.Error), psycopg.connect(self._url, autocommit=True) as connection:
                while not self._ended.is_set():
                    number = next(offered)
                    connection.execute("INSERT INTO yes VALUES (%s)", (number,))
                    self.accepted.add(number)


def waits_for_a_standby(primary: Server) -> bool:
    """Whether a commit does."""
    return bool(primary.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))


def test_it_says_why_there_is_no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where none is installed, the tests that need one are skipped with a reason."""
    pytest.importorskip("psycopg")
    monkeypatch.setattr(harness, "DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert harness.missing() == "no PostgreSQL server on this machine (Debian: postgresql)"


def test_a_server_is_reached_by_tcp_and_by_its_socket(postgres: Server) -> None:
    """Both ways lead to the same server, by any name; each test gets a schema of its own."""
    import psycopg

    postgres.execute("CREATE ROLE someone LOGIN")
    try:
        for host in ("127.0.0.1", str(postgres.directory)):
            with psycopg.connect(postgres.url(user="someone", host=host)) as connection:
                assert connection.execute("SELECT current_user, current_setting('port')").fetchone() == (
                    "someone",
                    str(postgres.port),
                )
    finally:
        postgres.execute("DROP ROLE someone")
    assert postgres.new_schema_name() != postgres.new_schema_name()


def test_a_killed_run_leaves_nothing(postgres: Server) -> None:
    """When the test run is killed, its servers go, hung ones too, and so does what they have stored."""
    run = subprocess.Popen(
        [sys.executable, "-c", LEAVES_ITS_SERVER],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with run:
        directory, pid = run.stdout.readline().split()
        assert Path(directory, "data").is_dir()
        run.kill()
    until(lambda: harness.state_of(int(pid)) in "ZX", "the server is gone")
    until(lambda: not os.path.exists(directory), "its directory is gone")


def test_three_are_durable_and_a_commit_waits_for_two(whole: Cluster) -> None:
    """A yes means two disks: nobody gets one while both standbys hang, and one of them is enough."""
    for server in whole.servers:
        assert server.execute("SELECT current_setting('fsync'), current_setting('full_page_writes')") == [
            ("on", "on")
        ]
    for standby in whole.standbys:
        standby.halt()
    with Writer(whole.url()) as writer:
        until(lambda: waits_for_a_standby(whole.primary), "the commit waits")
        assert writer.accepted == set()
        whole.standbys[1].go_on()
        until(lambda: len(writer.accepted) > 10, "commits with one standby")
    whole.standbys[0].go_on()
    whole.wait_replicated()
    assert writer.accepted <= numbers(whole.standbys[0])


def test_a_killed_primary_starts_again_with_all_it_had(whole: Cluster) -> None:
    """After a SIGKILL nothing of the server is left running; what was committed is there when it starts."""
    import psycopg

    with Writer(whole.url()) as writer:
        until(lambda: len(writer.accepted) > 10, "commits")
        whole.primary.kill()
        with pytest.raises(psycopg.OperationalError, match="refused"):
            psycopg.connect(whole.primary.url())
        whole.primary.start()
        before = len(writer.accepted)
        until(lambda: len(writer.accepted) > before + 10, "commits after it")
    assert writer.accepted <= numbers(whole.primary)


def test_a_halted_server_answers_nothing_and_goes_on(whole: Cluster) -> None:
    """A hung server takes connections and is silent, on those it has, too; then it goes on as if nothing had
    been."""
    import psycopg

    with Writer(whole.primary.url()) as writer:
        until(lambda: len(writer.accepted) > 10, "commits")
        whole.primary.halt()
        before = len(writer.accepted)
        with pytest.raises(psycopg.OperationalError, match="timeout"):
            psycopg.connect(whole.primary.url(connect_timeout="2"))
        # An answer was perhaps on its way.
        assert len(writer.accepted) <= before + 1
        whole.primary.go_on()
        until(lambda: len(writer.accepted) > before + 10, "commits again")
    assert writer.accepted == numbers(whole.primary) == set(range(1, max(writer.accepted) + 1))


@pytest.mark.parametrize("behind", [0, 1])
def test_who_has_received_most_is_promoted(whole: Cluster, behind: int) -> None:
    """A standby that was away when events were accepted is not made the primary, as they would be lost."""
    old, standby = whole.primary, whole.standbys[behind]
    standby.stop()
    old.execute("INSERT INTO yes SELECT generate_series(1, 1000)")
    old.kill()
    standby.start()
    assert len(numbers(standby)) == 0
    assert whole.fail_over() is not standby
    assert len(numbers(whole.primary)) == 1000
    whole.wait_replicated()
    assert len(numbers(standby)) == 1000


def test_an_isolated_primary_says_yes_to_nobody(whole: Cluster) -> None:
    """An old primary that was only hung when it was replaced goes on, but no commit on it succeeds."""
    old = whole.primary
    old.halt()
    assert whole.fail_over() is not old
    old.go_on()
    with Writer(old.url()) as writer:
        until(lambda: waits_for_a_standby(old), "the commit waits")
        whole.rejoin(old)
    assert writer.accepted == set()
    assert numbers(old) == set()


def test_whatever_was_done_can_be_mended(whole: Cluster) -> None:
    """A test may leave servers dead, hung, and out of the cluster; the next one has all three again."""
    whole.primary.execute("INSERT INTO yes VALUES (1)")
    left = whole.primary
    left.kill()
    whole.fail_over()
    whole.primary.kill()
    whole.standbys[0].halt()
    whole.mend()
    whole.wait_replicated()
    assert [numbers(server) for server in whole.servers] == [{1}] * 3
    assert left in whole.standbys
