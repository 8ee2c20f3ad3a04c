"""INSERT and DELETE by SQL, as programs do it in transactions of their own: an event is accepted if, and only
if, the transaction is, and the books say so."""

import psycopg
import pytest

from tests.on_server import consumer_of, data, deliver, figures, number_of

LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
PUT = "INSERT INTO {queue} (data) VALUES (%s)"


def commits(connection, queue):
    connection.execute(PUT.format(queue=queue), [data(1)])
    connection.execute(PUT.format(queue=queue), [data(2)])
    return {1, 2}


def rolls_back(connection, queue):
    commits(connection, queue)
    connection.rollback()
    return set()


def savepoints(connection, queue):
    connection.execute(PUT.format(queue=queue), [data(1)])
    with connection.transaction(force_rollback=True):
        connection.execute(PUT.format(queue=queue), [data(2)])
        with connection.transaction():
            connection.execute(PUT.format(queue=queue), [data(3)])
    with connection.transaction():
        connection.execute(PUT.format(queue=queue), [data(4)])
    return {1, 4}


def several_rows(connection, queue):
    connection.execute(f"INSERT INTO {queue} (data) VALUES (%s), (%s), (%s)", [data(n) for n in (1, 2, 3)])
    return {1, 2, 3}


def copy(connection, queue):
    with connection.cursor().copy(f"COPY {queue} (data) FROM STDIN (FORMAT binary)") as rows:
        rows.set_types(["bytea"])
        for number in range(1, 4):
            rows.write_row([data(number)])
    return {1, 2, 3}


def no_rows(connection, queue):
    connection.execute(f"INSERT INTO {queue} (data) SELECT ''::bytea WHERE false")
    return set()


def on_conflict(connection, queue):
    put = PUT.format(queue=queue)
    ((row_id,),) = connection.execute(f"{put} RETURNING id", [data(1)]).fetchall()
    again = f"INSERT INTO {queue} (id, data) OVERRIDING SYSTEM VALUE VALUES (%s, %s) ON CONFLICT DO NOTHING"
    connection.execute(again, [row_id, data(2)])
    connection.execute(f"{put} ON CONFLICT (id) DO UPDATE SET data = excluded.data", [data(3)])
    return {1, 3}


def modifying_with(connection, queue):
    query = f"WITH one AS ({PUT} RETURNING 1) INSERT INTO {queue} (data) SELECT %s FROM one"
    connection.execute(query.format(queue=queue), [data(1), data(2)])
    return {1, 2}


def and_takes_back(connection, queue):
    """Deleted in the transaction that inserted it: accepted, and deleted by others."""
    commits(connection, queue)
    connection.execute(f"DELETE FROM {queue} WHERE data = ANY(%s)", [[data(1), data(2)]])
    return set()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "program",
    [
        commits,
        rolls_back,
        savepoints,
        several_rows,
        copy,
        no_rows,
        on_conflict,
        modifying_with,
        and_takes_back,
    ],
)
def test_what_is_committed_is_accepted(remote, program, level, until):
    """By itself, while the daemon gathers what others have put meanwhile."""
    queue = f"{remote.address.schema}.queue"
    with consumer_of(remote.address) as consumer, psycopg.connect(remote.address.url) as connection:
        with psycopg.connect(remote.address.url) as other:
            other.execute(PUT.format(queue=queue), [data(100)])
        connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        connection.execute(f"SELECT count(*) FROM {remote.address.schema}.control")  # it has its snapshot
        expected = program(connection, queue) | {100}
        found = [number_of(each) for each in deliver(consumer)]
        consumer.maintain(at_rest=False)
        assert found == [100]
        connection.commit()
        found += [number_of(each) for each in deliver(consumer)]
        assert (len(found), {*found}) == (len(expected), expected)
        until(lambda: not consumer.maintain(at_rest=True) and not consumer._gaps, "all is counted")
        books = figures(remote.address)
        assert (books.delivered, books.waiting) == (len(expected), 0)
        assert books.deleted == (2 if program is and_takes_back else 0)


def test_two_serializable_ones_are_in_nobodys_way(remote):
    """Both commit, with a gathering between them."""
    queue = f"{remote.address.schema}.queue"
    first, second = (psycopg.connect(remote.address.url) for _ in range(2))
    with first, second, consumer_of(remote.address) as consumer:
        for number, each in enumerate((first, second)):
            each.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            each.execute(PUT.format(queue=queue), [data(number)])
        first.commit()
        deliver(consumer)
        consumer.maintain(at_rest=False)
        second.commit()
        assert [number_of(each) for each in deliver(consumer)] == [1]
    assert figures(remote.address).delivered == 2


@pytest.mark.parametrize("setting", ["off", "local", "remote_write"])
@pytest.mark.parametrize("of", ["role", "database", "session"])
def test_a_weaker_commit_is_made_a_full_one(replicated, cluster, until, of, setting):
    """Whoever says so: the commit of an insert waits for a standby, that of anything else does not."""
    set_to = f"synchronous_commit = {setting}"
    cluster.primary.execute("DROP ROLE IF EXISTS weak")
    cluster.primary.execute("CREATE ROLE weak LOGIN SUPERUSER")
    if of == "role":
        cluster.primary.execute(f"ALTER ROLE weak SET {set_to}")
    if of == "database":
        cluster.primary.execute(f"ALTER DATABASE postgres SET {set_to}")
    try:
        url = replicated.address.url.replace("postgresql://postgres@", "postgresql://weak@")
        with psycopg.connect(url, autocommit=True) as connection:
            if of == "session":
                connection.execute(f"SET {set_to}")
            assert connection.execute("SHOW synchronous_commit").fetchone() == (setting,)
            with connection.transaction():
                connection.execute(PUT.format(queue=f"{replicated.address.schema}.queue"), [data(1)])
                assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
            assert connection.execute("SHOW synchronous_commit").fetchone() == (setting,)
    finally:
        cluster.primary.execute("ALTER DATABASE postgres RESET synchronous_commit")


def test_truncate_by_others_is_counted(remote, until):
    """Its rows are gone without a trace: they count as deleted once nothing else waits."""
    queue = f"{remote.address.schema}.queue"
    with consumer_of(remote.address) as consumer, psycopg.connect(remote.address.url) as connection:
        several_rows(connection, queue)
        connection.commit()
        connection.execute(f"TRUNCATE {queue}")
        connection.commit()
        deliver(consumer)
        until(lambda: not consumer.maintain(at_rest=True), "all is counted")
    found = figures(remote.address)
    assert (found.accepted, found.deleted, found.waiting) == (3, 3, 0)
