"""Who lets programs start under Secure Boot: the firmware's keys, and behind shim also its vendor's."""

from __future__ import annotations

from tdxstack.errors import MalformedError
from tdxstack.firmware.signatures import authority, certificate_list
from tdxstack.firmware.variables import KeyState, SecureBoot
from tdxstack.measurement.event_data import UefiVariable
from tdxstack.measurement.expected import ExpectedEvent
from tdxstack.measurement.firmware_boot import IMAGE_SECURITY_DATABASE
from tdxstack.measurement.pe import Image
from tdxstack.measurement.shim import SHIM, Shim, authority_event

DER_SEQUENCE = 0x30
MOK_LIST = "MokListRT"


class Keys:
    """The keys of one boot. Remembers what was logged: firmware and shim log the same key once each."""

    def __init__(self, state: KeyState) -> None:
        self.enforced = state.secure_boot is SecureBoot.ENABLED
        self._db, self._dbx = databases(state)
        self._logged_by_firmware: set[UefiVariable] = set()
        self._logged_by_shim: set[UefiVariable] = set()

    def firmware_lets(self, image: Image, name: str) -> list[ExpectedEvent]:
        """The event of the firmware's key that verifies a program; none where it was logged before.

        Raises `MalformedError` where the firmware will refuse the program.
        """
        if not self.enforced:
            return []
        entry = authority(image, self._db, self._dbx)
        if entry is None:
            raise MalformedError(
                f"Secure Boot will not let {name} start: no key in the firmware's db verifies it",
                hint="enroll its key, or start it through shim",
            )
        variable = UefiVariable(IMAGE_SECURITY_DATABASE, "db", entry.to_bytes())
        if variable in self._logged_by_firmware:
            return []
        self._logged_by_firmware.add(variable)
        return [authority_event(variable, f"the key in db that verifies {name}", "firmware variable store")]

    def let(self, image: Image, name: str, shim: Shim | None) -> list[ExpectedEvent]:
        """The event of the key that verifies a program: shim's where there is one, else the firmware's."""
        return self.shim_lets(image, name, shim) if shim else self.firmware_lets(image, name)

    def shim_lets(self, image: Image, name: str, shim: Shim) -> list[ExpectedEvent]:
        """The event of the key by which shim verifies a program; none where it was logged before.

        Raises `MalformedError` where shim will refuse the program.
        """
        if not self.enforced:
            return []
        revoked = self._dbx + shim.vendor_revocations
        for vendor, variable_name, keys in (
            (IMAGE_SECURITY_DATABASE, "db", self._db),
            (SHIM, MOK_LIST, mok_list(shim)),
        ):
            entry = authority(image, keys, revoked)
            if entry is None:
                continue
            variable = UefiVariable(vendor, variable_name, entry.to_bytes())
            if variable in self._logged_by_shim:
                return []
            self._logged_by_shim.add(variable)
            return [authority_event(variable, f"the key in {variable_name} that verifies {name}", "shim")]
        raise MalformedError(
            f"Secure Boot will not let {name} start: neither the firmware's db nor shim's keys verify it",
            hint="sign it with a key that one of them has",
        )


def databases(state: KeyState) -> tuple[bytes, bytes]:
    """db and dbx of a firmware, as signature lists; empty where there is none."""
    db, dbx = (state.variables.get((IMAGE_SECURITY_DATABASE, name)) for name in ("db", "dbx"))
    return db.data if db else b"", dbx.data if dbx else b""


def mok_list(shim: Shim) -> bytes:
    """The keys that shim mirrors for the kernel, as signature lists, where no others are enrolled."""
    if shim.vendor_keys[:1] == bytes((DER_SEQUENCE,)):
        return certificate_list(SHIM, shim.vendor_keys)
    return shim.vendor_keys
