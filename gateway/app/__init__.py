"""The running gateway: every part of it, and the order in which they start and stop."""
