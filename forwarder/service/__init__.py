"""The long-running process, one per queue: its loop, its signals, and what it reports about itself."""
