from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import tdxstack
from tdxstack.image.distribution import DISTRIBUTIONS, MASKED_UNITS, Distribution
from tdxstack.image.guest_side import PACKAGED, ZIPAPP, GuestFile, guest_files, zipapp

PACKAGE = Path(tdxstack.__file__).parent


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what the guest side is packed from, which a test may change."""
    package = tmp_path / "tdxstack"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in PACKAGED:
        source = PACKAGE / name
        if source.is_dir():
            shutil.copytree(source, package / name, ignore=ignore)
        else:
            package.mkdir(exist_ok=True)
            shutil.copy(source, package / name)
    return package


@pytest.fixture(scope="module")
def found() -> dict[str, GuestFile]:
    return {file.path: file for file in guest_files(PACKAGE, DISTRIBUTIONS["debian"])}


def test_zipapp_is_the_same_from_a_copy_made_at_another_time(copy: Path) -> None:
    for path in copy.rglob("*"):
        os.utime(path, (10**9, 10**9))
    (copy / "abi/__pycache__").mkdir()
    (copy / "abi/__pycache__/x.pyc").write_bytes(b"x")
    assert zipapp(copy) == zipapp(PACKAGE)


def test_zipapp_changes_with_its_sources(copy: Path) -> None:
    before = zipapp(copy)
    with (copy / "errors.py").open("a") as file:
        file.write("# changed\n")
    assert zipapp(copy) != before


def test_zipapp_needs_the_standard_library_only(tmp_path: Path) -> None:
    path = tmp_path / "guest.pyz"
    path.write_bytes(zipapp(PACKAGE))
    done = subprocess.run([sys.executable, "-I", "-S", path, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


def test_zipapp_members() -> None:
    with zipfile.ZipFile(io.BytesIO(zipapp(PACKAGE))) as archive:
        names = archive.namelist()
        assert names == sorted(names)
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    assert "tdxstack/evidence/__main__.py" in names
    assert not [name for name in names if "/image/" in name or "/cli/" in name]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_guest_files_are_sorted_and_unique(distribution: Distribution) -> None:
    paths = [file.path for file in guest_files(PACKAGE, distribution)]
    assert paths == sorted(set(paths))
    assert not [path for path in paths if path.startswith("/") or ".." in path]


def test_nobody_gets_in_with_a_password(found: dict[str, GuestFile]) -> None:
    settings = found["etc/ssh/sshd_config.d/tdxstack.conf"].data.decode().splitlines()
    assert "PasswordAuthentication no" in settings
    assert "KbdInteractiveAuthentication no" in settings
    assert "PermitRootLogin prohibit-password" in settings
    assert not {"etc/shadow", "etc/passwd", "root/.ssh/authorized_keys"} & set(found)
    assert not [path for path in found if "ssh_host" in path]


def test_programs_are_executable(found: dict[str, GuestFile]) -> None:
    assert found["usr/bin/tdx-guest"].mode == 0o755
    assert ZIPAPP in found["usr/bin/tdx-guest"].data.decode()
    assert found["etc/hostname"].mode == 0o644


def test_ubuntu_masks_more(found: dict[str, GuestFile]) -> None:
    files = guest_files(PACKAGE, DISTRIBUTIONS["ubuntu"])
    more = [file for file in files if file.path not in found]
    assert [file for file in files if file.path in found] == list(found.values())
    assert GuestFile("etc/systemd/system/motd-news.timer", link="/dev/null") in more
    assert {file.link for file in more} == {"/dev/null"}


def test_units(found: dict[str, GuestFile]) -> None:
    for name in MASKED_UNITS:
        assert found[f"etc/systemd/system/{name}"].link == "/dev/null"
    for file in found.values():
        inside = file.link.removeprefix("/")
        if inside.startswith("etc/"):
            assert inside in found, f"{file.path} leads nowhere"
    assert found["etc/systemd/system/sysinit.target.wants/modprobe@tdx_guest.service"].link.endswith(
        "@.service"
    )


def test_the_machine_id_is_empty(found: dict[str, GuestFile]) -> None:
    assert found["etc/machine-id"].data == b""
    assert found["etc/machine-id"].link == ""
