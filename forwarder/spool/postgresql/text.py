"""What PostgreSQL's text takes: no NUL, and no half of a surrogate pair."""

from __future__ import annotations


def fit(words: str) -> str:
    """*words* with what text does not take as JSON escapes it."""
    return words.encode("utf-8", "backslashreplace").decode().replace("\0", "\\u0000")
