"""A queue that a screen watches: looked at each second, in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from forwarder import spool
from forwarder.config.settings import Queue
from forwarder.errors import ForwarderError, NotPermittedError
from forwarder.service import causes, shape
from forwarder.service.causes import Cause
from forwarder.service.shape import Shape
from forwarder.service.status import gather
from forwarder.spool import Period
from forwarder.text import as_sentence, printable

LOOK_S = 1.0
# What takes more reading is read again after this.
DETAILS_S = 3.0
MINUTES = 4 * 60


@dataclass(frozen=True, slots=True)
class Look:
    """A queue as it was *at* an instant, in seconds since the epoch.

    ``found`` has the values of `gather`; None: nothing is known yet, or ``error`` says why it can't be read.
    ``minutes``, ``shape`` and ``causes`` are of the one in detail, and may be some seconds older.
    """

    name: str
    at: float
    found: Mapping[str, Any] | None = None
    error: str = ""
    minutes: Sequence[Period] = ()
    shape: Shape | None = None
    causes: Sequence[tuple[Cause, int]] = ()


class Watched:
    """A queue that is looked at until `close`.

    Args:
        name: What the screen calls it.
        server, late_s: As of `gather`.
        wake: Called from its thread when there is news of what is in detail.

    Attributes:
        look: The last one.
        answer: What came of the last request, in words; "": nothing yet.
        failure: The bug that has ended its thread.
    """

    def __init__(
        self, name: str, queue: Queue, server: Queue | None, late_s: float, wake: Callable[[], None]
    ) -> None:
        self.name = name
        self.look = Look(name, time.time())
        self.answer = ""
        self.failure: Exception | None = None
        self._queue, self._server, self._late_s, self._wake = queue, server, late_s, wake
        self._in_detail = self._ending = False
        self._details_at = float("-inf")
        self._request = ""
        self._nudge = threading.Event()
        # A look that waits for a server does not delay the end.
        self._thread = threading.Thread(target=self._run, name=f"watch {name}", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._ending = True
        self._nudge.set()

    def detail(self, wanted: bool) -> None:
        """Whether details are wanted from now on."""
        if wanted and not self._in_detail:
            self._details_at = float("-inf")
            self._nudge.set()
        self._in_detail = wanted

    def request(self, action: str) -> None:
        """Have ``pause``, ``resume`` or ``flush`` done; `answer` says what came of it."""
        self.answer, self._request = "", action
        self._nudge.set()

    def _run(self) -> None:
        try:
            while not self._ending:
                self._nudge.clear()
                if action := self._request:
                    self._request = ""
                    self.answer = self._done(action)
                self.look = self._looked()
                if self._in_detail:
                    self._wake()
                self._nudge.wait(LOOK_S)
        except Exception as failure:
            self.failure = failure
            self._wake()

    def _looked(self) -> Look:
        before, now = self.look, time.time()
        try:
            found = gather(self._queue, self._server, late_s=self._late_s)
            look = replace(before, at=time.time(), found=found, error="")
            if not (self._in_detail and found["exists"]) or time.monotonic() < self._details_at + DETAILS_S:
                return look
            self._details_at = time.monotonic()
            events = spool.of(self._queue)
            with events.view() as view:
                return replace(
                    look,
                    minutes=view.history(MINUTES),
                    causes=causes.recent(view),
                    shape=shape.look(view, events.kind, found["waiting"] - found["held"], now),
                )
        except (ForwarderError, OSError) as error:
            self._details_at = float("-inf")
            return Look(self.name, time.time(), error=as_sentence(printable(str(error))))

    def _done(self, action: str) -> str:
        queue = spool.of(self._queue)
        try:
            if action == "pause":
                queue.pause()
                return "Delivery is paused."
            if action == "resume":
                queue.resume()
                return "Delivery is no longer paused."
            if queue.holder() is None:
                return "No daemon runs that could try now."
            queue.request_flush()
            return "The daemon has the request and tries now."
        except NotPermittedError as error:
            return f"You may only look here: {printable(str(error))}"
        except (ForwarderError, OSError) as error:
            return as_sentence(printable(str(error)))
