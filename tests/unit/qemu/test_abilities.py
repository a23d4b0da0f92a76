from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tdxstack.errors import CommandError
from tdxstack.qemu.abilities import Abilities, TdObject, ask, parse

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


QEMU = """
import json, os, sys
said = json.load(open(sys.argv[1]))
os.write(1, b'{"QMP": {}}\\r\\n')
for line in sys.stdin:
    question = json.loads(line)["execute"]
    if question == "quit":
        os._exit(0)
    os.write(1, json.dumps({"return": said[question]}).encode() + b"\\r\\n")
"""


def test_the_program_is_asked_one_question_after_the_other(tmp_path: Path) -> None:
    """Its answers are longer than a pipe holds, and it drops what is not read yet when it ends."""
    types = [{"name": f"device-{number}"} for number in range(10_000)]
    said = {
        "qmp_capabilities": {},
        "query-version": VERSION,
        "qom-list-types": types,
        "query-qmp-schema": SCHEMA,
    }
    (tmp_path / "said").write_text(json.dumps(said))
    (tmp_path / "qemu").write_text(QEMU)
    found = ask([sys.executable, str(tmp_path / "qemu"), str(tmp_path / "said")])
    assert found.version == "11.1.3"
    assert len(found.types) == 10_000


def test_a_program_that_says_nothing_is_told() -> None:
    with pytest.raises(CommandError):
        ask(["true"])
