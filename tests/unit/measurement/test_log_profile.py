"""A log for each release profile, written as that release does, and logs of other firmware."""

from __future__ import annotations

import pytest

from tdxstack.abi import event_log
from tdxstack.abi.event_log import ALG_SHA384, Event, EventLog, SpecId
from tdxstack.measurement.log_profile import Firmware, Origin, span
from tdxstack.measurement.logs import read_log
from tdxstack.measurement.profile import PROFILES, Profile
from tests.unit.measurement.comparison import logs
from tests.unit.measurement.comparison.logs import RTMR0, RTMR1, RTMR2, RTMR3, event

RELEASES = {
    "202211": "edk2-stable202211",
    **dict.fromkeys(
        ("202302", "202305", "202308", "202311", "202402", "202405", "202408"),
        "edk2-stable202302 to 202408",
    ),
    **dict.fromkeys(("202411", "202502"), "edk2-stable202411 to 202502"),
    **dict.fromkeys(
        ("202505", "202508", "202511", "202602", "202605", "202608"), "edk2-stable202505 to 202608"
    ),
}
"""What a log can tell of each release: it shows nothing of the difference to its neighbours in the range."""

ACPI = tuple(logs.configuration(b"ACPI DATA", part) for part in (b"loader", b"rsdp", b"tables"))
FW_CFG = logs.configuration(b"QEMU FW CFG\0BootMenu\0", b"\0\0")
SMBIOS = logs.smbios(b"table")
TWO_SEPARATORS = (logs.separator(RTMR0), logs.separator(RTMR1))


def boot_log(profile: Profile) -> tuple[Event, ...]:
    """What a release logs when QEMU gives it a kernel."""
    shown = profile.shown
    program = "BootManagerMenuApp" if shown.setup_option else "UiApp"
    register = RTMR0 if profile.boot_variables_in_rtmr0 else RTMR1
    option = logs.boot_option(0, program)
    return (
        logs.hob(2 * logs.GIB),
        *([FW_CFG] if shown.fw_cfg else ()),
        logs.variable("SecureBoot", b""),
        logs.separator(RTMR0),
        *(ACPI if shown.acpi else ()),
        logs.KERNEL,
        *([SMBIOS] if shown.smbios else ()),
        logs.boot_order(0, register=register),
        Event(register, option.type, option.digests, option.data),
        logs.action(b"Calling EFI Application from Boot Option"),
        logs.separator(RTMR0 if profile.separator_in_rtmr0 else RTMR1),
        logs.command_line("quiet"),
        logs.action(b"Exit Boot Services Invocation"),
        logs.action(b"Exit Boot Services Returned with Success"),
    )


NEWEST = boot_log(PROFILES[-1])


def firmware(*events: Event) -> Firmware:
    header = SpecId(0, bytes(20), 0, 0, 2, 0, 2, ((ALG_SHA384, 48),), b"")
    found = read_log(EventLog(header, events).to_bytes()).firmware
    assert found is not None
    assert len(found.origins) == len(events) + 1
    assert found.origins[0] is Origin.HEADER
    return found


def without(*gone: Event) -> tuple[Event, ...]:
    return tuple(event for event in NEWEST if event not in gone)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_each_release_fits_its_own_log_and_those_that_measure_alike(profile: Profile) -> None:
    found = firmware(*boot_log(profile))
    assert profile.name in found.fits
    assert found.summary == "fits " + RELEASES[profile.name.removeprefix("edk2-stable")]
    assert Origin.UNKNOWN not in found.origins


def test_the_generic_build_measures_no_fw_cfg() -> None:
    assert firmware(*without(FW_CFG)).summary == "fits edk2-stable202505 to 202608"


def test_what_is_missing_counts_only_when_the_boot_was_reached() -> None:
    start = NEWEST[: NEWEST.index(logs.separator(RTMR0)) + 1]
    assert firmware(*start).summary == "fits edk2-stable202505 to 202608"
    assert firmware(logs.hob(logs.GIB)).summary == "fits edk2-stable202211 to 202608"


@pytest.mark.parametrize(
    ("events", "nearest", "reason"),
    [
        (without(SMBIOS), "edk2-stable202505", "SMBIOS is not measured"),
        (without(*ACPI), "edk2-stable202505", "ACPI tables are not measured"),
        ((*NEWEST, logs.separator(RTMR1)), "edk2-stable202505", "RTMR0 has 1 separators and RTMR1 2"),
        ((*NEWEST, event(RTMR0, 0x1234, b"?")), "edk2-stable202505", "0x00001234 in RTMR0 is not edk2's"),
        ((*boot_log(PROFILES[1]), FW_CFG), "edk2-stable202302", "items of fw_cfg are measured"),
    ],
)
def test_a_log_that_no_release_writes_has_a_nearest_one(
    events: tuple[Event, ...], nearest: str, reason: str
) -> None:
    found = firmware(*events)
    assert (found.fits, found.nearest, found.reasons) == ((), nearest, (reason,))
    assert found.summary == f"unknown, nearest {nearest}: {reason}"


def test_other_families_are_named_from_their_events() -> None:
    shim = firmware(
        logs.configuration(b"td_hob\0" + bytes(20), b"hob"),
        logs.separator(RTMR0),
        logs.separator(RTMR1),
        event(RTMR1, event_log.EV_PLATFORM_CONFIG_FLAGS, b"td_payload_info\0quiet"),
    )
    assert shim.summary == "td-shim"
    assert set(shim.origins[1:]) == {Origin.TD_SHIM}
    early = firmware(*boot_log(PROFILES[0]), logs.configuration(b"etc/acpi/rsdp\0", b"rsdp"))
    assert early.family.name == "EARLY_TDVF"
    assert early.nearest == "edk2-stable202211"
    google = firmware(*boot_log(PROFILES[-1]), logs.boot_option(1, "UEFI nvme_card-pd"))
    assert google.summary == "Google Compute Engine, fits edk2-stable202505 to 202608"
    assert firmware(event(RTMR2, event_log.EV_IPL, b"grub_cmd: x\0")).summary == "unknown"


def test_events_of_later_software_say_nothing_of_the_firmware() -> None:
    found = firmware(*NEWEST, event(RTMR2, 0x1234, b"?"), event(RTMR3, 0x1234, b"?"))
    assert found.summary == "fits edk2-stable202505 to 202608"
    assert found.origins[-2:] == (Origin.UNKNOWN, Origin.SOFTWARE)


def test_spans_leave_gaps_open() -> None:
    names = [PROFILES[0].name, PROFILES[2].name, PROFILES[3].name]
    assert span(names) == "edk2-stable202211, edk2-stable202305 to 202308"
    assert span([]) == ""
