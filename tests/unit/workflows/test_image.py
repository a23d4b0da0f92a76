from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tdxstack.errors import UnavailableError, UsageError
from tdxstack.image.built import Image
from tdxstack.image.packages import Lock
from tdxstack.image.recipe import Base, ImageRecipe
from tdxstack.toolbox import archive
from tdxstack.workflows import image as workflow
from tdxstack.workflows.image import BuildRequest, build_image, plan_build
from tdxstack.workflows.predict import PredictRequest
from tdxstack.workflows.workshop import Surroundings, Workshop
from tests.unit.image.test_built import make
from tests.unit.workflows.test_plan import surroundings

__all__ = ["surroundings"]

BASE = Base(url="https://x.invalid", sha256="0" * 64)
LOCK = Lock("debian", "trixie", 1, {"essential": {}, "others": {}, "loaders": {}})


def recipe(**values: Any) -> ImageRecipe:
    return ImageRecipe.model_validate({"distribution": "debian", **values})


class Builder:
    """Makes images of which the second may differ."""

    def __init__(self, image: Image, again: Image) -> None:
        self.image, self.again = image, again
        self.locks: list[Lock | None] = []

    def build(self, *_: object, lock: Lock | None = None, **__: object) -> Image:
        self.locks.append(lock)
        return self.image if len(self.locks) == 1 else self.again


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, surroundings: Surroundings) -> Builder:
    image = make(surroundings.directories.cache / "image", "aa", "web")
    image.path.with_name("lock.json").write_bytes(LOCK.to_json())
    found = Builder(image, image)
    monkeypatch.setattr(Workshop, "builder", lambda *_: found)
    return found


def test_an_image_is_built_and_copied(builder: Builder, surroundings: Surroundings, tmp_path: Path) -> None:
    result = build_image(BuildRequest(recipe(), output=tmp_path / "out"), surroundings)
    assert result.image == builder.image
    assert result.written[0].name == "web.raw"
    assert (result.compared, result.differences) == (False, [])


def test_the_second_build_takes_the_packages_of_the_first(
    builder: Builder, surroundings: Surroundings
) -> None:
    result = build_image(BuildRequest(recipe(), verify=True), surroundings)
    assert (result.compared, result.differences) == (True, [])
    assert builder.locks == [None, LOCK]
    assert list((surroundings.directories.cache / "image").glob("second.*")) == []


def test_an_image_that_differs_is_not_copied(
    builder: Builder, surroundings: Surroundings, tmp_path: Path
) -> None:
    builder.again = replace(builder.image, files=builder.image.files | {"disk.raw": "00"})
    request = BuildRequest(recipe(), verify=True, output=tmp_path / "out")
    result = build_image(request, surroundings)
    assert result.differences == ["disk.raw"]
    assert result.written == []


def test_reference_values_lie_beside_the_copy(
    builder: Builder, surroundings: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[PredictRequest] = []

    def predict(request: PredictRequest, *_: object) -> SimpleNamespace:
        asked.append(request)
        return SimpleNamespace(prediction=None)

    monkeypatch.setattr(workflow, "predict_machine", predict)
    reference = SimpleNamespace(to_json=lambda: b"{}")
    monkeypatch.setattr(workflow, "Reference", SimpleNamespace(of=lambda *_, **__: reference))
    builder.image = replace(builder.image, files=builder.image.files | {"vmlinuz": "00", "initrd": "00"})
    for name in ("vmlinuz", "initrd"):
        builder.image.path.with_name(name).write_bytes(b"")
    firmware = tmp_path / "own.fd"
    request = BuildRequest(recipe(), output=tmp_path / "out", reference=True, firmware=firmware)
    result = build_image(request, surroundings)
    assert result.written[-1] == tmp_path / "out/web.reference.json"
    assert json.loads(result.written[-1].read_bytes()) == {}
    spec = asked[0].spec
    assert spec.image is not None
    assert (spec.firmware, spec.image.path) == (firmware, builder.image.path)
    assert spec.direct_kernel is not None
    assert spec.direct_kernel.kernel == builder.image.path.with_name("vmlinuz")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lock": LOCK, "refresh": True}, "--lock and --refresh"),
        (
            {"recipe": ImageRecipe(base=Base(url="https://x.invalid", sha256="0" * 64)), "verify": True},
            "--verify",
        ),
        ({"reference": True}, "--reference"),
        ({"firmware": Path("x")}, "--firmware"),
        (
            {"recipe": recipe(format="qcow2-zstd"), "reference": True, "output": Path("out")},
            "compressed disks",
        ),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        BuildRequest(**{"recipe": recipe(), **options})


def test_a_lock_of_another_release_is_refused(builder: Builder, surroundings: Surroundings) -> None:
    request = BuildRequest(recipe(release="testing"), lock=LOCK)
    with pytest.raises(UsageError, match="lock file is of debian trixie, the recipe of debian testing"):
        build_image(request, surroundings)
    assert builder.locks == []


def test_a_plan_says_everything_and_makes_nothing(surroundings: Surroundings, tmp_path: Path) -> None:
    wanted = recipe(boot="uki", root="verity-erofs", packages=["nginx"], users=[{"name": "me"}])
    text = "\n".join(plan_build(BuildRequest(wanted, verify=True, output=Path("out")), surroundings))
    for said in ("debian trixie and its backports", "nginx", "uki", "verity-erofs", "user: me", "out"):
        assert said in text
    assert list(tmp_path.iterdir()) == []


def test_a_host_of_another_distribution_needs_to_be_told(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tdxstack.workflows.workshop.os_release", lambda _: {"ID": "fedora"})
    with pytest.raises(UnavailableError, match="'fedora' makes no guests"):
        Workshop(surroundings).origin(ImageRecipe())
    assert Workshop(surroundings).origin(recipe()).release == archive.RELEASES["debian"]
