"""What time it is, and what a device's own time is worth."""
