"""The manual pages, made from the commands' own help and the settings' own documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator


def paragraphs(text: str) -> Iterator[str | list[str]]:
    """Paragraphs of a command's help; as lines if they are kept: it begins with ``\\b``, as click has it."""
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        if paragraph.lstrip().startswith("\b"):
            # Python 3.13 and later take the white space at the end of a docstring away.
            yield [line.strip() for line in paragraph.rstrip().splitlines()[1:]]
        else:
            yield paragraph
