"""Keeping the key out of messages: a server may repeat it in its answers, in any encoding."""

import base64
import html
import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

from forwarder.records.mixpanel_json import NOT_SHOWN

WINDOW = 8
_ROUNDS = 3  # an escape within an escape within a third


class Redactor:
    """Replaces a text that contains one of the *secrets*, or a part of it, by `NOT_SHOWN`.

    Only letters and digits are compared, case-insensitive. A part is `WINDOW` of them in a row. A secret with
    fewer than two windows must be there whole, or "sandbox test" would pass for "sandbox-token". It is found
    in plain text, in base64 at any offset and in hexadecimal, each also escaped with percent signs, entities
    or backslashes. A secret shorter than a window is not searched for. Never raises; many threads may use it.

    >>> Redactor(["sandbox-token"])("no project has SANDBOX%2Dtoken")
    '(not shown: it repeats the key)'
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._needles = {needle for secret in secrets for needle in _needles(secret)}
        self._starts = {needle[:WINDOW] for needle in self._needles}

    def __call__(self, text: str) -> str:
        """*text* as it came, or `NOT_SHOWN`."""
        unescaped = text
        for _ in range(1 + _ROUNDS):
            if self._repeats(unescaped):
                return NOT_SHOWN
            before, unescaped = unescaped, _unescaped(unescaped)
            if unescaped == before:
                break
        return text

    def _repeats(self, text: str) -> bool:
        form = _normal(text)
        # Searching for each of 461 needles: 19 µs a line; for their starts first: 4 µs.
        starts = (form[at : at + WINDOW] for at in range(len(form) - WINDOW + 1))
        return not self._starts.isdisjoint(starts) and any(needle in form for needle in self._needles)


def _needles(secret: str) -> Iterator[str]:
    if len(_normal(secret)) < WINDOW:
        return
    data = secret.encode("utf-8", "surrogatepass")
    yield from _parts(_normal(secret), WINDOW)
    yield from _parts(data.hex(), 2 * WINDOW)
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + data).decode()
        # Only the part that does not depend on the text around the secret.
        yield from _parts(_normal(encoded[(0, 2, 3)[offset] : (offset + len(data)) * 8 // 6]), WINDOW)


def _parts(form: str, size: int) -> Iterator[str]:
    if len(form) >= 2 * size:
        yield from (form[at : at + size] for at in range(len(form) - size + 1))
    elif len(form) >= WINDOW:
        yield form


def _normal(text: str) -> str:
    form = text.translate(_NO_PUNCTUATION).lower()
    return form if form.isascii() else re.sub(r"\W", "", form)


# Deleting from ASCII text this way costs a fortieth of a regular expression.
_NO_PUNCTUATION = {code: None for code in range(128) if not chr(code).isalnum()}


def _unescaped(text: str) -> str:
    text = _BACKSLASHED.sub(lambda found: chr(int(found[found.lastindex or 0], 16) % 0x110000), text)
    text = re.sub(r"\\+[abfnrtv]", "", text)
    return _ENTITY.sub(lambda found: html.unescape(found[0]), unquote(text))


_BACKSLASHED = re.compile(r"\\+(?:x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8}))")
# Bounded: html.unescape fails at a number of thousands of digits.
_ENTITY = re.compile(r"&#?\w{1,12};?")
