"""GRUB's configuration, followed."""

from __future__ import annotations

import pytest

from tdxstack.errors import MalformedError
from tdxstack.prediction.grub_config import GrubBoot, follow

UUID = "7c1b4f4e-2d7a-4c0b-9d0e-000000000001"
SEARCH = f"search --no-floppy --fs-uuid --set=root {UUID}\n"


class Files:
    def __init__(self, **files: str) -> None:
        self.files = {f"/{name}": text.encode() for name, text in files.items()}

    def read(self, path: str) -> bytes | None:
        return self.files.get("/" + path.lstrip("/").replace(".", "_"))


ROOT = Files(kernel="K", initrd="I", second="J", more_cfg="linux /kernel from=more\nboot\n")


def boot(text: str) -> GrubBoot:
    return follow(Files(grub_cfg=text), "/grub.cfg", {UUID: ROOT})


def test_a_straight_configuration() -> None:
    kernel = "linux /kernel root=UUID=1 'rw'  quiet\ninitrd /initrd /second\nboot\n"
    found = boot("# comment\n" + SEARCH + "set timeout=0\n" + kernel)
    assert found == GrubBoot("/kernel", b"K", b"IJ", "BOOT_IMAGE=/kernel root=UUID=1 rw quiet")


def test_variables_and_further_files() -> None:
    expanded = boot(SEARCH + "set x=from\nlinux /kernel ${x}=$x\n")
    assert expanded.command_line == "BOOT_IMAGE=/kernel from=from"
    further = boot(SEARCH + "configfile /more.cfg\nlinux /initrd\n")
    assert further.command_line == "BOOT_IMAGE=/kernel from=more"


def test_what_follows_boot_is_not_run() -> None:
    assert boot(SEARCH + "linux /kernel a\nboot\nlinux /initrd b\n").kernel == b"K"


def test_a_second_kernel_forgets_the_first_ones_initrd() -> None:
    assert boot(SEARCH + "linux /kernel\ninitrd /initrd\nlinux /kernel b\n").initrd == b""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("menuentry x {\n", "line 1: the command 'menuentry' is not followed"),
        ("if true; then\n", "the command 'if' is not followed"),
        ("linux 'unclosed\n", "is not understood"),
        ("linux '/kernel' '$x'\n", "is not understood"),
        ("search --label x --set=root\n", "this search is not understood"),
        ("search --fs-uuid --set=root other\n", "no file system 'other'"),
        ("set root=(hd0,gpt1)\n", "names a device"),
        ("linux /absent\n", "there is no file /absent"),
        ("linux (hd0)/kernel\n", "is no path on GRUB's root device"),
        ("configfile /grub.cfg\n", "does not come to an end"),
        ("\n", "starts no kernel"),
    ],
)
def test_what_is_not_followed_is_named(text: str, problem: str) -> None:
    with pytest.raises(MalformedError) as caught:
        boot(text)
    assert problem in caught.value.message
