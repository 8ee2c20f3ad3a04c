"""A producer that a signal handler interrupts at one line after the other of writing, closing and forking.

::

    python tests/fault/interruptions.py DIRECTORY HANDLER FIRST STEP

Each run has a process and a queue of its own. The handler comes at the nth line that is run in `MODULES`;
when there is none any more it is the last run. From the line FIRST on each STEPth is tried. The number of
runs is printed, and the lines at which it went wrong.
"""

import ast
import gc
import json
import os
import select
import shutil
import signal
import sqlite3
import sys
import traceback
from contextlib import suppress

import forwarder.spool
from forwarder import EventQueue
from forwarder.errors import TryAgainError
from forwarder.spool import View, books

MODULES = ("access", "connection", "database", "forks", "opening", "turnstile")
FILES = {os.path.join(os.path.dirname(forwarder.spool.__file__), f"{name}.py") for name in MODULES}
MOST_S = 10


def _unreachable():
    """The lines at which no signal handler can raise: Python looks for signals after calls and at jumps."""
    found = set()
    for file in FILES:
        with open(file) as source:
            tree = ast.parse(source.read())
        for node in ast.walk(tree):
            if isinstance(node, (ast.Try, ast.With)):
                found.add((file, node.lineno))
            if isinstance(node, ast.Try):
                parts = [node.finalbody[:1], *(handler.body[:1] for handler in node.handlers)]
                found |= {(file, part[0].lineno) for part in parts if part}
                found |= {(file, handler.lineno) for handler in node.handlers}
    return found


UNREACHABLE = _unreachable()


class BrokenOffError(Exception):
    """What a handler raises."""


class Producer:
    """One run: what it does, and what it was told is accepted."""

    def __init__(self, path, handler, line):
        self.path, self.handler, self.line = path, handler, line
        self.seen = 0
        self.children = []
        self.came_in = None  # the process in which the handler came last
        self.told = os.open(f"{path}-told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.queue = EventQueue(path, min_free_bytes=0)
        self.queue.close()  # as any fork does: the next call opens it again
        signal.signal(signal.SIGUSR1, getattr(self, handler))

    def put(self, name):
        self.queue.put({"event": name, "properties": {"distinct_id": "d"}})
        os.write(self.told, f"{name}\n".encode())

    def try_to_put(self, name):
        """Only a handler's own call may be refused, and what it breaks off."""
        try:
            self.put(name)
        except (TryAgainError, BrokenOffError):
            if self.handler == "puts" and not name.startswith("by the handler"):
                raise

    # The handlers

    def puts(self, *_):
        self.try_to_put(f"by the handler {os.getpid()}")

    def raises(self, *_):
        raise BrokenOffError

    def puts_and_raises(self, *_):
        self.puts()
        raise BrokenOffError

    def closes(self, *_):
        self.queue.close()

    def forks(self, *_):
        # Not waited for: what is interrupted may have the turnstile.
        self.children.append(self.in_child(lambda: self.put(f"by the handler's child {os.getpid()}")))

    def forks_and_raises(self, *_):
        self.forks()
        raise BrokenOffError

    # The run

    def at_line(self, frame, kind, _argument):
        if frame.f_code.co_filename not in FILES:
            return None
        place = frame.f_code.co_filename, frame.f_lineno
        if kind == "line" and not (self.handler.endswith("raises") and place in UNREACHABLE):
            self.seen += 1
            if self.seen == self.line:
                sys.settrace(None)
                self.came_in = os.getpid()
                signal.raise_signal(signal.SIGUSR1)
        return self.at_line

    def run(self):
        sys.unraisablehook = lambda *_: None  # Python only prints what its hooks at a fork raise
        gc.disable()
        sys.settrace(self.at_line)
        self.try_to_put("opened and put")
        here, there = os.pipe(), os.pipe()

        def in_child():
            os.close(there[1])
            self.try_to_put("child 1")

            def at_statement(text):
                if text == "COMMIT":
                    os.write(here[1], b"x")
                    # Not for ever: the parent's handler may be waiting for this transaction.
                    select.select([there[0]], [], [], 0.5)

            # The handler may come here, too; then there is no connection to listen to.
            with suppress(sqlite3.ProgrammingError, BrokenOffError, TryAgainError):
                self.queue._queue.connect().set_trace_callback(at_statement)
            self.try_to_put("child 2")
            with suppress(sqlite3.ProgrammingError, BrokenOffError, TryAgainError):
                self.queue._queue.connect().set_trace_callback(None)

        child = self.in_child(in_child)
        os.close(here[1])
        os.read(here[0], 1)
        # The parent closes what it has, right before the child's COMMIT.
        gc.collect()
        try:
            self.queue.close()
        except BrokenOffError:
            self.queue.close()
        os.close(there[1])
        self.children.append(child)
        self.wait()
        self.try_to_put("put")
        sys.settrace(None)
        self.put("after all")
        self.queue.close()
        self.wait()
        assert files_open(self.path) == []
        self.balance()
        return self.seen < self.line

    def in_child(self, step):
        self.came_in = None
        child = os.fork()
        if child:
            return child
        self.children.clear()
        try:
            signal.alarm(MOST_S)
            try:
                if self.came_in != os.getpid():
                    found = files_open(self.path)
                    assert found == [], f"open in the child: {found}"
                step()
            except BrokenOffError:
                self.put("child, once more")
            sys.settrace(None)
            self.put(f"child, after all {os.getpid()}")
            self.queue.close()
            self.wait()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def wait(self):
        while self.children:
            assert os.waitpid(self.children.pop(), 0)[1] == 0, "the child has failed"

    def balance(self):
        with open(f"{self.path}-told") as file:
            told = sorted(file.read().splitlines())
        with View(self.path) as view:
            there = sorted(json.loads(row.data)["event"] for row in view.peek(100))
            assert [finding for finding in books.check(view) if not finding.ok] == []
        assert sorted(set(there)) == there, there
        assert set(told) <= set(there), f"lost: {set(told) - set(there)}"
        assert [name for name in os.listdir(self.path) if name.startswith("damaged")] == []


def files_open(path):
    """The queue's files that this process has open; not the turnstile, which holds nothing."""
    names = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    return [name for name in map(os.path.realpath, names) if name.startswith(f"{path}/data.db")]


def run(path, handler, line):
    """A run in a process of its own; returns its exit code: 0, 1: wrong, 2: there is no such line."""
    runner = os.fork()
    if runner:
        return os.waitstatus_to_exitcode(os.waitpid(runner, 0)[1])
    try:
        signal.alarm(MOST_S)
        os._exit(2 if Producer(path, handler, line).run() else 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def main(directory, handler, first, step):
    line, runs, code, wrong = int(first), 0, 0, []
    path = f"{directory}/queue"
    while code != 2:
        code = run(path, handler, line)
        if code not in (0, 2):
            wrong.append(line)
        shutil.rmtree(path)
        os.unlink(f"{path}-told")
        runs, line = runs + 1, line + int(step)
    print(json.dumps({"runs": runs, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
