from __future__ import annotations

import json

import pytest

from tdxstack.errors import CommandError
from tdxstack.qemu.abilities import Abilities, TdObject, parse

SCHEMA = [
    {"name": "object-add", "meta-type": "command", "arg-type": "1"},
    {
        "name": "1",
        "meta-type": "object",
        "variants": [{"case": "tdx-guest", "type": "2"}, {"case": "secret", "type": "3"}],
    },
    {"name": "2", "members": [{"name": "mrowner"}], "features": ["confidential-guest-reset"]},
    {"name": "3", "members": []},
]
VERSION = {"qemu": {"major": 11, "minor": 1, "micro": 3}, "package": ""}


def answers(*returned: object) -> bytes:
    lines = [{"QMP": {}}, *({"return": value} for value in returned), {"event": "SHUTDOWN"}]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def test_reads_what_qemu_says() -> None:
    found = parse("qemu", answers({}, VERSION, [{"name": "kvm-accel"}], SCHEMA, {}))
    td = TdObject(frozenset({"mrowner"}), frozenset({"confidential-guest-reset"}))
    assert found == Abilities("11.1.3", frozenset({"kvm-accel"}), {"tdx-guest": td})
    assert found.td_can_reset


def test_without_the_feature_a_td_cannot_reset() -> None:
    schema = [*SCHEMA[:2], {"name": "2", "members": []}, SCHEMA[3]]
    assert not parse("qemu", answers({}, VERSION, [], schema, {})).td_can_reset
    assert not Abilities("7.2.22", frozenset(), {}).td_can_reset


@pytest.mark.parametrize(
    "output",
    [b"", b"usage: qemu", b"[]\n", answers({}), answers({}, VERSION, 1, SCHEMA), answers({}, {}, [], SCHEMA)],
)
def test_other_programs_are_told(output: bytes) -> None:
    with pytest.raises(CommandError, match="does not answer as QEMU does"):
        parse("qemu", output)
