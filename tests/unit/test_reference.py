"""The pages of docs/ that are made from the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from forwarder.cli.root import COMMANDS
from forwarder.config.settings import SETTINGS
from man import reference

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", reference.PAGES)
def test_what_is_committed_is_up_to_date(name: str) -> None:
    """The page says what the program says now."""
    message = f"docs/{name} is out of date: run `make docs` and commit it"
    assert (DOCS / name).read_text() == reference.PAGES[name](), message


def test_each_command_and_setting_has_its_place() -> None:
    """None is left out, and no exit code is told of a command that does not exist."""
    commands, settings = reference.commands_page(), reference.settings_page()
    assert list(reference.EXITS) == list(COMMANDS)
    assert [name for name in COMMANDS if f"\nforwarder {name}\n=" not in commands] == []
    assert [row.variable for row in SETTINGS.values() if f"``{row.variable}``" not in settings] == []


def test_no_text_is_taken_for_markup() -> None:
    """What stands in a help text is read as it was written, but for code between backticks."""
    from docutils.core import publish_doctree

    hard = r"a* *b* c_ |d| __e__ \f file:g"
    page = publish_doctree(reference._prose(hard + " `code`(5)"), settings_overrides={"halt_level": 2})
    assert page.astext() == hard + " code(5)"
    assert [type(node).__name__ for node in page[0]] == ["Text", "literal", "Text"]
