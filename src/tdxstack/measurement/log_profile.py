"""Which firmware wrote a log: its family, the releases of edk2 that measure like this, and who logged what.

All of it is read from the events alone, in their words (`describe`), and proves nothing: only registers do.
Sources: as `measurement.profile`; public logs of td-shim, of Intel's TDVF of 2022 and of Google's TDs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Protocol

from tdxstack.measurement.profile import PROFILES, Profile


class Origin(StrEnum):
    """Who logs an event."""

    EDK2 = "edk2"
    TD_SHIM = "td-shim"
    EARLY_TDVF = "early TDVF"
    GOOGLE = "google"
    SHIM = "shim"
    BOOT_LOADER = "boot loader"
    LINUX = "linux"
    SOFTWARE = "software"
    HEADER = "header"
    UNKNOWN = "unknown"


class Family(StrEnum):
    """Whose firmware it is, for people."""

    EDK2 = "edk2"
    TD_SHIM = "td-shim"
    EARLY_TDVF = "Intel's TDVF of 2022, before it was part of edk2"
    GOOGLE = "Google Compute Engine"
    UNKNOWN = "unknown"


class Logged(Protocol):
    """What counts of an event."""

    @property
    def register(self) -> str:
        """rtmr0 to rtmr3."""

    @property
    def type(self) -> str:
        """The specification's name of the type."""

    @property
    def meaning(self) -> str:
        """The words about its data, as `describe` has them."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """The events of an origin: type, how their meaning begins (any of these), in which registers."""

    origin: Origin
    type: str
    starts: tuple[str, ...]
    registers: tuple[str, ...] = ("rtmr0", "rtmr1", "rtmr2")


_RTMR0, _RTMR1, _RTMR2 = ("rtmr0",), ("rtmr1",), ("rtmr2",)
_CALLING = "Calling EFI Application from Boot Option"
_ACTIONS = (
    _CALLING,
    "Returning from EFI Application from Boot Option",
    "Exit Boot Services Invocation",
    "Exit Boot Services Returned with Success",
    "Exit Boot Services Returned with Failure",
)
_SMBIOS = ("hand-off tables SMBIOS", "SMBIOS table")
"""As read from a log, and as predicted."""
_VERIFIED_BY_DB = ("an image was verified by db", "an image was verified by variable db")
_SEPARATOR = "end of the pre-boot phase"
_GOOGLE_VOLUME = "firmware configuration volume Fv(48DB5E17-707C-472D-91CD-1613E7EF51B0)"
"""Google's configuration volume has the name of OVMF's main volume; edk2's has none."""
_GOOGLE_DISKS = (": UEFI nvme_card", ": UEFI Google PersistentDisk")
_DIRECT_BOOT = ("kernel", "etc/table-loader", "etc/acpi/", "DirectBoot ")

_RULES = (
    _Rule(Origin.TD_SHIM, "EV_PLATFORM_CONFIG_FLAGS", ("td-shim ",)),
    _Rule(Origin.TD_SHIM, "EV_EFI_PLATFORM_FIRMWARE_BLOB2", ("firmware blob td_payload",)),
    _Rule(Origin.EARLY_TDVF, "EV_PLATFORM_CONFIG_FLAGS", _DIRECT_BOOT),
    _Rule(Origin.EARLY_TDVF, "EV_POST_CODE", ("ACPI DATA",), _RTMR0),
    _Rule(Origin.GOOGLE, "EV_EFI_PLATFORM_FIRMWARE_BLOB2", (_GOOGLE_VOLUME,), _RTMR0),
    _Rule(Origin.GOOGLE, "EV_NONHOST_INFO", ("Google Compute Engine",)),
    _Rule(Origin.EDK2, "EV_EFI_HANDOFF_TABLES2", ("TD HOB",), _RTMR0),
    _Rule(Origin.EDK2, "EV_EFI_PLATFORM_FIRMWARE_BLOB2", ("firmware configuration volume",), _RTMR0),
    _Rule(Origin.EDK2, "EV_PLATFORM_CONFIG_FLAGS", ("ACPI ", "fw_cfg "), _RTMR0),
    _Rule(Origin.EDK2, "EV_EFI_VARIABLE_DRIVER_CONFIG", ("variable ",), _RTMR0),
    _Rule(Origin.EDK2, "EV_SEPARATOR", (_SEPARATOR,), ("rtmr0", "rtmr1")),
    _Rule(Origin.EDK2, "EV_EFI_HANDOFF_TABLES", _SMBIOS, _RTMR0),
    _Rule(Origin.EDK2, "EV_EFI_VARIABLE_BOOT", ("boot order", "boot option"), ("rtmr0", "rtmr1")),
    _Rule(Origin.EDK2, "EV_EFI_VARIABLE_AUTHORITY", _VERIFIED_BY_DB, _RTMR0),
    _Rule(Origin.EDK2, "EV_EFI_ACTION", _ACTIONS, _RTMR1),
    _Rule(Origin.EDK2, "EV_EFI_BOOT_SERVICES_APPLICATION", ("",), _RTMR1),
    _Rule(Origin.EDK2, "EV_EFI_BOOT_SERVICES_DRIVER", ("",), _RTMR1),
    _Rule(Origin.EDK2, "EV_EFI_RUNTIME_SERVICES_DRIVER", ("",), _RTMR1),
    _Rule(Origin.EDK2, "EV_EFI_GPT_EVENT", ("",), _RTMR1),
    _Rule(Origin.SHIM, "EV_EFI_VARIABLE_AUTHORITY", ("an image was verified by",), _RTMR0),
    _Rule(Origin.EDK2, "EV_EFI_VARIABLE_AUTHORITY", ("",), _RTMR0),
    _Rule(Origin.SHIM, "EV_IPL", ("shim's ",), _RTMR2),
    _Rule(Origin.BOOT_LOADER, "EV_IPL", ("",), _RTMR2),
    _Rule(Origin.LINUX, "EV_EVENT_TAG", ("kernel command line", "initrd", "LOADED_IMAGE"), _RTMR2),
    _Rule(Origin.BOOT_LOADER, "EV_EVENT_TAG", ("",), _RTMR2),
)
"""The first that holds counts."""

_BY_TYPE: Mapping[str, tuple[_Rule, ...]] = {
    kind: tuple(rule for rule in _RULES if rule.type == kind) for kind in {rule.type for rule in _RULES}
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that the log shows, and the names of the profiles that would show it too."""

    text: str
    fitting: frozenset[str]


@dataclass(frozen=True, slots=True)
class Firmware:
    """What a log says of its firmware.

    family: whose it is. fits: the names of the profiles that measure what is logged, oldest first. nearest:
    where none does, the one that differs in the fewest facts, for the `reasons`; else empty. origins: who
    logged each event, in the order of the log.
    """

    family: Family
    fits: tuple[str, ...]
    nearest: str
    reasons: tuple[str, ...]
    origins: tuple[Origin, ...]

    @property
    def summary(self) -> str:
        """One line: "fits edk2-stable202411 to 202502"."""
        if self.fits:
            own = f"{self.family}, " if self.family is not Family.EDK2 else ""
            return f"{own}fits {span(self.fits)}"
        if self.nearest:
            return f"{self.family}, nearest {self.nearest}: {'; '.join(self.reasons)}"
        return self.family.value

    def to_json(self) -> dict[str, object]:
        """family, fits, nearest (null where a profile fits or none is near), reasons, summary."""
        return {
            "family": self.family.name.lower(),
            "fits": list(self.fits),
            "nearest": self.nearest or None,
            "reasons": list(self.reasons),
            "summary": self.summary,
        }


def classify(events: Sequence[Logged]) -> Firmware:
    """Find out whose firmware logged `events`: all of a TD's log, in order."""
    origins = tuple(_origin(event) for event in events)
    family = _family(events, origins)
    if family is Family.TD_SHIM:
        own = {Origin.EDK2: Origin.TD_SHIM}
        return Firmware(family, (), "", (), tuple(own.get(origin, origin) for origin in origins))
    if family is Family.UNKNOWN:
        return Firmware(family, (), "", (), origins)
    facts = _facts([event for event, origin in zip(events, origins, strict=True) if origin is Origin.EDK2])
    facts += [
        Fact(f"{event.type} in {event.register.upper()} is not edk2's", frozenset())
        for event, origin in zip(events, origins, strict=True)
        if origin in (Origin.UNKNOWN, Origin.EARLY_TDVF) and event.register in ("rtmr0", "rtmr1")
    ]
    wrong = {
        profile.name: [fact.text for fact in facts if profile.name not in fact.fitting]
        for profile in PROFILES
    }
    fits = tuple(name for name, texts in wrong.items() if not texts)
    if fits:
        return Firmware(family, fits, "", (), origins)
    nearest = min(wrong, key=lambda name: len(wrong[name]))
    named = Family.UNKNOWN if family is Family.EDK2 else family
    return Firmware(named, (), nearest, tuple(dict.fromkeys(wrong[nearest])), origins)


def span(names: Iterable[str]) -> str:
    """Names of profiles in words, neighbours as a range: "edk2-stable202302 to 202408"."""
    places = [number for number, profile in enumerate(PROFILES) if profile.name in set(names)]
    runs = [
        [place for _, place in run] for _, run in groupby(enumerate(places), lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(
        PROFILES[run[0]].name + (f" to {PROFILES[run[-1]].name[-6:]}" if len(run) > 1 else "") for run in runs
    )


def _origin(event: Logged) -> Origin:
    if event.type == "EV_NO_ACTION":
        return Origin.HEADER
    if event.register == "rtmr3":
        return Origin.SOFTWARE
    for rule in _BY_TYPE.get(event.type, ()):
        if event.register in rule.registers and event.meaning.startswith(rule.starts):
            return rule.origin
    return Origin.UNKNOWN


def _family(events: Iterable[Logged], origins: Sequence[Origin]) -> Family:
    if Origin.TD_SHIM in origins:
        return Family.TD_SHIM
    if Origin.EARLY_TDVF in origins:
        return Family.EARLY_TDVF
    disks = any(name in event.meaning for event in events for name in _GOOGLE_DISKS)
    if disks or Origin.GOOGLE in origins:
        return Family.GOOGLE
    return Family.EDK2 if Origin.EDK2 in origins else Family.UNKNOWN


def _facts(events: Sequence[Logged]) -> list[Fact]:
    """What edk2's events show; what is missing counts only if the log goes on to the first boot attempt."""
    facts = []
    if any(event.meaning.startswith("fw_cfg ") for event in events):
        facts.append(_fact("items of fw_cfg are measured", [p for p in PROFILES if p.shown.fw_cfg]))
    for register in {event.register for event in events if event.type == "EV_EFI_VARIABLE_BOOT"}:
        fitting = [p for p in PROFILES if p.boot_variables_in_rtmr0 == (register == "rtmr0")]
        facts.append(_fact(f"boot variables are in {register.upper()}", fitting))
    for program, new in (("UiApp", False), ("BootManagerMenuApp", True)):
        if any(_offers(event, program) for event in events):
            fitting = [p for p in PROFILES if p.shown.setup_option == new]
            facts.append(_fact(f"{program} is a boot option", fitting))
    if any(event.meaning == _CALLING for event in events):
        facts += _boot_facts(events)
    return facts


def _boot_facts(events: Sequence[Logged]) -> list[Fact]:
    acpi = any(event.meaning.startswith("ACPI ") for event in events)
    smbios = any(event.type == "EV_EFI_HANDOFF_TABLES" for event in events)
    separators = [event.register for event in events if event.type == "EV_SEPARATOR"]
    first, second = separators.count("rtmr0"), separators.count("rtmr1")
    by_place = {(2, 0): True, (1, 1): False}
    in_rtmr0 = [p for p in PROFILES if p.separator_in_rtmr0 == by_place.get((first, second))]
    return [
        _fact(f"ACPI tables are {_measured(acpi)}", [p for p in PROFILES if p.shown.acpi == acpi]),
        _fact(f"SMBIOS is {_measured(smbios)}", [p for p in PROFILES if p.shown.smbios == smbios]),
        _fact(f"RTMR0 has {first} separators and RTMR1 {second}", in_rtmr0),
    ]


def _measured(really: bool) -> str:
    return "measured" if really else "not measured"


def _offers(event: Logged, program: str) -> bool:
    return event.type == "EV_EFI_VARIABLE_BOOT" and f": {program}," in event.meaning


def _fact(text: str, fitting: Iterable[Profile]) -> Fact:
    return Fact(text, frozenset(profile.name for profile in fitting))
