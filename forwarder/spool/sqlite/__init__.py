"""The embedded engine. Only this package and `forwarder.salvage` know SQLite and persist-queue."""
