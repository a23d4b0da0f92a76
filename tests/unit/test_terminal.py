from __future__ import annotations

import pytest

from tdxstack.terminal import printable


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("plain text", "plain text"),
        ("\x1b[0;32m  OK  \x1b[0m Started", "  OK   Started"),
        ("\x1b]0;another title\x07shown", "shown"),
        ("\x1b]0;another title\x1b\\shown", "shown"),
        ("\x1bM\x1b[K*", "*"),
        ("\x1b[2J\x1b[1;1Hgone", "gone"),
        ("\r\x00\x08back\x7f", "back"),
        ("a\tb", "a    b"),
        ("\u202eright to left\u2066", "right to left"),
        ("caf\u00e9 \u00fcber", "caf\u00e9 \u00fcber"),
    ],
)
def test_nothing_that_a_terminal_obeys_is_left(line: str, text: str) -> None:
    assert printable(line) == text
