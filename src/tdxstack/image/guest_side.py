"""What tdxstack puts into a guest: its own guest side as one zipapp, configuration, and enabled units."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tdxstack.image.distribution import MASKED_GENERATORS, MASKED_UNITS, Distribution

PACKAGED = ("__init__.py", "errors.py", "exchange.py", "abi", "evidence")
"""What of tdxstack the guest side consists of: modules and packages, standard library only."""

ZIPAPP = "usr/lib/tdxstack/tdx-guest.pyz"

# zip files know no time before 1980
_TIME = (1980, 1, 1, 0, 0, 0)
_MAIN = b'import runpy\n\nrunpy.run_module("tdxstack.evidence", run_name="__main__", alter_sys=True)\n'
_UNITS = "/etc/systemd/system"
# For guests that were not made here; sshd takes the first value that it finds.
_KEY_OF_THE_HOST = b"""\
# The key of whoever starts the machine, besides those that are in the image.
AuthorizedKeysFile /sys/firmware/qemu_fw_cfg/by_name/opt/org.tdxstack/authorized_key/raw .ssh/authorized_keys
PermitRootLogin prohibit-password
"""
_READY = b"""\
[Unit]
Description=Tell the console that the guest can be reached
Wants=network-online.target
After=network-online.target ssh.service sshd.service cloud-config.service

[Service]
Type=oneshot
ExecStart=/usr/bin/echo "tdxstack: ready"
StandardOutput=journal+console

[Install]
WantedBy=multi-user.target
"""
_EVIDENCE = ("tdx-guest", "60-tdxstack.rules")
_ENABLED = (
    ("multi-user.target.wants", f"{_UNITS}/tdxstack-ready.service"),
    ("ssh.service.requires", f"{_UNITS}/tdxstack-host-key.service"),
    ("multi-user.target.wants", "/usr/lib/systemd/system/systemd-networkd.service"),
    ("sysinit.target.wants", "/usr/lib/systemd/system/modprobe@.service"),
)


@dataclass(frozen=True, slots=True)
class GuestFile:
    """A file, or (`link`) a symbolic link to `link`, that is put into the guest, owned by root."""

    path: str
    data: bytes = b""
    mode: int = 0o644
    link: str = ""


def zipapp(package: Path) -> bytes:
    """The guest side of the tdxstack whose package directory is `package`, as an executable zip file.

    The same sources give the same bytes: members are sorted, stored uncompressed, dated 1980-01-01.
    Run it with `python3 FILE`; it behaves as `python3 -m tdxstack.evidence`.
    """
    members = {f"tdxstack/{name}": data for name, data in _sources(package)}
    members["__main__.py"] = _MAIN
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, _TIME)
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            archive.writestr(info, members[name])
    return buffer.getvalue()


def guest_files(package: Path, distribution: Distribution) -> list[GuestFile]:
    """Everything that is put into the installed tree, in order of the paths."""
    templates = package / "image/guest"
    found = [
        GuestFile(
            str(path.relative_to(templates)), path.read_bytes(), 0o755 if path.parent.name == "bin" else 0o644
        )
        for path in templates.rglob("*")
        if path.is_file()
    ]
    found.append(GuestFile(ZIPAPP, zipapp(package)))
    # Empty, not absent: systemd then makes one for this instance, but does not apply its first-boot presets.
    found.append(GuestFile("etc/machine-id", b"", 0o444))
    masked = (*MASKED_UNITS, *distribution.masked_units)
    found += [GuestFile(f"etc/systemd/system/{unit}", link="/dev/null") for unit in masked]
    found += [
        GuestFile(f"etc/systemd/system-generators/{name}", link="/dev/null") for name in MASKED_GENERATORS
    ]
    found.append(
        GuestFile("etc/systemd/system/default.target", link="/usr/lib/systemd/system/multi-user.target")
    )
    # They date the whole installation: nothing has to be brought up to date at the first start.
    found += [GuestFile(name) for name in ("etc/.updated", "var/.updated")]
    for wanted_by, unit in _ENABLED:
        name = Path(unit).name.replace("modprobe@", "modprobe@tdx_guest")
        found.append(GuestFile(f"etc/systemd/system/{wanted_by}/{name}", link=unit))
    return sorted(found, key=lambda file: file.path)


def evidence_files(package: Path) -> list[GuestFile]:
    """What a guest that was not made here needs for `tdx up`: evidence, the host's key, and to say so."""
    templates = package / "image/guest"
    paths = [path for path in templates.rglob("*") if path.is_file()]
    wanted = [path for path in paths if path.name.startswith("tdxstack-evidence") or path.name in _EVIDENCE]
    found = [
        GuestFile(
            str(path.relative_to(templates)), path.read_bytes(), 0o755 if path.parent.name == "bin" else 0o644
        )
        for path in wanted
    ]
    unit = "etc/systemd/system/tdxstack-ready.service"
    found += [
        GuestFile(ZIPAPP, zipapp(package)),
        GuestFile("etc/modules-load.d/tdx-guest.conf", b"tdx_guest\nqemu_fw_cfg\n"),
        GuestFile("etc/ssh/sshd_config.d/10-tdxstack.conf", _KEY_OF_THE_HOST),
        GuestFile(unit, _READY),
        GuestFile("etc/systemd/system/multi-user.target.wants/tdxstack-ready.service", link=f"/{unit}"),
    ]
    return sorted(found, key=lambda file: file.path)


def _sources(package: Path) -> Iterator[tuple[str, bytes]]:
    for name in PACKAGED:
        path = package / name
        for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            yield str(source.relative_to(package)), source.read_bytes()
