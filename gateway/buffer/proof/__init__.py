"""Proof that the buffer balances, in total and for each stream."""
