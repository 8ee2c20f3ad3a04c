"""Making the next of some items while the last one is used."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from queue import Queue
from threading import Thread
from typing import TypeVar

_Item = TypeVar("_Item")


def ahead(items: Iterator[_Item], stop: Callable[[], None]) -> Generator[_Item, None, None]:
    """*items*, each made in a thread while the one before is used; at most two are there unused.

    Closed before its end, it returns once the thread uses nothing any more.

    Args:
        stop: Makes *items* end soon, or fail; called if not all of them are used.
    """
    ready: Queue[_Item | BaseException] = Queue(1)

    def make() -> None:
        try:
            for item in items:
                ready.put(item)
            ready.put(StopIteration())
        except BaseException as error:  # for the thread that uses them
            ready.put(error)

    Thread(target=make).start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, StopIteration):
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    except GeneratorExit:
        stop()
        while not isinstance(ready.get(), BaseException):
            pass
        raise
