from __future__ import annotations

import lzma
import shutil
import subprocess

import pytest

from tdxstack.errors import MalformedError
from tdxstack.image.initramfs import initramfs, module_name, modules_with_dependencies


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
        "kernel/fs/odd.ko.zst:",
    ]
)


def read(path: str) -> bytes:
    data = path.encode()
    return lzma.compress(data) if path.endswith(".xz") else data


def test_modules_come_after_what_they_need() -> None:
    found = modules_with_dependencies(("virtio_net", "failover", "virtio_blk"), DEPENDENCIES, read)
    assert [name for name, _ in found] == ["failover.ko", "net_failover.ko", "virtio_net.ko", "virtio_blk.ko"]
    assert found[2][1] == b"kernel/drivers/net/virtio_net.ko.xz"
    assert found[3][1] == b"kernel/drivers/block/virtio-blk.ko"


@pytest.mark.parametrize("name", ["absent", "odd"])
def test_modules_that_cannot_be_used_are_refused(name: str) -> None:
    with pytest.raises(MalformedError, match=name):
        modules_with_dependencies((name,), DEPENDENCIES, read)


def test_broken_compression_is_refused() -> None:
    with pytest.raises(MalformedError, match="failover"):
        modules_with_dependencies(("virtio_net",), DEPENDENCIES, lambda path: b"not xz")


def test_module_name() -> None:
    assert module_name("kernel/drivers/block/virtio-blk.ko.xz") == "virtio_blk"
