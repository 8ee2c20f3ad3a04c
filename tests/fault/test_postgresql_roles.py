"""What each role may do on the server, what no output has of a password, and which servers are refused."""

import json
from contextlib import closing
from dataclasses import replace

import psycopg
import pytest

from forwarder.errors import NotPermittedError
from forwarder.records import KINDS
from forwarder.spool import EventQueue, Selection
from forwarder.spool.postgresql.address import Address
from forwarder.spool.postgresql.engine import Spool
from forwarder.spool.postgresql.setup import setup
from tests.on_server import CRASH_S, LIMITS, Remote, data, dead, event, figures, lines
from tests.postgres import Server

SECRET = "s3cr3t/+%40"
TABLES = [
    "control",
    "daemon",
    "queue",
    "intake",
    "ledger",
    "held",
    "dead_letters",
    "deliveries",
    "retries",
    "refusals",
    "queue_engage",
    "queue_groups",
]


@pytest.fixture
def user(remote, postgres):
    """Makes a user who is a member of a role of the queue's, and returns the queue's address for them."""
    made = []

    def make(role):
        name = f"{remote.address.schema}_{role}_user"
        postgres.execute(f"CREATE ROLE {name} LOGIN IN ROLE {remote.address.schema}_{role}")
        made.append(name)
        return replace(remote.address, url=postgres.url(user=name))

    yield make
    for name in made:
        postgres.execute(f"DROP ROLE {name}")


def allowed(address, statements):
    """Those that the server does not refuse; nothing is committed."""
    found = []
    with psycopg.connect(address.url) as connection:
        for statement in statements:
            try:
                connection.execute(statement)
                found.append(statement)
            except psycopg.errors.InsufficientPrivilege:
                pass
            connection.rollback()
    return found


def changes(schema):
    for table in TABLES:
        column = "data" if "queue" in table else "id" if table == "control" else "*"
        yield f"DELETE FROM {schema}.{table}"
        yield f"TRUNCATE {schema}.{table}"
        yield f"ALTER TABLE {schema}.{table} ADD x int"
        yield f"DROP TABLE {schema}.{table}"
        yield f"LOCK TABLE {schema}.{table} IN ACCESS EXCLUSIVE MODE"
        if column != "*":
            yield f"UPDATE {schema}.{table} SET {column} = {column}"
            yield f"SELECT {column} FROM {schema}.{table} FOR UPDATE"
    yield f"INSERT INTO {schema}.intake (n) VALUES (1)"
    yield f"INSERT INTO {schema}.queue (data, status) VALUES ('', 1)"
    yield f"INSERT INTO {schema}.queue (id, data) OVERRIDING SYSTEM VALUE VALUES (1, '')"
    yield f"UPDATE {schema}.ledger SET accepted = 0"
    yield f"UPDATE {schema}.control SET paused = true"
    yield f"SELECT setval('{schema}.queue_id_seq', 1)"
    yield f"SELECT nextval('{schema}.queue_id_seq')"
    yield f"CREATE TABLE {schema}.mine (n int)"
    yield f"CREATE FUNCTION {schema}.f() RETURNS int LANGUAGE sql AS 'SELECT 1'"
    yield f"CREATE OR REPLACE FUNCTION {schema}.before_write() RETURNS trigger LANGUAGE sql AS 'SELECT 1'"
    yield f"CREATE TRIGGER t AFTER INSERT ON {schema}.queue EXECUTE FUNCTION {schema}.before_write()"
    yield f"ALTER TABLE {schema}.queue DISABLE TRIGGER ALL"
    yield "SET session_replication_role = replica"
    yield f"DROP SCHEMA {schema} CASCADE"


def looks(schema):
    yield from (f"SELECT * FROM {schema}.{table}" for table in TABLES)
    yield f"SELECT last_value FROM {schema}.queue_id_seq"
    yield f"INSERT INTO {schema}.queue (data) VALUES ('') RETURNING id"


def handing_over(schema):
    yield f"INSERT INTO {schema}.queue (data) VALUES ('')"
    yield f"INSERT INTO {schema}.queue_engage (data) VALUES ('')"
    yield f"SELECT {schema}.put_all(ARRAY[''::bytea])"
    yield f"SELECT {schema}.refuse_all(ARRAY[''::bytea], '{{a}}', '{{a}}', '{{a}}')"
    yield f"SELECT {schema}.count_refused('{{a}}', '{{1}}')"
    yield f"SELECT {schema}.add_bookmark('a', 'a', 1, 'a')"
    yield f"SELECT * FROM {schema}.bookmarks_of('a', 'a')"
    yield f"SELECT {schema}.remove_bookmark('a', 'a', 1, 'a')"


def test_a_producer_hands_over_and_nothing_else(remote, user):
    """By each way; it can neither read nor change, nor make anything."""
    address, schema = user("producer"), remote.address.schema
    assert allowed(address, [*changes(schema), *looks(schema)]) == []
    assert allowed(address, handing_over(schema)) == [*handing_over(schema)]
    with EventQueue(address.url, schema=schema) as queue:
        queue.put(event(1))
    with closing(Spool(address, KINDS["event"]).producer(**LIMITS)) as producer:
        producer.append([data(2)], [(b"[", "not JSON")])
        producer.refuse({"time": 1})
    for verb in ("pause", "view", "consumer", "take"):
        with pytest.raises(NotPermittedError):
            getattr(Spool(address, KINDS["event"]), verb)()
    assert (figures(remote.address).accepted, dead(remote.address)) == (3, [b"["])


def test_a_viewer_looks_and_nothing_else(remote, user):
    """Everything that looks works; what changes does not."""
    address, schema = user("viewer"), remote.address.schema
    assert allowed(address, [*changes(schema), *handing_over(schema)]) == []
    assert allowed(address, [*looks(schema)][:-1]) == [*looks(schema)][:-1]
    spool = Spool(address, KINDS["event"])
    with spool.view() as view:
        view.figures(), view.peek(9), view.dead_letters(Selection()), view.check(), view.refused()
    assert spool.holder() is None
    remote.point_at(address)
    assert [remote(*command).returncode for command in (["status"], ["peek"], ["dead-letters", "list"])] == [
        0
    ] * 3
    for verb in (["pause"], ["enqueue"]):
        done = remote(*verb, stdin=lines(1))
        assert (done.returncode, "refuses this user" in done.stderr) == (77, True), done.stderr


@pytest.fixture(scope="module")
def guarded():
    """A server that wants passwords by TCP."""
    from tests.postgres import missing

    if why := missing():
        pytest.skip(why)
    with closing(Server(durable=False)) as server:
        server.create(password_encryption="scram-sha-256")
        server.execute(f"CREATE ROLE forwarder LOGIN SUPERUSER PASSWORD '{SECRET}'")
        hba = server.data / "pg_hba.conf"
        hba.write_text("local all all trust\nhost all all all scram-sha-256\n")
        server.execute("SELECT pg_reload_conf()")
        setup(Address(server.url(host=str(server.directory)), standbys=0))
        yield server


@pytest.fixture
def signed_in(guarded, server, tmp_path):
    """The command, with the right password in a file."""
    file = tmp_path / "password"
    file.write_text(SECRET)
    address = Address(guarded.url(user="forwarder"), password_file=str(file), standbys=0, lease_s=3)
    command = Remote(address, server.url)
    command.environ["FORWARDER_QUEUE_PASSWORD_FILE"] = str(file)
    yield command
    command.close()


COMMANDS = [
    ["status"],
    ["enqueue"],
    ["peek"],
    ["check"],
    ["run"],
    ["config", "show"],
    ["report", "-"],
    ["pause"],
]


def said(command, code):
    """All that the commands print, which end with a *code*, but those that use no server."""
    text = ""
    for each in COMMANDS:
        if each == ["run"] and code == 0:
            continue
        done = command(*each, stdin=lines(1))
        assert done.returncode == (0 if each[0] in ("config", "report") else code), (each, done.stderr)
        text += done.stdout + done.stderr
    return text


PASSWORDS = [("file", SECRET), ("PGPASSWORD", "wr0ng-one")]
MORE = [("file", "wr0ng-one"), ("PGPASSWORD", SECRET), ("file", ""), ("PGPASSWORD", "")]


@pytest.mark.parametrize(("by", "password"), PASSWORDS + MORE * bool(CRASH_S))
def test_no_output_has_a_password(signed_in, tmp_path, by, password):
    """Neither a right one nor a wrong one, wherever it comes from; a wrong one ends with 77."""
    if by == "file":
        (tmp_path / "password").write_text(password)
    else:
        del signed_in.environ["FORWARDER_QUEUE_PASSWORD_FILE"]
        signed_in.environ["PGPASSWORD"] = password
    text = said(signed_in, 0 if password == SECRET else 77)
    if password == SECRET:
        signed_in("resume")
        daemon = signed_in.daemon()
        assert daemon.stop() == 0
        text += json.dumps(daemon.log)
    assert not password or password not in text


def test_a_password_that_changes_is_read_again(signed_in, guarded, server, tmp_path, until):
    """The daemon says so when it can't connect, and goes on by itself with the new one."""
    daemon = signed_in.daemon()
    try:
        guarded.execute("ALTER ROLE forwarder PASSWORD 'another'")
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'forwarder'"
        guarded.execute(end)
        until(lambda: guarded.execute(end) or daemon.logged("queue.failed"), "it is refused")
        (tmp_path / "password").write_text("another")
        daemon.wait_for("queue.recovered")
        assert signed_in("enqueue", stdin=lines(7)).returncode == 0
        until(lambda: "id-7" in server.ledger.events, "it is delivered")
        assert not {"another", SECRET} & set(json.dumps(daemon.log).split('"'))
    finally:
        guarded.execute(f"ALTER ROLE forwarder PASSWORD '{SECRET}'")


@pytest.mark.parametrize("url", ["postgresql://me:{}@db/app", "postgresql://me@db/app?password={}",
                                 "postgresql://me@db/app?sslmode=verify-full&pass%77ord={}"])  # fmt: skip
@pytest.mark.parametrize("secret", ["s3cr3t", "s3%63r3t"])
def test_a_password_in_the_url_is_refused(remote, url, secret):
    """And not repeated, however it is encoded."""
    remote.environ["FORWARDER_QUEUE_URL"] = url.format(secret)
    for command in (["status"], ["config", "show"], ["enqueue"], ["run"]):
        done = remote(*command, stdin=lines(1))
        if command[0] != "config":
            assert done.returncode == 78
        assert secret not in done.stdout + done.stderr
        assert "s3cr3t" not in done.stdout + done.stderr


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes", "synchronous_standby_names"])
def test_a_server_that_may_lose_events_is_refused(replicated, cluster, setting):
    """`run` and `check` end with 78 and name the setting, unless queue.standbys is 0."""
    cluster.primary.execute(f"ALTER SYSTEM SET {setting} = {'off' if 'names' not in setting else repr('')}")
    cluster.primary.execute("SELECT pg_reload_conf()")
    try:
        with psycopg.connect(replicated.address.url) as connection:
            while connection.execute(f"SHOW {setting}").fetchone() not in (("off",), ("",)):
                connection.rollback()
        for command in ("run", "check"):
            done = replicated(command)
            assert (done.returncode, setting in done.stdout + done.stderr) == (78, True)
        replicated.point_at(replace(replicated.address, standbys=0))
        assert replicated("check").returncode == 0
    finally:
        cluster.primary.execute(f"ALTER SYSTEM RESET {setting}")
        cluster.primary.execute("SELECT pg_reload_conf()")


def test_whoever_may_look_sees_whether_standbys_are_connected(replicated, cluster):
    """Though most users may not know which those are."""
    user = f"{replicated.address.schema}_watcher"
    cluster.primary.execute(f"CREATE ROLE {user} LOGIN IN ROLE {replicated.address.schema}_viewer")
    replicated.point_at(replace(replicated.address, url=cluster.url(user=user)))

    def copies():
        found = [json.loads(line) for line in replicated("check", "--json").stdout.splitlines()]
        return next((each["result"], each["detail"]) for each in found if each["name"] == "copies")

    assert copies() == ("ok", "a commit waits for 1; 2 connected")
    for standby in cluster.standbys:
        standby.kill()
    assert copies()[0] == "warning"
