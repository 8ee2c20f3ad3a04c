"""Bringing back what a damaged database holds, page by page and without SQLite."""

from forwarder.spool.salvage.own import is_own, set_own_aside
from forwarder.spool.salvage.rescue import Salvage, apply, plan

__all__ = ["Salvage", "apply", "is_own", "plan", "set_own_aside"]
