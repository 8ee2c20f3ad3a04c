"""Packages whose modules load when one of their names is first used: a command has to start fast.

In a program's process that forks or gives up its rights, nothing may load later on: a thread that loads a
module when another one forks has its lock for ever in the child. There `load` loads all at once.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

_homes: dict[str, Mapping[str, str]] = {}


def names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a *package*.

    Args:
        homes: Module: the names of it that are the package's, with spaces between them. No module of the
            package may have such a name itself.
    """
    home_of = _homes[package] = {name: module for module, given in homes.items() for name in given.split()}

    def find(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(__import__(home_of[name], fromlist=[name]), name)
        setattr(sys.modules[package], name, found)
        return found

    return find


def load(package: str) -> None:
    """Load all names of a *package* that is imported."""
    for name in _homes[package]:
        getattr(sys.modules[package], name)
