from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tdxstack.errors import UsageError
from tdxstack.image import root_archive
from tdxstack.image.guest_side import GuestFile


def make_base(path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name in (".", "./etc", "./boot", "./usr", "./usr/lib"):
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
        info = tarfile.TarInfo("./lib")
        info.type, info.linkname = tarfile.SYMTYPE, "usr/lib"
        archive.addfile(info)


def rewritten(tmp_path: Path, files: list[GuestFile]) -> list[tarfile.TarInfo]:
    base, target = tmp_path / "base.tar", tmp_path / "root.tar"
    make_base(base)
    root_archive.write(base, files, target, epoch=1000)
    with tarfile.open(target) as archive:
        return archive.getmembers()


def test_what_is_not_replaced_is_kept_as_it_is(tmp_path: Path) -> None:
    found = {member.name: member for member in rewritten(tmp_path, [])}
    assert list(found)[:5] == [".", "./etc", "./boot", "./usr", "./usr/lib"]
    assert list(found)[5:] == ["./etc/hostname", "./boot/vmlinuz", "./etc/other", "./lib"]
    kernel = found["./boot/vmlinuz"]
    assert (kernel.size, kernel.mtime, kernel.gid, kernel.isreg()) == (6, 5, 42, True)
    assert found["./etc/other"].islnk()
    assert found["./etc"].uid == 7


def test_files_replace_and_directories_appear(tmp_path: Path) -> None:
    files = [
        GuestFile("etc/hostname", b"new name"),
        GuestFile("opt/bin/tool", b"#!", 0o755),
        GuestFile("opt/bin/link", link="tool"),
    ]
    found = rewritten(tmp_path, files)
    names = [member.name for member in found]
    assert len(names) == len(set(names))
    assert names[-5:] == ["./etc/hostname", "./opt", "./opt/bin", "./opt/bin/tool", "./opt/bin/link"]
    by_name = {member.name: member for member in found}
    assert (by_name["./etc/hostname"].size, by_name["./etc/hostname"].mtime) == (8, 1000)
    assert by_name["./opt/bin"].isdir()
    assert by_name["./opt/bin/tool"].mode == 0o755
    assert by_name["./opt/bin/link"].linkname == "tool"
    assert {by_name[name].uid for name in names[-5:]} == {0}


def test_a_file_below_a_link_into_usr_goes_where_that_leads(tmp_path: Path) -> None:
    names = [member.name for member in rewritten(tmp_path, [GuestFile("lib/x", b"1")])]
    assert names[-1] == "./usr/lib/x"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("etc", "/etc is a directory in the image"),
        ("boot/vmlinuz/x", "/boot/vmlinuz is no directory in the image"),
    ],
)
def test_files_that_cannot_be_are_refused(tmp_path: Path, path: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        rewritten(tmp_path, [GuestFile(path, b"x")])


def test_the_same_archive_twice(tmp_path: Path) -> None:
    files = [GuestFile("a/b", b"c")]
    rewritten(tmp_path, files)
    first = (tmp_path / "root.tar").read_bytes()
    rewritten(tmp_path, files)
    assert (tmp_path / "root.tar").read_bytes() == first
