"""What systemd-boot starts from a disk, and what keeps that from being known."""

from __future__ import annotations

import pytest

from tdxstack.errors import MalformedError
from tdxstack.firmware.contents import open_contents
from tdxstack.prediction.fat import Fat
from tdxstack.prediction.systemd_boot import Choice, choose
from tests.unit.firmware import firmware_images
from tests.unit.prediction import disks

ITSELF = "EFI/BOOT/BOOTX64.EFI"
ENTRIES: disks.Tree = {
    name: f"linux /k\n{more}".encode()
    for name, more in {
        "b.conf": "options quiet\noptions  rw",
        "a.conf": "initrd /i\ninitrd \\\\sub//j\noptions x",
        "0+0-3.conf": "",
    }.items()
}


def choice(
    settings: str | None = "",
    entries: disks.Tree = ENTRIES,
    more: disks.Tree | None = None,
    *,
    version: int = 262,
    variables: tuple[bytes, ...] = (),
    extended: disks.Tree | None = None,
) -> Choice:
    loader: disks.Tree = {"entries": entries}
    if settings is not None:
        loader["loader.conf"] = settings.encode()
    kernel: disks.Tree = {"k": b"kernel", "i": b"initrd 01", "sub": {"j": b"second"}, "empty": b""}
    more = more or {}
    if isinstance(keys := more.pop("keys", {}), dict) and keys:
        loader["keys"] = keys
    volume = Fat(disks.Memory(disks.fat({"loader": loader, **kernel, **more})), 0)
    other = Fat(disks.Memory(disks.fat(extended)), 0) if extended is not None else None
    firmware = open_contents(firmware_images.firmware(variables=list(variables)))
    return choose(version, ITSELF, volume, other, firmware)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (None, "b.conf"),
        ("# default a\ntimeout 5\n", "b.conf"),
        ("default A*\n", "a.conf"),
        ("default nothing\n", "b.conf"),
        ("default @saved\n", "b.conf"),
        ("default @other\n", "b.conf"),
        ("default 0.conf\n", "0.conf"),
        ("preferred 0.conf\ndefault a.conf", "a.conf"),
        ("preferred a.conf\ndefault b.conf", "a.conf"),
        ("default b.conf\ndefault ?.conf", "b.conf"),
    ],
)
def test_the_entry_that_is_started(settings: str | None, name: str) -> None:
    found = choice(settings)
    assert found.entry.name == name
    assert found.configuration == (settings.encode() if settings is not None else None)


def test_the_old_loader_knows_no_preferred_entry() -> None:
    assert choice("preferred a.conf", version=257).entry.name == "b.conf"


def test_load_options_and_initrds() -> None:
    plain = choice()
    assert (plain.options, plain.initrd) == ("quiet rw", b"")
    with_initrds = choice("default a.conf")
    assert with_initrds.options == r"initrd=\i initrd=\sub\j x"
    assert with_initrds.initrd == b"initrd 01\0\0\0second"


def test_an_extended_partition_has_entries_too() -> None:
    extended: disks.Tree = {"k": b"other", "loader": {"entries": {"c.conf": b"linux /k"}}}
    found = choice(extended=extended).entry
    assert (found.name, found.volume.read(found.program)) == ("c.conf", b"other")


KEYS: disks.Tree = {"auto": {"db.auth": b"x"}}
PLATFORM_KEY = firmware_images.variable("PK", b"key")


def test_keys_are_enrolled_in_setup_mode_only() -> None:
    with pytest.raises(MalformedError, match="enrolls the keys in loader/keys/auto"):
        choice(more={"keys": KEYS})
    assert choice("secure-boot-enroll manual", more={"keys": KEYS}).entry.name == "b.conf"
    assert choice(more={"keys": KEYS}, variables=(PLATFORM_KEY,)).entry.name == "b.conf"


@pytest.mark.parametrize(
    ("settings", "entries", "problem"),
    [
        ("timeout menu-force", ENTRIES, "wait for a person"),
        ("default [ab].conf", ENTRIES, "the pattern '\\[ab\\].conf'"),
        ("default auto-windows", ENTRIES, "chooses auto-windows"),
        ("", {}, "finds no entry"),
        ("", {"a.conf": b"linux /k\ninitrd /absent"}, "initrd /absent, which is not there"),
        ("", {"a.conf": b"linux /k\ninitrd /empty"}, "initrd /empty, which is empty"),
        ("", {"a.conf": b"linux /k\ndevicetree /x"}, "names a device tree"),
    ],
)
def test_what_cannot_be_followed_is_named(settings: str, entries: disks.Tree, problem: str) -> None:
    with pytest.raises(MalformedError, match=problem):
        assert choice(settings, entries).options is None


def test_other_things_that_decide_are_named() -> None:
    with pytest.raises(MalformedError, match="version 256 is not followed, only 257 and 262"):
        choice(version=256)
    with pytest.raises(MalformedError, match=r"the driver EFI/systemd/drivers/nvmex64.efi"):
        choice(more={"EFI": {"systemd": {"drivers": {"README": b"", "nvmex64.efi": b"x"}}}})
    chosen = firmware_images.variable(
        "LoaderEntryDefault", b"a", vendor="4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
    )
    with pytest.raises(MalformedError, match="variable LoaderEntryDefault decides"):
        choice(variables=(chosen,))
