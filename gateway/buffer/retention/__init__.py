"""What leaves the buffer, and when, so that it stays within its size and its disk."""
