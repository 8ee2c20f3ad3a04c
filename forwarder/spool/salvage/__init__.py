"""Bringing back what a damaged database holds, page by page and without SQLite."""

from forwarder.spool.salvage.rescue import Salvage, apply, plan

__all__ = ["Salvage", "apply", "plan"]
