"""Bending instead of breaking: bandwidth, load, sampling and the memory budget. Logic only."""
