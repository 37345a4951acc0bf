"""Timekeeping: the gateway's time, and how far a device's own time can be trusted."""
