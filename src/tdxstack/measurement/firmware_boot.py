"""What the firmware of a TD measures on its own account, from its first instruction to the boot attempt.

Sources: edk2 OvmfPkg/IntelTdx/TdxHelperLib, OvmfPkg/Library/QemuFwCfgLib, OvmfPkg/Tcg/TdTcg2Dxe,
OvmfPkg/AcpiPlatformDxe, MdeModulePkg/Universal/SmbiosMeasurementDxe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from tdxstack.abi import event_log
from tdxstack.abi.event_log import Event
from tdxstack.measurement.describe import describe
from tdxstack.measurement.event_data import UefiVariable
from tdxstack.measurement.expected import ExpectedEvent, hashed, unknown
from tdxstack.measurement.profile import Profile

SEPARATOR = bytes(4)
CALLING = b"Calling EFI Application from Boot Option"

GLOBAL = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
IMAGE_SECURITY_DATABASE = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
POLICY_VARIABLES = (
    (GLOBAL, "PK"),
    (GLOBAL, "KEK"),
    (IMAGE_SECURITY_DATABASE, "db"),
    (IMAGE_SECURITY_DATABASE, "dbx"),
)
"""Measured behind SecureBoot, as empty where they are absent."""
TIMESTAMP_DATABASE = (IMAGE_SECURITY_DATABASE, "dbt")
"""Measured last, and only where it is there."""


@dataclass(frozen=True, slots=True)
class FirmwareInputs:
    """Everything that a firmware measures about itself and its machine.

    td_hob: the TD HOB without its end. configuration: the raw bytes of the CFV, None for a firmware that
    has none. fw_cfg: the items that are measured, in order, empty for profiles that measure none.
    policy: the Secure Boot variables in the order in which they are measured. acpi: (fw_cfg name, content).
    smbios: the measured table, None where it is not known, for the reason `smbios_reason`.
    boot_variables: as `boot_options.boot_variables` gives them, None where they are not known.
    """

    profile: Profile
    td_hob: bytes
    configuration: bytes | None
    fw_cfg: Sequence[tuple[str, bytes]]
    policy: Sequence[UefiVariable]
    acpi: Sequence[tuple[str, bytes]]
    smbios: bytes | None
    boot_variables: Sequence[tuple[str, bytes]] | None
    smbios_reason: str = ""
    boot_variables_reason: str = ""


def start_events(inputs: FirmwareInputs) -> list[ExpectedEvent]:
    """The events until devices are connected; all in RTMR0."""
    found = [
        hashed(
            "rtmr0",
            event_log.EV_EFI_HANDOFF_TABLES2,
            inputs.td_hob,
            "TD HOB, the memory that the VMM gives to the TD",
            "memory size and firmware metadata",
        )
    ]
    if inputs.configuration is not None:
        found.append(
            hashed(
                "rtmr0",
                event_log.EV_EFI_PLATFORM_FIRMWARE_BLOB2,
                inputs.configuration,
                "firmware configuration volume",
                "firmware variable store",
            )
        )
    found += [
        hashed(
            "rtmr0", event_log.EV_PLATFORM_CONFIG_FLAGS, data, f"fw_cfg {name} from the VMM", f"QEMU {name}"
        )
        for name, data in inputs.fw_cfg
    ]
    found += [_variable(variable) for variable in inputs.policy]
    found.append(_separator("rtmr0"))
    found += [
        hashed("rtmr0", event_log.EV_PLATFORM_CONFIG_FLAGS, data, f"ACPI {name} from the VMM", f"QEMU {name}")
        for name, data in inputs.acpi
    ]
    return found


def ready_to_boot_events(inputs: FirmwareInputs) -> list[ExpectedEvent]:
    """The events of the first boot attempt, before the boot loader is read."""
    found = []
    if inputs.profile.shown.smbios:
        found.append(_smbios(inputs))
    register = "rtmr0" if inputs.profile.boot_variables_in_rtmr0 else "rtmr1"
    if inputs.boot_variables is None:
        found.append(
            unknown(
                register,
                event_log.EV_EFI_VARIABLE_BOOT,
                "boot order and boot options",
                "firmware and the machine's devices",
                inputs.boot_variables_reason,
            )
        )
    for name, value in inputs.boot_variables or ():
        source = "firmware and the machine's devices"
        # Only the value is measured; the log holds the whole variable.
        data = UefiVariable(GLOBAL, name, value).to_bytes()
        meaning = describe(Event(0, event_log.EV_EFI_VARIABLE_BOOT, (), data))
        found.append(hashed(register, event_log.EV_EFI_VARIABLE_BOOT, value, meaning, source, data=data))
    found.append(hashed("rtmr1", event_log.EV_EFI_ACTION, CALLING, CALLING.decode(), "firmware"))
    found.append(_separator("rtmr0" if inputs.profile.separator_in_rtmr0 else "rtmr1"))
    return found


def _smbios(inputs: FirmwareInputs) -> ExpectedEvent:
    kind, meaning, source = event_log.EV_EFI_HANDOFF_TABLES, "SMBIOS table", "QEMU and firmware version"
    if inputs.smbios is None:
        return unknown("rtmr0", kind, meaning, source, inputs.smbios_reason)
    return hashed("rtmr0", kind, inputs.smbios, meaning, source)


def _separator(register: str) -> ExpectedEvent:
    meaning = "end of the pre-boot phase"
    return hashed(register, event_log.EV_SEPARATOR, SEPARATOR, meaning, "firmware")


def _variable(variable: UefiVariable) -> ExpectedEvent:
    kind, data = event_log.EV_EFI_VARIABLE_DRIVER_CONFIG, variable.to_bytes()
    meaning = describe(Event(0, kind, (), data))
    return hashed("rtmr0", kind, data, meaning, "firmware variable store", data=data)
