"""Every cause has a test that makes just that change; the comparison names it, and nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from tdxstack.abi import event_log
from tdxstack.abi.event_log import Event
from tdxstack.measurement.comparison.alignment import Kind
from tdxstack.measurement.comparison.compare import Comparison, compare
from tdxstack.measurement.comparison.side import Side
from tdxstack.measurement.profile import PROFILES
from tests.unit.measurement.comparison import logs
from tests.unit.measurement.comparison.logs import GIB, PLAIN, side, with_one
from tests.unit.measurement.test_log_profile import boot_log

A = side("a", PLAIN)


def of_kind(kind: int, number: int = 0) -> Event:
    return [event for event in PLAIN if event.type == kind][number]


def compared(events: tuple[Event, ...]) -> Comparison:
    return compare(A, side("b", events))


def causes(comparison: Comparison) -> list[str]:
    return [cause.id for cause in comparison.causes]


def test_equal_logs_have_no_differences() -> None:
    comparison = compared(PLAIN)
    assert comparison.equal
    assert not comparison.differences
    assert not comparison.causes
    assert all(register.equal for register in comparison.registers)


GRUB = next(event for event in PLAIN if event.data.startswith(b"grub_cmd"))
GRUB_LINE = next(event for event in PLAIN if event.data.startswith(b"kernel_cmdline"))
ACPI = [event for event in PLAIN if event.data == b"ACPI DATA"]
DB = next(event for event in PLAIN if b"d\0b\0" in event.data and event.type == of_kind(0x80000001).type)
TAGS = [event for event in PLAIN if event.type == event_log.EV_EVENT_TAG]
CHANGES = {
    "memory-size": with_one(PLAIN[0], logs.hob(4 * GIB)),
    "vcpu-count": with_one(ACPI[0], logs.configuration(b"ACPI DATA", b"other loader")),
    "smbios": with_one(of_kind(event_log.EV_EFI_HANDOFF_TABLES), logs.smbios(b"other")),
    "fw-cfg": with_one(PLAIN[2], logs.configuration(b"QEMU FW CFG\0bootorder\0", b"other order")),
    "secure-boot-variable": with_one(
        DB, logs.variable("db", logs.signature_list(b"\1" * 32, b"\3" * 32), logs.DATABASE)
    ),
    "boot-order": with_one(logs.boot_order(1, 0), logs.boot_order(0, 1)),
    "variable-store": with_one(PLAIN[1], replace(PLAIN[1], digests=((event_log.ALG_SHA384, b"\1" * 48),))),
    "firmware-profile": with_one(of_kind(event_log.EV_EFI_HANDOFF_TABLES)),
    "exit-boot-services-retry": with_one(
        PLAIN[-1], logs.action(b"Exit Boot Services Returned with Failure"), PLAIN[-2], PLAIN[-1]
    ),
    "boot-attempts": with_one(
        PLAIN[11], PLAIN[11], logs.action(b"Returning from EFI Application from Boot Option"), PLAIN[11]
    ),
    "kernel-command-line": with_one(TAGS[0], logs.command_line("/vmlinuz root=/dev/vdb")),
    "unmeasured-command-line": with_one(TAGS[0]),
    "initrd": with_one(TAGS[1], logs.tagged(logs.INITRD, b"other initrd")),
    "grub-commands": with_one(GRUB, GRUB, logs.boot_loader(b"grub_cmd: insmod evil")),
    "machine-owner-keys": with_one(
        logs.boot_loader(b"MokList"),
        replace(logs.boot_loader(b"MokList"), digests=((event_log.ALG_SHA384, b"\2" * 48),)),
    ),
    "boot-loader-data": with_one(GRUB, GRUB, logs.boot_loader(b"font.pf2")),
    "image-authority": (
        *PLAIN,
        replace(DB, type=event_log.EV_EFI_VARIABLE_AUTHORITY),
    ),
    "partition-table": with_one(logs.gpt(logs.OWNER), logs.gpt(UUID(int=7))),
    "boot-image": with_one(logs.KERNEL, logs.image(b"other kernel")),
    "separator": with_one(logs.separator(logs.RTMR0), logs.separator(logs.RTMR2)),
}


ELSEWHERE = ("acpi-tables", "mrtd-two-pass", "firmware-file", "kernel-header", "tdx-module")
"""Causes that need more than two logs; each has a test of its own below."""


@pytest.mark.parametrize("cause", CHANGES)
def test_one_change_has_one_cause(cause: str) -> None:
    comparison = compared(CHANGES[cause])
    assert causes(comparison) == [cause]
    assert not comparison.equal
    assert not comparison.unexplained_registers
    assert not comparison.unexplained_differences
    (only,) = comparison.causes
    changed = {register.name for register in comparison.registers if register.equal is False}
    assert set(only.registers) == changed


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        ("memory-size", "2048 MiB and 4096 MiB"),
        ("secure-boot-variable", f"only the second has hashes (SHA-256) {'03' * 32}"),
        ("boot-order", "order 0001, 0000 and 0000, 0001"),
        ("grub-commands", "'insmod evil' (only in the second)"),
        ("partition-table", "disk"),
        ("unmeasured-command-line", "Only a has its kernel command line measured"),
    ],
)
def test_the_sentence_names_what_differs(cause: str, words: str) -> None:
    (only,) = compared(CHANGES[cause]).causes
    assert words in only.sentence


def test_a_command_line_is_shown_only_where_its_digest_proves_it() -> None:
    other = "/vmlinuz root=/dev/vda quiet"
    events = with_one(TAGS[0], logs.command_line(other))
    a = side("a", PLAIN, ("/vmlinuz root=/dev/vda",))
    (cause,) = compare(a, side("b", events, (other,))).causes
    assert cause.sentence == "The kernel command lines differ: +quiet."
    lying = side("b", events, ("a lie",))
    (cause,) = compare(a, lying).causes
    known = "the first is '/vmlinuz root=/dev/vda', of the second the log holds only the digest."
    assert cause.sentence == f"The kernel command lines differ: {known}"
    (cause,) = compare(lying, a).causes
    assert "the second is '/vmlinuz root=/dev/vda', of the first" in cause.sentence


def test_command_lines_that_nobody_knows_are_said_to_differ() -> None:
    silent = [
        tuple(event for event in boot if event != GRUB_LINE)
        for boot in (PLAIN, CHANGES["kernel-command-line"])
    ]
    (cause,) = compare(side("a", silent[0]), side("b", silent[1])).causes
    assert cause.sentence == "The kernel command lines differ; the log holds only their digests."


@pytest.mark.parametrize(
    ("logged", "line"),
    [
        ("initrd=\\i quiet".encode("utf-16-le") + b"\0\0", "initrd=\\i quiet"),
        (b"kernel_cmdline: /k quiet\0", "/k quiet"),
        (b"kernel_cmdline: /k quiet\0", "BOOT_IMAGE=/k quiet"),
    ],
    ids=["systemd-boot", "GRUB", "GRUB, its own word left out"],
)
def test_a_command_line_that_a_boot_loader_logs_is_shown_where_its_digest_proves_it(
    logged: bytes, line: str
) -> None:
    def line_of(said: bytes, text: str) -> str:
        """How the difference to a boot without that option is told."""
        loader = logs.event(logs.RTMR2, event_log.EV_IPL, said)
        boots = (
            (*with_one(TAGS[0]), loader, logs.command_line(text)),
            (*with_one(TAGS[0]), logs.command_line("")),
        )
        found = {
            cause.id: cause.sentence for cause in compare(side("a", boots[0]), side("b", boots[1])).causes
        }
        return found["kernel-command-line"]

    assert f"the first is {line!r}" in line_of(logged, line)
    assert "only their digests" in line_of(logged, "another")


def test_grub_command_lines_are_compared_word_by_word() -> None:
    events = with_one(GRUB_LINE, logs.boot_loader(b"kernel_cmdline: /vmlinuz root=/dev/vdb"))
    (cause,) = compared(events).causes
    assert cause.sentence == "The kernel command lines differ: -root=/dev/vda +root=/dev/vdb."


def test_known_vcpus_are_named() -> None:
    b = side("b", CHANGES["vcpu-count"])
    (cause,) = compare(replace(A, vcpus=2), replace(b, vcpus=4)).causes
    assert cause.sentence == "The TDs have different numbers of vCPUs: 2 and 4."
    (cause,) = compare(replace(A, vcpus=2), replace(b, vcpus=2)).causes
    assert cause.id == "acpi-tables"


def test_memory_and_vcpus_at_once() -> None:
    events = (logs.hob(4 * GIB), *CHANGES["vcpu-count"][1:])
    b = side("b", events)
    (cause,) = compare(A, b).causes
    assert "the vCPUs may differ too" in cause.sentence
    assert causes(compare(replace(A, vcpus=2), replace(b, vcpus=4))) == ["memory-size", "vcpu-count"]
    (cause,) = compare(replace(A, vcpus=2), replace(b, vcpus=2)).causes
    assert cause.id == "memory-size"
    assert "vCPUs" not in cause.sentence


def test_memory_of_an_unusual_size_is_still_the_cause() -> None:
    (cause,) = compared(with_one(PLAIN[0], logs.hob(2 * GIB + (5 << 20)))).causes
    assert cause.id == "memory-size"
    assert "MiB" not in cause.sentence


def test_a_kernel_that_qemu_has_written_into_is_the_same_kernel() -> None:
    """A prediction tells; without one, it may be another kernel."""
    patched = logs.image(b"patched kernel")
    b = side("b", with_one(logs.KERNEL, patched))
    assert A.entries is not None
    known = [
        replace(entry, other_header=patched.digest()) if entry.digest == logs.KERNEL.digest() else entry
        for entry in A.entries
    ]
    for pair in ((replace(A, entries=tuple(known)), b), (b, replace(A, entries=tuple(known)))):
        (cause,) = compare(*pair).causes
        assert (cause.id, cause.registers) == ("kernel-header", ("rtmr1",))
    assert causes(compare(A, b)) == ["boot-image"]


def test_swapped_events_are_moves() -> None:
    events = list(PLAIN)
    at = events.index(GRUB)
    events[at], events[at + 1] = events[at + 1], events[at]
    assert {item.kind for item in compared(tuple(events)).differences} == {Kind.MOVED}


def test_two_passes_of_mrtd() -> None:
    b = replace(side("b", PLAIN), registers={**A.registers, "mrtd": b"\1" * 48})
    assert causes(compare(replace(A, mrtd_two_pass=b"\1" * 48), b)) == ["mrtd-two-pass"]
    assert causes(compare(A, b)) == ["firmware-file"]


def test_the_releases_of_both_firmwares_are_named_where_the_logs_tell() -> None:
    new = boot_log(PROFILES[-1])
    old = tuple(event for event in new if event.type != event_log.EV_EFI_HANDOFF_TABLES)
    (cause,) = compare(side("a", new), side("b", old)).causes
    assert cause.sentence.startswith("The firmwares are of different edk2 releases: only one measures")
    older = boot_log(PROFILES[3])
    sentences = [cause.sentence for cause in compare(side("a", new), side("b", older)).causes]
    assert any("(edk2-stable202505 to 202608 and edk2-stable202302 to 202408)" in text for text in sentences)


def test_another_tdx_module() -> None:
    comparison = compare(A, replace(A, registers={**A.registers, "mrseam": b"\1" * 48}))
    assert causes(comparison) == ["tdx-module"]
    assert comparison.unexplained_registers == ()
    unknown = {name: value for name, value in A.registers.items() if name != "mrseam"}
    assert compare(A, replace(A, registers=unknown)).equal


def test_rtmr3_without_a_log_is_told_apart_from_a_log_that_does_not_replay() -> None:
    assert causes(compare(A, side("b", PLAIN, rtmr3=b"\1" * 48))) == ["unlogged-rtmr3"]
    b = replace(side("b", PLAIN), registers={**A.registers, "rtmr1": b"\1" * 48})
    assert causes(compare(A, b)) == ["unlogged-rtmr1"]


def test_registers_without_a_log_stay_unexplained() -> None:
    quote = Side("q", "quote", {**A.registers, "rtmr1": b"\1" * 48})
    comparison = compare(A, quote)
    assert not comparison.causes
    assert comparison.unexplained_registers == ("rtmr1",)
    assert not comparison.equal


def test_an_event_that_nobody_knows_stays_unexplained() -> None:
    odd = logs.event(logs.RTMR1, 0x12345678, b"odd")
    comparison = compared((*PLAIN, odd))
    assert [item.number for item in comparison.differences] == list(comparison.unexplained_differences)
    assert not comparison.causes


def test_an_unpredictable_event_is_no_difference() -> None:
    first, *rest = A.entries or ()
    prediction = Side("p", "prediction", {}, (replace(first, digest=None), *rest))
    comparison = compare(prediction, A)
    assert not comparison.differences
    assert {register.equal for register in comparison.registers} == {None}


def test_the_reference_lists_the_causes() -> None:
    page = (Path(__file__).parents[4] / "docs/reference/causes.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    listed = set(re.findall(r"`([a-z0-9-]+)`", " ".join(rows)))
    unlogged = {f"unlogged-rtmr{number}" for number in range(4)}
    assert listed == {*CHANGES, *unlogged, *ELSEWHERE}
