"""Roff, the language of manual pages: a page is put together from these pieces, whole lines each."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable

import forwarder
import man

PARAGRAPH = ".PP\n"
# What roff takes for something else, or sets as a typographic sign.
_SIGNS = {"\\": "\\(rs", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}


def escape(text: str) -> str:
    """*text* on one line, set as it stands, whatever is in it."""
    line = "".join(_SIGNS.get(c) or (c if c.isascii() else f"\\[u{ord(c):04X}]") for c in text)
    # A dot at the beginning of a line would make it a request; an apostrophe is escaped by now.
    return f"\\&{line}" if line.startswith(".") else line


def bold(text: str) -> str:
    """*text*, escaped and bold, to stand within a line."""
    return f"\\fB{escape(text)}\\fR"


def link(name: str, section: int) -> str:
    """Another page, to stand within a line."""
    return f"{bold(name)}({section})"


def prose(text: str) -> str:
    """A line of running text, in which ``code`` between backticks is bold."""
    pieces = re.split(r"(`+)(.+?)\1", " ".join(text.split()))
    line = "".join(
        bold(piece) if kind == 2 else escape(piece) if kind == 0 else ""
        for place, piece in enumerate(pieces)
        for kind in (place % 3,)
    )
    return f"{line}\n"


def head(name: str, section: int, title: str) -> str:
    """The page's first lines. Its date is $SOURCE_DATE_EPOCH, else today."""
    made = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH") or time.time()))
    date = time.strftime("%Y-%m-%d", made)
    version = escape(f"mixpanel-forwarder {forwarder.__version__}")
    return (
        f'.TH {escape(name.upper())} {section} {date} "{version}"\n'
        # Words stay whole, lines ragged: commands and keys are to be copied.
        f".nh\n.ad l\n{heading('NAME')}{escape(name)} \\- {escape(title)}\n"
    )


def heading(text: str) -> str:
    """A section's title."""
    return f".SH {escape(text)}\n"


def subheading(text: str) -> str:
    """A subsection's title."""
    return f'.SS "{escape(text)}"\n'


def entry(term: str, text: str) -> str:
    """A term, roff already, and below it what it means."""
    return f".TP\n{term}\n{text}"


def paragraphs(text: str) -> str:
    """A command's help."""
    pieces = man.paragraphs(text)
    return PARAGRAPH.join(block(piece) if isinstance(piece, list) else prose(piece) for piece in pieces)


def block(lines: Iterable[str]) -> str:
    """Lines that are kept as they are, indented."""
    text = "".join(f"{escape(line)}\n" for line in lines)
    return f".RS 4\n.nf\n{text}.fi\n.RE\n"
