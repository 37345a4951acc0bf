"""What a running gateway says of itself: health, readiness, rates and counts."""
