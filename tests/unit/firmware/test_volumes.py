"""Firmware volumes, against images packed by struct."""

from __future__ import annotations

import contextlib
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import MalformedError
from tdxstack.firmware import volumes
from tests.unit.firmware import firmware_images as made


def test_reads_files_with_their_labels_and_code() -> None:
    [found] = volumes.volumes(
        made.volume([made.file(made.BDS, label="BdsDxe", code=b"abc")], name=made.DXE_VOLUME)
    )
    assert (found.name, found.offset) == (UUID(made.DXE_VOLUME), 0)
    file = found.file(UUID(made.BDS))
    assert file is not None
    assert (file.label, file.code, file.type) == ("BdsDxe", b"abc", 7)


def test_a_file_that_is_not_there_is_none() -> None:
    [found] = volumes.volumes(made.volume([made.file(made.BDS)]))
    assert found.file(UUID(made.MENU)) is None


def test_files_behind_padding_are_read() -> None:
    padding = made.raw_file("ffffffff-ffff-ffff-ffff-ffffffffffff", b"\xff" * 40, 0xF0)
    [found] = volumes.volumes(made.volume([padding, made.file(made.BDS)]))
    assert found.file(UUID(made.BDS)) is not None


def test_unpacks_volumes_inside_volumes() -> None:
    found = volumes.volumes(made.firmware())
    assert [volume.offset for volume in found] == [0, made.CFV_SIZE, None]
    assert len(found[2].files) == len(made.dxe_files())


def test_takes_up_to_the_limit_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "MAX_UNPACKED", 4096)
    bomb = made.volume([made.raw_file(made.BDS, made.packed(bytes(1 << 20)), 0x0B)])
    with pytest.raises(MalformedError, match="more than 4096 bytes"):
        volumes.volumes(bomb)


@pytest.mark.parametrize(
    ("at", "value", "problem"),
    [
        (32, b"\xff" * 8, "claims"),
        (48, b"\x04\x00", "claims"),
        (52, b"\xff\xff", "claims"),
        (72 + 20, b"\xff\xff\x7f", "a file of the volume at 0x0 claims"),
        (72 + 20, b"\x01\x00\x00", "a file of the volume at 0x0 claims"),
    ],
)
def test_names_what_does_not_fit(at: int, value: bytes, problem: str) -> None:
    image = bytearray(made.volume([made.file(made.BDS)]))
    image[at : at + len(value)] = value
    with pytest.raises(MalformedError, match=problem):
        volumes.volumes(bytes(image))


@pytest.mark.parametrize(("broken", "problem"), [(b"\xff" * 40, "cannot be unpacked"), (None, "cut short")])
def test_damaged_compression_is_named(broken: bytes | None, problem: str) -> None:
    data = bytearray(made.packed(b"text" * 100))
    if broken:
        data[24 : 24 + len(broken)] = broken
    else:
        data = bytearray(made.section(2, bytes(data[4:-12])))
    with pytest.raises(MalformedError, match=problem):
        volumes.volumes(made.volume([made.raw_file(made.BDS, bytes(data), 0x0B)]))


@given(st.data())
def test_no_input_does_anything_else(data: st.DataObject) -> None:
    image = bytearray(made.firmware())
    for _ in range(data.draw(st.integers(1, 8))):
        image[data.draw(st.integers(0, made.CFV_SIZE + 600))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedError):
        volumes.volumes(bytes(image[: data.draw(st.integers(0, len(image)))]))
