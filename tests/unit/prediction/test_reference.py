"""Reference values of a prediction."""

from __future__ import annotations

from tdxstack.abi import event_log
from tdxstack.measurement.expected import Prediction, hashed, unknown
from tdxstack.measurement.mrtd import Mrtd
from tdxstack.prediction.reference import portable, whole_machine

HOB = hashed("rtmr0", event_log.EV_EFI_HANDOFF_TABLES2, b"hob", "TD HOB", "memory size")
ACPI = hashed("rtmr0", event_log.EV_PLATFORM_CONFIG_FLAGS, b"acpi", "ACPI etc/acpi/tables", "QEMU")
ITEM = hashed("rtmr0", event_log.EV_PLATFORM_CONFIG_FLAGS, b"item", "fw_cfg BootMenu", "QEMU")
KERNEL = hashed("rtmr1", event_log.EV_EFI_BOOT_SERVICES_APPLICATION, b"kernel", "kernel", "disk")
GAP = unknown("rtmr2", event_log.EV_IPL, "boot loader", "disk", "the disk is encrypted")
PREDICTION = Prediction((HOB, ACPI, ITEM, KERNEL, GAP), Mrtd(b"\1" * 48, b"\2" * 48))


def test_a_whole_machine_pins_every_register_that_is_known() -> None:
    reference = whole_machine(PREDICTION)
    assert list(reference.registers) == ["mrtd", "rtmr0", "rtmr1"]
    assert reference.registers["rtmr0"] == PREDICTION.registers["rtmr0"]
    assert reference.events == ()
    assert reference.left_out == ("rtmr2 EV_IPL (boot loader): the disk is encrypted",)


def test_a_portable_one_pins_single_events_and_says_what_it_leaves_out() -> None:
    reference = portable(PREDICTION)
    assert list(reference.registers) == ["mrtd", "rtmr1"]
    assert reference.events == (ITEM,)
    assert [text.partition(": ")[2] for text in reference.left_out] == [
        "the TD HOB depends on the memory size",
        "the ACPI tables depend on CPUs, devices and QEMU",
        "the disk is encrypted",
    ]


def test_document() -> None:
    document = portable(PREDICTION).to_json()
    assert (document["type"], document["version"]) == ("tdxstack reference values", 1)
    assert document["events"] == [ITEM.to_json()]
