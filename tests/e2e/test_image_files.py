"""The distribution's programs on the guest image: looked into, in other forms, grown. Nothing is booted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tdxstack.cli.edge import surroundings
from tdxstack.prediction.partitions import read_partitions
from tdxstack.prediction.qcow2 import open_disk
from tdxstack.run import run
from tdxstack.testing.runner import Tdx
from tdxstack.workflows.workshop import Workshop


@pytest.fixture(scope="module")
def guest_image(tdx: Tdx, emulator_binary: Path) -> Path:
    """What `tdx up` boots."""
    return Path(tdx.json("predict")["machine"]["disk"])


def content(document: dict[str, Any]) -> dict[str, Any]:
    """What is in the disk, without how it is stored."""
    return {name: value for name, value in document.items() if name not in ("path", "format", "backing")}


def test_a_distributions_chain_is_seen_and_whose_keys_start_it(tdx: Tdx, guest_image: Path) -> None:
    found = tdx.json("image", "inspect", str(guest_image))
    shim, grub, kernel = found["programs"]
    assert [shim["kind"], grub["kind"], kernel["kind"]] == ["shim", "GRUB", "kernel"]
    assert "Microsoft" in shim["accepted_by"]["firmware"]
    assert set(grub["accepted_by"]) == set(kernel["accepted_by"]) == {"shim"}
    assert found["kernels"][0]["td_guest"] is True
    assert len(found["chain"]) == 3
    assert found["problems"] == []


def test_what_is_converted_and_grown_holds_the_same(tdx: Tdx, guest_image: Path, tmp_path: Path) -> None:
    before = tdx.json("image", "inspect", str(guest_image))
    packed, raw, grown = (tmp_path / name for name in ("packed.qcow2", "disk.raw", "grown.qcow2"))
    tdx.run("image", "convert", str(guest_image), str(packed))
    tdx.run("image", "convert", str(packed), str(raw))
    assert packed.stat().st_size < guest_image.stat().st_size
    assert raw.stat().st_blocks * 512 < raw.stat().st_size // 4
    for path, form in ((packed, "qcow2"), (raw, "raw")):
        found = tdx.json("image", "inspect", str(path))
        assert found["format"] == form
        assert content(found) == content(before)

    tdx.run("image", "grow", str(raw), "+1G")
    tdx.run("image", "grow", str(packed), "8G", "-o", str(grown))
    for path, size in ((raw, before["size"] + (1 << 30)), (grown, 8 << 30)):
        after = tdx.json("image", "inspect", str(path))
        assert (after["size"], after["problems"]) == (size, [])
        assert [one["content"] for one in after["partitions"]] == ["FAT", "ext4"]
        assert size - (2 << 20) < after["partitions"][1]["start"] + after["partitions"][1]["size"] < size
        assert after["programs"] == before["programs"]
        check_ext4(path, after["partitions"][1]["size"])
    old, same, new = (
        tdx.json("predict", "--image", str(path))["registers"] for path in (guest_image, packed, raw)
    )
    assert old == same
    assert [name for name in old if old[name] != new[name]] == ["rtmr1"]


def check_ext4(path: Path, size: int) -> None:
    """The root file system fills its partition, and the second partition table is at the end."""
    with open_disk(path) as disk:
        table = read_partitions(disk)
        superblock = disk.read(table.partitions[1].start + 1024, 1024)
        blocks = int.from_bytes(superblock[4:8], "little")
        assert blocks * 4096 == size
        second = disk.read(disk.size - 512, 92)
        assert second[:8] == b"EFI PART"
        assert second[56:72] == table.header[56:72]


def test_no_machines_image_changes(guest_image: Path, tmp_path: Path) -> None:
    """A built image is shared; what lies in a cut file is not made up."""
    tdx = Tdx(tmp_path)  # where no machine is, whatever other tests have running
    key = guest_image.parent.name
    assert "machines share" in tdx.run("image", "grow", key, "+1G", code=2).stderr
    plan = tdx.run("image", "rm", key, "--dry-run").stdout
    assert str(guest_image.parent) in plan
    assert guest_image.exists()
    cut = tmp_path / "cut.qcow2"
    with guest_image.open("rb") as file:
        cut.write_bytes(file.read(100 << 20))
    assert "cut short" in "".join(tdx.json("image", "inspect", str(cut), code=1)["problems"])
    program = Workshop(surroundings()).toolbox.program("qemu-img")
    assert run(program.argv("check", cut), check=False).returncode != 0
