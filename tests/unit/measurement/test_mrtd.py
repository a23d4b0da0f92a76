from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import MalformedError
from tdxstack.measurement.mrtd import mrtd
from tests.unit.abi.tdvf_images import BASE, SECTIONS, SIZE, Section, descriptor, image


def page_add(gpa: int) -> bytes:
    return b"MEM.PAGE.ADD" + bytes(4) + gpa.to_bytes(8, "little") + bytes(104)


def mr_extend(gpa: int, chunk: bytes) -> bytes:
    assert len(chunk) == 256
    return b"MR.EXTEND" + bytes(7) + gpa.to_bytes(8, "little") + bytes(104) + chunk


def pages(section: Section) -> Iterator[int]:
    return iter(range(section[2], section[2] + section[3], 4096))


def extends(firmware: bytes, section: Section, page: int) -> bytes:
    if not section[5] & 1:
        return b""
    offset = section[0] + page - section[2]
    return b"".join(
        mr_extend(page + at, firmware[offset + at : offset + at + 256]) for at in range(0, 4096, 256)
    )


def straightforward(firmware: bytes, sections: tuple[Section, ...]) -> tuple[bytes, bytes]:
    """The formula of the specification, one record after the other: (single-pass, two-pass)."""
    single = double = b""
    for section in sections:
        if section[5] & 2:
            continue
        for page in pages(section):
            single += page_add(page) + extends(firmware, section, page)
        double += b"".join(page_add(page) for page in pages(section))
        double += b"".join(extends(firmware, section, page) for page in pages(section))
    return hashlib.sha384(single).digest(), hashlib.sha384(double).digest()


@pytest.mark.parametrize(
    "sections",
    [
        SECTIONS,
        (*SECTIONS, (0, 0, 0x900000, 0x3000, 3, 2)),
        (SECTIONS[1], SECTIONS[0], *SECTIONS[2:]),
        ((0x2000, 0x6000, BASE + 0x2000, 0x6000, 0, 1), (0, 0x2000, BASE, 0x2000, 1, 1), SECTIONS[4]),
    ],
)
def test_equals_the_straightforward_formula(sections: tuple[Section, ...]) -> None:
    firmware = image(descriptor(sections))
    result = mrtd(firmware)
    assert (result.single_pass, result.two_pass) == straightforward(firmware, sections)
    assert result.single_pass != result.two_pass


def test_page_aug_adds_nothing() -> None:
    plain = mrtd(image(descriptor((*SECTIONS, (0, 0, 0x900000, 0x3000, 3, 0)))))
    augmented = mrtd(image(descriptor((*SECTIONS, (0, 0, 0x900000, 0x3000, 3, 2)))))
    assert plain != augmented


def test_code_counts_and_variables_do_not() -> None:
    firmware = bytearray(image())
    before = mrtd(bytes(firmware))
    firmware[0x100] ^= 1  # in the CFV
    assert mrtd(bytes(firmware)) == before
    firmware[0x2100] ^= 1  # in the BFV
    after = mrtd(bytes(firmware))
    assert after.single_pass != before.single_pass
    assert after.two_pass != before.two_pass


def test_measured_section_without_all_its_data_is_refused() -> None:
    short = ((0x2000, 0x5000, BASE + 0x2000, 0x6000, 0, 1), *SECTIONS[1:])
    with pytest.raises(MalformedError, match="0x5000 bytes of data for 0x6000 bytes"):
        mrtd(image(descriptor(short)))


def test_enormous_sections_are_refused_at_once() -> None:
    huge = (*SECTIONS, (0, 0, 1 << 40, 1 << 60, 3, 0))
    with pytest.raises(MalformedError, match="at most 0x10000000 are reasonable"):
        mrtd(image(descriptor(huge)))


@given(st.integers(0, 0x3FF), st.integers(0, 255))
def test_damaged_metadata_gives_a_value_or_malformed(offset: int, value: int) -> None:
    firmware = bytearray(image())
    firmware[SIZE - 0x400 + offset] = value
    try:
        assert len(mrtd(bytes(firmware)).single_pass) == 48
    except MalformedError as error:
        assert error.hint


def test_not_a_firmware() -> None:
    with pytest.raises(MalformedError, match="no table of GUIDs") as caught:
        mrtd(b"\x7fELF" + bytes(0x4000))
    assert "OVMF" in caught.value.hint
