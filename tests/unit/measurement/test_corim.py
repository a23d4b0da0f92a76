"""The bytes are read back by hand, without the library that wrote them."""

from __future__ import annotations

from typing import Any

import pytest

from tdxstack.errors import UsageError
from tdxstack.measurement.corim import to_corim
from tdxstack.measurement.reference import Reference, ReferenceEvent

A, B, C = b"\x0a" * 48, b"\x0b" * 48, b"\x0c" * 48


class Cbor:
    """A reader of the CBOR that a CoRIM is made of (RFC 8949): numbers, strings, lists, maps and tags."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        taken = self.data[self.at : self.at + size]
        assert len(taken) == size
        self.at += size
        return taken

    def value(self) -> Any:
        (head,) = self.take(1)
        kind, small = head >> 5, head & 31
        number = small if small < 24 else int.from_bytes(self.take(1 << (small - 24)))
        match kind:
            case 0:
                return number
            case 2:
                return self.take(number)
            case 3:
                return self.take(number).decode()
            case 4:
                return [self.value() for _ in range(number)]
            case 5:
                return {self.value(): self.value() for _ in range(number)}
            case 6:
                return (number, self.value())
        raise AssertionError(head)


def read(data: bytes) -> Any:
    reader = Cbor(data)
    value = reader.value()
    assert reader.at == len(data)
    return value


def test_the_manifest_has_one_tag_with_a_triple_for_each_combination() -> None:
    tag, manifest = read(to_corim(Reference("web", {"mrtd": (A, B), "rtmr1": (C,)}, {})))
    assert tag == 501
    assert manifest[0].startswith("web/")
    ((comid_tag, comid_bytes),) = manifest[1]
    assert comid_tag == 506
    comid = read(comid_bytes)
    assert comid[1] == {0: manifest[0], 1: 0}
    environment = {0: {1: "Intel", 2: "TDX Trust Domain"}}
    assert comid[4] == {
        0: [
            [
                environment,
                [{0: "mrtd", 1: {2: [[7, mrtd]]}}, {0: "rtmr", 1: {14: {"rtmr1": [[7, C]]}}}],
            ]
            for mrtd in (A, B)
        ]
    }


def test_the_module_is_a_measurement_of_its_own() -> None:
    _, manifest = read(to_corim(Reference("web", {"mrtd": (A,), "mrseam": (B,)}, {})))
    ((_, comid_bytes),) = manifest[1]
    ((_, measurements),) = read(comid_bytes)[4][0]
    assert measurements == [{0: name, 1: {2: [[7, value]]}} for name, value in (("mrseam", B), ("mrtd", A))]


def test_the_encoding_does_not_depend_on_the_order_of_registers() -> None:
    registers = {"mrtd": (A,), "rtmr0": (B,), "rtmr1": (C,)}
    backwards = dict(reversed(registers.items()))
    assert to_corim(Reference("x", registers, {})) == to_corim(Reference("x", backwards, {}))


def test_other_values_have_another_identity() -> None:
    one, other = (read(to_corim(Reference("web", {"mrtd": (value,)}, {})))[1] for value in (A, B))
    assert one[0] != other[0]


def test_what_corim_cannot_say_is_refused() -> None:
    event = ReferenceEvent(4, A, "separator")
    with pytest.raises(UsageError, match=r"single events.*rtmr0"):
        to_corim(Reference("x", {"mrtd": (A,)}, {"rtmr0": (event,)}))
    with pytest.raises(UsageError, match="no register"):
        to_corim(Reference("x", {}, {}))
