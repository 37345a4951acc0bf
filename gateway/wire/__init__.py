"""Bytes for others: frames, event format, audit records, Home Assistant's discovery. Logic only."""
