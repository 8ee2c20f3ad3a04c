"""Bringing back what a damaged database holds, page by page and without SQLite."""

from forwarder.salvage.own import is_own, set_own_aside
from forwarder.salvage.rescue import Salvage, apply, plan

__all__ = ["Salvage", "apply", "is_own", "plan", "set_own_aside"]
