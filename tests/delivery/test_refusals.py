"""The table of refusals, in the code and on the page."""

from __future__ import annotations

import re

import pytest

from gateway.delivery.refusals import RefusalVerdict, reason_text, verdict
from tests.support.places import DOCS

PAGE = DOCS / "bridge.md"
ROWS = re.findall(
    r"^\| (0x[^|]*)\|[^|]*\| (\w+)(; in batch format wait)? *\|$", PAGE.read_text(), re.MULTILINE
)
DOCUMENTED = [
    (int(code, 16), RefusalVerdict(word), bool(exception))
    for codes, word, exception in ROWS
    for code in re.findall(r"0x[0-9a-f]+", codes)
]


@pytest.mark.parametrize(("code", "means", "waits_in_batch"), DOCUMENTED)
def test_the_page_says_what_the_code_does(code: int, means: RefusalVerdict, waits_in_batch: bool) -> None:
    assert verdict(code, own_topic=True) is means
    assert verdict(code, own_topic=False) is (RefusalVerdict.WAIT if waits_in_batch else means)


def test_every_code_is_on_the_page_and_unknown_ones_are_retried() -> None:
    documented = {code for code, _, _ in DOCUMENTED}
    for code in range(0x80, 0x100):
        assert code in documented or verdict(code, own_topic=True) is RefusalVerdict.RETRY
        assert reason_text(code).endswith(f"(0x{code:02x})")
