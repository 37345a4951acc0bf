"""Payloads at rest come back as they were, whatever they are and whichever way they were packed."""

from __future__ import annotations

import json
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.buffer.compression import (
    FIRST_DICTIONARY,
    PLAIN_ZSTD,
    RAW,
    PayloadCompressor,
    PayloadDecompressor,
    raw_size,
    train,
)
from gateway.buffer.dictionaries import DictionaryTrainer
from gateway.buffer.ratio import MAX_SAMPLE_BYTES, TRAINING_SAMPLES
from gateway.buffer.store import Store
from gateway.buffer.writer import Writer
from gateway.core.errors import DecodeError
from gateway.testing import ManualClock
from tests.support.buffers import event, opened, sql


def sensor(number: int) -> bytes:
    chance = random.Random(number)
    reading: dict[str, object] = {
        "Time": f"2024-01-01T00:{number // 60 % 60:02}:{number % 60:02}",
        "TempUnit": "C",
    }
    reading["BME280"] = {"Temperature": round(chance.uniform(10, 30), 1), "Humidity": chance.randint(20, 90)}
    return json.dumps(reading).encode()


SAMPLES = [sensor(number) for number in range(TRAINING_SAMPLES)]
DICTIONARY = train(SAMPLES) or b""
OTHER = train([b"<r id='%d'>%d</r>" % (n, n * 77) for n in range(1000)]) or b""


def equipped() -> tuple[PayloadCompressor, PayloadDecompressor]:
    """With one dictionary for the family known, and another one for the family xml."""
    compressor, decompressor = PayloadCompressor(), PayloadDecompressor()
    for codec, family, dictionary in ((16, "known", DICTIONARY), (17, "xml", OTHER)):
        compressor.install(codec, family, dictionary)
        decompressor.install(codec, dictionary)
    return compressor, decompressor


families = st.sampled_from(["known", "xml", "unknown"])
payloads = st.one_of(
    st.binary(max_size=600),
    st.integers(0, 5000).map(sensor),
    st.builds(lambda b, n: b * n, st.binary(max_size=4), st.integers(0, 400)),
)


@settings(deadline=None)
@given(st.lists(st.tuples(families, payloads), max_size=20))
def test_every_payload_comes_back_alone_and_in_a_batch(sent: list[tuple[str, bytes]]) -> None:
    compressor, decompressor = equipped()
    names, contents = [family for family, _ in sent], [payload for _, payload in sent]
    for packed in (compressor.compress_all(names, contents), [compressor.compress(*one) for one in sent]):
        codecs, stored = [codec for codec, _ in packed], [part for _, part in packed]
        assert decompressor.decompress_all(codecs, stored) == contents
        assert [decompressor.decompress(*one) for one in packed] == contents
        assert list(map(raw_size, codecs, stored)) == list(map(len, contents))
        assert all(len(part) <= len(payload) for part, payload in zip(stored, contents, strict=True))


def test_small_payloads_shrink_to_less_than_half_with_a_dictionary() -> None:
    compressor, _ = equipped()
    fresh = [sensor(number) for number in range(10_000, 10_200)]
    packed = compressor.compress_all(["known"] * 200, fresh)
    assert {codec for codec, _ in packed} == {16}
    assert sum(len(stored) for _, stored in packed) < 0.5 * sum(map(len, fresh))


def test_without_a_dictionary_only_what_is_long_is_compressed() -> None:
    compressor = PayloadCompressor()
    assert compressor.compress("f", b"short") == (RAW, b"short")
    assert compressor.compress("f", b"long" * 100)[0] == PLAIN_ZSTD


def test_what_does_not_shrink_is_stored_as_it_is() -> None:
    noise = random.Random(1).randbytes(2000)
    compressor, _ = equipped()
    assert compressor.compress("unknown", noise) == (RAW, noise)
    assert compressor.compress_all(["known"] * 2, [noise, noise]) == [(RAW, noise)] * 2


def test_a_family_is_handed_out_for_training_once_it_has_enough_samples() -> None:
    compressor = PayloadCompressor()
    for payload in SAMPLES[:-1]:
        compressor.compress("f", payload)
    assert compressor.take_trainable() == []
    compressor.compress("f", b"x" * (MAX_SAMPLE_BYTES + 1))  # too large to be a sample
    assert compressor.take_trainable() == []
    compressor.compress("f", SAMPLES[-1])
    assert compressor.take_trainable() == [("f", SAMPLES, None)]
    compressor.compress_all(["f"] * TRAINING_SAMPLES, SAMPLES)
    assert compressor.take_trainable() == []


def test_too_few_samples_make_no_dictionary() -> None:
    assert train([bytes(8192)]) is None


def test_too_little_to_train_on_makes_no_dictionary_and_no_crash() -> None:
    for count in (0, 1, 8, 10):  # with 8 and 10 zstd divides by zero
        assert train([b"1"] * count) is None


def test_bytes_that_are_no_frame_are_refused() -> None:
    _, decompressor = equipped()
    for codec in (PLAIN_ZSTD, 16):
        with pytest.raises(DecodeError, match="decompress") as refusal:
            decompressor.decompress(codec, b"no frame")
        assert refusal.value.reason == "payload"
        with pytest.raises(DecodeError):
            decompressor.decompress_all([codec] * 2, [b"no frame"] * 2)


def test_a_codec_that_is_not_known_is_refused() -> None:
    decompressor = PayloadDecompressor()
    with pytest.raises(DecodeError) as of_one:
        decompressor.decompress(99, b"x")
    with pytest.raises(DecodeError) as of_several:
        decompressor.decompress_all([99, 99], [b"x", b"y"])
    assert (of_one.value.reason, of_several.value.reason) == ("codec", "codec")


def test_dictionaries_have_their_own_range_of_codecs() -> None:
    assert max(RAW, PLAIN_ZSTD) < FIRST_DICTIONARY
    decompressor = PayloadDecompressor()
    assert decompressor.knows(RAW)
    assert decompressor.knows(PLAIN_ZSTD)
    assert not decompressor.knows(FIRST_DICTIONARY)


def test_a_route_is_compressed_with_its_own_dictionary_after_its_first_payloads(tmp_path: object) -> None:
    with opened(tmp_path / "events.db") as store:  # type: ignore[operator]
        writer = Writer(store)
        trainer = DictionaryTrainer(store, writer, ManualClock(5))
        writer.start()
        writer.call(lambda store: store.append([event(payload=payload) for payload in SAMPLES]))
        writer.call(lambda _: trainer.poll())
        training = [thread for thread in threading.enumerate() if thread.name == "gateway.dictionaries"]
        for thread in training:
            thread.join()
        writer.call(lambda store: store.append([event(payload=sensor(n)) for n in range(20)]))
        assert writer.call(Store.last_id) == TRAINING_SAMPLES + 20
        assert writer.stop()
        assert sql(store.path, "SELECT family, trained_at FROM dictionaries") == [("f", 5)]
        found = sql(store.path, "SELECT codec, count(*) FROM buffer_events GROUP BY codec")
        assert found == [(RAW, TRAINING_SAMPLES), (FIRST_DICTIONARY, 20)]
