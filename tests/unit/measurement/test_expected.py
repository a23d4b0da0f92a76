"""Expected events and the registers that they fold to."""

from __future__ import annotations

import hashlib
from itertools import pairwise

from tdxstack.abi import event_log
from tdxstack.measurement.event_data import UefiVariable
from tdxstack.measurement.expected import ExpectedEvent, Prediction, fold, hashed, unknown, unknown_rest
from tdxstack.measurement.firmware_boot import (
    GLOBAL,
    FirmwareInputs,
    ready_to_boot_events,
    start_events,
)
from tdxstack.measurement.mrtd import Mrtd
from tdxstack.measurement.profile import PROFILES, Profile, Shown
from tdxstack.measurement.reference import Reference
from tdxstack.measurement.replay import replay

MRTD = Mrtd(b"\1" * 48, b"\2" * 48)
A = hashed("rtmr0", event_log.EV_SEPARATOR, bytes(4), "end", "firmware")
B = hashed("rtmr1", event_log.EV_ACTION, b"b", "b", "firmware")
GAP = unknown("rtmr1", event_log.EV_ACTION, "c", "disk", "the disk is encrypted")


def test_registers_fold_as_a_log_replays() -> None:
    events = [A, B, A, B]
    log = [
        event_log.Event(int(event.register[-1]) + 1, event.type, ((event_log.ALG_SHA384, event.digest),), b"")
        for event in events
        if event.digest is not None
    ]
    assert [fold(events, f"rtmr{number}") for number in range(4)] == list(replay(log))


def test_what_is_not_known_makes_its_register_unknown_and_no_other() -> None:
    prediction = Prediction((A, B, GAP), MRTD)
    assert prediction.registers["rtmr0"] == hashlib.sha384(bytes(48) + (A.digest or b"")).digest()
    assert prediction.registers["rtmr1"] is None
    assert prediction.registers["rtmr2"] == bytes(48)
    assert prediction.unpredicted == (GAP,)


def test_document() -> None:
    document = Prediction((A, GAP), MRTD).to_json()
    assert document["mrtd"] == {"single_pass": "01" * 48, "two_pass": "02" * 48}
    assert document["registers"] == {
        "mrtd": "01" * 48,
        "rtmr0": hashlib.sha384(bytes(48) + hashlib.sha384(bytes(4)).digest()).hexdigest(),
        "rtmr1": None,
        "rtmr2": "00" * 48,
    }
    assert document["events"] == [
        {
            "register": "rtmr0",
            "type": "EV_SEPARATOR",
            "digest": hashlib.sha384(bytes(4)).hexdigest(),
            "meaning": "end",
            "source": "firmware",
        },
        {
            "register": "rtmr1",
            "type": "EV_ACTION",
            "digest": None,
            "meaning": "c",
            "source": "disk",
            "reason": "the disk is encrypted",
        },
    ]


def firmware_inputs(profile: Profile) -> FirmwareInputs:
    return FirmwareInputs(
        profile=profile,
        td_hob=b"hob",
        configuration=b"cfv",
        fw_cfg=[("BootMenu", b"\0\0")],
        policy=[UefiVariable(GLOBAL, "SecureBoot", b"\1")],
        acpi=[("etc/acpi/tables", b"acpi")],
        smbios=b"smbios",
        boot_variables=[("BootOrder", b"\0\0"), ("Boot0000", b"option")],
    )


def kinds(events: list[ExpectedEvent]) -> list[tuple[str, str]]:
    return [(event.register, event.type_name.removeprefix("EV_").removeprefix("EFI_")) for event in events]


def test_a_current_firmware_measures_everything() -> None:
    events = start_events(firmware_inputs(PROFILES[-1]))
    assert kinds(events) == [
        ("rtmr0", "HANDOFF_TABLES2"),
        ("rtmr0", "PLATFORM_FIRMWARE_BLOB2"),
        ("rtmr0", "PLATFORM_CONFIG_FLAGS"),
        ("rtmr0", "VARIABLE_DRIVER_CONFIG"),
        ("rtmr0", "SEPARATOR"),
        ("rtmr0", "PLATFORM_CONFIG_FLAGS"),
    ]
    assert kinds(ready_to_boot_events(firmware_inputs(PROFILES[-1]))) == [
        ("rtmr0", "HANDOFF_TABLES"),
        ("rtmr0", "VARIABLE_BOOT"),
        ("rtmr0", "VARIABLE_BOOT"),
        ("rtmr1", "ACTION"),
        ("rtmr1", "SEPARATOR"),
    ]


def test_the_oldest_firmware_had_boot_variables_and_separator_elsewhere() -> None:
    assert kinds(ready_to_boot_events(firmware_inputs(PROFILES[0]))) == [
        ("rtmr1", "VARIABLE_BOOT"),
        ("rtmr1", "VARIABLE_BOOT"),
        ("rtmr1", "ACTION"),
        ("rtmr0", "SEPARATOR"),
    ]


def test_profiles_only_ever_gain_what_an_image_shows() -> None:
    for older, newer in pairwise(PROFILES):
        assert older.shown <= newer.shown
    assert not Shown(acpi=True) <= Shown(smbios=True)


def test_what_follows_an_unknown_step_is_unknown_in_every_register_and_in_no_reference() -> None:
    rest = unknown_rest("what the boot loader does", "disk", "the disk is encrypted")
    prediction = Prediction((A, B, *rest), MRTD)
    assert [prediction.registers[name] for name in ("rtmr0", "rtmr1", "rtmr2")] == [None, None, None]
    reference = Reference.of(prediction, "name")
    assert (list(reference.registers), list(reference.events)) == (["mrtd"], [])


def test_mrseam_is_a_register_where_the_module_is_known() -> None:
    assert list(Prediction((A,), MRTD).registers) == ["mrtd", "rtmr0", "rtmr1", "rtmr2"]
    known = Prediction((A,), MRTD, mrseam=b"\5" * 48).to_json()["registers"]
    assert isinstance(known, dict)
    assert next(iter(known.items())) == ("mrseam", "05" * 48)
