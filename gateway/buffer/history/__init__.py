"""History: results that are kept for months in a file of their own, beside the buffer."""
