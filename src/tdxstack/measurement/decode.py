"""The data of an event as a structure, by the event's type.

Sources: TCG PC Client Platform Firmware Profile 1.06, chapter 10; edk2 SecurityPkg and OvmfPkg.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tdxstack.abi import event_log
from tdxstack.abi.binary import Reader
from tdxstack.abi.event_log import Event
from tdxstack.errors import MalformedError
from tdxstack.measurement.device_security import DeviceSecurity
from tdxstack.measurement.event_data import (
    BootOption,
    FirmwareBlob,
    GptTable,
    HandoffTables,
    ImageLoad,
    TaggedEvent,
    UefiVariable,
)


@dataclass(frozen=True, slots=True)
class BootVariable:
    """A Boot#### variable (or Driver####, ...) with its value read. `option` is None in BootOrder."""

    variable: UefiVariable
    option: BootOption | None

    @property
    def order(self) -> tuple[int, ...]:
        """The numbers of the options in BootOrder, first choice first."""
        value = self.variable.data
        return tuple(int.from_bytes(value[at : at + 2], "little") for at in range(0, len(value) & ~1, 2))


@dataclass(frozen=True, slots=True)
class Authority:
    """The variable with the key, hash or rule by which an image was verified."""

    variable: UefiVariable


Decoded = (
    UefiVariable
    | BootVariable
    | Authority
    | ImageLoad
    | GptTable
    | FirmwareBlob
    | HandoffTables
    | TaggedEvent
    | DeviceSecurity
)
"""What `decode` gives; each has equality by value."""


def decode(event: Event) -> Decoded | None:
    """The structure in an event's data, or None where its type has none or the data has another form.

    Types whose data is text or nothing (separators, actions, GRUB's EV_IPL) have none.
    """
    read = DECODERS.get(event.type)
    if read is None:
        return None
    try:
        return read(event.data)
    except MalformedError:
        return None  # other firmware, or a later specification: no fault of the log


def _authority(data: bytes) -> Authority:
    return Authority(UefiVariable.read(Reader(data, "UEFI variable")))


def _boot_variable(data: bytes) -> BootVariable:
    variable = UefiVariable.parse(data)
    option = None if variable.name == "BootOrder" else BootOption.parse(variable.data)
    return BootVariable(variable, option)


def _blob(data: bytes) -> FirmwareBlob:
    return FirmwareBlob.parse(data, named=False)


def _blob2(data: bytes) -> FirmwareBlob:
    return FirmwareBlob.parse(data, named=True)


def _tables(data: bytes) -> HandoffTables:
    return HandoffTables.parse(data, named=False)


def _tables2(data: bytes) -> HandoffTables:
    return HandoffTables.parse(data, named=True)


DECODERS: dict[int, Callable[[bytes], Decoded]] = {
    event_log.EV_POST_CODE: _blob,
    event_log.EV_EVENT_TAG: TaggedEvent.parse,
    event_log.EV_POST_CODE2: _blob2,
    event_log.EV_EFI_VARIABLE_DRIVER_CONFIG: UefiVariable.parse,
    event_log.EV_EFI_VARIABLE_BOOT: _boot_variable,
    event_log.EV_EFI_VARIABLE_BOOT2: _boot_variable,
    event_log.EV_EFI_VARIABLE_AUTHORITY: _authority,
    event_log.EV_EFI_BOOT_SERVICES_APPLICATION: ImageLoad.parse,
    event_log.EV_EFI_BOOT_SERVICES_DRIVER: ImageLoad.parse,
    event_log.EV_EFI_RUNTIME_SERVICES_DRIVER: ImageLoad.parse,
    event_log.EV_EFI_GPT_EVENT: GptTable.parse,
    event_log.EV_EFI_GPT_EVENT2: GptTable.parse,
    event_log.EV_EFI_PLATFORM_FIRMWARE_BLOB: _blob,
    event_log.EV_EFI_PLATFORM_FIRMWARE_BLOB2: _blob2,
    event_log.EV_EFI_HANDOFF_TABLES: _tables,
    event_log.EV_EFI_HANDOFF_TABLES2: _tables2,
    event_log.EV_EFI_SPDM_FIRMWARE_BLOB: DeviceSecurity.parse,
    event_log.EV_EFI_SPDM_FIRMWARE_CONFIG: DeviceSecurity.parse,
    event_log.EV_EFI_SPDM_DEVICE_POLICY: UefiVariable.parse,
    event_log.EV_EFI_SPDM_DEVICE_AUTHORITY: _authority,
}
