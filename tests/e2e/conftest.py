"""What tests that boot machines of their own share."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tdxstack.image.initramfs import initramfs
from tdxstack.machine.spec_parts import DirectKernel
from tdxstack.prediction.ext4 import Ext4
from tdxstack.prediction.partitions import read_partitions
from tdxstack.prediction.qcow2 import open_disk
from tdxstack.testing.runner import Tdx


@pytest.fixture(scope="session")
def guest(tdx: Tdx, emulator_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> DirectKernel:
    """The image's own kernel, with an initrd that only prints the log."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is needed to build the test guest")
    work = tmp_path_factory.mktemp("guest")
    source = Path(__file__).with_name("dump_log.c")
    subprocess.run(["gcc", "-O1", "-static", "-o", work / "init", source], check=True)
    (work / "initrd").write_bytes(initramfs((work / "init").read_bytes(), []))
    with open_disk(Path(tdx.json("predict")["machine"]["disk"])) as disk:
        kernel = Ext4(disk, read_partitions(disk).partitions[1].start).read("/vmlinuz")
    assert kernel is not None
    (work / "vmlinuz").write_bytes(kernel)
    return DirectKernel(
        kernel=work / "vmlinuz",
        initrd=work / "initrd",
        command_line="console=ttyS0,115200 quiet panic=-1",
    )
