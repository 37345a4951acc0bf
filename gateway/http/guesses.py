"""Limit on guessing a token: each address has a few tries, then one once in a while.

No clock in here: the caller passes the time.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network, ip_address

FREE_GUESSES = 10
WAIT_S = 10.0  # from then on, between two guesses
FORGET_AFTER_S = 600.0
KNOWN_ADDRESSES = 1000
_REMEMBERED = 3  # the same wrong token again, as of a page that is still open, is no further guess


@dataclass
class _Guesser:
    wrong: int = 0
    last_s: float = 0.0
    tokens: list[str] = field(default_factory=list)


class Guesses:
    """Counts wrong tokens by the address that they came from."""

    def __init__(self) -> None:
        self._guessers: OrderedDict[str, _Guesser] = OrderedDict()

    def wait_s(self, address: str, now_s: float) -> float:
        """Return for how long tokens of this address are not looked at."""
        guesser = self._guessers.get(_network(address))
        if guesser is None or guesser.wrong < FREE_GUESSES or now_s - guesser.last_s > FORGET_AFTER_S:
            return 0.0
        return max(0.0, guesser.last_s + WAIT_S - now_s)

    def note_wrong(self, address: str, token: str, now_s: float) -> None:
        """Count a wrong token."""
        name = _network(address)
        guesser = self._guessers.pop(name, None)
        if guesser is None or now_s - guesser.last_s > FORGET_AFTER_S:
            guesser = _Guesser()
        self._guessers[name] = guesser
        if len(self._guessers) > KNOWN_ADDRESSES:
            self._guessers.popitem(last=False)
        if token not in guesser.tokens:
            guesser.wrong += 1
            guesser.last_s = now_s
            guesser.tokens = [*guesser.tokens, token][-_REMEMBERED:]

    @property
    def wrong(self) -> int:
        """Number of wrong tokens that the known addresses have tried."""
        return sum(guesser.wrong for guesser in self._guessers.values())


def _network(address: str) -> str:
    """Return the network of an address: one machine may have a whole /64 of IPv6."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, 64), strict=False))
    return address
