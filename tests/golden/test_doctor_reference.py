"""The reference of tdx doctor's checks, generated from the checks. TDX_UPDATE_GOLDEN=1 writes it anew."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click
import pytest

from tdxstack.cli import tdx
from tdxstack.host.chain import CHAIN
from tdxstack.host.check import Check, Purpose

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/doctor.md"

HEAD = """\
# What `tdx doctor` looks at

Generated from the checks (`tests/golden/test_doctor_reference.py`); `tdx doctor --explain ID` shows one.

A check ends `ok`, `fail`, `warning`, `not_applicable` or `unknown`; `unknown` comes with the command
that would show it. A check that fails while one that it needs fails is that one's consequence and shown
as such; the first line names the first cause. Where a gate fails, nothing that needs it is looked at.
What could not be seen does not matter where a check that it is proved by has passed.

The host is ready (exit code 0) if no check for `launch` or `attest` fails and none is unknown without
proof. See also [my host is not ready](../how-to/host-not-ready.md), [the JSON document](json.md) and
[the pains behind the checks](pains.md).
"""

TITLES = {
    Purpose.LAUNCH: "Launching TDs",
    Purpose.ATTEST: "Attesting them",
    Purpose.ADVICE: "Advice: it works without",
    Purpose.GUEST: "Inside a TD",
    Purpose.EMULATE: "The emulated platform",
}


def test_the_page_says_what_the_checks_say() -> None:
    text = HEAD + "".join(section(purpose) for purpose in Purpose)
    if os.environ.get("TDX_UPDATE_GOLDEN") == "1":
        PAGE.write_text(text)
    assert PAGE.read_text() == text


PROSE = ("docs/reference/pains.md", "docs/how-to/host-not-ready.md", "docs/reference/doctor.md")


@pytest.mark.parametrize("page", PROSE)
def test_the_commands_that_are_recommended_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    named = re.findall(r"(?<![.<\w])(?<!vm-type )tdx ([a-z]+)(?: ([a-z]+))?(?: ([a-z]+))?", text)
    assert named
    context = click.Context(tdx)
    for words in named:
        command: click.Command | None = tdx
        for word in words:
            if isinstance(command, click.Group) and word:
                command = command.get_command(context, word)
                assert command is not None, words


def test_every_pain_has_its_row() -> None:
    rows = re.findall(r"^\| (\d+) \|", (ROOT / PROSE[0]).read_text(), re.MULTILINE)
    assert rows == [str(number) for number in range(1, 21)]


def section(purpose: Purpose) -> str:
    checks = [check for check in CHAIN if check.purpose is purpose]
    return f"\n## {TITLES[purpose]}\n" + "".join(entry(check) for check in checks)


def entry(check: Check) -> str:
    more = [
        ("needs", ", ".join(f"`{name}`" for name in check.needs)),
        ("proved by", ", ".join(f"`{name}`" for name in check.proved_by)),
        ("gate", "yes" if check.gate else ""),
    ]
    lines = [
        f"\n### `{check.id}`\n\n{check.why}\n",
        f"* looks at: {check.looks_at}",
        f"* expects: {check.expected}",
        f"* fix: {check.fix}",
        *(f"* {name}: {value}" for name, value in more if value),
        f"* [more]({check.link})\n",
    ]
    return "\n".join(lines)
