"""A replicated PostgreSQL for the tests: a primary and two standbys, with whoever is killed replaced."""

from __future__ import annotations

from tests.conftest import until
from tests.postgres import HOST, SUPERUSER, Server, url_of


class Cluster:
    """A primary and two standbys; a commit waits until it is on the disk of one standby, too."""

    def __init__(self) -> None:
        self.servers = [Server(name) for name in ("n1", "n2", "n3")]
        self.primary, *self.standbys = self.servers

    def create(self) -> None:
        """Make the three servers and start them; n1 is the primary."""
        self.primary.create(synchronous_standby_names="ANY 1 (n1, n2, n3)")
        for standby in self.standbys:
            standby.follow(self.primary)
        self.wait_replicated()

    def url(self, database: str = "postgres", user: str = SUPERUSER, **parameters: str) -> str:
        """Where the primary is found, whichever of the three it is."""
        ports = ",".join(str(server.port) for server in self.servers)
        parameters = {"target_session_attrs": "read-write", **parameters}
        return url_of(",".join([HOST] * len(self.servers)), ports, database, user, parameters)

    def wait_replicated(self) -> None:
        """Wait until each standby that runs shows all that is committed by now."""
        [(end,)] = self.primary.execute("SELECT pg_current_wal_flush_lsn()")
        expected = {standby.name for standby in self.standbys if standby.is_running}

        def have_all() -> bool:
            rows = self.primary.execute(
                "SELECT application_name FROM pg_stat_replication"
                " WHERE state = 'streaming' AND sync_state = 'quorum' AND replay_lsn >= %s",
                end,
            )
            return expected <= {name for (name,) in rows}

        until(have_all, f"{expected} have all of {self.primary.name}", 60)

    def fail_over(self) -> Server:
        """Make the standby that has received most the primary, and return it.

        The old primary may be dead, halted or running: first the standbys leave it, so that it can say yes to
        no commit any more. It is no member then until it rejoins. Both standbys must run, as a commit may be
        on either of them alone.
        """
        assert len(self.standbys) == 2, "rejoin the old primary first"
        assert all(standby.is_running for standby in self.standbys), "a standby is not running"
        for standby in self.standbys:
            self._attach(standby, "")
        for standby in self.standbys:
            until(
                lambda standby=standby: not standby.execute("SELECT 1 FROM pg_stat_wal_receiver"),
                f"{standby.name} has left the old primary",
            )
        self.standbys.sort(key=_received)
        self.primary = self.standbys.pop()
        assert self.primary.execute("SELECT pg_promote()") == [(True,)], self.primary.log[-2000:]
        for standby in self.standbys:
            self._attach(standby, f"host={HOST} port={self.primary.port} user={SUPERUSER}")
        self.wait_replicated()
        return self.primary

    def rejoin(self, server: Server) -> None:
        """Make a former primary a standby, whatever its state; it gets a fresh copy of the primary's data."""
        assert server not in [self.primary, *self.standbys], f"{server.name} is a member"
        if server.is_running:
            server.kill()
        server.follow(self.primary)
        self.standbys.append(server)
        self.wait_replicated()

    def mend(self) -> None:
        """Have all three run again, whatever was done to them, under the same primary."""
        for server in self.servers:
            if server.is_running:
                server.go_on()
        for server in [self.primary, *self.standbys]:
            if not server.is_running:
                server.start()
        for server in self.servers:
            if server not in [self.primary, *self.standbys]:
                self.rejoin(server)
        self.wait_replicated()

    def close(self) -> None:
        """Kill and remove all three."""
        for server in self.servers:
            server.close()

    @staticmethod
    def _attach(standby: Server, primary: str) -> None:
        standby.execute(f"ALTER SYSTEM SET primary_conninfo = '{primary}'")
        standby.execute("SELECT pg_reload_conf()")


def _received(standby: Server) -> int:
    """How far its log goes on its disk. What it was started with is not among what it has received."""
    [(position,)] = standby.execute(
        "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'::pg_lsn"
    )
    return int(position)
