"""Boot options, against values seen in logs of TDs.

The digests are those of the options that edk2-stable202505 (both) and edk2-stable202608 make; the latter were
seen in the log of an emulated TD.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from uuid import UUID

from tdxstack.measurement.boot_options import BuiltIn, boot_variables
from tdxstack.measurement.event_data import BootOption

VOLUME = UUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")
MENU = BuiltIn(VOLUME, UUID("eec25bdc-67f2-4d95-b1d5-f81b2039d11d"), "BootManagerMenuApp")
SETUP = BuiltIn(VOLUME, UUID("462caa21-7614-4503-836e-8ab6f4662331"), "EFI Firmware Setup")
SHELL = BuiltIn(VOLUME, UUID("7c04a583-9e3e-4f1c-ad65-e05268d0b4d1"), "EFI Internal Shell")
UI_APP = BuiltIn(VOLUME, UUID("462caa21-7614-4503-836e-8ab6f4662331"), "UiApp")


def digests(variables: list[tuple[str, bytes]]) -> dict[str, str]:
    return {name: hashlib.sha384(data).hexdigest()[:8] for name, data in variables}


def test_direct_kernel() -> None:
    assert digests(boot_variables(MENU, SETUP, [], [])) == {
        "BootOrder": hashlib.sha384(b"\0\0\1\0").hexdigest()[:8],
        "Boot0000": "5068e6a9",
        "Boot0001": "dd424f2e",
    }
    assert digests(boot_variables(UI_APP, None, [], [])) == {"BootOrder": "1dd6f7b4", "Boot0000": "23ada07f"}


def test_a_disk_comes_first_in_the_order_but_is_numbered_last() -> None:
    assert list(digests(boot_variables(MENU, None, [(1, 0)], [(1, 0)])).items()) == [
        ("BootOrder", "7210af19"),
        ("Boot0001", "1f880024"),
        ("Boot0000", "5068e6a9"),
    ]


def test_disks_are_numbered_by_place_and_ordered_as_qemu_says() -> None:
    disks = [(1, 0), (2, 0), (3, 0)]
    _, *options = boot_variables(MENU, None, disks, [(3, 0), (1, 0)])
    assert [name for name, _ in options] == ["Boot0003", "Boot0001", "Boot0000"]
    assert [BootOption.parse(data).description for _, data in options] == [
        "UEFI Misc Device 3",
        "UEFI Misc Device",
        "BootManagerMenuApp",
    ]


def test_a_shell_comes_last() -> None:
    """Digests out of logs of Debian's OVMF.fd, 2026.08 and 2025.02, in emulated TDs."""
    new = digests(boot_variables(MENU, SETUP, [(1, 0)], [(1, 0)], SHELL))
    assert list(new) == ["BootOrder", "Boot0002", "Boot0000", "Boot0001", "Boot0003"]
    assert (new["BootOrder"], new["Boot0003"]) == ("3b34d64d", "af479862")
    old = digests(boot_variables(UI_APP, None, [(1, 0)], [(1, 0)], replace(SHELL, listed=False)))
    assert list(old) == ["BootOrder", "Boot0001", "Boot0000", "Boot0002"]
    assert (old["BootOrder"], old["Boot0002"]) == ("8b688b86", "f0fb2cdc")
