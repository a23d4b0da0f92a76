from __future__ import annotations

from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from tdxstack import yaml_text
from tdxstack.errors import MalformedError


class Pet(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["cat", "dog"] = "cat"
    ages: list[int] = []


def problem(document: object) -> str:
    with pytest.raises(ValidationError) as caught:
        Pet.model_validate(document)
    return yaml_text.invalid(caught.value, "pet", hint="see above").message


def test_scalars_stay_text() -> None:
    assert yaml_text.load(b"a: 0755\nb: [yes, 1.0]\n", "pet", hint="") == {"a": "0755", "b": ["yes", "1.0"]}


@pytest.mark.parametrize("text", [b"", b"\n", b"# nothing\n"])
def test_nothing_is_an_empty_mapping(text: bytes) -> None:
    assert yaml_text.load(text, "pet", hint="") == {}


def repeated(levels: int) -> bytes:
    """Lists of ten aliases each of the list before: ten to the power of `levels` values."""
    lists = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x, x]", *lists]).encode()


def test_aliases_repeat_what_they_stand_for() -> None:
    document = yaml_text.load(repeated(3), "pet", hint="")
    assert isinstance(document, dict)
    assert document["a2"] == [[["x"] * 10] * 10] * 10


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (repeated(12), "its aliases repeat too much"),
        (b"&a [*a]", "its aliases repeat too much"),
        (b'"\\uD800"', "surrogates not allowed"),
    ],
)
def test_what_is_larger_than_its_text_is_refused(text: bytes, problem: str) -> None:
    with pytest.raises(MalformedError, match=problem):
        yaml_text.load(text, "pet", hint="see above")


@pytest.mark.parametrize(
    "text", [b"a: [", b"\xff", b"a: 1\na: 2\n", b"[" * 100_000, b"#" * (yaml_text.MAX_SIZE + 1)]
)
def test_what_is_no_yaml_is_told(text: bytes) -> None:
    with pytest.raises(MalformedError, match=r"^pet: "):
        yaml_text.load(text, "pet", hint="")


def test_every_problem_has_its_place() -> None:
    assert problem({"kind": "cow", "ages": ["1", "x"], "colour": "red"}) == (
        "pet: kind: 'cow' is not one of cat, dog; "
        "ages[1]: Input should be a valid integer, unable to parse string as an integer; "
        "colour: there is no such key"
    )


def test_problems_of_more_than_one_line_come_with_it() -> None:
    text = b"kind: cat\nages:\n  - 1\n  - x\n  - 2\nhome: {}\n"
    with pytest.raises(ValidationError) as caught:
        Pet.model_validate(yaml_text.load(text, "pet", hint=""))
    told = yaml_text.invalid(caught.value, "pet", hint="", text=text).message
    assert told.endswith("as an integer (line 4); home: there is no such key (line 6)")
    once = yaml_text.invalid(caught.value, "pet", hint="", text=b"{ages: [x], home: {}}\n").message
    assert "line" not in once


def test_there_may_be_very_many() -> None:
    assert problem({"ages": ["x"] * 60}).endswith("; and 10 more")
