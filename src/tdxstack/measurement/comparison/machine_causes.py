"""Causes in RTMR0: the machine that the VMM gives, and the settings of the firmware."""

from __future__ import annotations

from collections.abc import Iterator

from tdxstack.measurement.comparison.alignment import Kind, Pair
from tdxstack.measurement.comparison.cause import Case, Cause, cause_of, either, value_of, where
from tdxstack.measurement.comparison.memory_size import MIB, memory_size
from tdxstack.measurement.comparison.side import Entry, Side
from tdxstack.measurement.comparison.values import PRESENT, changed_values
from tdxstack.measurement.log_profile import classify, span

SMBIOS = ("hand-off tables", "SMBIOS")
"""How the meaning of SMBIOS's event begins: as read from a log, and as predicted."""

FIRMWARE_EVENTS = ("TD HOB", "ACPI", *SMBIOS, "fw_cfg", "firmware ")
"""How the meanings of events begin that one release of edk2 measures and another does not."""


def _memory(case: Case) -> Iterator[Cause]:
    hob = case.about("EV_EFI_HANDOFF_TABLES2", "TD HOB", Kind.CHANGED)
    if not hob:
        return
    pairs = hob | case.about("EV_EFI_HANDOFF_TABLES", SMBIOS, Kind.CHANGED)
    pair = next(iter(hob.values()))
    a, b = _memory_size(case.a, pair.a), _memory_size(case.b, pair.b)
    sizes = f": {_mib(a)} and {_mib(b)}" if a and b else ""
    follow = {} if _other_vcpus(case) else case.about("EV_PLATFORM_CONFIG_FLAGS", "ACPI", Kind.CHANGED)
    known = case.a.vcpus is not None and case.b.vcpus is not None
    doubt = "" if known else "; the vCPUs may differ too"
    more = f", and the ACPI tables with it (the PCI windows follow the memory{doubt})"
    yield cause_of(
        "memory-size",
        f"The TDs have different memory sizes{sizes}{more if follow else ''}.",
        "Give both the same memory, or use references without the TD HOB (`tdx predict --portable`).",
        pairs | follow,
    )


def _other_vcpus(case: Case) -> bool:
    """Whether the numbers of vCPUs are known to differ."""
    return case.a.vcpus is not None and case.b.vcpus is not None and case.a.vcpus != case.b.vcpus


def _memory_size(side: Side, hob: Entry | None) -> int | None:
    """Memory in bytes: as the side says, else as the TD HOB's digest tells."""
    if side.memory is not None or hob is None or hob.digest is None:
        return side.memory
    return memory_size(hob.digest)


def _mib(size: int) -> str:
    return f"{size // MIB} MiB"


def _acpi(case: Case) -> Iterator[Cause]:
    pairs = case.about("EV_PLATFORM_CONFIG_FLAGS", "ACPI", Kind.CHANGED)
    if not pairs:
        return
    if _other_vcpus(case):
        sentence = f"The TDs have different numbers of vCPUs: {case.a.vcpus} and {case.b.vcpus}."
    elif case.a.vcpus is not None and case.a.vcpus == case.b.vcpus:
        sentence = "The ACPI tables differ at equal vCPUs and memory: other devices, or another QEMU version."
    else:
        sentence = (
            "The ACPI tables differ at equal memory: most likely another number of vCPUs,"
            " else other devices or another QEMU version."
        )
    yield cause_of(
        "vcpu-count" if "vCPUs:" in sentence or "most likely" in sentence else "acpi-tables",
        sentence,
        "Start both with the same vCPUs, devices, machine type and QEMU.",
        pairs,
    )


def _smbios(case: Case) -> Iterator[Cause]:
    pairs = case.about("EV_EFI_HANDOFF_TABLES", SMBIOS, Kind.CHANGED)
    if pairs:
        yield cause_of(
            "smbios",
            "The SMBIOS tables differ: memory devices, or strings that the VMM sets (-smbios, machine type).",
            "Start both with the same -smbios, machine type and memory size.",
            pairs,
        )


def _fw_cfg(case: Case) -> Iterator[Cause]:
    for number, pair in case.about("EV_PLATFORM_CONFIG_FLAGS", "fw_cfg").items():
        name = either(pair).meaning
        yield cause_of(
            "fw-cfg",
            f"The VMM gives another {name.removesuffix(' from the VMM')}.",
            "bootorder follows the bootindex of devices, BootMenu follows -boot; start both with the same.",
            {number: pair},
        )


def _secure_boot(case: Case) -> Iterator[Cause]:
    for number, pair in case.about("EV_EFI_VARIABLE_DRIVER_CONFIG", "variable").items():
        name = either(pair).subject[1].removeprefix("variable ")
        changes = changed_values(pair.a, pair.b) if pair.a and pair.b else ()
        gone = [change.name for change in changes if change.a == PRESENT and change.b is None]
        new = [change.name for change in changes if change.b == PRESENT and change.a is None]
        if name == "SecureBoot" and pair.a and pair.b:
            sentence = f"Secure Boot differs: {value_of(pair.a)} and {value_of(pair.b)}."
        elif gone or new:
            words = [f"only the first has {text}" for text in gone] + [
                f"only the second has {text}" for text in new
            ]
            sentence = f"The Secure Boot variable {name} differs: {'; '.join(words)}."
        else:
            sentence = f"The Secure Boot variable {name} differs."
        yield cause_of(
            "secure-boot-variable",
            sentence,
            "Enrol the same keys into both firmware images; `tdx firmware inspect` shows what one has.",
            {number: pair},
        )


def _boot_options(case: Case) -> Iterator[Cause]:
    order = case.about("EV_EFI_VARIABLE_BOOT", "boot order", Kind.CHANGED)
    options = case.about("EV_EFI_VARIABLE_BOOT", "boot option")
    if not order and not options:
        return
    words = [
        f"{either(pair).meaning.removeprefix('boot option ')} ({where(pair)})"
        for pair in options.values()
        if not (order and pair.kind is Kind.MOVED)  # the order says so
    ]
    changes = [
        f"order {value_of(pair.a)} and {value_of(pair.b)}" for pair in order.values() if pair.a and pair.b
    ]
    yield cause_of(
        "boot-order",
        f"The boot options differ: {'; '.join([*changes, *words])}.",
        "Give both TDs the same bootable devices in the same slots and order (bootindex).",
        order | options,
    )


def _variable_store(case: Case) -> Iterator[Cause]:
    pairs = case.about("EV_EFI_PLATFORM_FIRMWARE_BLOB2", "firmware configuration volume", Kind.CHANGED)
    if pairs:
        yield cause_of(
            "variable-store",
            "The firmware's configuration volume (CFV) differs: other enrolled keys or stored variables.",
            "Compare both firmware files with `tdx firmware inspect`.",
            pairs,
        )


def _separator(case: Case) -> Iterator[Cause]:
    pairs = case.about("EV_SEPARATOR", "")
    if pairs:
        yield cause_of(
            "separator",
            "The separator is in another register, or missing: edk2 before 202411 extends it elsewhere.",
            "Use the same firmware; `tdx predict --edk2` is told the release of one that does not say it.",
            pairs,
        )


def _firmware_events(case: Case) -> Iterator[Cause]:
    """What only one firmware measures at all, or what the two put into different registers."""
    if case.a.entries is None or case.b.entries is None:
        return
    common = {entry.subject for entry in case.a.entries} & {entry.subject for entry in case.b.entries}
    alone = {
        number: pair
        for number, pair in case.left.items()
        if pair.kind in (Kind.ADDED, Kind.REMOVED)
        and either(pair).meaning.startswith(FIRMWARE_EVENTS)
        and either(pair).subject not in common
    }
    moved = {
        number: pair
        for number, pair in case.left.items()
        if pair.a and pair.b and pair.a.register != pair.b.register
    }
    if alone or moved:
        words = [f"only one measures {name}" for name in _names(alone)]
        words += [f"they put {name} into different registers" for name in _names(moved)]
        yield cause_of(
            "firmware-profile",
            f"The firmwares are of different edk2 releases{_releases(case)}: {', '.join(words)}.",
            "Use the same firmware; `tdx firmware inspect` names the release profile of a file.",
            alone | moved,
        )


def _releases(case: Case) -> str:
    """Which ones, where both logs tell."""
    a, b = (classify(side.entries or ()) for side in (case.a, case.b))
    return f" ({span(a.fits)} and {span(b.fits)})" if a.fits and b.fits and a.fits != b.fits else ""


def _names(pairs: dict[int, Pair]) -> list[str]:
    return sorted({either(pair).subject[1].removesuffix(" from the VMM") for pair in pairs.values()})


MACHINE_RULES = (
    _memory,
    _acpi,
    _separator,
    _firmware_events,
    _smbios,
    _fw_cfg,
    _secure_boot,
    _boot_options,
    _variable_store,
)
