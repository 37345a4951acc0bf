"""The functions that are added to JMESPath: for parallel lists, parents' names, and values inside of text."""

from typing import Any

import pytest

from gateway.core.expressions import compile_expression


def find(text: str, document: Any) -> object:
    return compile_expression(text)(document, {})


COLUMNS = {"at": [10, 20, 30], "watt": [1.5, 2.5]}
TABLE = [{"t": 10, "w": 1.5}, {"t": 20, "w": 2.5}, {"t": 30, "w": None}]


@pytest.mark.parametrize(
    "text",
    [
        "zip_objects('t', 'w', at, watt)",
        "zip_objects('t', at, 'w', watt)",
        "zip_objects(['t', 'w'], at, watt)",
        "zip_objects({t: at, w: watt})",
    ],
)
def test_parallel_lists_become_objects_and_a_shorter_one_ends_in_nulls(text: str) -> None:
    assert find(text.replace("['t', 'w']", '`["t", "w"]`'), COLUMNS) == TABLE


@pytest.mark.parametrize(
    "text", ["zip_objects('t', at, watt)", "zip_objects('t', 'w')", "zip_objects('t', 'x')"]
)
def test_lists_that_do_not_fit_their_names_are_nothing(text: str) -> None:
    assert find(text, COLUMNS) is None


def test_items_take_the_name_of_their_parent() -> None:
    document = {
        "rooms": [{"room": "hall", "sensors": [{"c": 20}, {"c": 21, "room": "own"}]}, {"room": "attic"}]
    }
    assert find("rooms[].inherit(sensors || `[]`, {room: room})[]", document) == [
        {"room": "hall", "c": 20},
        {"room": "own", "c": 21},
    ]


def test_json_inside_of_a_text_is_read() -> None:
    assert find("parse_json(inner).t[1]", {"inner": '{"t": [1, 2]}'}) == 2
    assert find("parse_json(inner)", {"inner": "{broken"}) is None
    assert find("parse_json(inner)", {}) is None


def test_numbers_and_parts_of_a_text_are_read() -> None:
    assert find("number(t)", {"t": "19,5 °C"}) == 19.5
    assert find("number(t)", {"t": 7}) == 7
    assert find("number(t)", {"t": "warm"}) is None
    assert find("number(t)", {"t": True}) is None
    assert find("split(s, ';')[1].number(@)", {"s": "a; 4,5 ;c"}) == 4.5


def test_base64_and_hexadecimal_text_are_bytes_and_bytes_are_numbers() -> None:
    # 0x00D7 = 215, 0x28 = 40
    assert find("unpack(base64(data), '>hB')", {"data": "ANco"}) == [215, 40]
    assert find("unpack(hex(data), '<h')[0]", {"data": "18 FC"}) == -1000
    assert find("hex(data)", {"data": "0x01:ff"}) == [1, 255]
    assert find("base64(data)", {"data": "AQ"}) == [1]


@pytest.mark.parametrize(
    "text", ["unpack(hex(d), '>d')", "unpack(hex(d), 'no')", "unpack(l, '>h')", "base64(d)", "split(l, ',')"]
)
def test_what_does_not_fit_is_nothing_and_never_raises(text: str) -> None:
    assert find(text, {"d": "zz!", "l": [300, 1]}) is None
