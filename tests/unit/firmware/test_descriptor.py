from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import MalformedError
from tdxstack.firmware.descriptor import Descriptor
from tests.unit.firmware.descriptors import document

MEMORY = {"device": "memory", "filename": "/usr/share/ovmf/OVMF.inteltdx.fd"}


def parse(value: Any) -> Descriptor:
    return Descriptor.parse(json.dumps(value).encode())


def test_memory() -> None:
    descriptor = parse(document())
    assert descriptor.filename == "/usr/share/ovmf/TDVF.fd"
    assert descriptor.features == {"intel-tdx", "secure-boot"}
    assert descriptor.runs_on("pc-q35-10.1")
    assert not descriptor.runs_on("pc-i440fx-10.1")


@pytest.mark.parametrize(
    ("mapping", "filename"),
    [
        (MEMORY, "/usr/share/ovmf/OVMF.inteltdx.fd"),
        ({"device": "flash", "mode": "stateless", "executable": {"filename": "/f", "format": "raw"}}, "/f"),
        ({"device": "flash", "mode": "stateless", "executable": {"filename": "/f", "format": "qcow2"}}, None),
        ({"device": "flash", "executable": {"filename": "/f", "format": "raw"}}, None),
        ({"device": "igvm", "filename": "/f"}, None),
        ({"device": "x", "mode": "stateless", "executable": {"filename": "/f", "format": "raw"}}, None),
    ],
)
def test_only_images_for_memory_have_a_filename(mapping: dict[str, Any], filename: str | None) -> None:
    assert parse(document(mapping=mapping)).filename == filename


def test_other_architectures_do_not_count() -> None:
    targets = [{"architecture": "aarch64", "machines": ["pc-q35-*"]}]
    assert not parse(document(targets=targets)).runs_on("pc-q35-10.1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"description": 1}, "description is not a text"),
        ({"mapping": []}, "mapping is not an object"),
        ({"mapping": {}}, "without 'device'"),
        ({"mapping": {"device": "memory"}}, "without 'filename'"),
        ({"mapping": {"device": "memory", "filename": "a\0b"}}, "mapping.filename is not a text"),
        ({"targets": {}}, "targets is not a list"),
        ({"targets": ["x"]}, r"targets\[\] is not an object"),
        ({"targets": [{"architecture": "x86_64", "machines": "*"}]}, r"targets\[\].machines is not a list"),
        ({"features": [1]}, "features is not a text"),
    ],
)
def test_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(MalformedError, match=message) as caught:
        parse(document(**change))
    assert caught.value.hint


@pytest.mark.parametrize("key", ["description", "mapping", "targets", "features"])
def test_missing_member(key: str) -> None:
    value = document()
    del value[key]
    with pytest.raises(MalformedError, match=f"without '{key}'"):
        parse(value)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xff", b"[" * 100_000, b"[]", b'"x"'])
def test_other_data(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Descriptor.parse(data)


def test_enormous_descriptor_is_refused() -> None:
    data = json.dumps(document()).encode()
    assert Descriptor.parse(data.ljust(1 << 20)) == Descriptor.parse(data)
    with pytest.raises(MalformedError, match="at most 1048576 are read"):
        Descriptor.parse(data.ljust((1 << 20) + 1))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    json_values, st.sampled_from(["description", "mapping", "targets", "features"]), st.binary(max_size=40)
)
def test_any_input(value: Any, key: str, data: bytes) -> None:
    for candidate in (json.dumps(value).encode(), json.dumps(document(**{key: value})).encode(), data):
        try:
            Descriptor.parse(candidate)
        except MalformedError:
            continue
