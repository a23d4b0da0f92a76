"""Reference values of a prediction, for whoever verifies TDs of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tdxstack.abi import event_log
from tdxstack.measurement.expected import ExpectedEvent, Prediction

FORMAT = "tdxstack reference values"
VERSION = 1

MACHINE_DEPENDENT = {
    event_log.EV_EFI_HANDOFF_TABLES2: "the TD HOB depends on the memory size",
    event_log.EV_EFI_HANDOFF_TABLES: "the SMBIOS table depends on memory size, CPUs and QEMU",
}
ACPI_DEPENDENT = "the ACPI tables depend on CPUs, devices and QEMU"
PORTABLE_REGISTERS = ("mrtd", "rtmr1", "rtmr2")


@dataclass(frozen=True, slots=True)
class Reference:
    """What a TD must show: whole registers, and single events of registers that are not pinned as a whole.

    `left_out`: what is not pinned, and why.
    """

    registers: Mapping[str, bytes]
    events: tuple[ExpectedEvent, ...]
    left_out: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The document of a reference file (docs/reference/json.md)."""
        return {
            "type": FORMAT,
            "version": VERSION,
            "registers": {name: value.hex() for name, value in self.registers.items()},
            "events": [event.to_json() for event in self.events],
            "left_out": list(self.left_out),
        }


def whole_machine(prediction: Prediction) -> Reference:
    """Every register that is known; of the others the events that are."""
    return _reference(prediction, tuple(prediction.registers))


def portable(prediction: Prediction) -> Reference:
    """What machines of other sizes share: RTMR0 by its single events, without those of the hardware."""
    return _reference(prediction, PORTABLE_REGISTERS)


def _reference(prediction: Prediction, names: tuple[str, ...]) -> Reference:
    registers = {
        name: value for name, value in prediction.registers.items() if name in names and value is not None
    }
    events, left_out = [], []
    for event in prediction.events:
        if event.register in registers:
            continue
        why = event.reason or ("" if event.register in names else _machine_dependence(event))
        if why:
            left_out.append(f"{event.register} {event.type_name} ({event.meaning}): {why}")
        else:
            events.append(event)
    return Reference(registers, tuple(events), tuple(left_out))


def _machine_dependence(event: ExpectedEvent) -> str:
    if event.type == event_log.EV_PLATFORM_CONFIG_FLAGS and event.meaning.startswith("ACPI"):
        return ACPI_DEPENDENT
    return MACHINE_DEPENDENT.get(event.type, "")
