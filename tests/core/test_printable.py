"""What others name cannot move the cursor of the one who looks."""

from __future__ import annotations

import pytest

from gateway.core.printable import printable


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0), 0x202E, 0x2066])
def test_no_control_character_is_printed(code: int) -> None:
    shown = printable(f"a{chr(code)}b")
    assert shown.isprintable()
    assert (shown[0], shown[-1]) == ("a", "b")


def test_the_rest_stays_as_it_is() -> None:
    assert printable("Küche/温度 +1 \\x") == "Küche/温度 +1 \\x"
