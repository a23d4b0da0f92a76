from __future__ import annotations

import re
from collections import Counter

import click
import pytest

from tdxstack.cli import tdx
from tdxstack.host.explain import explain_text
from tdxstack.host.explain_codes import STATUS_FAMILY, Numbers, explain_number
from tdxstack.host.explain_tables import GAP, Code, Message, load

TABLES = load()
NUMBERS = Numbers(TABLES)


def test_ids_are_unique() -> None:
    ids = Counter([*(code.id for code in TABLES.codes), *(message.id for message in TABLES.messages)])
    assert [id for id, count in ids.items() if count > 1] == []


def test_a_family_has_each_number_once() -> None:
    numbers = Counter((code.family.id, code.number) for code in TABLES.codes)
    assert [number for number, count in numbers.items() if count > 1] == []


@pytest.mark.parametrize("code", TABLES.codes, ids=lambda code: code.id)
def test_each_code_is_explained_by_its_number(code: Code) -> None:
    assert code.family.source
    found = [one for one in explain_number(code.number, NUMBERS) if one.name == code.name]
    assert len(found) == 1
    assert found[0].meaning and found[0].source
    assert found[0].meaning.endswith(".")


@pytest.mark.parametrize("message", TABLES.messages, ids=lambda message: message.id)
def test_each_message_row_is_complete_and_finds_its_own_example(message: Message) -> None:
    assert message.source and message.meaning
    assert message.kind == "note" or (message.cause and message.next)
    assert all(pattern and all(pattern) for pattern in message.patterns)
    assert all(fragment == fragment.lower() for pattern in message.patterns for fragment in pattern)
    # One line belongs to one row: an example that an earlier row takes would not be found here.
    assert [one.id for one in explain_text(message.example, TABLES) if not one.id.startswith("code.")] == [
        message.id
    ]


@pytest.mark.parametrize("message", TABLES.messages, ids=lambda message: message.id)
def test_each_pattern_of_a_row_can_be_reached(message: Message) -> None:
    for pattern in message.patterns:
        line = b" ".join(pattern).decode()
        assert message.id in [one.id for one in explain_text(line, TABLES)], line


def test_status_rows_have_the_class_and_the_bits_that_their_numbers_say() -> None:
    for code in TABLES.codes:
        if code.family.id == STATUS_FAMILY and code.number < 1 << 64 and code.number & 0xFFFFFFFF == 0:
            assert code.number >> 48 & 0xFFF == 0
            assert code.number >> 40 & 0xFF in TABLES.classes


def test_gaps_are_written_with_one_character() -> None:
    assert GAP == "…"
    assert not any(
        b"..." in fragment for m in TABLES.messages for pattern in m.patterns for fragment in pattern
    )


def test_commands_that_rows_advise_exist() -> None:
    rows: list[Code | Message] = [*TABLES.codes, *TABLES.messages]
    texts = [text for row in rows for text in (row.meaning, row.cause, row.next)]
    advised = {match[1] for text in texts for match in re.finditer(r"(?:^|[;:,(`] ?)tdx ([a-z ]+)", text)}
    assert len(advised) > 8
    for words in advised:
        command: click.Command = tdx
        for word in words.split():
            if isinstance(command, click.Group):
                found = command.get_command(click.Context(command), word)
                assert found is not None, f"tdx {words}"
                command = found
