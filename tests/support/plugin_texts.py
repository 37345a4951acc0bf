"""Sources of window plugins, as users write them."""

from __future__ import annotations

FAILS_ON_SENSORS = """
class Plugin:
    def create_accumulator(self):
        return 0

    def add_input(self, acc, reading):
        if reading.topic.startswith("sensors/"):
            raise ArithmeticError("never")
        return acc

    def merge_accumulators(self, accumulators):
        return sum(accumulators)

    def extract_output(self, acc):
        return acc
"""
