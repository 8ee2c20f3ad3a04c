"""The embedded engine: with `forwarder.salvage` the only place that knows SQLite and persist-queue."""
