"""What is found in disks that were packed by struct."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdxstack.errors import MalformedError, UnavailableError
from tdxstack.firmware.contents import open_contents
from tdxstack.firmware.keys import OwnKeys, open_own_keys
from tdxstack.image.kernel import REQUIRED
from tdxstack.measurement.pe import Image
from tdxstack.toolbox.programs import Toolbox
from tdxstack.workflows.image_inspect import inspect_image
from tests.unit.firmware import firmware_images
from tests.unit.firmware.stand_ins import no_archive, stand_ins
from tests.unit.firmware.test_enroll import DATABASE
from tests.unit.measurement.comparison.logs import signature_list
from tests.unit.measurement.test_shim import shim_program
from tests.unit.measurement.test_unified_kernel import unified_program
from tests.unit.prediction import disks
from tests.unit.prediction.test_boot import CONFIG, GRUB, kernel, of_systemd_boot, systemd_boot

ABLE = "".join(f"CONFIG_{name}=y\n" for name in REQUIRED)
BOOT: disks.Tree = {"BOOTX64.EFI": shim_program(revoked=b""), "grubx64.efi": GRUB}
ESP: disks.Tree = {"EFI": {"BOOT": BOOT, "test": {"grub.cfg": CONFIG.encode()}}, "note.txt": b"text"}


def root(config: str | None = ABLE) -> disks.Tree:
    boot: disks.Tree = {"vmlinuz-6.12.0-test": kernel()}
    if config is not None:
        boot["config-6.12.0-test"] = config.encode()
    return {"vmlinuz": kernel(), "initrd": b"initrd", "boot": boot}


def inspected(
    place: Path,
    data: bytes,
    firmware: bytes | None = None,
    own: OwnKeys | None = None,
    toolbox: Toolbox | None = None,
) -> dict[str, Any]:
    path = place / "disk.img"
    path.write_bytes(data)
    asked = toolbox or Toolbox(place, no_archive, search_path="")
    contents = open_contents(firmware) if firmware else None
    return inspect_image(path, contents, own, asked, place / "scratch").to_json()


def test_a_disk_with_shim_and_grub(tmp_path: Path) -> None:
    found = inspected(tmp_path, disks.disk(ESP, root()))
    assert (found["format"], found["size"], found["backing"]) == ("raw", disks.DISK_SIZE, None)
    assert [(one["number"], one["type"], one["content"]) for one in found["partitions"]] == [
        (1, "EFI system partition", "FAT"),
        (2, "Linux", "ext4"),
    ]
    assert [(one["path"], one["kind"]) for one in found["programs"]] == [
        ("EFI/BOOT/BOOTX64.EFI", "shim"),
        ("EFI/BOOT/grubx64.efi", "GRUB"),
        ("2:/boot/vmlinuz-6.12.0-test", "kernel"),
    ]
    assert found["kernels"] == [
        {"path": "2:/boot/vmlinuz-6.12.0-test", "version": "6.12.0-test", "td_guest": True, "missing": ()}
    ]
    assert [stage["path"] for stage in found["chain"]] == [
        "EFI/BOOT/BOOTX64.EFI",
        "EFI/BOOT/grubx64.efi",
        "/vmlinuz",
    ]
    assert found["command_line"] == "BOOT_IMAGE=/vmlinuz quiet"
    assert found["problems"] == []


@pytest.mark.parametrize(
    ("config", "able", "missing"),
    [
        (None, None, ()),
        (
            ABLE.replace("CONFIG_INTEL_TDX_GUEST=y", "# CONFIG_INTEL_TDX_GUEST is not set"),
            False,
            ("INTEL_TDX_GUEST",),
        ),
    ],
)
def test_whether_a_td_can_run_a_kernel_is_read_and_not_guessed(
    tmp_path: Path, config: str | None, able: bool | None, missing: tuple[str, ...]
) -> None:
    [one] = inspected(tmp_path, disks.disk(ESP, root(config)))["kernels"]
    assert (one["td_guest"], one["missing"]) == (able, missing)


def test_a_unified_kernel_image_is_a_program_and_a_kernel(tmp_path: Path) -> None:
    esp: disks.Tree = {"EFI": {"BOOT": {"BOOTX64.EFI": unified_program()}}}
    found = inspected(tmp_path, disks.disk(esp, {"boot": {"config-6.12.0-test": ABLE.encode()}}))
    assert found["chain"] == [
        {"path": "EFI/BOOT/BOOTX64.EFI", "kind": "unified kernel image", "version": "6.12.0-test"}
    ]
    assert [(one["version"], one["td_guest"]) for one in found["kernels"]] == [("6.12.0-test", True)]


def test_programs_that_would_start_by_own_keys_or_the_firmwares(tmp_path: Path) -> None:
    keys = open_own_keys(tmp_path / "keys")
    digest = signature_list(Image.parse(GRUB).digest("sha256"))
    firmware = firmware_images.firmware(variables=[firmware_images.variable("db", digest, vendor=DATABASE)])
    found = inspected(tmp_path, disks.disk(ESP, root()), firmware, keys)
    accepted = {one["path"]: one["accepted_by"] for one in found["programs"]}
    assert "its digest" in accepted["EFI/BOOT/grubx64.efi"]["firmware"]
    assert accepted["EFI/BOOT/BOOTX64.EFI"] == {}


def test_damage_is_a_problem_and_the_rest_is_shown(tmp_path: Path) -> None:
    whole = disks.disk(ESP, root())
    for data, problem in (
        (whole[: disks.ROOT_START + 600_000], "cut short"),
        (encrypted(whole), "partition 2 is encrypted (LUKS)"),
        (without_fat(whole), "no EFI system partition that can be read"),
    ):
        found = inspected(tmp_path, data)
        assert any(problem in one for one in found["problems"]), found["problems"]
        assert len(found["partitions"]) == 2


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"EFI": {"BOOT": BOOT, "x": {"grub.cfg": b"if true; then"}}}, "ends too early"),
        ({"EFI": {"BOOT": BOOT, "x": {"grub.cfg": b""}, "y": {"grub.cfg": b""}}}, "2 configurations"),
        ({"EFI": {"BOOT": BOOT}}, "0 configurations"),
    ],
)
def test_where_a_chain_is_not_followed_is_no_damage(tmp_path: Path, more: disks.Tree, reason: str) -> None:
    found = inspected(tmp_path, disks.disk(more, root()))
    assert [stage["kind"] for stage in found["chain"]] == ["shim", "GRUB"]
    assert reason in found["not_followed"]
    assert (found["command_line"], found["problems"]) == (None, [])


def test_what_systemd_boot_starts_depends_on_the_firmware(tmp_path: Path) -> None:
    entries: disks.Tree = {"BOOTX64.EFI": systemd_boot()}
    esp: disks.Tree = {"EFI": {"BOOT": entries}, **of_systemd_boot(kernel())}
    found = inspected(tmp_path, disks.disk(esp, root()), firmware_images.firmware())
    assert [stage["kind"] for stage in found["chain"]] == ["systemd-boot", "kernel"]
    assert found["command_line"]
    [loader] = inspected(tmp_path, disks.disk(esp, root()))["chain"]
    assert loader["version"] == "257"


def test_what_is_no_disk(tmp_path: Path) -> None:
    for data in (b"", b"hello" * 1000, bytes(1 << 20)):
        with pytest.raises(MalformedError, match="no GUID partition table"):
            inspected(tmp_path, data)
    with pytest.raises(UnavailableError, match="cannot be read"):
        inspect_image(tmp_path / "none", None, None, Toolbox(tmp_path, no_archive, search_path=""), tmp_path)


def test_zstd_is_unpacked_by_qemu_img(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unpacked").write_bytes(disks.disk(ESP, root()))
    script = f'echo "$@" > {tmp_path}/asked; for last; do :; done; cp {tmp_path}/unpacked "$last"'
    toolbox = stand_ins(tmp_path / "toolbox", "qemu-img", {"qemu-img": script}, monkeypatch)
    found = inspected(tmp_path, disks.qcow2(bytes(disks.DISK_SIZE), features=8), toolbox=toolbox)
    assert (found["format"], len(found["programs"])) == ("qcow2", 3)
    assert (tmp_path / "asked").read_text().startswith(f"convert -f qcow2 -O raw {tmp_path}/disk.img ")
    assert not any((tmp_path / "scratch").iterdir())


@settings(max_examples=30)
@given(st.integers(0, 5 << 20), st.binary(min_size=1, max_size=600))
def test_damaged_disks_are_shown_or_refused(at: int, noise: bytes) -> None:
    data = bytearray(disks.disk(ESP, root()))
    data[at : at + len(noise)] = noise
    with tempfile.TemporaryDirectory() as name, contextlib.suppress(MalformedError):
        inspected(Path(name), bytes(data))


def encrypted(disk: bytes) -> bytes:
    return disk[: disks.ROOT_START] + b"LUKS\xba\xbe\0\2" + disk[disks.ROOT_START + 8 :]


def without_fat(disk: bytes) -> bytes:
    return disk[: disks.ESP_START] + bytes(512) + disk[disks.ESP_START + 512 :]
