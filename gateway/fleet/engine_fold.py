"""The fold as an engine of others runs it: the packed records of one key come all at once, in any order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from gateway.fleet.fold import CommonFold, GatewayFold, lines_of_fold
from gateway.fleet.records import StoredRecord, name_of, read_record, without_arrival
from gateway.fleet.report import fold_fields
from gateway.fleet.rules import Rules
from gateway.fleet.split import EVERY


class EngineFold:
    """The records of a gateway, or of EVERY one for the windows over all gateways, ready to be folded."""

    def __init__(self, rules: Rules, gateway: bytes, packed: Iterable[bytes]) -> None:
        records = sorted(packed)
        self._fold: GatewayFold | CommonFold
        self._records: Iterable[StoredRecord]
        if gateway == EVERY:
            self._records = found = [read_record(without_arrival(one)) for one in records]
            self._fold = CommonFold(rules, {name_of(one.gateway) for one in found})
        else:
            self._records = map(read_record, records)
            self._fold = GatewayFold(gateway, rules)

    def lines(self, *, flush: bool) -> Iterator[bytes]:
        """Yield the lines of results, once."""
        return lines_of_fold(self._fold, self._records, flush=flush)

    def report(self) -> dict[str, Any]:
        """Return the report of a fold that is over, as plain JSON."""
        if isinstance(self._fold, CommonFold):
            return {"common_results": self._fold.results}
        return fold_fields(self._fold)
