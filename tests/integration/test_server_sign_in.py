"""Signing in to a server over a network: its certificate is checked, and a password comes from a file."""

import json
import shutil
import subprocess

import pytest

from forwarder.spool.postgresql.address import Address
from forwarder.spool.postgresql.setup import setup
from tests.conftest import Forwarder
from tests.postgres import SUPERUSER, Server, missing

PASSWORD = "s3cr3t-0123456789"
LINE = '{"event": "E", "properties": {"distinct_id": "d"}}\n'
# Who made it, and a certificate for localhost that one has signed.
CERTIFICATES = """
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=ca -days 2
openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -days 2
openssl req -x509 -newkey rsa:2048 -nodes -keyout other.key -out other.crt -subj /CN=other -days 2
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server that takes encrypted connections with a password only, from all but its superuser."""
    if why := missing() or ("" if shutil.which("openssl") else "openssl is not on this machine"):
        pytest.skip(why)
    scratch = tmp_path_factory.mktemp("certificates")
    subprocess.run(["sh", "-e", "-c", CERTIFICATES], cwd=scratch, check=True, capture_output=True)
    server = Server(durable=False)
    server.create()
    for name in ("server.crt", "server.key"):
        shutil.copy(scratch / name, server.data)
        shutil.chown(server.data / name, SUPERUSER)
        (server.data / name).chmod(0o600)
    rules = "local all all trust\nhostssl all shop all scram-sha-256\n"
    (server.data / "pg_hba.conf").write_text(rules)
    server.execute("ALTER SYSTEM SET ssl = on")
    server.execute("SELECT pg_reload_conf()")
    setup(Address(server.url(host=str(server.directory)), standbys=0))
    server.execute(f"CREATE ROLE shop LOGIN PASSWORD '{PASSWORD}' IN ROLE forwarder_producer")
    yield server, scratch
    server.close()


@pytest.fixture
def offered(guarded, tmp_path):
    """Enqueue an event with such certificates and such a password; returns exit code and errors."""
    server, scratch = guarded
    (tmp_path / "password").write_text(f"{PASSWORD}\n")

    def offer(host="localhost", root="ca.crt", password_file=tmp_path / "password", **environ):
        command = Forwarder("", "http://127.0.0.1:1")
        query = f"sslmode=verify-full&sslrootcert={scratch / root}"
        del command.environ["FORWARDER_QUEUE_PATH"]
        command.environ |= {
            "FORWARDER_QUEUE_URL": f"postgresql://shop@{host}:{server.port}/postgres?{query}",
            "FORWARDER_QUEUE_PASSWORD_FILE": str(password_file),
            **environ,
        }
        done = command("enqueue", stdin=LINE)
        assert PASSWORD not in done.stdout + done.stderr
        return done.returncode, done.stderr

    return offer


def test_with_the_right_certificate_and_password(offered, guarded, tmp_path):
    """The event is stored; the password may be a systemd credential or in libpq's own file, too."""
    server, _ = guarded
    assert offered() == (0, "")
    (tmp_path / "queue-password").write_text(PASSWORD)
    assert offered(password_file="", CREDENTIALS_DIRECTORY=str(tmp_path)) == (0, "")
    (tmp_path / "pgpass").write_text(f"localhost:*:*:shop:{PASSWORD}\n")
    (tmp_path / "pgpass").chmod(0o600)
    assert offered(password_file="", PGPASSFILE=str(tmp_path / "pgpass")) == (0, "")
    stored = server.execute("SELECT convert_from(data, 'UTF8') FROM forwarder.queue")
    assert [json.loads(text)["event"] for (text,) in stored] == ["E"] * 3


@pytest.mark.parametrize(
    ("host", "root", "said"),
    [
        ("localhost", "other.crt", "certificate verify failed"),
        ("localhost", "none.crt", "does not exist"),
        ("127.0.0.1", "ca.crt", 'does not match host name "127.0.0.1"'),
    ],
)
def test_another_certificate_is_refused(offered, host, root, said):
    """One that nobody trusted has signed, or of another host: before a password is sent."""
    code, errors = offered(host, root)
    assert (code, said in errors, "sslrootcert" in errors) == (78, True, True), errors


def test_a_wrong_password_is_refused(offered, tmp_path):
    """With 77, as what must be mended by a person."""
    (tmp_path / "wrong").write_text("another")
    code, errors = offered(password_file=tmp_path / "wrong")
    assert (code, "queue.password_file" in errors) == (77, True), errors
    code, errors = offered(password_file="")
    assert (code, "queue.password_file" in errors) == (77, True), errors
