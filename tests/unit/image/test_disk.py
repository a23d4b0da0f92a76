from __future__ import annotations

import io
import tarfile
from pathlib import Path

from tdxstack.image import disk
from tdxstack.image.guest_side import GuestFile


def make_base(path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name in (".", "./etc", "./boot"):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime, info.uid = tarfile.DIRTYPE, 0o755, 5, 7
            archive.addfile(info)
        for name, data in (("./etc/hostname", b"old"), ("./boot/vmlinuz", b"kernel")):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.gid = len(data), 5, 42
            archive.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo("./etc/other")
        info.type, info.linkname = tarfile.LNKTYPE, "./boot/vmlinuz"
        archive.addfile(info)


def rewritten(tmp_path: Path, files: list[GuestFile]) -> list[tarfile.TarInfo]:
    base, target = tmp_path / "base.tar", tmp_path / "root.tar"
    make_base(base)
    disk.root_archive(base, files, target, epoch=1000)
    with tarfile.open(target) as archive:
        return archive.getmembers()


def test_what_is_not_replaced_is_kept_as_it_is(tmp_path: Path) -> None:
    found = {member.name: member for member in rewritten(tmp_path, [])}
    assert list(found) == [".", "./etc", "./boot", "./etc/hostname", "./boot/vmlinuz", "./etc/other"]
    kernel = found["./boot/vmlinuz"]
    assert (kernel.size, kernel.mtime, kernel.gid, kernel.isreg()) == (6, 5, 42, True)
    assert found["./etc/other"].islnk()
    assert found["./etc"].uid == 7


def test_files_replace_and_directories_appear(tmp_path: Path) -> None:
    files = [
        GuestFile("etc/hostname", b"new name"),
        GuestFile("usr/bin/tool", b"#!", 0o755),
        GuestFile("usr/bin/link", link="tool"),
    ]
    found = rewritten(tmp_path, files)
    names = [member.name for member in found]
    assert len(names) == len(set(names))
    assert names[-5:] == ["./etc/hostname", "./usr", "./usr/bin", "./usr/bin/tool", "./usr/bin/link"]
    by_name = {member.name: member for member in found}
    assert (by_name["./etc/hostname"].size, by_name["./etc/hostname"].mtime) == (8, 1000)
    assert by_name["./usr/bin"].isdir()
    assert by_name["./usr/bin/tool"].mode == 0o755
    assert by_name["./usr/bin/link"].linkname == "tool"
    assert {by_name[name].uid for name in names[-5:]} == {0}


def test_the_same_archive_twice(tmp_path: Path) -> None:
    files = [GuestFile("a/b", b"c")]
    rewritten(tmp_path, files)
    first = (tmp_path / "root.tar").read_bytes()
    rewritten(tmp_path, files)
    assert (tmp_path / "root.tar").read_bytes() == first


def test_arguments() -> None:
    esp, root = disk.table().partitions
    assert disk.vfat_arguments(esp) == [
        *("--invariant", "-F", "16", "-i", "74647831", "-n", "ESP", "--offset=2048"),
    ]
    assert disk.ext4_arguments(root) == [
        *("-q", "-F", "-L", "root", "-U", "7c1b4f4e-2d7a-4c0b-9d0e-7464782d3034", "-m", "0", "-E"),
        "offset=34603008,hash_seed=7c1b4f4e-2d7a-4c0b-9d0e-7464782d3035,assume_storage_prezeroed=1,"
        "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
    ]


def test_partitions() -> None:
    layout = disk.table()
    esp, root = layout.partitions
    assert (layout.size, esp.start, esp.size) == (4 << 30, 1 << 20, 32 << 20)
    assert (root.start, root.size) == (33 << 20, (4 << 30) - (34 << 20))
