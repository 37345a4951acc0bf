"""Outputs for received events: a file of JSON lines, an SQLite table, or a PostgreSQL table."""
