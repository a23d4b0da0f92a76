from __future__ import annotations

import lzma
import shutil
import subprocess
from pathlib import Path

import pytest

from tdxstack.errors import MalformedError
from tdxstack.image.initramfs import (
    BUSYBOX,
    VERITY_INIT,
    VERITYSETUP,
    initramfs,
    module_name,
    modules_for,
    modules_with_dependencies,
    verified_initramfs,
)
from tdxstack.image.recipe import Root
from tdxstack.image.zstd import unpacker
from tdxstack.toolbox.programs import Toolbox
from tests.unit.image.test_elf import elf


def members(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and contents by name of a newc archive, read by hand from cpio(5)."""
    found: dict[str, tuple[int, bytes]] = {}
    offset = 0
    while True:
        head = archive[offset : offset + 110]
        assert head[:6] == b"070701"
        fields = [int(head[6 + 8 * index : 14 + 8 * index], 16) for index in range(13)]
        name_end = offset + 110 + fields[11]
        name = archive[offset + 110 : name_end - 1].decode()
        start = (name_end + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found[name] = (fields[1], archive[start : start + fields[6]])
        offset = (start + fields[6] + 3) & ~3


def test_contents() -> None:
    found = members(initramfs(b"program", [("a.ko", b"first"), ("b.ko", b"second")]))
    assert found["init"] == (0o100755, b"program")
    assert found["modules"] == (0o100644, b"/a.ko\n/b.ko\n")
    assert found["b.ko"] == (0o100644, b"second")
    assert found["proc"][0] == found["target"][0] == found["dev"][0] == 0o040755


def test_without_modules_there_is_no_list() -> None:
    assert "modules" not in members(initramfs(b"program", []))


def test_same_bytes_again() -> None:
    assert initramfs(b"x", [("a.ko", b"1")]) == initramfs(b"x", [("a.ko", b"1")])
    assert initramfs(b"x", [("a.ko", b"1")]) != initramfs(b"x", [("a.ko", b"2")])


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_cpio_reads_it() -> None:
    archive = initramfs(b"program", [("a.ko", b"odd")])
    listing = subprocess.run(["cpio", "-it", "--quiet"], input=archive, capture_output=True, check=True)
    assert listing.stdout.split() == [b"dev", b"proc", b"target", b"init", b"a.ko", b"modules"]


DEPENDENCIES = "\n".join(
    [
        "kernel/drivers/net/virtio_net.ko.xz: kernel/net/net_failover.ko.xz kernel/net/failover.ko.xz",
        "kernel/net/net_failover.ko.xz: kernel/net/failover.ko.xz",
        "kernel/net/failover.ko.xz:",
        "kernel/drivers/block/virtio-blk.ko:",
        "kernel/fs/odd.ko.gz:",
        "kernel/fs/erofs.ko.zst:",
    ]
)


def read(path: str) -> bytes:
    data = path.encode()
    return lzma.compress(data) if path.endswith(".xz") else data


def test_modules_come_after_what_they_need() -> None:
    found = modules_with_dependencies(("virtio_net", "failover", "virtio_blk"), DEPENDENCIES, "", read, bytes)
    assert [name for name, _ in found] == ["failover.ko", "net_failover.ko", "virtio_net.ko", "virtio_blk.ko"]
    assert found[2][1] == b"kernel/drivers/net/virtio_net.ko.xz"
    assert found[3][1] == b"kernel/drivers/block/virtio-blk.ko"


@pytest.mark.parametrize("name", ["absent", "odd"])
def test_modules_that_cannot_be_used_are_refused(name: str) -> None:
    with pytest.raises(MalformedError, match=name):
        modules_with_dependencies((name,), DEPENDENCIES, "", read, bytes)


def test_what_is_built_in_is_left_out() -> None:
    built_in = "kernel/fs/ext4/ext4.ko\nkernel/drivers/block/virtio-blk.ko\n"
    found = modules_with_dependencies(("ext4", "virtio_blk", "failover"), DEPENDENCIES, built_in, read, bytes)
    assert [name for name, _ in found] == ["failover.ko"]


@pytest.mark.parametrize(
    ("root", "modules"),
    [
        (Root.EXT4, ("virtio_pci", "virtio_blk", "ext4")),
        (Root.VERITY_EROFS, ("virtio_pci", "virtio_blk", "erofs", "dm_verity", "overlay")),
        (Root.VERITY_EXT4, ("virtio_pci", "virtio_blk", "ext4", "dm_verity", "overlay")),
    ],
)
def test_modules_for_a_root(root: Root, modules: tuple[str, ...]) -> None:
    assert modules_for(root) == modules


def test_a_verified_root_is_mounted_by_programs_with_their_libraries() -> None:
    tree = {
        BUSYBOX: b"busybox",
        VERITYSETUP: elf("libone.so.1"),
        "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2": b"loader",
        "usr/lib/x86_64-linux-gnu/libone.so.1": elf("libtwo.so.2", "ld-linux-x86-64.so.2"),
        "usr/lib/x86_64-linux-gnu/libtwo.so.2": elf("libone.so.1"),
    }
    archive = verified_initramfs(tree.__getitem__, [("erofs.ko", b"module")])
    found = members(archive)
    assert found["init"] == (0o100755, VERITY_INIT.read_bytes())
    assert found["busybox"] == (0o100755, b"busybox")
    assert found["usr/lib/x86_64-linux-gnu/libtwo.so.2"][1] == elf("libone.so.1")
    assert found["modules"][1] == b"/erofs.ko\n"
    directories = [name for name, (mode, _) in found.items() if mode & 0o040000 and not mode & 0o100000]
    for name in found:
        parent = name.rpartition("/")[0]
        assert not parent or parent in directories
    assert archive == verified_initramfs(tree.__getitem__, [("erofs.ko", b"module")])


def test_the_script_is_good_sh() -> None:
    done = subprocess.run([shutil.which("dash") or "sh", "-n", VERITY_INIT], capture_output=True, check=True)
    assert done.stderr == b""


def test_broken_compression_is_refused() -> None:
    with pytest.raises(MalformedError, match="failover"):
        modules_with_dependencies(("virtio_net",), DEPENDENCIES, "", lambda path: b"not xz", bytes)


def test_module_name() -> None:
    assert module_name("kernel/drivers/block/virtio-blk.ko.xz") == "virtio_blk"


def test_zstd_is_unpacked_by_its_program(tmp_path: Path) -> None:
    """With the program itself, and with one that is no zstd."""
    program = shutil.which("zstd")
    if program is None:
        pytest.skip("zstd is not installed")
    packed = subprocess.run([program, "-c"], input=b"module" * 1000, capture_output=True, check=True).stdout
    toolbox = Toolbox(tmp_path, lambda: pytest.fail("zstd is here"), search_path=str(Path(program).parent))

    def found(data: bytes) -> list[tuple[str, bytes]]:
        return modules_with_dependencies(
            ("erofs",), DEPENDENCIES, "", lambda _: data, unpacker(toolbox, tmp_path)
        )

    assert found(packed) == [("erofs.ko", b"module" * 1000)]
    with pytest.raises(MalformedError, match=r"erofs\.ko\.zst cannot be uncompressed"):
        found(b"no zstd")
    assert list(tmp_path.iterdir()) == []
