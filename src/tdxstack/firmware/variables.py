"""The UEFI variables that a firmware image brings along, and the Secure Boot state that they make.

Sources: edk2 MdeModulePkg/Include/Guid/VariableFormat.h (authenticated variables) and
SecurityPkg/Library/AuthVariableLib. All integers are little-endian.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from tdxstack.errors import MalformedError
from tdxstack.firmware.volumes import NV_DATA, Volume
from tdxstack.measurement.event_data import UefiVariable
from tdxstack.measurement.firmware_boot import GLOBAL

SECURE_BOOT_ENABLE = UUID("f0a30bc7-af08-4556-99c4-001009c93a44")

STORE_AUTHENTICATED = UUID("aaf32c78-947b-439a-a180-2e144ec37792")
STORE_HEADER_SIZE = 28
STORE_FORMATTED, STORE_HEALTHY = 0x5A, 0xFE
VARIABLE_HEADER_SIZE = 60
START_ID = 0x55AA
ADDED, BEING_DELETED = 0x3F, 0x3E
ALIGNMENT = 4

DAMAGED = "the firmware image's variable store is damaged"

Variables = Mapping[tuple[UUID, str], UefiVariable]


class SecureBoot(enum.Enum):
    """Whether the firmware verifies what it starts."""

    UNSUPPORTED = "unsupported"
    SETUP = "setup mode"
    """No platform key is enrolled: nothing is verified, and keys can be enrolled by anybody."""
    DISABLED = "disabled"
    ENABLED = "enabled"


class KeyState(Protocol):
    """Whose programs a firmware starts."""

    @property
    def variables(self) -> Variables:
        """Among them the key lists."""

    @property
    def secure_boot(self) -> SecureBoot:
        """Whether they are looked at."""


def variables(volumes: Sequence[Volume]) -> Variables:
    """The variables of an image, by vendor GUID and name; empty where it has no variable store.

    Raises `MalformedError` for a store whose header or variables are broken.
    """
    store = next((volume for volume in volumes if volume.filesystem == NV_DATA), None)
    if store is None:
        return {}
    header_size = int.from_bytes(store.data[48:50], "little")
    found: dict[tuple[UUID, str], UefiVariable] = {}
    for state, variable in _stored(store.data[header_size:]):
        key = (variable.vendor, variable.name)
        # While a variable is rewritten both are there; the one that is not marked counts.
        if state == ADDED or key not in found:
            found[key] = variable
    return found


def secure_boot(found: Variables, *, built_in: bool) -> SecureBoot:
    """The state that a firmware starts in, which has Secure Boot `built_in` or not."""
    if not built_in:
        return SecureBoot.UNSUPPORTED
    if (GLOBAL, "PK") not in found:
        return SecureBoot.SETUP
    switch = found.get((SECURE_BOOT_ENABLE, "SecureBootEnable"))
    return SecureBoot.DISABLED if switch is not None and switch.data == b"\0" else SecureBoot.ENABLED


def _stored(store: bytes) -> Iterator[tuple[int, UefiVariable]]:
    """(state, variable) of each variable that is not deleted."""
    if len(store) < STORE_HEADER_SIZE or UUID(bytes_le=store[:16]) != STORE_AUTHENTICATED:
        raise _bad("it is no store of authenticated variables")
    size = _integer(store[16:20])
    if store[20] != STORE_FORMATTED or store[21] != STORE_HEALTHY or size > len(store):
        raise _bad(f"its header {store[16:28].hex()} is wrong")
    at = STORE_HEADER_SIZE
    while at + VARIABLE_HEADER_SIZE <= size and _integer(store[at : at + 2]) == START_ID:
        header = store[at : at + VARIABLE_HEADER_SIZE]
        name_size, data_size = _integer(header[36:40]), _integer(header[40:44])
        start = at + VARIABLE_HEADER_SIZE
        end = start + name_size + data_size
        if end > size:
            raise _bad(f"the variable at offset {at} claims {name_size} and {data_size} bytes")
        if header[2] in (ADDED, BEING_DELETED):
            name = store[start : start + name_size].decode("utf-16-le", "replace").rstrip("\0")
            data = store[start + name_size : end]
            yield header[2], UefiVariable(UUID(bytes_le=header[44:60]), name, data)
        at = -(-end // ALIGNMENT) * ALIGNMENT


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _bad(problem: str) -> MalformedError:
    return MalformedError(f"variable store: {problem}", hint=DAMAGED)
