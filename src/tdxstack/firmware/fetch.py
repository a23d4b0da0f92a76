"""Fetches the distribution's TDVF for hosts that have none, into the user's cache."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tdxstack.firmware.find import SYSTEM_DIRECTORIES, Firmware, find
from tdxstack.run import Report, silent
from tdxstack.toolbox.apt import AptRoot, extract

PACKAGE = "ovmf-inteltdx"


def fetch(apt: AptRoot, cache: Path, *, report: Report = silent) -> Firmware:
    """The firmware of package `ovmf-inteltdx`, unpacked below `cache` under its version.

    Downloads and unpacks only what is not there yet; the host is not changed. Raises
    `UnavailableError` where the archive lacks the package or it holds no firmware for TDs.
    """
    [deb] = apt.fetch([PACKAGE], with_dependencies=False, report=report)
    tree = extract([deb], cache / f"{deb.name}_{deb.version}_{deb.sha256[:16]}", report=report)
    return _in_tree(tree)


def cached(cache: Path) -> Firmware | None:
    """The firmware that was fetched last, without network; None if there is none."""
    trees = [path for path in cache.glob(f"{PACKAGE}_*") if path.is_dir()]
    if not trees:
        return None
    return _in_tree(max(trees, key=lambda path: path.stat().st_mtime_ns))


def _in_tree(tree: Path) -> Firmware:
    places = [tree / directory.relative_to("/") for directory in SYSTEM_DIRECTORIES]
    firmware = find(places, root=tree).first()
    return dataclasses.replace(firmware, version=tree.name.split("_")[1])
