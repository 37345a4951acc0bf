"""The store-and-forward buffer: SQLite in WAL mode, one writing thread, read-only snapshots."""
