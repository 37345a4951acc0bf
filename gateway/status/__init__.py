"""Status of a running gateway: health, readiness, rates and counts."""
