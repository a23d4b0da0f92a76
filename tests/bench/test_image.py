"""Building guest images, against mkosi with the same packages: package caches are warm, all else is made.

mkosi comes from the archive, unpacked as its own tools tree. Its initial RAM file system has systemd in it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tdxstack.cli.edge import surroundings
from tdxstack.image.built import Image
from tdxstack.image.distribution import ESSENTIAL
from tdxstack.image.packages import names
from tdxstack.image.recipe import ImageRecipe
from tdxstack.toolbox.apt import extract
from tdxstack.toolbox.archive import RELEASES
from tdxstack.workflows.workshop import Workshop

pytestmark = [pytest.mark.e2e, pytest.mark.benchmark(group="guest image, warm package cache")]

MKOSI = (
    *("mkosi", "apt", "ca-certificates", "cpio", "debian-archive-keyring", "dosfstools", "dpkg", "e2fsprogs"),
    *("fdisk", "kmod", "mtools", "sqv", "systemd-boot-efi", "systemd-container", "systemd-repart"),
    *("systemd-ukify", "udev", "zstd"),
)
SECONDS = 900


@pytest.fixture(scope="module")
def cache(request: pytest.FixtureRequest) -> Iterator[Path]:
    """An image cache that has only what these benchmarks have put there.

    The tests of `tests/e2e` build such images, too; once more without timing would only cost minutes.
    """
    if request.config.getoption("benchmark_disable"):
        pytest.skip("only worth its minutes when it is timed")
    # the command also installs what it needs of the host, and fills the other caches
    subprocess.run([sys.executable, "-m", "tdxstack", "image", "build", "--yes"], check=True)
    with tempfile.TemporaryDirectory(prefix="tdx-bench-", dir=surroundings().directories.cache) as place:
        yield Path(place)


def build(cache: Path, **recipe: Any) -> Image:
    wanted = ImageRecipe.model_validate(recipe)
    workshop = Workshop(surroundings())
    return workshop.builder(wanted, cache).build(wanted, workshop.origin(wanted))


def fetched(**recipe: Any) -> None:
    """Have the packages of a recipe downloaded."""
    wanted = ImageRecipe.model_validate(recipe)
    workshop = Workshop(surroundings())
    origin = workshop.origin(wanted)
    origin.apt().fetch([*ESSENTIAL, *names(wanted, origin.distribution, origin.release)])


def test_minimal(cache: Path, benchmark: Any) -> None:
    benchmark.pedantic(build, args=(cache,), kwargs={"name": "minimal"}, rounds=1)


def test_after_one_file_has_changed(cache: Path, benchmark: Any) -> None:
    build(cache, name="minimal")
    changed = {"name": "minimal", "files": [{"content": "changed\n", "target": "/etc/changed"}]}
    benchmark.pedantic(build, args=(cache,), kwargs=changed, rounds=1)


def test_verity(cache: Path, benchmark: Any) -> None:
    verity = {"name": "verity", "boot": "uki", "root": "verity-erofs"}
    fetched(**verity)
    for tool in ("mkfs.erofs", "veritysetup", "ukify"):
        Workshop(surroundings()).toolbox.program(tool)
    benchmark.pedantic(build, args=(cache,), kwargs=verity, rounds=1)


def test_peer_mkosi(cache: Path, benchmark: Any) -> None:
    workshop = Workshop(surroundings())
    recipe = ImageRecipe.model_validate({"distribution": "debian"})
    apt = workshop.apt(lambda archive: archive.stable)
    if apt.archive.distribution != "debian":
        pytest.skip("mkosi is asked for a Debian image with the host's mirror")
    tools = extract(apt.fetch([*ESSENTIAL, *MKOSI]), cache / "tools")
    work = cache / "mkosi"
    sources = work / "mkosi.sandbox/etc/apt/sources.list.d"
    sources.mkdir(parents=True)
    suites = (*apt.suites, *apt.archive.backports)
    (sources / "mkosi.sources").write_text(apt.archive.sources(suites))
    packages = names(recipe, "debian", RELEASES["debian"])
    (work / "mkosi.conf").write_text(
        "[Distribution]\nDistribution=debian\n"
        f"Release={RELEASES['debian']}\n"
        "[Output]\nFormat=disk\n"
        "[Content]\nBootable=yes\nBootloader=uki\nWithDocs=no\nPackages=systemd-boot-efi\n"
        + "".join(f"        {package}\n" for package in packages if package != "tiny-initramfs")
    )
    python = cache / "python"
    python.mkdir()
    (python / "mkosi").symlink_to(tools / "usr/lib/python3/dist-packages/mkosi")
    for name in ("workspace", "packages"):
        (cache / name).mkdir()
    command = [
        *("env", f"PYTHONPATH={python}", sys.executable, "-m", "mkosi", "--force", f"--tools-tree={tools}"),
        *(f"--workspace-directory={cache / 'workspace'}", f"--package-cache-dir={cache / 'packages'}"),
        "build",
    ]

    def mkosi() -> None:
        subprocess.run(command, cwd=work, check=True, timeout=SECONDS, capture_output=True)

    benchmark.pedantic(mkosi, warmup_rounds=1, rounds=1)
