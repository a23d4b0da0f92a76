"""What a prediction refuses before anything is fetched or built for it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from tdxstack.errors import MalformedError, TdxError, UnavailableError
from tdxstack.machine.spec import MachineSpec
from tdxstack.workflows.predict import PredictRequest, predict_machine
from tdxstack.workflows.workshop import Surroundings, Workshop
from tests.unit.prediction.test_boot import kernel


def refused(**fields: object) -> TdxError | None:
    """The error of a prediction that has nothing but what is specified."""
    request = PredictRequest("", MachineSpec().changed(**fields))
    try:
        predict_machine(request, cast(Surroundings, None), cast(Workshop, None))
    except TdxError as error:
        return error
    except AttributeError:
        pass  # it went on, and asked for what is not there
    return None


@pytest.mark.parametrize("content", [b"", b"\x7fELF" + bytes(1000), b"HdrS", bytes(0x1FE) + b"HdrS"])
def test_what_is_no_kernel(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(content)
    for fields in ({"direct_kernel": {"kernel": path}}, {"uki": {"image": path}}):
        error = refused(**fields)
        assert isinstance(error, MalformedError)
        assert error.message == f"{path} is neither a Linux kernel (bzImage) nor an EFI program"


def test_a_kernel_that_is_not_there(tmp_path: Path) -> None:
    error = refused(direct_kernel={"kernel": tmp_path / "absent"})
    assert isinstance(error, UnavailableError)
    assert "absent cannot be read" in error.message


@pytest.mark.parametrize("content", [kernel(), bytes(0x202) + b"HdrS" + bytes(100)])
def test_what_may_be_a_kernel_is_left_to_the_prediction(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(content)
    assert refused(direct_kernel={"kernel": path}) is None
