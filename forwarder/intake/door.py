"""What comes of a request: from what was read to the answer."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from forwarder.config import Settings
from forwarder.errors import ForwarderError
from forwarder.intake import access, payload
from forwarder.intake.answers import PLAIN, Answer, Asked
from forwarder.intake.counters import EXPOSITION, Counters
from forwarder.intake.intake_log import IntakeLog
from forwarder.intake.items import Sorted, Sorter
from forwarder.intake.payload import RefusedError
from forwarder.intake.writer import Batch, Writer
from forwarder.records import KINDS

KIND_OF = {"/track": "event", "/import": "event", "/engage": "profile", "/groups": "group"}
_SERVED = "there are /track, /import, /engage and /groups"
# A larger body is read in a thread, and its items are judged in slices, so that others need not wait for it.
_LARGE_BYTES = 64 << 10
# One takes several times its size in memory.
_LARGE_AT_ONCE = 1

Respond = Callable[[Answer], None]


class Request(NamedTuple):
    """A request as it was read. *peer* is its address or `access.UNIX`; *who* names it for the log."""

    method: str
    path: str
    query: bytes
    headers: Mapping[str, str]
    body: bytes
    peer: str
    who: Callable[[], str]


class Rules(NamedTuple):
    """What the settings say about requests. Replaced as a whole by a reload."""

    access: access.Access
    tokens: frozenset[str]
    project_id: str
    prefix: str
    max_body_bytes: int

    @classmethod
    def by(cls, settings: Settings, tokens: frozenset[str], own_hosts: tuple[str, ...] = ()) -> Rules:
        """By *settings*, for *tokens*; *own_hosts* are the addresses that the intake listens on."""
        said = settings.intake
        return cls(
            access.Access.by(said.origins, (*said.hosts, *own_hosts), said.trusted_proxies),
            tokens,
            settings.mixpanel.project_id,
            said.prefix,
            said.max_body_bytes,
        )


class Door:
    """Answers requests, in the loop's thread.

    Attributes:
        rules: What is in force.
    """

    def __init__(
        self,
        rules: Rules,
        writer: Writer,
        counters: Counters,
        log: IntakeLog,
        connections: Callable[[], int],
    ) -> None:
        self.rules = rules
        self._writer = writer
        self._counters = counters
        self._intake_log = log
        self._connections = connections
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)
        # The loop itself keeps only weak references.
        self._tasks: set[asyncio.Task[None]] = set()

    def answer(self, request: Request, respond: Respond) -> None:
        """Call *respond* once, now or later, with the answer."""
        path = self._route(request.path)
        finish = partial(self._finish, request, path, respond)
        asked = Asked(path)
        try:
            asked = self._asked(path, payload.parameters_of(request.query))
            found = self._without_items(request, path)
            if found:
                finish(found)
            elif max(len(request.body), payload.unpacked_bytes(request.headers, request.body)) > _LARGE_BYTES:
                finish = partial(self._finish, request._replace(body=b""), path, respond)
                task = asyncio.get_running_loop().create_task(self._take_large(request, asked, finish))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                self._take(request, asked, finish)
        except RefusedError as error:
            finish(asked.refused(error.status, error.words), error.words)
        except Exception as error:
            self._break(asked, finish, error)

    def refuse(self, request: Request, status: int, words: str) -> Answer:
        """The answer to what can't be read as a request. *request* has what is known of it."""
        path = self._route(request.path)
        try:
            asked = self._asked(path, payload.parameters_of(request.query))
        except RefusedError:
            asked = Asked(path)
        self._counters.requests[self._counted(path), status] += 1
        self._intake_log.refused(request.who(), path, status, words)
        return asked.refused(status, words)

    def _route(self, path: str) -> str:
        """The path without prefix and slash at the end."""
        prefix = self.rules.prefix
        if prefix and path.startswith(f"{prefix}/"):
            path = path.removeprefix(prefix)
        return path.rstrip("/") or path

    def _asked(self, path: str, parameters: Mapping[str, str]) -> Asked:
        return Asked.by(path, parameters, bool(self.rules.access.origins))

    def _without_items(self, request: Request, path: str) -> Answer | None:
        """The answer to what brings no items.

        Raises:
            RefusedError: it is not let in, or not served.
        """
        if path == "/healthz" and request.method in ("GET", "HEAD"):
            return Answer(200, b"ok\n", PLAIN)
        if fault := self.rules.access.fault(request.headers):
            raise RefusedError(403, fault)
        if path == "/metrics" and request.method in ("GET", "HEAD"):
            return Answer(200, self._counters.exposition(self._connections()), EXPOSITION)
        if path not in KIND_OF:
            raise RefusedError(404, f"nothing is served here; {_SERVED}")
        if request.method == "OPTIONS" and self.rules.access.origins:
            return Answer(204, headers=access.PREFLIGHT)
        if request.method not in ("GET", "POST"):
            raise RefusedError(405, "only GET and POST are served")
        return None

    def _take(self, request: Request, asked: Asked, finish: Callable[..., None]) -> None:
        found = payload.read(request.query, request.headers, request.body, self.rules.max_body_bytes)
        asked = self._asked(asked.path, found.parameters)
        sorter = self._sorter(request, asked, found.parameters)
        self._store(request, asked, sorter.sort(found.items, _now_ms()), finish)

    async def _take_large(self, request: Request, asked: Asked, finish: Callable[..., None]) -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def finish_it(answer: Answer, reason: str = "") -> None:
            done.set()
            finish(answer, reason)

        async with self._large:
            try:
                rules = self.rules
                found = await loop.run_in_executor(
                    None, payload.read, request.query, request.headers, request.body, rules.max_body_bytes
                )
                request = request._replace(body=b"")
                asked = self._asked(asked.path, found.parameters)
                sorter = self._sorter(request, asked, found.parameters)
                held = Sorted()
                for held in sorter.slices(found.items, _now_ms()):  # noqa: B007 - the last one has all
                    await asyncio.sleep(0)
                self._store(request, asked, held, finish_it)
            except RefusedError as error:
                finish_it(asked.refused(error.status, error.words), error.words)
            except Exception as error:
                self._break(asked, finish_it, error)
            await done.wait()

    def _break(self, asked: Asked, finish: Callable[..., None], error: Exception) -> None:
        self._intake_log.broken(error)
        finish(asked.refused(500, "this is a bug of the intake; its log has more"))

    def _sorter(self, request: Request, asked: Asked, parameters: Mapping[str, str]) -> Sorter:
        rules = self.rules
        project_id = parameters.get("project_id", "")
        if project_id and rules.project_id and project_id != rules.project_id:
            raise RefusedError(401, "project_id is not that of mixpanel.project_id")
        has_place = parameters.get("ip") == "1"
        address = rules.access.client(request.peer, request.headers) if has_place else ""
        kind = KINDS[KIND_OF[asked.path]]
        return Sorter(kind, asked.path, asked.is_strict_import, rules.tokens, address)

    def _store(self, request: Request, asked: Asked, found: Sorted, finish: Callable[..., None]) -> None:
        name = KIND_OF[asked.path]
        kind = KINDS[name]
        count = len(found.records)
        words: Mapping[str, int] = {}
        if found.dead:
            words = Counter(kind.word_for(reason) for _, reason in found.dead)
            self._intake_log.malformed(request.who(), asked.path, len(found.dead), next(iter(words)))
        if asked.is_strict_import:
            dead = []
            success = asked.partly_imported(count, found.failed) if found.dead else asked.accepted(count)
        else:
            dead = found.dead
            success = asked.accepted(count)
            if dead and not count:
                success = asked.all_malformed(found.failed[0]["message"])
        is_refused = asked.is_strict_import or not count

        def stored(error: ForwarderError | None) -> None:
            if error:
                finish(asked.refused(503, str(error)), str(error))
            else:
                self._counters.items["stored"] += count
                self._counters.items["refused" if is_refused else "dead_lettered"] += len(found.dead)
                finish(success)

        batch = Batch(name, found.records, dead if count else (), words if is_refused else {}, stored)
        batch.size_bytes = sum(map(len, found.records)) + (sum(len(data) for data, _ in dead) if dead else 0)
        if count:
            self._writer.submit(batch)
            return
        stored(None)
        if words:
            batch.done = _ignored
            self._writer.submit(batch)

    def _finish(
        self, request: Request, path: str, respond: Respond, answer: Answer, reason: str = ""
    ) -> None:
        self._counters.requests[self._counted(path), answer.status] += 1
        if reason:
            self._intake_log.refused(request.who(), path, answer.status, reason)
        if answer.status == 405:
            answer = Answer(405, answer.body, answer.content_type, (("Allow", "GET, POST"),))
        if shared := self.rules.access.shared(request.headers):
            answer = Answer(answer.status, answer.body, answer.content_type, (*answer.headers, *shared))
        respond(answer)

    @staticmethod
    def _counted(path: str) -> str:
        return path if path in KIND_OF or path in ("/healthz", "/metrics") else "other"


def _ignored(_error: ForwarderError | None) -> None:
    """Nobody waits for it."""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
