"""What tdx predict is asked for, by a name, a specification and options."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tdxstack.cli import predict as predict_module
from tdxstack.cli import tdx
from tdxstack.errors import UsageError
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.stopped import Launch
from tdxstack.measurement.expected import Prediction
from tdxstack.measurement.mrtd import Mrtd
from tdxstack.platform import Platform
from tdxstack.workflows.predict import PredictRequest, PredictResult


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[PredictRequest]:
    requests: list[PredictRequest] = []

    def predict(request: PredictRequest, *_: object) -> PredictResult:
        requests.append(request)
        launch = Launch.parse(["qemu", "-m", "1024M", "-smp", "1", "-bios", "firmware.fd"])
        prediction = Prediction((), Mrtd(b"m" * 48, b"n" * 48))
        return PredictResult(prediction, True, launch.firmware, launch, None, ("a note",))

    monkeypatch.setattr(predict_module, "predict_machine", predict)
    return requests


def run(*words: str) -> Result:
    return CliRunner().invoke(tdx, ["predict", *words], standalone_mode=False)


def test_options_alone(asked: list[PredictRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("kernel").write_bytes(b"")
    done = run("--kernel", "kernel", "--append", "quiet", "--vcpus", "4", "--platform", "emulated")
    assert done.return_value == 0
    assert "a note" in done.stderr
    (request,) = asked
    assert (request.name, request.spec.vcpus, request.spec.memory) == ("", 4, 2048)
    assert request.spec.platform is Platform.EMULATED
    assert request.spec.direct_kernel is not None
    assert request.spec.direct_kernel.kernel == tmp_path / "kernel"
    assert request.spec.direct_kernel.arguments == "quiet"


def test_options_replace_what_a_specification_says(asked: list[PredictRequest], tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    path.write_text("name: web\nvcpus: 4\nmemory: 8G\nimage: disk.qcow2\nnics: []\n")
    assert run("--spec", str(path), "--memory", "1024", "--edk2", "202405").return_value == 0
    (request,) = asked
    assert (request.spec.vcpus, request.spec.memory, request.spec.nics) == (4, 1024, ())
    assert request.spec.image is not None
    assert request.spec.image.path == tmp_path / "disk.qcow2"
    assert request.release == "202405"


def test_a_machine_by_name_is_predicted_as_it_is(asked: list[PredictRequest], tmp_path: Path) -> None:
    assert run("td").return_value == 0
    assert asked == [PredictRequest("td", MachineSpec())]
    (tmp_path / "spec").write_text("")
    for words in (("--vcpus", "2"), ("--spec", str(tmp_path / "spec"))):
        assert isinstance(run("td", *words).exception, UsageError)


def test_a_log_stands_for_a_platform(asked: list[PredictRequest], tmp_path: Path) -> None:
    for name in ("log", "firmware", "disk"):
        (tmp_path / name).write_bytes(b"")
    words = [f"--{option}={tmp_path / name}" for option, name in (("log", "log"), ("firmware", "firmware"))]
    assert isinstance(run(*words).exception, UsageError)
    assert run(words[0], f"--image={tmp_path / 'disk'}").return_value == 0
    assert asked.pop().spec.firmware is None
    assert isinstance(run(*words, f"--image={tmp_path / 'disk'}", "--vcpus=2").exception, UsageError)
    assert run(*words, f"--image={tmp_path / 'disk'}").return_value == 0
    assert asked[0].log == tmp_path / "log"


@pytest.mark.parametrize("words", [("--append", "x"), ("--portable",)])
def test_options_that_need_another_one(words: tuple[str, ...]) -> None:
    assert isinstance(run(*words).exception, UsageError)
