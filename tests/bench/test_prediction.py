"""A prediction of a disk boot, QEMU's answers being remembered, against hashing what it hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from tdxstack.cli.edge import surroundings
from tdxstack.machine.spec import MachineSpec
from tdxstack.platform import Platform
from tdxstack.prediction.ext4 import Ext4
from tdxstack.prediction.fat import Fat
from tdxstack.prediction.partitions import read_partitions
from tdxstack.prediction.qcow2 import open_disk
from tdxstack.workflows.predict import PredictRequest, PredictResult, predict_machine
from tdxstack.workflows.workshop import Workshop

pytestmark = [pytest.mark.e2e, pytest.mark.benchmark(group="prediction of a disk boot")]

Predict = Callable[[], PredictResult]


@pytest.fixture
def predict() -> Predict:
    here = surroundings()
    request = PredictRequest(spec=MachineSpec(platform=Platform.EMULATED))
    return lambda: predict_machine(request, here, Workshop(here))


def test_prediction(benchmark: Any, predict: Predict) -> None:
    assert not predict().prediction.unpredicted
    benchmark(predict)


def test_limit_hashing_the_same_files(benchmark: Any, predict: Predict) -> None:
    found = predict()
    assert found.disk is not None
    assert found.firmware is not None
    with open_disk(found.disk) as disk:
        table = read_partitions(disk)
        esp, root = Fat(disk, table.esp.start), Ext4(disk, table.partitions[1].start)
        signed = [esp.read("EFI/BOOT/BOOTX64.EFI"), esp.read("EFI/BOOT/grubx64.efi"), root.read("/vmlinuz")]
    programs = [program for program in signed if program]
    firmware = found.firmware.read_bytes()

    def hash_all() -> None:
        hashlib.sha384(firmware * 2).digest()  # MRTD hashes half as much again, in two orders
        for program in programs:
            hashlib.sha384(program).digest()
            hashlib.sha256(program).digest()

    assert len(programs) == 3
    benchmark(hash_all)
