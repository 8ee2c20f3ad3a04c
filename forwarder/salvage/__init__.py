"""Recovering what a damaged database contains, page by page and without SQLite."""

from forwarder.salvage.rescue import Salvage, apply, is_own, plan, set_own_aside

__all__ = ["Salvage", "apply", "is_own", "plan", "set_own_aside"]
