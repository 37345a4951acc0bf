"""Retention: removal of events so that the buffer stays within its size and its disk."""
