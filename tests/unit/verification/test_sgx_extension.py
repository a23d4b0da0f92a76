from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdxstack.errors import MalformedError
from tdxstack.quoting.pck import sgx_extension
from tdxstack.quoting.platform import EmulatedPlatform
from tdxstack.verification.sgx_extension import SgxExtension

PPID, INSTANCE = bytes(range(16)), bytes(range(16, 32))
DER = sgx_extension(EmulatedPlatform(), PPID, INSTANCE).value


def test_every_field_is_read() -> None:
    platform = EmulatedPlatform()
    extension = SgxExtension.parse(DER)
    assert extension == SgxExtension(
        ppid=PPID,
        components=platform.cpusvn,
        pcesvn=platform.pcesvn,
        cpusvn=platform.cpusvn,
        pce_id=platform.pce_id,
        fmspc=platform.fmspc,
        sgx_type=1,
        platform_instance_id=INSTANCE,
        dynamic_platform=False,
        cached_keys=False,
        smt_enabled=False,
    )
    assert extension.sgx_type_name == "Scalable"


def entry(arcs: bytes, value: bytes) -> bytes:
    identifier = bytes.fromhex("2a864886f84d010d01") + arcs
    return tlv(0x30, tlv(0x06, identifier) + value)


def tlv(tag: int, content: bytes) -> bytes:
    length = bytes((len(content),)) if len(content) < 128 else b"\x82" + len(content).to_bytes(2, "big")
    return bytes((tag,)) + length + content


def octets(value: bytes) -> bytes:
    return tlv(0x04, value)


def number(value: int) -> bytes:
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


TCB = [entry(bytes((2, i)), number(i)) for i in range(1, 17)] + [
    entry(b"\x02\x11", number(300)),
    entry(b"\x02\x12", octets(bytes(16))),
]
PARTS = {
    "ppid": entry(b"\x01", octets(PPID)),
    "tcb": entry(b"\x02", tlv(0x30, b"".join(TCB))),
    "pce_id": entry(b"\x03", octets(bytes(2))),
    "fmspc": entry(b"\x04", octets(bytes(6))),
    "sgx_type": entry(b"\x05", tlv(0x0A, b"\0")),
}


def extension(**changes: bytes) -> bytes:
    return tlv(0x30, b"".join({**PARTS, **changes}.values()))


def test_processor_certificates_lack_the_platform_fields() -> None:
    parsed = SgxExtension.parse(extension())
    assert parsed.components == bytes(range(1, 17))
    assert parsed.pcesvn == 300
    assert parsed.platform_instance_id is None
    assert parsed.smt_enabled is None
    assert parsed.sgx_type_name == "Standard"


def test_unknown_fields_are_left_alone() -> None:
    more = entry(b"\x09", octets(b"new")) + entry(b"\x01\x01", octets(b"deeper"))
    assert SgxExtension.parse(extension(more=more)) == SgxExtension.parse(extension())


@pytest.mark.parametrize(
    "changes",
    [
        {"ppid": b""},
        {"fmspc": b""},
        {"tcb": b""},
        {"fmspc": entry(b"\x04", octets(bytes(5)))},
        {"fmspc": entry(b"\x04", number(1))},
        {"again": PARTS["fmspc"]},
        {"tcb": entry(b"\x02", tlv(0x30, b"".join(TCB[1:])))},
        {"tcb": entry(b"\x02", tlv(0x30, b"".join([entry(b"\x02\x01", number(256)), *TCB[1:]])))},
        {"tcb": entry(b"\x02", tlv(0x30, b"".join([entry(b"\x02\x01", tlv(2, b"\xff")), *TCB[1:]])))},
        {"tcb": entry(b"\x02", tlv(0x30, b"".join([entry(b"\x02\x01", tlv(2, b"")), *TCB[1:]])))},
        {"other": tlv(0x30, b"")},
        {"other": b"\x04\x00"},
        {"other": b"\x30\x85"},
    ],
    ids=str,
)
def test_damage_is_malformed(changes: dict[str, bytes]) -> None:
    with pytest.raises(MalformedError) as caught:
        SgxExtension.parse(extension(**changes))
    assert caught.value.hint


@pytest.mark.parametrize("data", [b"", DER[:-1], DER + b"\0", b"\x04" + DER[1:]])
def test_it_must_be_one_whole_sequence(data: bytes) -> None:
    with pytest.raises(MalformedError):
        SgxExtension.parse(data)


@settings(deadline=None)
@given(st.integers(0, len(DER) - 1), st.binary(min_size=1, max_size=4))
def test_any_change_gives_an_extension_or_malformed(offset: int, value: bytes) -> None:
    changed = DER[:offset] + value + DER[offset + len(value) :]
    try:
        SgxExtension.parse(changed)
    except MalformedError as error:
        assert error.hint


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_input_gives_an_extension_or_malformed(data: bytes) -> None:
    try:
        SgxExtension.parse(data)
    except MalformedError as error:
        assert error.hint
