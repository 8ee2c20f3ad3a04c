"""Settings: where they come from, what is refused and how it is said, and how a key is kept."""

import dataclasses
import os
import re
import time
import tomllib
from contextlib import contextmanager
from pathlib import Path

import pytest

from forwarder import config
from forwarder.config.settings import SECTIONS, SETTINGS, Mixpanel, Queue, Settings
from forwarder.errors import ConfigError, NotPermittedError
from forwarder.records import EVENTS

SAMPLE = Path(__file__).parents[2] / "etc" / "forwarder.toml"
SECRET = "0123456789abcdef0123456789abcdef"

# design, section 5: other programs rely on these
CONTRACT = {
    "mixpanel.region": "us",
    "mixpanel.url": "",
    "mixpanel.project_id": "",
    "mixpanel.service_account": "",
    "mixpanel.secret_file": "",
    "mixpanel.token_file": "",
    "mixpanel.strict": True,
    "mixpanel.geolocate": False,
    "mixpanel.ca_file": "",
    "queue.path": "/var/lib/forwarder",
    "queue.url": "",
    "queue.schema": "forwarder",
    "queue.password_file": "",
    "queue.standbys": 1,
    "queue.lease_s": 15,
    "queue.max_bytes": 10 * 2**30,
    "queue.min_free_bytes": 256 * 2**20,
    "delivery.batch_events": 2000,
    "delivery.batch_bytes": 2097152,
    "delivery.linger_s": 1.0,
    "delivery.connections": 10,
    "delivery.connect_timeout_s": 5,
    "delivery.read_timeout_s": 60,
    "delivery.retry_initial_s": 2,
    "delivery.retry_max_s": 60,
    "dead_letters.max_age_days": 0,
    "log.level": "info",
    "log.format": "auto",
    "metrics.listen": "",
    "alerts.command": "",
    "alerts.oldest_s": 600,
    "alerts.full_s": 21600,
    "alerts.repeat_s": 3600,
    "intake.socket": "/run/forwarder/intake.sock",
    "intake.listen": "",
    "intake.tokens": (),
    "intake.prefix": "",
    "intake.origins": (),
    "intake.hosts": (),
    "intake.trusted_proxies": (),
    "intake.max_body_bytes": 10 * 2**20,
    "intake.on_doubt": "repeat",
}


@pytest.fixture(autouse=True)
def default_file(tmp_path, monkeypatch):
    """No test reads this machine's own settings."""
    path = tmp_path / "etc" / "forwarder.toml"
    monkeypatch.setattr("forwarder.config.reading.DEFAULT_FILE", str(path))
    return path


@pytest.fixture
def write(tmp_path):
    """Write a settings file and give its path."""

    def write(text, name="settings.toml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


@pytest.fixture
def load_toml(write):
    """Load settings from TOML text, with an empty environment."""
    return lambda text: config.load(write(text), {})


@contextmanager
def unprivileged():
    """As a user without rights; root may read any file."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def refused(load, *arguments):
    """The text a person gets when *load* refuses."""
    with pytest.raises(ConfigError) as caught:
        load(*arguments)
    return str(caught.value)


def test_defaults_are_the_contract():
    """Without a file and variables, every setting is what the contract says, and there are no others."""
    settings = config.load(environ={})

    assert {key: setting.of(settings) for key, setting in SETTINGS.items()} == CONTRACT
    assert settings == Settings()
    assert settings.file is None
    assert set(settings.sources) == set(CONTRACT)
    assert set(settings.sources.values()) == {"default"}


def test_settings_are_frozen():
    """Nobody can change a setting of a running daemon."""
    settings = config.load(environ={})

    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.queue.path = "/elsewhere"
    with pytest.raises(TypeError):
        settings.sources["queue.path"] = "me"


def test_defaults_load_in_no_time():
    """A producer pays less than 2 ms for its settings."""
    durations_s = []
    for _ in range(10):
        start = time.perf_counter()
        config.load(environ={"PATH": "/bin"})
        durations_s.append(time.perf_counter() - start)

    assert min(durations_s) < 0.002


def test_defaults_pass_their_own_checks():
    """Each default is a value that its own kind takes, shown and read back as the same."""
    for setting in SETTINGS.values():
        shown = tomllib.loads(f"value = {setting.kind.show(setting.default)}")["value"]

        assert setting.kind.check(shown) == setting.default, setting.key
        assert setting.kind.check(setting.default) == setting.default, setting.key
        assert not setting.kind.hides(setting.default), setting.key


def test_every_setting_is_documented_in_one_sentence():
    """Each setting has a doc that is one sentence."""
    for setting in SETTINGS.values():
        assert re.fullmatch(r"[A-Z].*\.", setting.doc), setting.key
        assert ". " not in setting.doc, setting.key


def test_named_file_goes_before_the_variable_and_that_before_the_default(write, default_file):
    """The file is the named one, else $FORWARDER_CONFIG, else the default one if it is there, else none."""
    named, variable = write("[log]\nlevel='debug'"), write("[log]\nlevel='error'", "variable.toml")
    environ = {"FORWARDER_CONFIG": variable}

    assert config.load(named, environ).log.level == "debug"
    assert config.load(None, environ).log.level == "error"
    assert config.load(None, {"FORWARDER_CONFIG": ""}).log.level == "info"

    write("[log]\nlevel='warning'", "etc/forwarder.toml")
    settings = config.load(None, {})

    assert settings.log.level == "warning"
    assert settings.file == settings.sources["log.level"] == str(default_file)


@pytest.mark.parametrize("named_by", ["--config", "$FORWARDER_CONFIG"])
def test_a_named_file_must_be_there(named_by, tmp_path):
    """A file that somebody named and that is not there is an error, never a silent default."""
    missing = str(tmp_path / "missing.toml")
    arguments = (missing, {}) if named_by == "--config" else (None, {"FORWARDER_CONFIG": missing})

    message = refused(config.load, *arguments)

    assert missing in message
    assert named_by in message


def test_an_unreadable_file_is_a_matter_of_permission(write):
    """A settings file that this user may not read ends with exit code 77, also when nobody named it."""
    path = write("[log]\n")
    write("[log]\n", "etc/forwarder.toml")
    os.chmod(path, 0)
    os.chmod(os.path.dirname(path) + "/etc", 0)
    try:
        for arguments in ((path, {}), (None, {})):
            with unprivileged(), pytest.raises(NotPermittedError) as caught:
                config.load(*arguments)
            assert caught.value.exit_code == 77
    finally:
        os.chmod(os.path.dirname(path) + "/etc", 0o755)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[mixpanel]\nregion = eu\n", "line 2, column 10"),
        (b"[log]\nlevel = '\xff'\n", "not UTF-8"),
        (b"[delivery]\nconnections = " + b"9" * 5000, "not TOML"),
        (b"[delivery]\nconnections = " + b"[" * 100_000, "not TOML"),
    ],
)
def test_a_file_that_is_not_toml_is_refused(content, said, write):
    """A file that is not TOML is refused with its name and, where there is one, line and column."""
    path = write(content)

    message = refused(config.load, path, {})

    assert path in message
    assert said in message


def test_a_directory_is_not_a_settings_file(tmp_path):
    """A directory given as the settings file is a configuration error, not a crash."""
    assert "Is a directory" in refused(config.load, str(tmp_path), {})


def test_a_byte_order_mark_and_crlf_are_taken(load_toml):
    """A file written on Windows is a settings file too."""
    assert load_toml(b"\xef\xbb\xbf[log]\r\nlevel = 'debug'\r\n").log.level == "debug"


def test_the_environment_overrides_the_file(write):
    """FORWARDER_<SECTION>_<KEY> goes before the file, and each value knows where it came from."""
    path = write("[queue]\npath = '/a'\nmax_bytes = '1GiB'\n")

    settings = config.load(path, {"FORWARDER_QUEUE_PATH": "/b", "FORWARDER_DEAD_LETTERS_MAX_AGE_DAYS": "7"})

    assert settings.queue == Queue(path="/b", max_bytes=2**30)
    assert settings.dead_letters.max_age_days == 7
    assert settings.sources["queue.path"] == "$FORWARDER_QUEUE_PATH"
    assert settings.sources["queue.max_bytes"] == path
    assert settings.sources["queue.min_free_bytes"] == "default"


def test_every_setting_can_be_given_by_environment():
    """Each key has a variable of its own, which takes what the file takes."""
    environ = {
        setting.variable: ",".join(default) if isinstance(default := setting.default, tuple) else str(default)
        for setting in SETTINGS.values()
    }

    assert config.load(None, environ) == Settings()
    assert len(environ) == len(SETTINGS)


def test_an_empty_variable_counts_as_not_set(write):
    """An empty variable changes nothing: it neither clears the file's value nor is it an error."""
    path = write("[log]\nlevel = 'debug'")

    settings = config.load(path, {"FORWARDER_LOG_LEVEL": "", "FORWARDER_DELIVERY_CONNECTIONS": ""})

    assert settings.log.level == "debug"
    assert settings.delivery.connections == 10


def test_variables_that_name_no_setting_are_refused():
    """A variable with a section's prefix but no key of it is refused, and the likely key is named."""
    message = refused(config.load, None, {"FORWARDER_QUEUE_PAHT": "/x", "FORWARDER_DEAD_LETTERS_KEEP": "1"})

    assert "FORWARDER_QUEUE_PAHT names no setting. Did you mean FORWARDER_QUEUE_PATH?" in message
    assert "FORWARDER_DEAD_LETTERS_KEEP" in message


def test_other_variables_are_left_alone():
    """Variables of other programs, and the two secrets, are no settings and no errors."""
    names = (
        "FORWARDER_HOME",
        "FORWARDER_QUEUE",
        "FORWARDER_LOGS_LEVEL",
        "QUEUE_PATH",
        "FORWARDER_MIXPANEL_SECRET",
    )

    assert config.load(None, dict.fromkeys(names, SECRET)) == Settings()


@pytest.mark.parametrize(
    ("toml", "key", "value"),
    [
        ("[mixpanel]\nregion='EU'", "mixpanel.region", "eu"),
        ("[mixpanel]\nproject_id=123", "mixpanel.project_id", "123"),
        ("[mixpanel]\nproject_id='123'", "mixpanel.project_id", "123"),
        ("[mixpanel]\nurl='https://proxy.example/mp/'", "mixpanel.url", "https://proxy.example/mp"),
        ("[mixpanel]\nurl='http://127.0.0.1:8080'", "mixpanel.url", "http://127.0.0.1:8080"),
        ("[mixpanel]\nurl='http://[::1]:8080'", "mixpanel.url", "http://[::1]:8080"),
        ("[mixpanel]\nurl='http://localhost'", "mixpanel.url", "http://localhost"),
        ("[mixpanel]\nstrict=false", "mixpanel.strict", False),
        ("[queue]\nmax_bytes=1048576", "queue.max_bytes", 2**20),
        ("[queue]\nmax_bytes='1024 KiB'", "queue.max_bytes", 2**20),
        ("[queue]\nmax_bytes='2MB'", "queue.max_bytes", 2_000_000),
        ("[queue]\nmax_bytes='1.5GiB'", "queue.max_bytes", 3 * 2**29),
        ("[queue]\nmax_bytes='1gib'", "queue.max_bytes", 2**30),
        ("[queue]\nmin_free_bytes=0", "queue.min_free_bytes", 0),
        ("[queue]\nschema='shop_2'", "queue.schema", "shop_2"),
        ("[queue]\nstandbys=0", "queue.standbys", 0),
        ("[queue]\nlease_s=2.5", "queue.lease_s", 2.5),
        ("[delivery]\nbatch_events=1", "delivery.batch_events", 1),
        ("[delivery]\nbatch_bytes='9.5MB'", "delivery.batch_bytes", 9_500_000),
        ("[delivery]\nlinger_s=0", "delivery.linger_s", 0),
        ("[delivery]\nread_timeout_s=0.5", "delivery.read_timeout_s", 0.5),
        ("[delivery]\nretry_initial_s=60", "delivery.retry_initial_s", 60),
        ("[dead_letters]\nmax_age_days=0.5", "dead_letters.max_age_days", 0.5),
        ("[log]\nlevel='WARNING'", "log.level", "warning"),
        ("[metrics]\nlisten=''", "metrics.listen", ""),
        ("[metrics]\nlisten='127.0.0.1:9464'", "metrics.listen", "127.0.0.1:9464"),
        ("[metrics]\nlisten='localhost:0'", "metrics.listen", "localhost:0"),
        ("[metrics]\nlisten='[::1]:65535'", "metrics.listen", "[::1]:65535"),
        ("[metrics]\nlisten='0.0.0.0:9464'", "metrics.listen", "0.0.0.0:9464"),
    ],
)
def test_values_that_are_taken(toml, key, value, load_toml):
    """What fits is taken, and comes out in the program's own form."""
    found = SETTINGS[key].of(load_toml(toml))

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("toml", "key", "said"),
    [
        ("[mixpanel]\nregion='uk'", "mixpanel.region = 'uk'", "us, eu, in"),
        ("[mixpanel]\nregion=1", "mixpanel.region = 1", "is a number, not text"),
        ("[mixpanel]\nregion=['eu']", "mixpanel.region", "is a list, not text"),
        ("[mixpanel]\nstrict=1", "mixpanel.strict = 1", "true or false"),
        ("[mixpanel]\nstrict='yes'", "mixpanel.strict = 'yes'", "true or false"),
        ("[metrics]\nlisten=9464", "metrics.listen", "is a number, not text"),
        ("[metrics]\nlisten='9464'", "metrics.listen", "has no IP address before the port"),
        ("[metrics]\nlisten=':9464'", "metrics.listen", "has no IP address before the port"),
        ("[metrics]\nlisten='::1:9464'", "metrics.listen", "has no IP address before the port"),
        ("[metrics]\nlisten='[127.0.0.1]:9464'", "metrics.listen", "has no IP address before the port"),
        ("[metrics]\nlisten='metrics.example:9464'", "metrics.listen", "has no IP address before the port"),
        ("[metrics]\nlisten='127.0.0.1:65536'", "metrics.listen", "does not end in :PORT"),
        ("[metrics]\nlisten='127.0.0.1:http'", "metrics.listen", "does not end in :PORT"),
        ("[mixpanel]\nurl='api.mixpanel.com'", "mixpanel.url", "is not an http or https URL"),
        ("[mixpanel]\nurl='ftp://x/'", "mixpanel.url", "is not an http or https URL"),
        ("[mixpanel]\nurl='https://x y/'", "mixpanel.url", "is not an http or https URL"),
        ("[mixpanel]\nurl='https://x:99999'", "mixpanel.url", "is not a URL"),
        ("[mixpanel]\nurl='https://[::1'", "mixpanel.url", "is not a URL"),
        ("[mixpanel]\nurl='https:///import'", "mixpanel.url", "is not an http or https URL"),
        ("[mixpanel]\nurl='https://x/?a=1'", "mixpanel.url", "query"),
        ("[mixpanel]\nurl='https://x/#a'", "mixpanel.url", "fragment"),
        ("[mixpanel]\nurl='https://x/import/'", "mixpanel.url", "Remove /import"),
        ("[mixpanel]\nurl='http://api.mixpanel.com'", "mixpanel.url", "in clear text"),
        ("[mixpanel]\nurl='http://127.0.0.1.example.com'", "mixpanel.url", "in clear text"),
        ("[mixpanel]\nurl='http://0.0.0.0'", "mixpanel.url", "in clear text"),
        ("[mixpanel]\nurl='http://localhost\\.example.com'", "mixpanel.url", "is not an http or https URL"),
        ("[mixpanel]\nca_file='ca.pem'", "mixpanel.ca_file", "is not an absolute path"),
        ("[queue]\npath=''", "queue.path = ''", "is empty"),
        ("[queue]\npath='var/queue'", "queue.path = 'var/queue'", "is not an absolute path"),
        ("[queue]\npath='~/queue'", "queue.path", "is not an absolute path"),
        ('[queue]\npath="/a\\u0000b"', "queue.path = '/a\\x00b'", "control character"),
        ("[queue]\nmax_bytes='10G'", "queue.max_bytes = '10G'", '"256MiB"'),
        ("[queue]\nmax_bytes='-1'", "queue.max_bytes", "is not a size"),
        ("[queue]\nmax_bytes=1.5", "queue.max_bytes = 1.5", "is a number, not a size"),
        ("[queue]\nmax_bytes=true", "queue.max_bytes = true", "is true/false, not a size"),
        ("[queue]\nmax_bytes=1", "queue.max_bytes = 1", "is too small"),
        ("[queue]\nmin_free_bytes=-1", "queue.min_free_bytes = -1", "is too small"),
        ("[queue]\nschema='Shop'", "queue.schema = 'Shop'", "lower-case"),
        ("[queue]\nschema='2shop'", "queue.schema = '2shop'", "a letter first"),
        ("[queue]\nschema='pg_shop'", "queue.schema = 'pg_shop'", "PostgreSQL's own"),
        (f"[queue]\nschema='{'a' * 41}'", "queue.schema", "at most 40"),
        ("[queue]\nschema='a-b'", "queue.schema = 'a-b'", "is not a name"),
        ("[queue]\nschema=''", "queue.schema = ''", "is not a name"),
        ("[queue]\npassword_file='pw'", "queue.password_file = (not shown)", "is not an absolute path"),
        ("[queue]\npassword='pw'", "queue.password", "name their file with password_file"),
        ("[queue]\nstandbys=10", "queue.standbys = 10", "from 0 to 9"),
        ("[queue]\nlease_s=1", "queue.lease_s = 1", "from 2 to 600 seconds"),
        ("[delivery]\nbatch_events=0", "delivery.batch_events = 0", "from 1 to 2000"),
        ("[delivery]\nbatch_events=2001", "delivery.batch_events = 2001", "is too large"),
        ("[delivery]\nbatch_events=10.0", "delivery.batch_events = 10.0", "is not a whole number"),
        ("[delivery]\nbatch_bytes='10MB'", "delivery.batch_bytes", "is too large"),
        ("[delivery]\nbatch_bytes='1MB'", "delivery.batch_bytes", "is too small"),
        ("[delivery]\nconnections=true", "delivery.connections = true", "is true/false, not a number"),
        ("[delivery]\nconnections=65", "delivery.connections = 65", "from 1 to 64"),
        ("[delivery]\nconnections=" + hex(10**5000), "delivery.connections", "is larger than"),
        ("[delivery]\nread_timeout_s=0", "delivery.read_timeout_s = 0", "above 0"),
        ("[delivery]\nread_timeout_s=-1", "delivery.read_timeout_s = -1", "is too small"),
        ("[delivery]\nread_timeout_s=nan", "delivery.read_timeout_s = nan", "is not a finite number"),
        ("[delivery]\nread_timeout_s=inf", "delivery.read_timeout_s = inf", "is not a finite number"),
        ("[delivery]\nread_timeout_s='5s'", "delivery.read_timeout_s = '5s'", "is text, not a number"),
        ("[delivery]\nread_timeout_s=2026-01-01", "delivery.read_timeout_s", "is a date or time"),
        (
            "[delivery]\nretry_max_s=1",
            "delivery.retry_max_s = 1 (",
            "is below delivery.retry_initial_s = 2 (default)",
        ),
        ("[dead_letters]\nmax_age_days=-1", "dead_letters.max_age_days = -1", "is too small"),
        ("[log]\nlevel='loud'", "log.level = 'loud'", "debug, info, warning, error"),
        ("[log]\nfromat='json'", "log.fromat", "Did you mean format?"),
        ("[log]\npath='/x'", "log.path", "It belongs below [queue]"),
        ("[log]\nzzz=1", "log.zzz", "[log] has level, format"),
        ("[log.format]\nx=1", "log.format", "is a table, not text"),
        ("[deadletters]\nx=1", "[deadletters]", "Did you mean [dead_letters]?"),
        ("[zzz]\nx=1", "[zzz]", "There are [mixpanel], [queue]"),
        ("connections=1", "connections", "Put it below [delivery]"),
        ("log='debug'", "log", "Write [log] on its own line"),
        (
            "[mixpanel]\nservice_account='me'",
            "mixpanel.service_account",
            "is set without mixpanel.project_id",
        ),
        ("[mixpanel]\nsecret_file='/s'", "mixpanel.secret_file", "is set without mixpanel.service_account"),
    ],
)
def test_values_that_are_refused(toml, key, said, load_toml, tmp_path):
    """What doesn't fit is refused with key, value, where it came from and what to do."""
    message = refused(load_toml, toml)

    assert message.startswith(key)
    assert said in message
    assert str(tmp_path / "settings.toml") in message
    assert "\n" not in message


FULL = "sslmode=verify-full"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://forwarder@db1/app?{FULL}",
        f"postgres://db1/app?{FULL}",
        f"postgresql://forwarder@db1:5432,db2:5433,db3/app?target_session_attrs=read-write&{FULL}",
        f"postgresql:///app?host=db1,db2&port=5432,5433&user=forwarder&{FULL}",
        f"postgresql://[2001:db8::1]:5432/app?{FULL}",
        f"postgresql://db1/app?service=shop&{FULL}",
        f"postgresql://db1/app?{FULL}&sslrootcert=/etc/ssl/db.pem&sslkey=/k.pem&passfile=/p",
        "postgresql://",
        "postgresql:///app",
        "postgresql://forwarder@/app?host=/run/postgresql",
        "postgresql://%2Frun%2Fpostgresql/app",
        "postgresql://localhost:5432/app",
        "postgresql://LOCALHOST/app",
        "postgresql://127.0.0.2,[::1]:5433/app?sslmode=disable",
        "postgresql://db1/app?host=127.0.0.1",
    ],
)
def test_servers_of_the_queue_that_are_taken(url, load_toml):
    """A URL as libpq takes it, encrypted and verified unless it is to this host, shown as it was given."""
    settings = load_toml(f"[queue]\nurl='{url}'")

    assert settings.queue.url == url
    assert {row.key: row.value for row in config.describe(settings, {})}["queue.url"] == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://db1/app", "has no sslmode"),
        ("postgresql://db1/app?sslmode=require", "has sslmode=require"),
        ("postgresql://db1/app?sslmode=verify-ca", "has sslmode=verify-ca"),
        ("postgresql://db1/app?ssl=true", "has sslmode=require"),
        (f"postgresql://db1/app?{FULL}&sslmode=disable", "has sslmode=disable"),
        ("postgresql://localhost,db1/app", "has no sslmode"),
        ("postgresql://localhost/app?host=db1", "has no sslmode"),
        ("postgresql://localhost/app?host=/run,db1", "has no sslmode"),
        ("postgresql://localhost/app?hostaddr=10.0.0.1", "has no sslmode"),
        ("postgresql:///app?hostaddr=10.0.0.1", "has no sslmode"),
        ("postgresql:///app?service=shop", "has no sslmode"),
        ("postgresql://127.0.0.1.example.com/app", "has no sslmode"),
        ("postgresql://0.0.0.0/app", "has no sslmode"),
        ("mysql://db1/app", "is not a URL of a PostgreSQL server"),
        ("host=db1 dbname=app", "is not a URL of a PostgreSQL server"),
        (f"postgresql://db1 /app?{FULL}", "is not a URL of a PostgreSQL server"),
        (f"postgresql://db1:port/app?{FULL}", "is not a URL of a PostgreSQL server"),
        (f"postgresql://db1/app?{FULL}&port", "is not a URL of a PostgreSQL server"),
        (f"postgresql://db1/app?{FULL}&port=1=2", "is not a URL of a PostgreSQL server"),
    ],
)
def test_servers_of_the_queue_that_are_refused(url, said, load_toml):
    """What would send events in clear text, or to an unverified server, is refused; so is what is no URL."""
    message = refused(load_toml, f"[queue]\nurl='{url}'")

    assert message.startswith("queue.url = ")
    assert said in message


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{SECRET}@db1/app?{FULL}",
        f"postgresql://:{SECRET}@/app",
        f"postgresql://me:12/{SECRET}@db1/app?{FULL}",
        f"postgresql://me:12?{SECRET}@db1/app?{FULL}",
        f"postgresql://me:{SECRET}/12@localhost/app",
        f"postgresql://me:a@{SECRET}@localhost/app",
        f"postgresql://localhost/app?password={SECRET}",
        f"postgresql://localhost/app?pass%77ord={SECRET}",
        f"postgresql://localhost/app?Password={SECRET}",
        f"postgresql://db1/app?sslpassword={SECRET}&{FULL}",
        f"postgresql://localhost/app?password={SECRET}&x",
        f"http://me:{SECRET}@db1/app",
        f"host=db1 password={SECRET}",
    ],
)
def test_a_password_in_a_url_is_refused_and_not_repeated(url, write):
    """Neither by the message nor among the settings shown, where others are wrong too."""
    for given in ((write(f"[queue]\nurl='{url}'"), {}), (None, {"FORWARDER_QUEUE_URL": url})):
        message = refused(config.load, *given)
        assert "queue.url = (not shown)" in message
        assert SECRET[:8] not in message

    rows = config.describe(Settings(queue=Queue(url=url)), {})
    assert SECRET[:8] not in repr(rows)


def test_producers_have_a_door_of_their_own_where_a_path_is_given(write):
    """With a url alone it is the server; with a path given too, whatever it is, it is that directory."""
    url = "postgresql:///app"
    path = write(f"[queue]\nurl = '{url}'\nschema = 'shop'")
    given = {"FORWARDER_QUEUE_PATH": Queue().path}

    assert config.load(environ={}).door == Queue()
    assert config.load(path, {}).door == Queue(url=url, schema="shop")
    relay = config.load(path, given)
    assert (relay.door, relay.queue) == (Queue(schema="shop"), Queue(url=url, schema="shop"))


@pytest.mark.parametrize("other", ["service_account='me'\nproject_id=1", "secret_file='/s'"])
def test_service_account_and_token_exclude_each_other(other, load_toml):
    """Two ways to sign in are one too many."""
    message = refused(load_toml, f"[mixpanel]\n{other}\ntoken_file='/t'")

    assert "are both set" in message
    assert "not both" in message


def test_everything_wrong_is_told_at_once(write):
    """One try shows all that is wrong, in file and environment, and nothing that only follows from it."""
    path = write(
        "[mixpanel]\nregion='uk'\nservice_account='me'\nproject_id='abc'\n[queue]\nmax_byte=1\n"
        "[delivery]\nretry_max_s=1\n[colour]\nx=1\n"
    )

    message = refused(config.load, path, {"FORWARDER_LOG_LEVEL": "loud", "FORWARDER_LOG_COLOUR": "1"})

    lines = message.splitlines()
    assert lines[0] == "the settings have 7 mistakes:"
    for key in (
        "region",
        "project_id",
        "max_byte",
        "retry_max_s",
        "colour",
        "$FORWARDER_LOG_LEVEL",
        "LOG_COLOUR",
    ):
        assert sum(key in line for line in lines) == 1, key


@pytest.mark.parametrize(
    "toml",
    [
        f"url='https://user:{SECRET}@api.mixpanel.com'",
        f"url='https://{SECRET}@api.mixpanel.com/import?x'",
        f"url='//user:{SECRET}@api.mixpanel.com'",
        f"url=['https://user:{SECRET}@api.mixpanel.com']",
        f"url='https://api.mixpanel.com/?token={SECRET}'",
        f"secret_file='{SECRET}'",
        f"token_file='{SECRET}'",
        f"secret_file=['{SECRET}']",
        f"project_id='{SECRET}'",
        f"service_account='me:{SECRET}'",
        f"secret='{SECRET}'",
        f"token='{SECRET}'",
        f"secret_files='{SECRET}'",
        f"secret.file='{SECRET}'",
        f"secret_file='{SECRET}",
        f"secret_file={SECRET}",
    ],
)
def test_no_message_repeats_a_secret(toml, write):
    """A secret that was put where none belongs is refused without being repeated."""
    message = refused(config.load, write(f"[mixpanel]\n{toml}\n"), {})

    assert SECRET not in message
    assert SECRET[:8] not in message


def test_messages_stay_on_their_lines(write):
    """A key or value with control characters in it can't forge a line or colour a terminal."""
    path = write('[log]\nlevel = "a\\nb\\u001b[31m"\n"fo\\no\\u001b" = 1\n["se\\nction"]\n')

    message = refused(config.load, path, {"FORWARDER_LOG_A\nB": "1"})

    assert len(message.splitlines()) == 5
    assert all(character.isprintable() or character == "\n" for character in message)


def test_long_values_are_cut_short(load_toml):
    """A value of any length makes a message that can be read."""
    assert len(refused(load_toml, f"[log]\nlevel = '{'x' * 10_000}'")) < 400


@pytest.mark.parametrize(
    ("mixpanel", "url"),
    [
        (Mixpanel(), "https://api.mixpanel.com/import"),
        (Mixpanel(region="eu"), "https://api-eu.mixpanel.com/import"),
        (Mixpanel(region="in"), "https://api-in.mixpanel.com/import"),
        (Mixpanel(region="in", url="https://proxy.example/mp"), "https://proxy.example/mp/import"),
    ],
)
def test_endpoint_url(mixpanel, url):
    """What is sent goes to the region's host, or below the URL that overrides it."""
    assert config.endpoint_url(Settings(mixpanel=mixpanel), "/import") == url


def test_no_request_may_be_larger_than_the_endpoint_takes():
    """The settings' bounds are those of the endpoint for events."""
    assert SETTINGS["delivery.batch_events"].kind.high == EVENTS.max_records
    assert SETTINGS["delivery.batch_bytes"].kind.high == EVENTS.max_request_bytes


@pytest.mark.parametrize(
    ("key", "given", "taken"),
    [
        ("tokens", ["abc", "d-1"], ("abc", "d-1")),
        ("prefix", "/a/b/", "/a/b"),
        ("origins", ["HTTPS://Example.com:8443"], ("https://example.com:8443",)),
        ("hosts", ["Track.example.com", "[::2]"], ("track.example.com", "::2")),
        ("trusted_proxies", ["unix:", "10.0.0.1/8"], ("unix:", "10.0.0.0/8")),
    ],
)
def test_what_the_intake_compares_with_is_kept_as_it_is_compared(write, key, given, taken):
    """Lists and paths of the intake are taken from a file or a variable in the form that requests have."""
    text = given if isinstance(given, str) else ", ".join(given)

    for settings in (
        config.load(write(f"[intake]\n{key} = {given!r}"), {}),
        config.load(None, {f"FORWARDER_INTAKE_{key.upper()}": text}),
    ):
        assert getattr(settings.intake, key) == taken


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("tokens = 'abc'", "is text, not a list. Put it in brackets"),
        ("tokens = ['a b']", "has 'a b', which is not one word"),
        ("tokens = [1]", "has an item, which is a number, not text"),
        ("prefix = 'x'", "is not a path"),
        ("origins = ['https://a.b/']", "has 'https://a.b/', which is not an origin"),
        ("hosts = ['a:1/']", "which is not the name of a host"),
        ("trusted_proxies = ['a']", "which is neither an address nor a network"),
    ],
)
def test_what_the_intake_could_never_match_is_refused(write, line, what):
    """A value that no request can have is a mistake, and named."""
    assert what in refused(config.load, write(f"[intake]\n{line}"), {})


# The sample file


def test_the_sample_holds_every_setting_at_its_default(write):
    """With each # before a key taken away, the sample gives exactly the defaults, and misses none."""
    uncommented = re.sub(r"(?m)^#(?=\S)", "", SAMPLE.read_text())
    table = tomllib.loads(uncommented)
    settings = config.load(write(uncommented), {})

    assert settings == Settings()
    assert {f"{section}.{name}" for section in table for name in table[section]} == set(SETTINGS)
    assert list(table) == list(SECTIONS)


def test_the_sample_changes_nothing_as_it_is():
    """The sample as installed leaves every setting at its default, and gives none."""
    settings = config.load(str(SAMPLE), {})

    assert settings == Settings()
    assert set(settings.sources.values()) == {"default"}


def test_the_sample_documents_every_setting():
    """Above each key of the sample stands its doc from the table, word by word."""
    sample = SAMPLE.read_text()
    for setting in SETTINGS.values():
        section = sample.partition(f"\n[{setting.section}]\n")[2]
        comment = re.search(rf"((?:^# .*\n)+)#{setting.name} = (.*)\n", section, re.MULTILINE)

        assert comment, setting.key
        assert comment[1].replace("# ", "").split() == setting.doc.split()
        assert comment[2] == setting.kind.show(setting.default)


# The key


@pytest.fixture
def key_file(tmp_path):
    """Write a key's file, for its owner alone."""

    def write(content, mode=0o600, name="key"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return str(path)

    return write


def account(**values):
    return Settings(mixpanel=Mixpanel(service_account="me", project_id="12", **values))


def test_a_service_accounts_secret_from_each_source(key_file, tmp_path):
    """The secret comes from its file, else systemd's credential, else the environment."""
    file = key_file("from-file\n")
    key_file("from-credential", name="credentials/mixpanel-secret", mode=0o440)
    environ = {
        "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials"),
        "FORWARDER_MIXPANEL_SECRET": "from-env",
    }

    for settings, variables, password in (
        (account(secret_file=file), environ, "from-file"),
        (account(), environ, "from-credential"),
        (account(), environ | {"CREDENTIALS_DIRECTORY": str(tmp_path)}, "from-env"),
        (account(), {"FORWARDER_MIXPANEL_SECRET": "from-env"}, "from-env"),
    ):
        expected = config.Credentials("me", password, "12")

        assert config.load_credentials(settings, variables) == (expected, [])


def test_a_token_from_each_source(key_file, tmp_path):
    """The token comes from the same sources in the same order, and goes as the username."""
    file = key_file("from-file\r\n")
    key_file("from-credential", name="credentials/mixpanel-token", mode=0o440)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials"), "FORWARDER_MIXPANEL_TOKEN": "from-env"}

    for settings, variables, token in (
        (Settings(mixpanel=Mixpanel(token_file=file)), environ, "from-file"),
        (Settings(), environ, "from-credential"),
        (Settings(), {"FORWARDER_MIXPANEL_TOKEN": "from-env"}, "from-env"),
    ):
        assert config.load_credentials(settings, variables) == (config.Credentials(token, "", None), [])


@pytest.mark.parametrize(
    ("settings", "environ", "said"),
    [
        (Settings(), {}, "there is no key"),
        (Settings(), {"FORWARDER_MIXPANEL_TOKEN": ""}, "there is no key"),
        (Settings(), {"FORWARDER_MIXPANEL_SECRET": SECRET}, "no mixpanel.service_account"),
        (account(), {}, "there is no secret"),
        (account(), {"FORWARDER_MIXPANEL_TOKEN": SECRET}, "two ways to sign in"),
        (account(), {"FORWARDER_MIXPANEL_SECRET": SECRET, "FORWARDER_MIXPANEL_TOKEN": SECRET}, "two ways"),
    ],
)
def test_exactly_one_way_to_sign_in(settings, environ, said):
    """No way to sign in, half of one, or two of them: each is refused, with what is missing."""
    message = refused(config.load_credentials, settings, environ)

    assert said in message
    assert SECRET not in message


def test_without_a_key_both_ways_are_shown():
    """Who has configured nothing yet is told both ways to sign in."""
    message = refused(config.load_credentials, Settings(), {})

    for word in (
        "service_account",
        "project_id",
        "secret_file",
        "mixpanel-secret",
        "token_file",
        "mixpanel-token",
    ):
        assert word in message


def test_a_secret_that_is_not_used_is_told():
    """With a token and a secret but no service account, the token is used and a warning says so."""
    environ = {"FORWARDER_MIXPANEL_SECRET": "s" * 32, "FORWARDER_MIXPANEL_TOKEN": SECRET}

    credentials, warnings = config.load_credentials(Settings(), environ)

    assert credentials.username == SECRET
    assert len(warnings) == 1
    assert "service_account" in warnings[0]
    assert "s" * 32 not in warnings[0]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n",
        f"{SECRET}\n\n",
        f"{SECRET}\n{SECRET}",
        f" {SECRET}",
        f"{SECRET}\0",
        f"\ufeff{SECRET}",
        f"{SECRET}é",
        SECRET.encode() + b"\xff",
        SECRET * 1000,
    ],
)
def test_a_key_is_one_printable_word(content, key_file):
    """A file that is empty or holds more or other than one printable word is refused and not repeated."""
    message = refused(config.load_credentials, account(secret_file=key_file(content)), {})

    assert "secret_file" in message
    assert SECRET not in message


def test_a_key_in_the_environment_is_one_printable_word():
    """A variable with a line break or a stray byte in it is refused and not repeated."""
    for value in (f"{SECRET} {SECRET}", f"{SECRET}\nx", f"{SECRET}\udcff"):
        message = refused(config.load_credentials, Settings(), {"FORWARDER_MIXPANEL_TOKEN": value})

        assert "$FORWARDER_MIXPANEL_TOKEN" in message
        assert SECRET not in message


def test_a_keys_file_must_be_there(tmp_path):
    """A named file that is not there is an error even when another source would have a key."""
    settings = account(secret_file=str(tmp_path / "missing"))

    assert "does not exist" in refused(
        config.load_credentials, settings, {"FORWARDER_MIXPANEL_SECRET": SECRET}
    )


@pytest.mark.parametrize("kind", ["FIFO", "directory", "device", "link to a FIFO"])
def test_a_keys_file_is_a_regular_file(kind, tmp_path):
    """What is no regular file is refused at once, and not waited for; no writer is needed."""
    path = tmp_path / "key"
    if kind == "directory":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    else:
        os.mkfifo(tmp_path / "fifo")
        path.symlink_to("fifo")

    message = refused(config.load_credentials, account(secret_file=str(path)), {})

    assert f"secret_file {str(path)!r}) is not a regular file" in message


def test_a_keys_file_may_be_a_link(key_file, tmp_path):
    """Symbolic links are followed, over several steps, as where Kubernetes puts a secret."""
    key_file(SECRET, name="2026/secret")
    (tmp_path / "data").symlink_to("2026")
    (tmp_path / "secret").symlink_to("data/secret")

    credentials, _ = config.load_credentials(account(secret_file=str(tmp_path / "secret")), {})

    assert credentials.password == SECRET


def test_a_keys_file_may_be_out_of_reach(key_file):
    """A file that this user may not read ends with exit code 77."""
    settings = account(secret_file=key_file(SECRET, mode=0))

    with unprivileged(), pytest.raises(NotPermittedError) as caught:
        config.load_credentials(settings, {})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, 0), (0o400, 0), (0o640, 1), (0o604, 1), (0o622, 0)])
def test_a_key_that_others_can_read_is_told(mode, warned, key_file):
    """A key that the group or all can read works, with a warning that doesn't repeat it."""
    credentials, warnings = config.load_credentials(account(secret_file=key_file(SECRET, mode=mode)), {})

    assert credentials.password == SECRET
    assert len(warnings) == warned
    assert SECRET not in "".join(warnings)


def test_systemd_keeps_its_credentials_itself(key_file, tmp_path):
    """A file in systemd's credential directory is not warned about, by whatever name it is reached."""
    path = key_file(SECRET, mode=0o444, name="credentials/other")

    _, warnings = config.load_credentials(
        account(secret_file=path), {"CREDENTIALS_DIRECTORY": f"{tmp_path}/credentials/"}
    )

    assert warnings == []


def test_credentials_do_not_show_themselves():
    """Neither a service account's secret nor a token is in the text form of credentials."""
    for credentials in (config.Credentials("me", SECRET, "12"), config.Credentials(SECRET, "")):
        for text in (repr(credentials), str(credentials), f"{credentials}", f"{[credentials]}"):
            assert SECRET not in text


# What is shown


def test_describe_lists_every_setting_with_its_source(write):
    """Every setting is listed with the value in effect and where it came from."""
    path = write("[queue]\nmax_bytes = '20GiB'")
    settings = config.load(path, {"FORWARDER_LOG_LEVEL": "debug"})

    rows = {row.key: row for row in config.describe(settings, {})}

    assert list(rows) == [*SETTINGS, "mixpanel.secret", "mixpanel.token", "queue.password"]
    assert rows["queue.max_bytes"] == ("queue.max_bytes", 20 * 2**30, path)
    assert rows["queue.max_bytes"].text == 'queue.max_bytes = "20GiB"'
    assert rows["log.level"] == ("log.level", "debug", "$FORWARDER_LOG_LEVEL")
    assert rows["mixpanel.secret"] == ("mixpanel.secret", None, "not set")


def test_describe_tells_where_a_secret_is_and_not_what(key_file):
    """Of a secret only its source is shown, also when it stands in a URL."""
    file = key_file(SECRET)
    settings = Settings(mixpanel=Mixpanel(secret_file=file, url=f"https://me:{SECRET}@example.com"))

    rows = {row.key: row for row in config.describe(settings, {"FORWARDER_MIXPANEL_TOKEN": SECRET})}

    assert rows["mixpanel.secret"].value == rows["mixpanel.token"].value == "(not shown)"
    assert file in rows["mixpanel.secret"].source
    assert rows["mixpanel.token"].source == "$FORWARDER_MIXPANEL_TOKEN"
    assert SECRET not in repr(rows)


def test_the_password_for_the_queue_comes_from_a_file(key_file, tmp_path, monkeypatch):
    """From the setting's, else systemd's; neither is shown, and a report finds it to keep it out."""
    file, credential = key_file("pass word 123456\n"), key_file(SECRET, name="credentials/queue-password")
    environ = {"CREDENTIALS_DIRECTORY": os.path.dirname(credential)}
    settings = Settings(queue=Queue(password_file=file))

    assert config.find_password(settings.queue, environ).path == file
    assert config.find_password(Queue(), environ).path == credential
    assert config.find_password(Queue(), {}) is None
    os.truncate(credential, 1)
    assert config.find_password(Queue(), environ) is None
    Path(credential).write_text(SECRET)

    rows = {row.key: row for row in config.describe(settings, environ)}
    assert rows["queue.password"] == ("queue.password", "(not shown)", f"queue.password_file {file!r}")
    for name, value in (environ | {"PGPASSWORD": "from-libpq"}).items():
        monkeypatch.setenv(name, value)
    assert {"pass word 123456", SECRET, "from-libpq"} <= set(config.known_secrets(settings))


def test_what_is_shown_can_be_loaded_again(write):
    """The lines shown for the settings are a settings file that gives the same settings."""
    environ = {
        "FORWARDER_MIXPANEL_STRICT": "no",
        "FORWARDER_QUEUE_PATH": '/a "quoted\\ path',
        "FORWARDER_QUEUE_MAX_BYTES": "1500000",
        "FORWARDER_DELIVERY_LINGER_S": "0.25",
    }
    settings = config.load(None, environ)

    text = "\n".join(row.text for row in config.describe(settings, {}))

    assert config.load(write(text), {}) == settings


WRONG_ELSEWHERE = (
    "[delivery]\nlinger = 3\n",
    '[log]\nlevel = "loud"\n',
    "[deliveri]\n",
    "[mixpanel]\nregion = 7\n",
)
WRONG_HERE = ("[queue]\npth = '/x'\n", "[queue]\nmax_bytes = 'x'\n", "[queu]\npath = '/x'\n", "path = '/x'\n")


@pytest.mark.parametrize("wrong", WRONG_ELSEWHERE)
def test_what_is_wrong_with_settings_not_used_is_a_warning(wrong, write):
    """A typo in another section turns no producer away; it is told all the same."""
    file, warnings = write(wrong), []
    found = config.load(file, {"FORWARDER_QUEUE_PATH": "/q"}, used=("queue",), warn=warnings.append)
    assert found.queue.path == "/q"
    assert len(warnings) == 1
    with pytest.raises(ConfigError) as refused:
        config.load(file, {})
    assert warnings == [str(refused.value)]


@pytest.mark.parametrize("wrong", WRONG_HERE)
def test_what_is_wrong_with_settings_used_is_an_error(wrong, write):
    """Or a misspelt queue.path would put events into another queue."""
    with pytest.raises(ConfigError):
        config.load(write(wrong), {}, used=("queue",))


def test_variables_that_kubernetes_injects_are_not_ours():
    """For a service that is called forwarder-metrics, or forwarder-queue; misspelt ones still are."""
    injected = {
        "FORWARDER_METRICS_SERVICE_HOST": "10.0.0.1",
        "FORWARDER_METRICS_SERVICE_PORT": "9464",
        "FORWARDER_METRICS_SERVICE_PORT_HTTP": "9464",
        "FORWARDER_METRICS_PORT": "tcp://10.0.0.1:9464",
        "FORWARDER_QUEUE_PORT_9464_TCP_ADDR": "10.0.0.1",
    }
    assert config.load(None, injected).metrics.listen == ""
    with pytest.raises(ConfigError, match="FORWARDER_QUEUE_PAHT"):
        config.load(None, {"FORWARDER_QUEUE_PAHT": "/q"}, used=("queue",))
