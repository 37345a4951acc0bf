"""Distance of a tracker, and whether it is inside a circle; for windows with `fields: [lat, lon]` in degrees.

The way is the sum of great circles between positions in the order of their times; a position that comes out
of order is left out of it and counted. Options: `center_lat`, `center_lon` and `radius_m` add a geofence:
whether the last position is inside, and the distance to the centre.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import asin, cos, radians, sin, sqrt
from typing import Any

from gateway.windows.plugin import Reading
from gateway.windows.toolbox import read_options
from gateway.windows.values import number

EARTH_RADIUS_M = 6_371_008.8  # mean radius (IUGG)

Position = list[float]


class Plugin:
    """Its accumulator: first and last [time, lat, lon], metres between them, readings, and those left out."""

    takes_all_fields = True

    def __init__(self) -> None:
        self._lat, self._lon = "lat", "lon"
        self._center: Position | None = None
        self._radius_m = 0.0

    def setup(self, options: Mapping[str, Any]) -> None:
        if len(options["fields"]) != 2:
            raise ValueError("the window needs fields: [lat, lon], by the names that its route gives them")
        self._lat, self._lon = options["fields"]
        fence = ("center_lat", "center_lon", "radius_m")
        if any(name in options for name in fence):
            missing = [name for name in fence if name not in options]
            if missing:
                raise ValueError(f"a geofence needs {' and '.join(missing)} too")
        read = read_options(options, center_lat=0.0, center_lon=0.0, radius_m=0.0)
        if read["radius_m"]:
            self._center = [0, read["center_lat"], read["center_lon"]]
            self._radius_m = read["radius_m"]

    def create_accumulator(self) -> list[Any]:
        return []

    def add_input(self, acc: list[Any], reading: Reading) -> list[Any]:
        lat, lon = number(reading.fields.get(self._lat)), number(reading.fields.get(self._lon))
        if lat is None or lon is None or abs(lat) > 90 or abs(lon) > 180:
            raise ValueError(f"no position: {reading.fields.get(self._lat)}, {reading.fields.get(self._lon)}")
        here = [reading.time_ms, lat, lon]
        if not acc:
            return [here, here, 0.0, 1, 0]
        first, last, way_m, count, left_out = acc
        if here[0] < last[0]:
            return [min(first, here), last, way_m, count + 1, left_out + 1]
        return [first, here, way_m + distance_m(last, here), count + 1, left_out]

    def merge_accumulators(self, accumulators: Sequence[list[Any]]) -> list[Any]:
        merged: list[Any] = []
        for acc in accumulators:
            if not merged or not acc:
                merged = list(merged or acc)
                continue
            between_m = distance_m(merged[1], acc[0])
            merged = [
                merged[0],
                acc[1],
                merged[2] + between_m + acc[2],
                merged[3] + acc[3],
                merged[4] + acc[4],
            ]
        return merged

    def extract_output(self, acc: list[Any]) -> dict[str, Any] | None:
        if not acc:
            return None
        first, last, way_m, _, left_out = acc
        result = {"way_m": way_m, "beeline_m": distance_m(first, last), "out_of_order": left_out}
        result |= {"lat": last[1], "lon": last[2]}
        if self._center is not None:
            from_center_m = distance_m(self._center, last)
            result |= {"from_center_m": from_center_m, "inside": from_center_m <= self._radius_m}
        return result

    def examples(self) -> list[Reading]:
        way = [(52.5, 13.4), (52.51, 13.4), (52.51, 13.41), (52.5, 13.4)]
        return [
            Reading(lat, 1_000 * at, {self._lat: lat, self._lon: lon}, "a/b")
            for at, (lat, lon) in enumerate(way)
        ]


def distance_m(here: Position, there: Position) -> float:
    """The great circle between two positions (haversine)."""
    lat, other_lat = radians(here[1]), radians(there[1])
    half_lat, half_lon = (other_lat - lat) / 2, radians(there[2] - here[2]) / 2
    chord = sin(half_lat) ** 2 + cos(lat) * cos(other_lat) * sin(half_lon) ** 2
    return 2 * EARTH_RADIUS_M * asin(sqrt(min(1.0, chord)))
