"""Where received events go: a file of JSON lines, an SQLite table, or a PostgreSQL table."""
