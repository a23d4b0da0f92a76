"""Logs of real TDs with one change, its digest made as what has measured it makes it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from tdxstack.abi import event_log
from tdxstack.abi.event_log import ALG_SHA384, Event, EventLog
from tdxstack.measurement.comparison.cause import Cause
from tdxstack.measurement.comparison.compare import compare
from tdxstack.measurement.comparison.reading import read_side
from tdxstack.measurement.event_data import UefiVariable
from tests.conformance.vectors import CC_API, GO_TDX_GUEST, read

pytestmark = pytest.mark.vectors

COMMAND, LINE = b"grub_cmd: ", b"kernel_cmdline: "
UBUNTU = CC_API + "ccel_data.bin"
"""Shim and a GRUB that measures what it does."""
GOOGLE = GO_TDX_GUEST + "ccel/ccel_data.dat"
"""Secure Boot, the separator in RTMR1."""


def of_grub(said: bytes) -> Event:
    """What GRUB logs: only what follows its word for it is measured."""
    digest = hashlib.sha384(said.partition(b": ")[2]).digest()
    return Event(3, event_log.EV_IPL, ((ALG_SHA384, digest),), said + b"\0")


def causes(name: str, changed: tuple[Event, ...]) -> dict[str, Cause]:
    log = EventLog.parse(read(name))
    comparison = compare(read_side("a", read(name)), read_side("b", replace(log, events=changed).to_bytes()))
    assert comparison.unexplained_differences == ()
    assert comparison.unexplained_registers == ()
    return {cause.id: cause for cause in comparison.causes}


def test_grub_measures_its_commands_so() -> None:
    logged = [
        event for event in EventLog.parse(read(UBUNTU)).events if event.data.startswith((COMMAND, LINE))
    ]
    assert len(logged) > 50
    assert [of_grub(event.data.rstrip(b"\0")) for event in logged] == logged


def test_an_inserted_grub_command() -> None:
    events = EventLog.parse(read(UBUNTU)).events
    at = next(number for number, event in enumerate(events) if event.data.startswith(COMMAND + b"load_env"))
    inserted = of_grub(COMMAND + b"insmod evil")
    found = causes(UBUNTU, (*events[:at], inserted, *events[at:]))
    assert list(found) == ["grub-commands"]
    assert found["grub-commands"].sentence == (
        "GRUB executed different commands: 'insmod evil' (only in the second)."
    )
    assert found["grub-commands"].registers == ("rtmr2",)


def test_another_kernel_command_line_from_grub() -> None:
    events = list(EventLog.parse(read(UBUNTU)).events)
    for at, event in enumerate(events):
        if event.data.startswith((LINE, COMMAND + b"linux ")):
            events[at] = of_grub(event.data.rstrip(b"\0") + b" debug")
    found = causes(UBUNTU, tuple(events))
    assert list(found) == ["kernel-command-line", "grub-commands"]
    assert found["kernel-command-line"].sentence == "The kernel command lines differ: +debug."


def test_a_separator_in_the_other_register() -> None:
    """As Google's changed log has it, which is among the vectors of another project."""
    events = list(EventLog.parse(read(GOOGLE)).events)
    at = next(at for at, one in enumerate(events) if one.type == event_log.EV_SEPARATOR and one.mr_index == 2)
    events[at] = replace(events[at], mr_index=1)
    found = causes(GOOGLE, tuple(events))
    assert list(found) == ["separator"]
    assert found["separator"].registers == ("rtmr0", "rtmr1")


def test_a_key_that_db_has_lost() -> None:
    events = list(EventLog.parse(read(GOOGLE)).events)
    for at, event in enumerate(events):
        if event.type == event_log.EV_EFI_VARIABLE_DRIVER_CONFIG:
            variable = UefiVariable.parse(event.data)
            if variable.name == "db":
                first = int.from_bytes(variable.data[16:20], "little")  # size of the first signature list
                kept = replace(variable, data=variable.data[first:]).to_bytes()
                digest = hashlib.sha384(kept).digest()
                events[at] = replace(event, data=kept, digests=((ALG_SHA384, digest),))
    found = causes(GOOGLE, tuple(events))
    assert list(found) == ["secure-boot-variable"]
    sentence = found["secure-boot-variable"].sentence
    assert sentence.startswith(
        "The Secure Boot variable db differs: only the first has certificate UEFI DB Key v10, "
    )
    assert sentence.count("certificate") == 1
