from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.machine.kernel_command_line import edit, fields

LINE = 'root=/dev/vda1 ro quiet console=ttyS0 console=hvc0 dyndbg="file a +p"'


def test_fields() -> None:
    assert fields(LINE)[:2] == [("root", "/dev/vda1"), ("ro", None)]
    assert fields(LINE)[-1] == ("dyndbg", '"file a +p"')


@pytest.mark.parametrize(
    ("set_", "remove", "expected"),
    [
        ({}, [], LINE),
        ({"root": "/dev/vdb"}, ["console", "dyndbg"], "root=/dev/vdb ro quiet"),
        ({"console": "tty1"}, ["quiet", "root"], 'ro console=tty1 dyndbg="file a +p"'),
        ({"nokaslr": "", "x": "a b"}, ["root", "ro", "quiet", "console", "dyndbg"], 'nokaslr x="a b"'),
    ],
)
def test_edit(set_: dict[str, str], remove: list[str], expected: str) -> None:
    assert edit(LINE, set_=set_, remove=remove) == expected


def test_hyphens_and_underscores_are_one() -> None:
    assert edit("a-b=1", set_={"a_b": "2"}, remove=[]) == "a_b=2"
    assert edit("a_b=1", set_={}, remove=["a-b"]) == ""


@given(st.text())
def test_any_text_is_split_into_its_fields(text: str) -> None:
    words = [name if value is None else f"{name}={value}" for name, value in fields(text)]
    assert "".join("".join(words).split()) == "".join(text.split())
