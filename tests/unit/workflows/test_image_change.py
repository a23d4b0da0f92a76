"""What is run to convert and to grow an image; the programs themselves are in tests/e2e."""

from __future__ import annotations

from pathlib import Path

import pytest

from tdxstack.errors import CommandError, MalformedError, UsageError
from tdxstack.toolbox.programs import Program
from tdxstack.workflows import image_change
from tdxstack.workflows.image_change import Form, parse_size, plan_growth
from tests.unit.prediction import disks

GROWN = 16 << 20


def programs(place: Path, **scripts: str) -> dict[str, Program]:
    """Stand-ins; those without a script only end well."""
    found = {}
    for name in image_change.GROWTH_PROGRAMS:
        path = place / f"run-{name}"
        path.write_text(f"#!/bin/sh\n{scripts.get(name.replace('-', '_'), 'exit 0')}\n")
        path.chmod(0o755)
        found[name] = Program(name, path, "toolbox", "1")
    return found


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(disks.disk({}, {}))
    path.chmod(0o640)
    return path


@pytest.mark.parametrize(
    ("text", "size"), [("8G", 8 << 30), ("512M", 512 << 20), ("+1G", (1 << 30) + 5), ("2T", 2 << 41 >> 1)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, 5) == size


@pytest.mark.parametrize("text", ["", "8", "8g", "-1G", "0G", "1.5G", "99T", "8GB", "G", "9999999999M"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="no size of a disk"):
        parse_size(text, 0)


def test_forms_by_name() -> None:
    names = ("a.raw", "a.img", "a.qcow2")
    assert [Form.of_name(Path(name)) for name in names] == [Form.RAW, Form.RAW, Form.QCOW2]
    with pytest.raises(UsageError, match="names no form"):
        Form.of_name(Path("a.vmdk"))


def test_converting_is_one_command_and_whole_or_nothing(tmp_path: Path, image: Path) -> None:
    script = f'echo "$@" > {tmp_path}/asked; for last; do :; done; echo made > "$last"'
    tools = programs(tmp_path, qemu_img=script)
    target = tmp_path / "out.qcow2"
    image_change.convert(tools, image, target, Form.QCOW2)
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith(f"convert -f raw -O qcow2 -c -o compression_type=zstd {image} ")
    assert target.read_text() == "made\n"
    with pytest.raises(CommandError):
        image_change.convert(programs(tmp_path, qemu_img="exit 1"), image, target, Form.RAW)
    assert target.read_text() == "made\n"
    with pytest.raises(UsageError, match="the image itself"):
        image_change.convert(tools, image, image, Form.RAW)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_growing_takes_the_last_partition_to_the_end(tmp_path: Path, image: Path) -> None:
    growth = plan_growth(image, image, "16M")
    assert (growth.partition.number, growth.old_size, growth.size) == (2, disks.DISK_SIZE, GROWN)
    # whole MiB, with room for the second table
    assert growth.partition_size == (15 << 20) - disks.ROOT_START
    commands = growth.commands(programs(tmp_path), Path("W"), Path("out"))
    names = [Path(command[0]).name.removeprefix("run-") for command in commands]
    assert names == [
        *("qemu-img", "qemu-img", "sfdisk", "qemu-img"),
        *("e2fsck", "resize2fs", "e2fsck"),
        *("qemu-img", "qemu-img"),
    ]
    assert growth.input_of(commands[2]) == f",{growth.partition_size // 512}\n".encode()
    assert image_change.shown(growth, commands[2]).startswith("echo ',")
    assert [growth.input_of(command) for command in commands if command != commands[2]] == [b""] * 8
    assert commands[-1][-4:] == ["-O", "raw", "W/disk.raw", "out"]


@pytest.mark.parametrize(
    ("content", "name"),
    [(b"LUKS\xba\xbe\0\2", "LUKS"), (b"verity\0\0", "dm-verity"), (bytes(2048), "nothing known")],
)
def test_only_ext4_is_grown(image: Path, content: bytes, name: str) -> None:
    data = bytearray(image.read_bytes())
    data[disks.ROOT_START : disks.ROOT_START + len(content)] = content
    image.write_bytes(data)
    with pytest.raises(UsageError, match=f"holds {name}"):
        plan_growth(image, image, "16M")


def test_what_is_not_larger_is_refused(image: Path) -> None:
    for text in ("1M", "6M"):
        with pytest.raises(UsageError, match="leaves no more room"):
            plan_growth(image, image, text)
    image.write_bytes(b"no disk")
    with pytest.raises(MalformedError):
        plan_growth(image, image, "16M")


@pytest.mark.parametrize("name", ["sfdisk", "e2fsck", "resize2fs"])
def test_a_failure_leaves_the_image_as_it_was(tmp_path: Path, image: Path, name: str) -> None:
    before = image.read_bytes()
    tools = programs(tmp_path, **{name: "echo what is wrong; exit 4"})
    with pytest.raises(CommandError, match=name):
        image_change.grow(tools, plan_growth(image, image, "16M"), image)
    assert image.read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_result_that_is_not_what_was_planned_is_refused(tmp_path: Path, image: Path) -> None:
    before = image.read_bytes()
    script = (
        f'[ "$1" = resize ] && exit; for last; do :; done; [ "${{last#/}}" = "$last" ] || cp {image} "$last"'
    )
    tools = programs(tmp_path, qemu_img=script)
    with pytest.raises(CommandError, match="the grown image has"):
        image_change.grow(tools, plan_growth(image, image, "16M"), image)
    assert image.read_bytes() == before
