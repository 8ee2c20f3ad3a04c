"""A word for each reason for a refusal, used for counting; the reason's text is too specific for that."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property, lru_cache

# The reasons that all kinds have. Word: the beginning of the reason's text.
COMMON = {
    "not_utf8": "not UTF-8",
    "not_json": "not JSON",
    "too_large": r"\d+ bytes long|longer than",
    "too_deep": r"(?:'.{0,90}' is (?:invalid: )?)?nested more than",
}
COMMON_VALUES = {
    "too_many_values": r"'.*' is invalid: \d+ (?:keys|elements)",
    "value": "'|the key",
}


class Reasons:
    """The words for a kind's reasons.

    Args:
        beginnings: Word: how its reasons begin, a regular expression. The first that fits counts.

    Attributes:
        words: All of them, and "other".
    """

    def __init__(self, beginnings: Mapping[str, str]) -> None:
        self._beginnings = beginnings
        self.words = (*beginnings, "other")
        # Equal mistakes come by the thousand.
        self.word_for = lru_cache(256)(self._word_for)

    def _word_for(self, reason: str) -> str:
        found = self._pattern.match(reason)
        return (found and found.lastgroup) or "other"

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # Compiled only when something is refused. The prefix names one of several records in a line.
        words = "|".join(f"(?P<{word}>{beginning})" for word, beginning in self._beginnings.items())
        return re.compile(rf"(?:(?:event|update) \d+ of \d+: )?(?:{words})", re.DOTALL)
