"""mkosi as the engine for distributions that are not installed here: a disk to customise as a base.

mkosi is Python without dependencies, and is run by the interpreter that runs this; every program that it
starts comes from the tree that it has itself been unpacked into, which it takes for its tools.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tdxstack.errors import CommandError
from tdxstack.image.distribution import DISTRIBUTIONS
from tdxstack.image.recipe import Mkosi
from tdxstack.run import Report, stream
from tdxstack.toolbox.programs import Toolbox

TOOLSET = "mkosi"
_SECONDS = 60 * 60.0
_MODULE = "usr/lib/python3/dist-packages/mkosi"
_STAGE = "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"
_DOUBLE = "\N{TRIANGULAR BULLET}"
# systemd-repart makes FAT32 with clusters of 4 KiB, of which firmware wants 65525: 256 MiB are too few
_ESP = "[Partition]\nType=esp\nFormat=vfat\nCopyFiles=/boot:/\nCopyFiles=/efi:/\nSizeMinBytes=512M\n"
# the EFI system partition takes /boot away, and with it the kernel's configuration, be it a file or a link
_POSTINST = """\
#!/bin/sh -eu
for config in /boot/config-*; do
    [ -e "$config" ] || continue
    kept="/usr/lib/modules/${config#*config-}/config"
    cp "$config" "$kept.new"
    mv "$kept.new" "$kept"
done
"""
_ROOT = "[Partition]\nType=root\nFormat=ext4\nCopyFiles=/\nSizeMinBytes=4G\n"


def configuration(wanted: Mkosi, sources: str) -> dict[str, str]:
    """mkosi's files by path: one unified kernel image in the EFI system partition, and an ext4 root.

    `sources` are apt's, in place of those that mkosi would choose; empty for other package managers.
    """
    lines = [
        "[Distribution]",
        f"Distribution={wanted.distribution}",
        f"Release={wanted.release}",
        *([f"Mirror={wanted.mirror}"] if wanted.mirror and not sources else []),
        "[Output]",
        "Format=disk",
        "Output=base",
        "[Content]",
        "Bootable=yes",
        "Bootloader=uki",
        "WithDocs=no",
        # newer systemd does not bring it along, and mkosi's initial RAM file system has it no other way
        *(["InitrdPackages=mount"] if wanted.distribution in DISTRIBUTIONS else []),
        "KernelCommandLine=console=ttyS0,115200",
        "Packages=",
        *(f"        {package}" for package in wanted.packages),
    ]
    files = {
        "mkosi.postinst.chroot": _POSTINST,
        "mkosi.conf": "\n".join([*lines, ""]),
        "mkosi.repart/00-esp.conf": _ESP,
        "mkosi.repart/10-root.conf": _ROOT,
    }
    if sources:
        files["mkosi.sandbox/etc/apt/sources.list.d/mkosi.sources"] = sources
    return files


def build(
    wanted: Mkosi, sources: str, packages: Path, toolbox: Toolbox, work: Path, *, log: Path, report: Report
) -> Path:
    """Have mkosi build a raw disk below the new directory `work`, and return its path.

    Downloads are kept in `packages`. What mkosi says goes to `log`. Raises `CommandError` with its last word.
    """
    tools = toolbox.tree(TOOLSET, report)
    directory, modules = work / "recipe", work / "modules"
    for path, text in configuration(wanted, sources).items():
        place = directory / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(0o755 if text.startswith("#!") else 0o644)
    for place in (modules, work / "workspace", packages):
        place.mkdir(parents=True, exist_ok=True)
    (modules / "mkosi").symlink_to(tools / _MODULE)
    command = [
        *("env", f"PYTHONPATH={modules}", sys.executable, "-m", "mkosi", f"--tools-tree={tools}"),
        *(f"--workspace-directory={work / 'workspace'}", f"--package-cache-dir={packages}", "build"),
    ]
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        if line.startswith((_STAGE, _DOUBLE)):
            report(f"mkosi: {line.lstrip(_STAGE + _DOUBLE).strip()[:100]}", None)

    log.unlink(missing_ok=True)
    report("mkosi", None)
    try:
        stream(
            ["setpriv", "--pdeathsig", "KILL", *command],
            log=log,
            on_line=on_line,
            cwd=directory,
            timeout=_SECONDS,
        )
    except CommandError as error:
        said = next((line for line in reversed(lines) if line.startswith("E: ")), " ".join(lines[-1:]))
        raise CommandError(f"mkosi has failed: {said[:200]}", hint=f"see {log}") from error
    return directory / "base.raw"
