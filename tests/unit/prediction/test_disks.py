"""Disk images, partition tables and file systems, against disks packed by struct."""

from __future__ import annotations

import contextlib
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import MalformedError, UnavailableError
from tdxstack.prediction.ext4 import Ext4
from tdxstack.prediction.fat import MAX_DEPTH, Fat
from tdxstack.prediction.filesystems import content_name
from tdxstack.prediction.partitions import read_partitions
from tdxstack.prediction.qcow2 import (
    Qcow2,
    backing_file,
    image_format,
    is_packed_with_zstd,
    is_whole,
    open_disk,
)
from tests.unit.prediction import disks as made

LONG = random.Random(1).randbytes(5000)
FILES: made.Tree = {
    "EFI": {"BOOT": {"BOOTX64.EFI": LONG, "a long file name.cfg": b"text"}},
    "empty": b"",
}
ROOT: made.Tree = {
    "boot": {"vmlinuz-1": LONG, "vmlinuz": b"->vmlinuz-1", "up": b"->/boot/./../boot/vmlinuz"},
    "vmlinuz": b"->boot/vmlinuz",
    "loop": b"->loop",
    "empty": b"",
}


def test_fat_files_are_found_without_regard_to_case() -> None:
    found = Fat(made.Memory(bytes(512) + made.fat(FILES)), 512)
    assert found.read("EFI/BOOT/BOOTX64.EFI") == LONG
    assert found.read("/efi/boot/A long FILE name.cfg") == b"text"
    assert found.read("empty") == b""
    for absent in ("EFI", "EFI/x", "empty/x", ""):
        assert found.read(absent) is None


def test_a_chain_that_is_shorter_than_its_file_is_named() -> None:
    image = bytearray(made.fat({"file": LONG}))
    root = 512 * 41
    at = image.index(struct.pack("<I", len(LONG)), root)
    image[at : at + 4] = struct.pack("<I", 100000)
    with pytest.raises(MalformedError, match="file has 5120 bytes of 100000"):
        Fat(made.Memory(bytes(image)), 0).read("file")


@pytest.mark.parametrize(
    ("sectors", "fat_sectors", "large", "problem"),
    [
        (65525 + 1 + 2 * 512, 0, 512, None),
        (65524 + 1 + 2 * 512, 0, 512, "no FAT32 of 65524 clusters"),
        (65524 + 1 + 2 * 256 + 4, 256, 0, None),
        (65525 + 1 + 2 * 256 + 4, 256, 0, "no FAT16 of 65525 clusters"),
    ],
)
def test_fat_is_read_where_firmware_reads_it(
    sectors: int, fat_sectors: int, large: int, problem: str | None
) -> None:
    """The layout says whether it is FAT32, and then the number of clusters must fit."""
    boot = bytearray(512)
    entries = 64 if fat_sectors else 0
    struct.pack_into("<HBHBHHBHHHII", boot, 11, 512, 1, 1, 2, entries, 0, 0xF8, fat_sectors, 0, 0, 0, sectors)
    struct.pack_into("<IHHI", boot, 36, large, 0, 0, 2)
    boot[510:] = b"\x55\xaa"
    disk = made.Memory(bytes(boot).ljust(sectors * 512, b"\0"))
    with pytest.raises(MalformedError, match=problem) if problem else contextlib.nullcontext():
        assert Fat(disk, 0).names("/") == ()


def test_ext4_files_are_found_through_links() -> None:
    found = Ext4(made.Memory(bytes(4096) + made.ext4(ROOT)), 4096)
    for path in ("/boot/vmlinuz-1", "/boot/vmlinuz", "/vmlinuz", "/boot/up", "//boot/../vmlinuz"):
        assert found.read(path) == LONG
    assert found.read("/empty") == b""
    for absent in ("/boot", "/boot/x", "/empty/x"):
        assert found.read(absent) is None
    assert found.uuid == made.ROOT_UUID


def test_files_are_listed() -> None:
    found = Fat(made.Memory(made.fat(FILES)), 0)
    assert sorted(found.files()) == ["EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/a long file name.cfg", "empty"]
    system = Ext4(made.Memory(made.ext4(ROOT)), 0)
    assert system.names("/boot") == ("up", "vmlinuz", "vmlinuz-1")
    assert system.names("/") == ("boot", "empty", "loop", "vmlinuz")
    assert system.names("/absent") == system.names("/empty") == ()


def test_directories_without_end_are_refused() -> None:
    deep: made.Tree = {"file": b"x"}
    for _ in range(MAX_DEPTH):
        deep = {"a": deep}
    with pytest.raises(MalformedError, match="directories 8 deep"):
        list(Fat(made.Memory(made.fat(deep)), 0).files())


def test_ext4_that_cannot_be_read_is_named() -> None:
    with pytest.raises(MalformedError, match="symbolic links"):
        Ext4(made.Memory(made.ext4(ROOT)), 0).read("/loop")
    with pytest.raises(MalformedError, match="uses features 0x10000"):
        Ext4(made.Memory(made.ext4(ROOT, features=0x10042)), 0)
    with pytest.raises(MalformedError, match="no ext4"):
        Ext4(made.Memory(b"LUKS\xba\xbe" + bytes(4096)), 0)


def test_fat_of_impossible_sizes_costs_nothing() -> None:
    image = bytearray(made.fat(FILES))
    struct.pack_into("<H", image, 22, 0)
    struct.pack_into("<I", image, 36, 1 << 29)  # sectors of a table
    struct.pack_into("<HxH", image, 16, 1, 0)
    struct.pack_into("<I", image, 32, (1 << 32) - 1)
    image[13] = 128
    found = Fat(made.Memory(bytes(image)), 0)
    assert found.names("") == ()


def test_a_chain_that_leads_back_into_itself_ends() -> None:
    image = bytearray(made.fat({"file": LONG}))
    at = image.index(struct.pack("<I", len(LONG)), 512 * 41)
    image[at : at + 4] = struct.pack("<I", 1 << 29)
    table = 512 + 3  # of cluster 2, whose next is 3, and 3, whose next is 4
    image[table : table + 3] = bytes((0x03, 0x20, 0x00))
    with pytest.raises(MalformedError, match="file has 1024 bytes of 536870912"):
        Fat(made.Memory(bytes(image)), 0).read("file")


def test_a_long_name_ends() -> None:
    part = b"\x41" + b"a\0" * 5 + b"\x0f\0\0" + b"a\0" * 6 + b"\0\0" + b"a\0" * 2
    short = struct.pack("<11sB14xHI", b"F       EXT", 0x20, 0, 0)
    image = made.fat({"directory": {"list": part * 1000 + short}})
    data = bytearray(image)
    at = data.index(struct.pack("<I", 32 * 1001)) - 28
    data[at + 11] = 0x10
    assert Fat(made.Memory(bytes(data)), 0).names("directory/list") == ("a" * 255,)


def with_extents(node: bytes, size: int) -> made.Memory:
    """An ext4 file system whose root directory has another extent tree."""
    image = bytearray(made.ext4(ROOT))
    root = 10 * 1024 + 128
    struct.pack_into("<I", image, root + 4, size)
    image[root + 40 : root + 100] = node.ljust(60, b"\0")
    return made.Memory(bytes(image))


def test_an_extent_tree_without_an_end_is_refused() -> None:
    """Each of its blocks has as many entries as it can, which all lead to the next block."""

    def node(number: int, entries: int) -> bytes:
        inner = struct.pack("<IIHH", 0, number + 1, 0, 0) * entries
        return struct.pack("<HHHHI", 0xF30A, entries, entries, 1, 0) + inner

    data = bytearray(with_extents(node(499, 4), 1024).data)
    for number in range(500, 504):
        data[number * 1024 : (number + 1) * 1024] = node(number, 84 if number < 503 else 0).ljust(1024, b"\0")
    with pytest.raises(MalformedError, match="extent tree has more than"):
        Ext4(made.Memory(bytes(data)), 0).names("/")


def test_extents_that_overlap_are_refused() -> None:
    extents = struct.pack("<IHHI", 0, 2, 0, 40) + struct.pack("<IHHI", 1, 1, 0, 40)
    with pytest.raises(MalformedError, match="inode 2 has extents that overlap"):
        Ext4(with_extents(struct.pack("<HHHHI", 0xF30A, 2, 4, 0, 0) + extents, 2048), 0).names("/")


def test_a_path_that_is_too_long_is_refused() -> None:
    with pytest.raises(MalformedError, match="more than 4096 letters"):
        Ext4(made.Memory(made.ext4(ROOT)), 0).read("/boot/.." * 600)


def test_partitions() -> None:
    table = read_partitions(made.Memory(made.disk({}, {})))
    assert [(one.number, one.start, one.size) for one in table.partitions] == [
        (1, made.ESP_START, made.ESP_SIZE),
        (2, made.ROOT_START, made.ROOT_SIZE),
    ]
    assert table.esp.number == 1
    assert table.measured[:92] == made.gpt()[512:604]
    assert table.measured[92:100] == (2).to_bytes(8, "little")
    assert table.measured[100:] == made.gpt()[1024:1280]


@pytest.mark.parametrize(
    ("at", "problem"),
    [(512, "no GUID partition table"), (530, "header is wrong"), (1100, "entries is wrong")],
)
def test_a_damaged_partition_table_is_named(at: int, problem: str) -> None:
    data = bytearray(made.gpt())
    data[at] ^= 1
    with pytest.raises(MalformedError, match=problem):
        read_partitions(made.Memory(bytes(data)))


def test_a_disk_without_an_esp_says_so() -> None:
    table = read_partitions(made.Memory(made.gpt(esp_type=made.LINUX_TYPE)))
    with pytest.raises(MalformedError, match="no EFI system partition"):
        _ = table.esp


@pytest.mark.parametrize(
    ("signature", "offset", "name"),
    [
        (b"LUKS\xba\xbe\0\2", 0, "LUKS"),
        (b"verity\0\0", 0, "dm-verity hashes"),
        (b"XFSB", 0, "XFS"),
        (b"LABELONE", 512, "LVM"),
        (b"\xe2\xe1\xf5\xe0", 1024, "EROFS"),
        (b"_BHRfS_M", 0x10040, "btrfs"),
        (b"", 0, None),
    ],
)
def test_what_a_partition_holds(signature: bytes, offset: int, name: str | None) -> None:
    data = bytearray(0x20000)
    data[100 + offset : 100 + offset + len(signature)] = signature
    assert content_name(made.Memory(bytes(data)), 100) == name
    assert content_name(made.Memory(made.disk({}, {})), made.ESP_START) == "FAT"
    assert content_name(made.Memory(made.disk({}, {})), made.ROOT_START) == "ext4"


@pytest.mark.parametrize("compressed", [False, True])
def test_a_qcow2_that_is_cut_short_is_named(tmp_path: Path, compressed: bool) -> None:
    content = LONG + bytes(200000) + random.Random(2).randbytes(70000)
    whole = made.qcow2(content, compressed=compressed)
    path = tmp_path / "disk.qcow2"
    for end in (len(whole) - 69000 if compressed else len(whole) - 65536, 2 << 16, 90000):
        path.write_bytes(whole[:end])
        with open_disk(path) as disk:
            assert isinstance(disk, Qcow2)
            with pytest.raises(MalformedError, match="cut short"):
                disk.read(0, len(content))
            with pytest.raises(MalformedError, match="cut short"):
                disk.check_whole()
    for end in (1 << 16, 104):
        path.write_bytes(whole[:end])
        with (
            pytest.raises(MalformedError, match=r"cut short: .* its first table is at 65536"),
            open_disk(path),
        ):
            pass
    path.write_bytes(whole)
    with open_disk(path) as disk:
        assert isinstance(disk, Qcow2)
        disk.check_whole()


def test_tables_that_are_named_again_are_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    def read(_disk: Qcow2, offset: int) -> bytes:
        looked.append(offset)
        return bytes(8)

    monkeypatch.setattr(Qcow2, "_read_l2", read)
    image = bytearray(made.qcow2(b"x"))
    struct.pack_into(">I", image, 36, 8192)
    image[1 << 16 : 2 << 16] = struct.pack(">Q", 2 << 16) * 8192
    path = tmp_path / "disk.qcow2"
    path.write_bytes(image)
    with open_disk(path) as disk:
        assert isinstance(disk, Qcow2)
        disk.check_whole()
    assert looked == [2 << 16]
    struct.pack_into(">Q", image, 1 << 16, (2 << 16) + 512)
    path.write_bytes(image)
    with open_disk(path) as disk, pytest.raises(MalformedError, match="131584 is not at a cluster"):
        assert isinstance(disk, Qcow2)
        disk.check_whole()


def test_forms_are_told_apart(tmp_path: Path) -> None:
    for name, data, form, other in (
        ("raw", b"", "raw", False),
        ("zlib", made.qcow2(bytes(10)), "qcow2", False),
        ("zstd", made.qcow2(bytes(10), features=8), "qcow2", True),
        ("above", made.qcow2(bytes(10), backing=Path("zstd")), "qcow2", True),
        ("loop", made.qcow2(bytes(10), backing=Path("loop")), "qcow2", False),
    ):
        (tmp_path / name).write_bytes(data)
        assert image_format(tmp_path / name) == form
        assert is_packed_with_zstd(tmp_path / name) is other


def test_images_that_go_on_in_other_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    for data, whole in (
        (b"raw", True),
        (b"QFI\xfb\0\0\0\2" + bytes(64) + b"\xff" * 32, True),
        (made.qcow2(b"x"), True),
        (made.qcow2(b"x", backing=Path("absent")), False),
        (made.qcow2(b"x", features=4), False),
    ):
        path.write_bytes(data)
        assert is_whole(path) is whole


@pytest.mark.parametrize("compressed", [False, True])
def test_qcow2(tmp_path: Path, compressed: bool) -> None:
    content = bytes(70000) + LONG + bytes(200000) + b"end"
    path = tmp_path / "disk.qcow2"
    path.write_bytes(made.qcow2(content, compressed=compressed))
    with open_disk(path) as disk:
        assert disk.size == len(content)
        assert disk.read(0, len(content)) == content
        assert disk.read(70000, 10) == LONG[:10]
        assert disk.read(len(content), 10) == bytes(10)


def test_an_overlay_shows_what_lies_below(tmp_path: Path) -> None:
    below = bytes(65536) + LONG + bytes(60536) + b"below"
    (tmp_path / "base.raw").write_bytes(below)
    above = b"above".ljust(len(below), b"\0")
    (tmp_path / "top.qcow2").write_bytes(made.qcow2(above, backing=Path("base.raw")))
    with open_disk(tmp_path / "top.qcow2") as disk:
        assert disk.read(0, 5) == b"above"
        assert disk.read(65536, 65536 + 5) == below[65536:]
    assert backing_file(tmp_path / "top.qcow2") == tmp_path / "base.raw"
    assert backing_file(tmp_path / "base.raw") is None


def test_what_lies_beyond_any_file_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"raw")
    with open_disk(path) as disk:
        assert disk.read(1 << 70, 4) == bytes(4)
    table = bytearray(made.qcow2(b"text"))
    table[40:48] = b"\xff" * 8
    path.write_bytes(table)
    with pytest.raises(MalformedError, match="first table is at 18446744073709551615"), open_disk(path):
        pass
    table[8:20] = b"\xff" * 12
    path.write_bytes(table)
    with pytest.raises(MalformedError, match="overlay of ''"), open_disk(path):
        pass


def test_images_that_are_not_read_are_named(tmp_path: Path) -> None:
    for name, data, problem in (
        ("feature", made.qcow2(bytes(10), features=4), "features 0x4"),
        ("loop", made.qcow2(bytes(10), backing=Path("loop")), "more than 8 images"),
        ("version", b"QFI\xfb" + bytes(100), "version 0"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MalformedError, match=problem), open_disk(tmp_path / name):
            pass
    with pytest.raises(UnavailableError, match="cannot be read"), open_disk(tmp_path / "absent"):
        pass
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "above").write_bytes(made.qcow2(bytes(10), backing=Path("pipe")))
    for name in ("pipe", "above"):
        with pytest.raises(UnavailableError, match="pipe is neither a file nor"), open_disk(tmp_path / name):
            pass


def _try_fat(data: bytes) -> None:
    Fat(made.Memory(data), 0).read("EFI/BOOT/BOOTX64.EFI")


def _try_ext4(data: bytes) -> None:
    Ext4(made.Memory(data), 0).read("/vmlinuz")


@pytest.mark.parametrize(
    ("attempt", "image", "span"),
    [(_try_fat, made.fat(FILES), 23000), (_try_ext4, made.ext4(ROOT), 60000)],
)
@given(st.data())
def test_damaged_file_systems_are_read_or_refused(
    attempt: Callable[[bytes], None], image: bytes, span: int, data: st.DataObject
) -> None:
    broken = bytearray(image)
    for _ in range(data.draw(st.integers(1, 8))):
        broken[data.draw(st.integers(0, span))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedError):
        attempt(bytes(broken))
