"""P1 and P8 where Python web programs live: real servers with four workers, which fork in their own ways."""

import http.client
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from forwarder import EventQueue
from forwarder.spool.sqlite import books
from forwarder.spool.sqlite.view import View

APP = """
    import os
    from forwarder import EventQueue

    queue = EventQueue(os.environ["QUEUE"], min_free_bytes=0)
    if os.environ.get("USED"):
        queue.put({"event": "A", "properties": {"number": -1}})

    def application(environ, start_response):
        queue.put({"event": "A", "properties": {"number": int(environ["QUERY_STRING"])}})
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]
"""
SERVERS = {
    "gunicorn sync": ["gunicorn", "-w", "4"],
    "gunicorn sync, preloaded": ["gunicorn", "-w", "4", "--preload"],
    "gunicorn gthread": ["gunicorn", "-w", "4", "-k", "gthread", "--threads", "4"],
    "gunicorn gthread, preloaded": ["gunicorn", "-w", "4", "-k", "gthread", "--threads", "4", "--preload"],
    "gunicorn gevent": ["gunicorn", "-w", "4", "-k", "gevent"],
    "gunicorn gevent, preloaded": ["gunicorn", "-w", "4", "-k", "gevent", "--preload"],
    "uwsgi": ["uwsgi", "--master", "-p", "4", "--need-app", "--die-on-term"],
    "uwsgi, lazy": ["uwsgi", "--master", "-p", "4", "--need-app", "--die-on-term", "--lazy-apps"],
}
REQUESTS = 300


def program(name):
    """The command of a server that is installed beside Python."""
    found = shutil.which(name, path=os.path.dirname(sys.executable))
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def numbers(path, rows):
    return sorted(json.loads(row)["properties"]["number"] for row in rows(path))


def is_sound(path):
    with View(path) as view:
        return all(finding.ok for finding in books.check(view))


# Also in use before the fork; past Python that is refused: test_event_queue.py.
CASES = [*((name, False) for name in SERVERS), *((name, True) for name in SERVERS if "preloaded" in name)]


@pytest.mark.parametrize(("name", "is_used"), CASES)
def test_web_server(tmp_path, queue_path, rows, until, name, is_used):
    """Each request's event is stored once, whichever worker had it."""
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = SERVERS[name]
    address = ["--http-socket", f"127.0.0.1:{port}", "--wsgi-file", "app.py"]
    if words[0] == "gunicorn":
        address = ["-b", f"127.0.0.1:{port}", "--graceful-timeout", "3", "app"]
    server = subprocess.Popen(
        [program(words[0]), *words[1:], *address],
        cwd=tmp_path,
        env={**os.environ, "QUEUE": queue_path, "USED": "yes" * is_used},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )

    def asked(number):
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            connection.request("GET", f"/?{number}", headers={"Connection": "close"})
            with connection.getresponse() as response:
                return response.status

    def is_there():
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert server.poll() is None, server.stdout.read().decode()
            return False
        return True

    try:
        until(is_there, "it listens")
        with ThreadPoolExecutor(16) as pool:
            assert set(pool.map(asked, range(REQUESTS))) == {200}
    finally:
        server.send_signal(signal.SIGTERM)
        output = server.communicate(timeout=60)[0].decode()
        print(output)
    found = numbers(queue_path, rows)
    assert [number for number in found if number >= 0] == list(range(REQUESTS))
    assert bool([number for number in found if number < 0]) == is_used
    assert is_sound(queue_path)


TASKS = """
    import os
    from celery import Celery
    from forwarder import EventQueue

    folder = os.environ["FOLDER"]
    app = Celery("tasks", broker="filesystem://")
    app.conf.broker_transport_options = {"data_folder_in": folder, "data_folder_out": folder}
    app.conf.worker_hijack_root_logger = False
    queue = EventQueue(os.environ["QUEUE"], min_free_bytes=0)
    queue.put({"event": "A", "properties": {"number": -1}})

    @app.task
    def put(number):
        queue.put({"event": "A", "properties": {"number": number}})
"""


def test_celery(tmp_path, queue_path, rows, until):
    """Tasks in celery's forked workers store each its event, in a queue that the parent has used."""
    celery = program("celery")
    (tmp_path / "tasks.py").write_text(textwrap.dedent(TASKS))
    (tmp_path / "broker").mkdir()
    environ = {**os.environ, "QUEUE": queue_path, "FOLDER": str(tmp_path / "broker")}
    send = "from tasks import put\nfor number in range(100): put.delay(number)"
    subprocess.run([sys.executable, "-c", send], cwd=tmp_path, env=environ, check=True, timeout=60)
    worker = subprocess.Popen(
        [celery, "-A", "tasks", "worker", "--pool", "prefork", "-c", "4", "--without-gossip"],
        cwd=tmp_path,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        until(lambda: [n for n in numbers(queue_path, rows) if n >= 0] == list(range(100)), "all", 60)
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=60)
    assert is_sound(queue_path)


def put_some(queue, first):
    for number in range(first, first + 25):
        queue.put({"event": "A", "properties": {"number": number}})


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(queue_path, rows, method):
    """A queue that is in use goes to processes of each kind."""
    context = multiprocessing.get_context(method)
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put({"event": "A", "properties": {"number": 100}})
        workers = [context.Process(target=put_some, args=(queue, first)) for first in range(0, 100, 25)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0] * 4
        queue.put({"event": "A", "properties": {"number": 101}})
    assert numbers(queue_path, rows) == list(range(102))
    assert is_sound(queue_path)


GEVENT = """
    import sys
    {first}
    {second}
    import fcntl, os, time
    import gevent
    from forwarder.errors import TryAgainError

    queue = EventQueue(sys.argv[1], min_free_bytes=0, lock_timeout_s=0.5)
    queue.put({{"event": "A", "properties": {{"number": 0}}}})
    steps = []

    def others():
        while True:
            steps.append(time.monotonic())
            gevent.sleep(0.01)

    other = gevent.spawn(others)
    holder = os.open(sys.argv[1] + "/writer.lock", os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    for number in range(2):
        began, before = time.monotonic(), len(steps)
        try:
            queue.put({{"event": "A", "properties": {{"number": 1}}}})
        except TryAgainError:
            pass
        else:
            sys.exit("it has a lock that another holds")
        took_s = time.monotonic() - began
        assert 0.4 < took_s < 5, took_s
        assert len(steps) - before > 10, "other greenlets have not run"
    gevent.spawn_later(0.2, fcntl.flock, holder, fcntl.LOCK_UN)
    puts = [
        gevent.spawn(queue.put, {{"event": "A", "properties": {{"number": each}}}}) for each in range(2, 40)
    ]
    gevent.joinall(puts, raise_error=True)
    other.kill()
"""
PATCH = "from gevent import monkey; monkey.patch_all()"
IMPORT = "from forwarder import EventQueue"


@pytest.mark.parametrize(("first", "second"), [(PATCH, IMPORT), (IMPORT, PATCH)], ids=["before", "after"])
def test_gevent(queue_path, rows, first, second):
    """Patched before the import or after it: who waits for the writer lock keeps the time limit, and lets
    other greenlets run meanwhile."""
    pytest.importorskip("gevent")
    code = textwrap.dedent(GEVENT).format(first=first, second=second)
    done = subprocess.run(
        [sys.executable, "-c", code, queue_path], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert numbers(queue_path, rows) == [0, *range(2, 40)]
    assert is_sound(queue_path)
