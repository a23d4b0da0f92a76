"""Writes Secure Boot keys into the variable store inside a TDVF image, by virt-fw-vars run as a program.

A TD has no flash for variables: what its image holds is what the firmware starts with, every time. The store
is measured into RTMR0 and not into MRTD.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from cryptography.hazmat.primitives.serialization import Encoding

from tdxstack.abi.tdvf import CFV, Metadata
from tdxstack.errors import CommandError, MalformedError, UsageError
from tdxstack.firmware.certificates import read_certificate
from tdxstack.firmware.contents import Contents, open_contents
from tdxstack.firmware.keys import DB, KEK, NAMES, OWNER, PK
from tdxstack.firmware.signatures import certificate_list
from tdxstack.firmware.variables import SECURE_BOOT_ENABLE, SecureBoot
from tdxstack.firmware.volumes import NV_DATA
from tdxstack.measurement.firmware_boot import GLOBAL, IMAGE_SECURITY_DATABASE
from tdxstack.measurement.mrtd import Mrtd, mrtd
from tdxstack.measurement.signature_list import X509, parse_signature_lists, subject_name
from tdxstack.run import Argv, command_line, run

DBX = "dbx"
VENDORS: Mapping[str, UUID] = {
    PK: GLOBAL,
    KEK: GLOBAL,
    DB: IMAGE_SECURITY_DATABASE,
    DBX: IMAGE_SECURITY_DATABASE,
}
SWITCH = "SecureBootEnable"
DBX_ATTRIBUTES = 0x27
"""Kept, readable at boot and at run time, written with a signature that bears a time."""

_SECONDS = 120.0
_TOO_SMALL = b"varstore is too small"
_REPORT_IT = "nothing was written; report this, with the version of virt-firmware"
TAKE_TDVF = "take a TDVF built with Secure Boot, such as OVMF.inteltdx.ms.fd"


@dataclass(frozen=True, slots=True)
class Enrollment:
    """What is to be written.

    `own` are certificate files of PK, KEK and db; empty for setup mode, which deletes PK. `keep`: leave the
    KEK and db that the image has, Microsoft's as a rule. `db` and `dbx` are further certificate files, PEM or
    DER.
    """

    own: Mapping[str, Path]
    keep: bool = True
    db: tuple[Path, ...] = ()
    dbx: tuple[Path, ...] = ()

    def files(self) -> dict[str, tuple[Path, ...]]:
        """The certificate files for each of PK, KEK, db and dbx."""
        own = {name: (self.own[name],) if name in self.own else () for name in NAMES}
        return own | {DB: own[DB] + self.db, DBX: self.dbx}


@dataclass(frozen=True, slots=True)
class Enrolled:
    """An image with other keys, checked: all but its variable store is as it was."""

    image: bytes
    before: Contents
    after: Contents
    mrtd: Mrtd
    added: Mapping[str, tuple[bytes, ...]]
    """Certificates (DER) that came into each of PK, KEK, db and dbx."""
    removed: Mapping[str, tuple[bytes, ...]]

    def to_json(self) -> dict[str, object]:
        """What changed, for `tdx firmware enroll --json` (docs/reference/json.md)."""
        return {
            "sha256": hashlib.sha256(self.image).hexdigest(),
            "secure_boot": {"before": self.before.secure_boot.value, "after": self.after.secure_boot.value},
            "variables": {
                name: {"added": _names(self.added[name]), "removed": _names(self.removed[name])}
                for name in VENDORS
            },
            "mrtd": {"single_pass": self.mrtd.single_pass.hex(), "two_pass": self.mrtd.two_pass.hex()},
            "rtmr0_changes": self.before.image != self.image,
        }


def enroll_command(
    program: Argv, firmware: Path, contents: Contents, enrollment: Enrollment, dbx: Path, output: Path
) -> list[str]:
    """What writes into `output` the image `firmware`, whose `contents` are given, with other keys.

    `dbx` is the file with the new dbx, which is used only where certificates are added to it. Raises
    `MalformedError` for what is no TDVF, `UsageError` for one that would not look at its keys.
    """
    _check_store(contents)
    words: list[str | Path] = [os.fspath(word) for word in program]
    words += ["--input", firmware]
    gone = [*([] if enrollment.keep else [KEK, DB]), *([] if enrollment.own else [PK])]
    for name in gone:
        if (VENDORS[name], name) in contents.variables:
            words += ["--delete", name]
    files = enrollment.files()
    for name, option in ((PK, "--set-pk"), (KEK, "--add-kek"), (DB, "--add-db")):
        for path in files[name]:
            words += [option, str(OWNER), path]
    if files[DBX]:
        words += ["--set-json", dbx]
    if (SECURE_BOOT_ENABLE, SWITCH) in contents.variables:
        words += ["--set-true", SWITCH]
    return [str(word) for word in (*words, "--output", output)]


def enroll(program: Argv, firmware: Path, image: bytes, enrollment: Enrollment) -> Enrolled:
    """The `image` in the file `firmware` with other keys; `program` is the start of virt-fw-vars' command.

    Raises `MalformedError` for what is no TDVF or no certificate, `UsageError` where the store is too small
    or the firmware would not look at it, `CommandError` where the program does not do what was asked.
    """
    before = open_contents(image)
    wanted = {
        name: [read_certificate(path).public_bytes(Encoding.DER) for path in paths]
        for name, paths in enrollment.files().items()
    }
    with tempfile.TemporaryDirectory(prefix="tdx-enroll-") as name:
        dbx, output = Path(name, "dbx.json"), Path(name, "firmware.fd")
        argv = enroll_command(program, firmware, before, enrollment, dbx, output)
        dbx.write_text(json.dumps(_revocations(before, wanted[DBX])))
        done = run(argv, timeout=_SECONDS, check=False)
        if _TOO_SMALL in done.stderr:
            raise UsageError(
                f"the variable store of {firmware} is too small for these certificates",
                hint="give fewer, or drop those that the firmware came with (--no-microsoft)",
            )
        if done.returncode or not output.is_file():
            reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise CommandError(f"virt-fw-vars failed: {reason}", hint=f"it was run as: {command_line(argv)}")
        changed = output.read_bytes()
    after = _checked(before, changed, setup_mode=not enrollment.own)
    old, new = ({key: certificates(contents, key) for key in VENDORS} for contents in (before, after))
    for key, certain in wanted.items():
        stays = key == DBX or (enrollment.keep and key != PK)
        if set(new[key]) != {*certain, *(old[key] if stays else ())}:
            raise CommandError(f"virt-fw-vars made other certificates of {key}", hint=_REPORT_IT)
    return Enrolled(
        image=changed,
        before=before,
        after=after,
        mrtd=mrtd(changed),
        added={key: tuple(one for one in new[key] if one not in old[key]) for key in VENDORS},
        removed={key: tuple(one for one in old[key] if one not in new[key]) for key in VENDORS},
    )


def certificates(contents: Contents, name: str) -> tuple[bytes, ...]:
    """The certificates (DER) in PK, KEK, db or dbx, in order."""
    stored = contents.variables.get((VENDORS[name], name))
    lists = parse_signature_lists(stored.data) if stored else ()
    return tuple(data for one in lists if one.type == X509 for _, data in one.signatures)


def _names(ders: Sequence[bytes]) -> list[dict[str, str]]:
    return [{"subject": subject_name(der), "sha256": hashlib.sha256(der).hexdigest()} for der in ders]


def _check_store(contents: Contents) -> None:
    if contents.problems:
        raise MalformedError(f"no TD can start with it: {'; '.join(contents.problems)}", hint=TAKE_TDVF)
    if contents.secure_boot is SecureBoot.UNSUPPORTED:
        raise UsageError("the firmware has no Secure Boot, and would look at no keys", hint=TAKE_TDVF)
    if not any(volume.filesystem == NV_DATA for volume in contents.volumes):
        raise UsageError("the firmware image has no variable store", hint=TAKE_TDVF)


def _revocations(contents: Contents, more: Sequence[bytes]) -> dict[str, object]:
    """dbx with certificates (DER) added, as virt-fw-vars reads variables."""
    stored = contents.variables.get((VENDORS[DBX], DBX))
    present = certificates(contents, DBX)
    data = stored.data if stored else b""
    data += b"".join(certificate_list(OWNER, der) for der in dict.fromkeys(more) if der not in present)
    variable = {"name": DBX, "guid": str(VENDORS[DBX]), "attr": DBX_ATTRIBUTES, "data": data.hex()}
    return {"version": 2, "variables": [variable]}


def _checked(before: Contents, changed: bytes, *, setup_mode: bool) -> Contents:
    """What the image has become. Raises `CommandError` where more has changed than keys."""
    metadata = before.metadata
    assert metadata is not None, "it was found to be a TDVF"
    own = {*((VENDORS[name], name) for name in (*NAMES, DBX)), (SECURE_BOOT_ENABLE, SWITCH)}
    try:
        after = open_contents(changed)
    except MalformedError as error:
        raise CommandError(f"virt-fw-vars made a broken image: {error.message}", hint=_REPORT_IT) from None
    rests = {_without_store(image, metadata) for image in (before.image, changed)}
    if len(rests) > 1 or mrtd(before.image) != mrtd(changed):
        raise CommandError("virt-fw-vars changed more than the variable store", hint=_REPORT_IT)
    for key in {*before.variables, *after.variables} - own:
        if before.variables.get(key) != after.variables.get(key):
            raise CommandError(f"virt-fw-vars changed the variable {key[1]}", hint=_REPORT_IT)
    state = SecureBoot.SETUP if setup_mode else SecureBoot.ENABLED
    if after.secure_boot is not state:
        raise CommandError(f"Secure Boot came out as {after.secure_boot.value}", hint=_REPORT_IT)
    return after


def _without_store(image: bytes, metadata: Metadata) -> bytes:
    """An image with zeros for the CFV: what is left is the BFV and the metadata."""
    rest = bytearray(image)
    for section in metadata.of_type(CFV):
        rest[section.data_offset : section.data_offset + section.data_size] = bytes(section.data_size)
    return bytes(rest)
