from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from tdxstack.errors import CommandError
from tdxstack.image import disk
from tdxstack.image.disk import Tools, VerifiedRoot
from tdxstack.image.gpt import ROOT_X86_64_TYPE, ROOT_X86_64_VERITY_TYPE
from tdxstack.image.recipe import Format, Root
from tdxstack.run import Completed
from tdxstack.toolbox.programs import Toolbox

HASH = "00112233445566778899aabbccddeeff" + "ff" * 16


class Recorded(Tools):
    """Tools that only say what they would run."""

    def run(self, name: str, *arguments: str | Path) -> Completed:
        CALLS.append([name, *map(str, arguments)])
        if name == "veritysetup":
            target = next(str(word) for word in arguments if str(word).startswith("--root-hash-file="))
            Path(target.partition("=")[2]).write_text(ANSWER[0])
        if name == "mkfs.erofs":
            Path(str(arguments[-2])).write_bytes(bytes(4096))
        return Completed((name,), 0, b"", b"")


CALLS: list[list[str]] = []
ANSWER = [HASH + "\n"]


@pytest.fixture
def tools() -> Tools:
    CALLS.clear()
    ANSWER[0] = HASH + "\n"
    return Recorded(cast(Toolbox, None), 1000)


def test_arguments() -> None:
    esp, root = disk.table(None, {"x": b""}, size=4 << 30).partitions
    assert disk.vfat_arguments(esp) == [
        *("--invariant", "-F", "16", "-i", "74647831", "-n", "ESP", "--offset=2048"),
    ]
    assert disk.ext4_arguments(root.start) == [
        *("-q", "-F", "-L", "root", "-U", "7c1b4f4e-2d7a-4c0b-9d0e-7464782d3034", "-m", "0", "-E"),
        "offset=34603008,hash_seed=7c1b4f4e-2d7a-4c0b-9d0e-7464782d3035,assume_storage_prezeroed=1,"
        "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
    ]


def test_partitions() -> None:
    layout = disk.table(None, {"x": b""}, size=4 << 30)
    esp, root = layout.partitions
    assert (layout.size, esp.start, esp.size) == (4 << 30, 1 << 20, 32 << 20)
    assert (root.start, root.size) == (33 << 20, (4 << 30) - (34 << 20))


def test_large_boot_files_have_room() -> None:
    esp, _ = disk.table(None, {"x": bytes(40 << 20)}, size=4 << 30).partitions
    assert esp.size == 44 << 20


def test_without_boot_files_there_is_only_the_root() -> None:
    (root,) = disk.table(None, {}, size=4 << 30).partitions
    assert (root.name, root.start) == ("root", 1 << 20)


def test_a_verified_root_is_named_by_its_hash(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(3 << 20))
    (tmp_path / "tree").write_bytes(bytes(1 << 20))
    root = VerifiedRoot(tmp_path / "data", tmp_path / "tree", HASH)
    layout = disk.table(root, {"x": b""}, size=0)
    _, data, hashes = layout.partitions
    assert (data.type, data.uuid.hex, data.size) == (ROOT_X86_64_TYPE, HASH[:32], 3 << 20)
    assert (hashes.type, hashes.uuid.hex, hashes.size) == (ROOT_X86_64_VERITY_TYPE, HASH[32:], 1 << 20)
    assert layout.size == hashes.start + hashes.size + (1 << 20)


def test_a_verified_root_is_written_into_its_partitions(tools: Tools, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"d" * (1 << 20))
    (tmp_path / "tree").write_bytes(b"h" * 4096)
    raw = disk.assemble(tools, VerifiedRoot(tmp_path / "data", tmp_path / "tree", HASH), {}, tmp_path, size=0)
    made = raw.read_bytes()
    assert made[1 << 20 : 2 << 20] == b"d" * (1 << 20)
    assert made[2 << 20 : (2 << 20) + 4097] == b"h" * 4096 + b"\0"
    assert CALLS == []


def test_the_root_hash_is_what_veritysetup_says(tools: Tools, tmp_path: Path) -> None:
    root = disk.verified_root(tools, Root.VERITY_EROFS, tmp_path / "root.tar", tmp_path)
    assert root.root_hash == HASH
    erofs, verity = CALLS
    assert erofs[0] == "mkfs.erofs"
    assert "-T1000" in erofs
    assert verity[:2] == ["veritysetup", "format"]
    assert [word for word in verity if word.startswith("--salt=")]


def test_no_root_hash_is_an_error(tools: Tools, tmp_path: Path) -> None:
    ANSWER[0] = "oops"
    with pytest.raises(CommandError, match="oops"):
        disk.verified_root(tools, Root.VERITY_EROFS, tmp_path / "root.tar", tmp_path)


@pytest.mark.parametrize(
    ("kind", "called"),
    [
        (Format.RAW, None),
        (Format.QCOW2, ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"]),
        (
            Format.QCOW2_ZSTD,
            ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd"],
        ),
    ],
)
def test_formats(tools: Tools, tmp_path: Path, kind: Format, called: list[str] | None) -> None:
    raw, target = tmp_path / "disk.raw", tmp_path / "made"
    raw.write_bytes(b"disk")
    disk.convert(tools, raw, target, kind)
    assert not raw.exists()
    if called is None:
        assert target.read_bytes() == b"disk"
    else:
        assert [[*called, str(raw), str(target)]] == CALLS
