"""Public event logs of real TDs, and the registers that their sources publish for them."""

from __future__ import annotations

import hashlib

import pytest

from tdxstack.abi import td_hob, tdvf
from tdxstack.abi.event_log import EV_EFI_HANDOFF_TABLES2, EventLog
from tdxstack.abi.ima_log import parse_ima_log
from tdxstack.abi.quote import Quote, TdBody10
from tdxstack.errors import MalformedError
from tdxstack.measurement.ima import describe_ima, extend_rtmrs, replay_ima
from tdxstack.measurement.replay import replay
from tests.conformance.vectors import CC_API, GO_EVENTLOG, GO_TDX_GUEST, TRUST_AUTHORITY, TRUSTEE, read

pytestmark = pytest.mark.vectors

GOOGLE = GO_EVENTLOG + "eventlogs/ccel"
LOGS_OF_TRUSTEE = TRUSTEE + "eventlog/test_data"
GUEST = GO_TDX_GUEST + "ccel"

ZERO = "00000000"

LOGS = {
    f"{GOOGLE}/CCEL_unpadded.data.bin": ("8083cd68", "6484f0d7", "c3e7ed9d", ZERO),
    f"{GOOGLE}/cos-113-intel-tdx.bin": ("3fa2f61f395b", "f62dbc072bd5", "4969684dc873", ZERO),
    f"{GOOGLE}/event_log.bin": ("f68df151", "8adfd9a4", ZERO, ZERO),
    f"{GUEST}/ccel_data.dat": ("3fa2f61f", "f62dbc07", "49696", ZERO),
    f"{LOGS_OF_TRUSTEE}/CCEL_data": ("2dc71230", "0fa3be56", ZERO, ZERO),
    f"{LOGS_OF_TRUSTEE}/CCEL_data_grub": ("cec0a104", "6c289e0c", "08919d01", ZERO),
    f"{LOGS_OF_TRUSTEE}/CCEL_data_ovmf": ("8566f998", "775b9f6b", "94eaf7a7", ZERO),
    CC_API + "ccel_data.bin": ("c15727ca", "61e958c6", "58bc48d5", ZERO),
    TRUST_AUTHORITY + "go-tdx/test/resources/CCEL.data.bin": (
        "8083cd68",
        "6484f0d7",
        "c3e7ed9d",
        ZERO,
    ),
}
"""First digits of RTMR0 to RTMR3."""

QUOTE_RTMRS_OFFSET = 48 + 328
"""RTMR0 in a version 4 quote: header, then the offset in the TD report body."""


GIB = 1 << 30

OVMF_MEMORY = (
    (tdvf.BFV, 0xFFC84000, 0x37C000),
    (tdvf.CFV, 0xFFC00000, 0x84000),
    (tdvf.TEMP_MEM, 0x810000, 0x10000),
    (tdvf.TEMP_MEM, 0x80B000, 0x2000),
    (tdvf.TD_HOB, 0x809000, 0x2000),
    (tdvf.TEMP_MEM, 0x800000, 0x6000),
)
"""(type, address, size) of the sections of edk2's IntelTdx build."""


def quoted_rtmrs() -> tuple[bytes, ...]:
    quote = read(f"{GUEST}/cos-113-tdx-quote.dat")
    return tuple(quote[QUOTE_RTMRS_OFFSET + at : QUOTE_RTMRS_OFFSET + at + 48] for at in range(0, 192, 48))


@pytest.mark.parametrize("name", LOGS)
def test_replay(name: str) -> None:
    log = EventLog.parse(read(name))
    for register, digits in zip(replay(log.events), LOGS[name], strict=True):
        assert register.hex().startswith(digits)


def test_replay_equals_the_quote() -> None:
    log = EventLog.parse(read(f"{GUEST}/ccel_data.dat"))
    assert replay(log.events) == quoted_rtmrs()


@pytest.mark.parametrize(
    "name", ["cos-113-intel-tdx-dupe-separator", "cos-113-intel-tdx-dupe-separator-unpadded"]
)
def test_duplicated_separator_does_not_match_the_quote(name: str) -> None:
    registers = replay(EventLog.parse(read(f"{GOOGLE}/{name}.bin")).events)
    quoted = quoted_rtmrs()
    assert [a == b for a, b in zip(registers, quoted, strict=True)] == [False, False, True, True]
    assert registers[0].hex().startswith("a4de2df2")
    assert registers[1].hex().startswith("0ee9366c")


@pytest.mark.parametrize(
    ("name", "memory"),
    [
        (f"{LOGS_OF_TRUSTEE}/CCEL_data_ovmf", 2 * GIB),
        (f"{GOOGLE}/CCEL_unpadded.data.bin", 8 * GIB),
        (f"{LOGS_OF_TRUSTEE}/CCEL_data_grub", 10 * GIB),
    ],
)
def test_td_hob_is_what_these_tds_measured(name: str, memory: int) -> None:
    """The size of their memory is not published; these are the only sizes up to 2 TiB that fit."""
    first = EventLog.parse(read(name)).events[0]
    sections = (tdvf.Section(0, 0, address, size, kind, 0) for kind, address, size in OVMF_MEMORY)
    metadata = tdvf.Metadata(tuple(sections))
    assert first.type == EV_EFI_HANDOFF_TABLES2
    assert first.digest() == hashlib.sha384(td_hob.build(metadata, memory).measured()).digest()
    assert first.digest() != hashlib.sha384(td_hob.build(metadata, memory + GIB).measured()).digest()


def test_log_of_another_technology_is_parsed_and_not_replayed() -> None:
    log = EventLog.parse(read(f"{LOGS_OF_TRUSTEE}/CCEL_data_csv"))
    assert log.spec_id is not None
    assert log.spec_id.algorithms == ((0x12, 32),)
    with pytest.raises(MalformedError, match="no SHA-384 digest"):
        replay(log.events)


def test_ima_log_of_a_tpm() -> None:
    """Entries with signatures, some appended to kernel modules; every digest is that of its data."""
    data = read("Fraunhofer-AISEC+measured-boot-tools/parse-ima-pcr/test/binary_runtime_measurements")
    entries = list(parse_ima_log(data))
    assert b"".join(entry.to_bytes() for entry in entries) == data
    assert [entry.template for entry in entries] == ["ima-sig", *["ima-modsig"] * 3, *["ima-sig"] * 2]
    assert replay_ima(entries, "sha1").mismatches == ()
    assert all(describe_ima(entry).isprintable() for entry in entries)


def test_ima_in_rtmr2_explains_the_quote() -> None:
    """The boot log alone does not: the TD's kernel has extended RTMR2 with IMA's measurements."""
    quote = Quote.parse(read(CC_API + "quote.bin"))
    assert isinstance(quote.body, TdBody10)
    booted = replay(EventLog.parse(read(CC_API + "ccel_data.bin")).events)
    assert [a == b for a, b in zip(booted, quote.body.rtmrs, strict=True)] == [True, True, False, True]
    assert extend_rtmrs(booted, parse_ima_log(read(CC_API + "ima_log.bin"))) == quote.body.rtmrs
