from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tdxstack.errors import MalformedError, UnavailableError
from tdxstack.firmware.find import Search, directories, find, open_image
from tests.unit.abi.tdvf_images import image
from tests.unit.firmware.descriptors import place, tree


def mapping(path: Path) -> dict[str, str]:
    return {"device": "memory", "filename": str(path)}


@pytest.fixture
def firmware(tmp_path: Path) -> Path:
    path = tmp_path / "TDVF.fd"
    path.write_bytes(image())
    return path


def names(search: Search) -> list[str]:
    return [one.descriptor.name for one in search.found if one.descriptor]


def test_found_with_hash_and_features(tmp_path: Path, firmware: Path) -> None:
    descriptor = place(tmp_path / "system", "60-tdx.json", mapping=mapping(firmware))
    search = find([tmp_path / "system"])
    assert search.problems == ()
    found = search.first()
    assert (found.path, found.descriptor, found.version) == (firmware, descriptor, None)
    assert found.sha256 == hashlib.sha256(image()).hexdigest()
    assert found.features == {"intel-tdx", "secure-boot"}


def test_order_is_that_of_the_names_in_all_directories(tmp_path: Path, firmware: Path) -> None:
    places = [tmp_path / "user", tmp_path / "etc", tmp_path / "usr"]
    place(places[2], "60-distro.json", mapping=mapping(firmware))
    place(places[1], "50-admin.json", mapping=mapping(firmware))
    place(places[0], "70-user.json", mapping=mapping(firmware))
    assert names(find(places)) == ["50-admin.json", "60-distro.json", "70-user.json"]


def test_more_specific_file_of_the_same_name_counts(tmp_path: Path, firmware: Path) -> None:
    places = [tmp_path / "user", tmp_path / "etc", tmp_path / "usr"]
    place(places[2], "60-tdx.json", mapping=mapping(firmware), description="distribution")
    place(places[1], "60-tdx.json", mapping=mapping(firmware), description="administrator")
    assert [one.description for one in find(places).found] == ["administrator"]
    (places[0]).mkdir()
    (places[0] / "60-tdx.json").touch()
    assert find(places).found == ()


def test_other_firmware_is_passed_over(tmp_path: Path, firmware: Path) -> None:
    here = tmp_path / "system"
    place(here, "10-no-tdx.json", mapping=mapping(firmware), features=["secure-boot"])
    place(here, "20-other-machine.json", mapping=mapping(firmware), targets=[])
    place(here, "30-flash.json", mapping={"device": "flash", "executable": {}})
    place(here, "notes.txt", mapping=mapping(firmware))
    assert find([here]) == Search((), ())
    assert names(find([here], features=["secure-boot"])) == ["10-no-tdx.json"]
    assert names(find([here], features=["secure-boot", "intel-tdx"])) == []


def test_image_of_other_firmware_needs_no_metadata(tmp_path: Path) -> None:
    (tmp_path / "plain.fd").write_bytes(bytes(0x1000))
    place(tmp_path / "system", "10.json", mapping=mapping(tmp_path / "plain.fd"), features=["acpi-s3"])
    assert names(find([tmp_path / "system"], features=["acpi-s3"])) == ["10.json"]


def test_broken_ones_are_reported_and_skipped(tmp_path: Path, firmware: Path) -> None:
    here = tmp_path / "system"
    place(here, "90-good.json", mapping=mapping(firmware))
    (here / "10-broken.json").write_text("{")
    place(here, "20-gone.json", mapping=mapping(tmp_path / "gone.fd"))
    place(here, "30-relative.json", mapping={"device": "memory", "filename": "OVMF.fd"})
    (tmp_path / "plain.fd").write_bytes(bytes(0x1000))
    place(here, "40-plain.json", mapping=mapping(tmp_path / "plain.fd"))
    (here / "50-folder.json").mkdir()
    (here / "60-dangling.json").symlink_to(tmp_path / "nowhere")
    search = find([here])
    assert names(search) == ["90-good.json"]
    assert [problem.split(": ", 1)[1][:40] for problem in search.problems] == [
        "the firmware descriptor is not JSON",
        f"its image {tmp_path}/gone.fd does not exist"[:40],
        "its image 'OVMF.fd' is no absolute path",
        f"its image {tmp_path}/plain.fd"[:40],
        "Is a directory",
        "No such file or directory",
    ]


def test_nothing_found_says_why(tmp_path: Path) -> None:
    place(tmp_path / "system", "20-gone.json", mapping=mapping(tmp_path / "gone.fd"))
    with pytest.raises(
        UnavailableError, match=r"no firmware descriptor offers .*gone\.fd does not exist"
    ) as caught:
        find([tmp_path / "system"]).first()
    assert "ovmf-inteltdx" in caught.value.hint
    with pytest.raises(UnavailableError, match=r"offers an image for TDs$"):
        find([tmp_path / "absent"]).first()


def test_private_root(tmp_path: Path) -> None:
    root = tree(tmp_path / "root")
    [found] = find([root / "usr/share/qemu/firmware"], root=root).found
    assert found.path == root / "usr/share/ovmf/TDVF.fd"


def test_private_root_is_not_left(tmp_path: Path, firmware: Path) -> None:
    root = tree(tmp_path / "root")
    here = root / "usr/share/qemu/firmware"
    place(here, "10-dots.json", mapping={"device": "memory", "filename": "/../TDVF.fd"})
    (root / "link.fd").symlink_to(firmware)
    place(here, "20-link.json", mapping={"device": "memory", "filename": "/link.fd"})
    search = find([here], root=root)
    assert names(search) == ["60-edk2-x86_64-inteltdx.json"]
    assert len(search.problems) == 2
    assert all("lies outside" in problem for problem in search.problems)


def test_directories() -> None:
    system = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))
    assert directories({}, Path("/home/u")) == (Path("/home/u/.config/qemu/firmware"), *system)
    assert directories({"XDG_CONFIG_HOME": "/c"}, Path("/home/u")) == (Path("/c/qemu/firmware"), *system)


def test_named_image(tmp_path: Path, firmware: Path) -> None:
    found = open_image(firmware)
    assert (found.path, found.descriptor, found.features) == (firmware, None, frozenset())
    assert found.sha256 == hashlib.sha256(image()).hexdigest()
    with pytest.raises(UnavailableError, match=r"gone\.fd cannot be read: No such file"):
        open_image(tmp_path / "gone.fd")
    (tmp_path / "plain.fd").write_bytes(bytes(0x1000))
    with pytest.raises(MalformedError, match=r"plain\.fd: .* no table of GUIDs"):
        open_image(tmp_path / "plain.fd")
    with (tmp_path / "huge.fd").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(MalformedError, match="has 1073741824 bytes"):
        open_image(tmp_path / "huge.fd")
