"""Dead letters by cause and by the digits of their ids, as every engine gives them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from forwarder.spool.values import Group

MOST_GROUPS = 10_000


class Groups:
    """Groups of dead letters, `MOST_GROUPS` at most: beyond, the smallest so far are merged into one, the
    last. What was merged is not counted in a group that grows later."""

    def __init__(self) -> None:
        self._groups: dict[tuple[object, ...], Group] = {}
        self._others: Group | None = None

    def add(self, found: Iterable[Group]) -> None:
        """Add groups, which may have the cause of earlier ones."""
        for new in found:
            cause: tuple[object, ...] = new.reason, new.field, new.http_status, new.event
            old = self._groups.get(cause)
            self._groups[cause] = old.merged(new) if old else new
        for cause in self._by_size()[MOST_GROUPS:]:
            small = self._groups.pop(cause)
            self._others = self._others.merged(small) if self._others else small.among_others()

    def by_size(self) -> list[Group]:
        """All of them, the largest first."""
        return [self._groups[cause] for cause in self._by_size()] + ([self._others] if self._others else [])

    def _by_size(self) -> list[tuple[object, ...]]:
        def order(cause: tuple[object, ...]) -> tuple[int, int]:
            return -self._groups[cause].count, self._groups[cause].example_id

        return sorted(self._groups, key=order)


def beginning_so(digits: str, newest: int) -> Iterator[tuple[int, int]]:
    """The ranges of ids that begin with *digits*, up to about *newest*, the largest first; of "", all."""
    if not digits:
        yield 0, newest
    elif digits.isascii() and digits.isdecimal() and digits[0] != "0":
        # The ids with one more digit are a range of larger ones.
        for more in range(len(str(newest)) - len(digits), -1, -1):
            first = int(digits) * 10**more
            yield first, first + 10**more - 1
