"""Payloads at rest: zstd with a dictionary per stream family; one small message alone does not shrink.

Measured on 95-byte sensor JSON: zstd level 1 alone saves nothing (ratio 0.99), with a trained dictionary
it is 2.5. A family is a route: its payloads have the same shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import zstandard

from gateway.buffer.ratio import TRAINING_SAMPLES, Ratio, is_sample
from gateway.core.errors import DecodeError

RAW = 0
PLAIN_ZSTD = 1
FIRST_DICTIONARY = 16  # the codec numbers below are kept for other fixed encodings

LEVEL = 1
DICTIONARY_BYTES = 16 * 1024
MIN_TRAINING_BYTES = 1024  # far below, zstd does not refuse: it crashes the process
MIN_PLAIN_BYTES = 256  # below this, zstd without a dictionary costs time and saves nothing
HELD_OUT = 5  # one sample in this many is kept from training, to measure the result
MIN_GAIN = 0.9  # a new dictionary must leave no more than this of what the old one left
SPARE_DICTIONARIES = 16  # superseded ones that are kept at most before none is trained anew

_BATCHES = "multi_compress_to_buffer" in zstandard.backend_features  # not in the backend for PyPy


def train(samples: Sequence[bytes]) -> bytes | None:
    """A dictionary for payloads like `samples`, or None when they have nothing in common.

    Takes some 100 ms for 1000 samples: not for the writer's thread.
    """
    if sum(map(len, samples)) < MIN_TRAINING_BYTES:
        return None
    try:
        return bytes(zstandard.train_dictionary(DICTIONARY_BYTES, list(samples), level=LEVEL).as_bytes())
    except zstandard.ZstdError:
        return None


class Training(NamedTuple):
    """Material for training a dictionary. `old`: the dictionary that no longer fits, if there is one."""

    family: str
    samples: list[bytes]
    old: bytes | None


class Trained(NamedTuple):
    """`dictionary` None: none is worth it. `ratio`: what is left of a byte with the one that is used."""

    dictionary: bytes | None
    ratio: float


def learn(training: Training) -> Trained:
    """Train a dictionary, and compare it with the one that is there on samples that it has not seen."""
    samples, old = training.samples, training.old
    held_out = samples[::HELD_OUT]
    before = 1.0 if old is None else ratio_with(old, held_out)
    new = train([sample for at, sample in enumerate(samples) if at % HELD_OUT])
    if new is None:
        return Trained(None, before)
    after = ratio_with(new, held_out)
    return Trained(new, after) if after <= MIN_GAIN * before else Trained(None, before)


def ratio_with(dictionary: bytes, payloads: Sequence[bytes]) -> float:
    """Stored bytes by raw bytes with this dictionary."""
    compressor = _compressor(dictionary)
    stored = sum(min(len(payload), len(compressor.compress(payload))) for payload in payloads)
    return stored / max(1, sum(map(len, payloads)))


def _compressor(dictionary: bytes) -> zstandard.ZstdCompressor:
    data = zstandard.ZstdCompressionDict(dictionary)
    data.precompute_compress(level=LEVEL)
    # The dictionary is found by our codec number, so its own id would be 4 bytes for nothing.
    return zstandard.ZstdCompressor(level=LEVEL, dict_data=data, write_dict_id=False)


def raw_size(codec: int, stored: bytes) -> int:
    """Return the size of the payload after decompression, in bytes."""
    return len(stored) if codec == RAW else zstandard.frame_content_size(stored)


class _Equipped(NamedTuple):
    """A family that has a dictionary."""

    codec: int
    dictionary: bytes
    compressor: zstandard.ZstdCompressor
    ratio: Ratio


class PayloadCompressor:
    """Compresses for the writer, and collects samples of families that have no dictionary yet or whose
    dictionary fits no longer."""

    def __init__(self) -> None:
        self.superseded: set[int] = set()
        """Codecs that are now only read."""
        self._by_family: dict[str, _Equipped] = {}
        self._samples: dict[str, list[bytes]] = {}
        self._handed_out: set[str] = set()
        self._plain = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True)

    def install(self, codec: int, family: str, dictionary: bytes, expected: float | None = None) -> None:
        """Compress `family` with this dictionary from now on. `expected`: the ratio measured in training."""
        self.retire(family)
        self._by_family[family] = _Equipped(codec, dictionary, _compressor(dictionary), Ratio(expected))
        self._samples.pop(family, None)

    def retire(self, family: str) -> None:
        """Compress `family` no longer with the dictionary that it has."""
        known = self._by_family.pop(family, None)
        if known is not None:
            self.superseded.add(known.codec)

    def expect(self, family: str, ratio: float) -> int | None:
        """Put up with that ratio: there is no better dictionary. Returns the codec of the one that stays."""
        known = self._by_family.get(family)
        if known is None:
            return None
        known.ratio.expected = ratio
        return known.codec

    def ratios(self) -> dict[str, float]:
        """Return the compressed share of each family with a dictionary, at the last check. Any thread."""
        known = {family: one.ratio for family, one in list(self._by_family.items())}
        found = {family: ratio.latest or ratio.expected for family, ratio in known.items()}
        return {family: ratio for family, ratio in found.items() if ratio is not None}

    def forget(self) -> None:
        """Drop all dictionaries: the caller installs those that are committed, the oldest first."""
        self._by_family.clear()
        self.superseded.clear()

    def compress(self, family: str, payload: bytes) -> tuple[int, bytes]:
        """The codec number and the bytes to store, never more than `payload` itself."""
        known = self._by_family.get(family)
        if known is not None:
            codec, stored = known.codec, known.compressor.compress(payload)
            known.ratio.note([payload], len(stored))
        else:
            self._collect(family, payload)
            if len(payload) < MIN_PLAIN_BYTES:
                return RAW, payload
            codec, stored = PLAIN_ZSTD, self._plain.compress(payload)
        return (codec, stored) if len(stored) < len(payload) else (RAW, payload)

    def compress_all(self, families: Sequence[str], payloads: Sequence[bytes]) -> list[tuple[int, bytes]]:
        """Compress each payload and return the results in the order of `payloads`.

        One call for all payloads of a family, because zstd lets go of the GIL in each call, and beside a
        busy thread getting it back takes a hundred times as long as the compression (docs/performance.md).
        """
        if len({*families}) == 1:
            return self._compress_family(families[0], payloads)
        packed: list[tuple[int, bytes]] = [(RAW, b"")] * len(payloads)
        positions: dict[str, list[int]] = {}
        for at, family in enumerate(families):
            positions.setdefault(family, []).append(at)
        for family, places in positions.items():
            results = self._compress_family(family, [payloads[at] for at in places])
            for at, result in zip(places, results, strict=True):
                packed[at] = result
        return packed

    def _compress_family(self, family: str, payloads: Sequence[bytes]) -> list[tuple[int, bytes]]:
        known = self._by_family.get(family)
        if known is None or len(payloads) < 2 or not _BATCHES or not all(payloads):  # it takes no empty ones
            return [self.compress(family, payload) if payload else (RAW, payload) for payload in payloads]
        codec = known.codec
        collection = known.compressor.multi_compress_to_buffer([*payloads])
        known.ratio.note(payloads, collection.size())
        return [
            (codec, segment.tobytes()) if len(segment) < len(payload) else (RAW, payload)
            for payload, segment in zip(payloads, collection, strict=True)  # type: ignore[call-overload]
        ]

    def take_trainable(self) -> list[Training]:
        """Return the families that can be trained now: each once, and again when its dictionary no longer
        fits."""
        ready = [Training(f, s, None) for f, s in self._samples.items() if len(s) >= TRAINING_SAMPLES]
        for family, _, _ in ready:
            del self._samples[family]
            self._handed_out.add(family)
        return ready + self._take_worn_out()

    def _take_worn_out(self) -> list[Training]:
        if len(self.superseded) >= SPARE_DICTIONARIES:
            return []  # until no event needs some of them any more
        looked_at = [(f, one) for f, one in self._by_family.items() if one.ratio.look()]
        taken = [(f, one.ratio.take_samples(), one.dictionary) for f, one in looked_at]
        return [Training(f, samples, dictionary) for f, samples, dictionary in taken if samples]

    def _collect(self, family: str, payload: bytes) -> None:
        if family in self._handed_out:
            return
        samples = self._samples.setdefault(family, [])
        if len(samples) < TRAINING_SAMPLES and is_sample(payload):
            samples.append(payload)


class PayloadDecompressor:
    """Reads what any PayloadCompressor of the same buffer has written. One per thread."""

    def __init__(self) -> None:
        self._by_codec: dict[int, zstandard.ZstdDecompressor] = {PLAIN_ZSTD: zstandard.ZstdDecompressor()}

    def install(self, codec: int, dictionary: bytes) -> None:
        """Learn to read `codec`."""
        data = zstandard.ZstdCompressionDict(dictionary)
        self._by_codec[codec] = zstandard.ZstdDecompressor(dict_data=data)

    def knows(self, codec: int) -> bool:
        return codec == RAW or codec in self._by_codec

    def decompress_all(self, codecs: Sequence[int], stored: Sequence[bytes]) -> list[bytes]:
        """Decompress each payload, with one call for all of a codec (see `compress_all`)."""
        payloads = list(stored)
        for codec in {*codecs} - {RAW}:
            positions = [at for at, number in enumerate(codecs) if number == codec]
            decompressor = self._by_codec.get(codec)
            if decompressor is None or len(positions) < 2 or not _BATCHES:
                for at in positions:
                    payloads[at] = self.decompress(codec, stored[at])
                continue
            try:
                collection = decompressor.multi_decompress_to_buffer([stored[at] for at in positions])
            except (zstandard.ZstdError, ValueError) as exc:
                raise DecodeError(f"a payload does not decompress: {exc}", reason="payload") from exc
            for at, segment in zip(positions, collection, strict=True):  # type: ignore[call-overload]
                payloads[at] = segment.tobytes()
        return payloads

    def decompress(self, codec: int, stored: bytes) -> bytes:
        """The payload as it was received. Raises DecodeError when the bytes or the codec make no sense."""
        if codec == RAW:
            return stored
        decompressor = self._by_codec.get(codec)
        if decompressor is None:
            raise DecodeError(f"payload codec {codec} is not known here", reason="codec")
        try:
            return bytes(decompressor.decompress(stored))
        except zstandard.ZstdError as exc:
            raise DecodeError(f"payload does not decompress: {exc}", reason="payload") from exc
