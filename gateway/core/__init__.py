"""The vocabulary of every other package: events, topics, units, times, errors. No input or output."""
