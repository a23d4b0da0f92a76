"""Entries of the Boot Loader Specification: which there are, and in which order."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tdxstack.errors import MalformedError
from tdxstack.prediction import boot_entries
from tdxstack.prediction.boot_entries import compare_versions, in_order, read_entries, without_tries
from tdxstack.prediction.fat import Fat
from tests.unit.measurement import pe_images
from tests.unit.prediction import disks

ITSELF = "EFI/BOOT/BOOTX64.EFI"


def names(entries: Mapping[str, bytes], unified: disks.Tree | None = None, version: int = 257) -> list[str]:
    files: disks.Tree = {
        "k": b"kernel",
        "loader": {"entries": dict(entries)},
        "EFI": {"Linux": unified or {}},
    }
    return [
        one.name for one in in_order(read_entries(Fat(disks.Memory(disks.fat(files)), 0), version, ITSELF))
    ]


def entry(text: str = "") -> bytes:
    return f"linux /k\n{text}\n".encode()


def uki(release: str, *profiles: str) -> bytes:
    sections = {".osrel": release.encode()}
    image = pe_images.program(sections | {".linux": b"kernel"})
    assert not profiles or len(profiles) == 1
    return pe_images.program({**sections, ".profile": profiles[0].encode()}) if profiles else image


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        *(("122.1", "123~rc1-1"), ("123~rc1-1", "123"), ("123", "123-a"), ("123-a", "123-a.1")),
        *(("123-a.1", "123-1"), ("123-1", "123-1.1"), ("123-1.1", "123^post1"), ("123^post1", "123.a-1")),
        *(("123.a-1", "123.1-1"), ("123.1-1", "123a-1"), ("123a-1", "124-1")),
        *(("9", "10"), ("a", "b"), ("abc", "abcd"), ("", "0"), ("1~", "1"), ("b", "1")),
        ("9" * 5000, "1" + "0" * 5000),
    ],
)
def test_versions_are_ordered(older: str, newer: str) -> None:
    assert compare_versions(older, newer) < 0 < compare_versions(newer, older)


@pytest.mark.parametrize(
    ("one", "other"),
    [("", ""), ("1_2", "1 2"), ("007", "7"), ("0" * 5000, "0"), ("1.2", "1.2"), ("x~", "x~")],
)
def test_versions_are_equal(one: str, other: str) -> None:
    assert compare_versions(one, other) == 0


def test_the_newest_comes_first_and_sort_keys_before_names() -> None:
    assert names({"os-9.conf": entry(), "os-10.conf": entry(), "x.conf": entry("sort-key x")}) == [
        "x.conf",
        "os-10.conf",
        "os-9.conf",
    ]
    versions = {f"{name}.conf": entry(f"sort-key os\nversion {name[1:]}") for name in ("a9", "b10")}
    assert names(versions) == ["b10.conf", "a9.conf"]
    machines = {f"{name}.conf": entry(f"sort-key os\nmachine-id {name}") for name in ("b", "a")}
    assert names(machines) == ["a.conf", "b.conf"]


def test_attempts_are_counted_and_used_up_ones_come_last() -> None:
    found = names({"Z+0-3.conf": entry(), "B+2-1.conf": entry(), "A.conf": entry(), "c+x.conf": entry()})
    assert found == ["c+x.conf", "a.conf", "B.conf", "Z.conf"]
    assert names({"B+2-1.conf": entry()}, version=262) == ["b.conf"]
    assert names({"B+99999999999.conf": entry()}) == ["b+99999999999.conf"]
    assert without_tries("EFI/Linux/a+3-1.efi") == "EFI/Linux/a.efi"


@pytest.mark.parametrize(
    ("entries", "unified", "problem"),
    [
        ({"a.conf": entry("version " + "1." * 200)}, {}, "a.conf has a key of more than 256 letters"),
        ({"a.conf": entry("sort-key " + "a" * 257)}, {}, "a.conf has a key of more than 256 letters"),
        ({"a.conf": entry("#" * (1 << 16))}, {}, "a.conf has 65546 bytes, at most 65536"),
        ({}, {"a.efi": uki(f"ID=a\nVERSION_ID={'1.' * 200}\n")}, "a.efi has a key of more than 256"),
        ({f"{number}.conf": b"" for number in range(3)}, {}, "loader/entries has more than 2 entries"),
    ],
)
def test_what_no_menu_would_have_is_refused(
    monkeypatch: pytest.MonkeyPatch, entries: dict[str, bytes], unified: disks.Tree, problem: str
) -> None:
    monkeypatch.setattr(boot_entries, "MAX_ENTRIES", 2)
    with pytest.raises(MalformedError, match=problem):
        names(entries, unified)


def test_entries_that_do_not_count_are_left_out() -> None:
    assert names(
        {
            "auto-a.conf": entry(),
            ".b.conf": entry(),
            "c.txt": entry(),
            "d.conf": b"linux /absent",
            "e.conf": b"title nothing",
            "f.conf": entry("architecture aa64"),
            "g.conf": f"efi /{ITSELF.lower()}".encode(),
            "h.conf": entry("architecture X64"),
        }
    ) == ["h.conf"]


def test_keys_of_the_new_loader() -> None:
    both = {"a.conf": entry("efi /k")}
    assert names(both) == ["a.conf"]
    assert names(both, version=262) == []
    assert names({"a.conf": b"uki /k"}) == []
    assert names({"a.conf": b"uki /k"}, version=262) == ["a.conf"]
    for line in ("uki-url http://x/", "extra /k", "profile 1"):
        with pytest.raises(MalformedError, match=r"network|not followed"):
            names({"a.conf": entry(line)}, version=262)


def test_unified_kernel_images_are_entries_by_their_os_release() -> None:
    unified: disks.Tree = {
        "new.efi": uki("IMAGE_ID=a\nVERSION_ID=2\n"),
        "old+3.efi": uki("ID=a\nVERSION='1'\n"),
        "none.efi": uki("VARIANT=x\n"),
        "text.efi": b"text",
        "auto-x.efi": uki("ID=a"),
    }
    assert names({}, unified) == ["new.efi", "old.efi"]
    assert names({}, {"p.efi": uki("ID=a", "ID=main")}) == ["p.efi"]


def test_a_text_that_is_none_is_named() -> None:
    with pytest.raises(MalformedError, match=r"loader/entries/a.conf is no UTF-8"):
        names({"a.conf": b"\xff"})
