from __future__ import annotations

from pathlib import Path

import pytest

from tdxstack.errors import UnavailableError
from tdxstack.machine.named_files import check_files
from tdxstack.machine.spec_file import parse_spec

TEXT = b"""
kind: efi
firmware: code.fd
firmware_variables: vars.fd
direct_kernel: {kernel: vmlinuz, initrd: initrd}
fw_cfg: [{name: opt/a, text: a}, {name: opt/b, file: b}]
"""
NAMES = ("code.fd", "vars.fd", "vmlinuz", "initrd", "b")


def test_every_file_that_is_missing_is_told(tmp_path: Path) -> None:
    spec = parse_spec(TEXT, tmp_path)
    with pytest.raises(UnavailableError) as caught:
        check_files(spec)
    fields = [problem.partition(":")[0] for problem in caught.value.message.split("; ")]
    assert fields == [
        *("firmware", "firmware_variables", "direct_kernel.kernel", "direct_kernel.initrd", "fw_cfg[1].file")
    ]
    for name in NAMES:
        (tmp_path / name).write_bytes(b"")
    check_files(spec)


def test_a_directory_is_no_unified_kernel(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=f"uki.image: there is no file {tmp_path}"):
        check_files(parse_spec(b"uki: {image: .}", tmp_path))
