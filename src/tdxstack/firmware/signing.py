"""Signs EFI programs for Secure Boot, by sbsign: kernels, unified kernel images, boot loaders."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tdxstack.errors import CommandError
from tdxstack.firmware.keys import DB, OwnKeys, certificate_file, key_file
from tdxstack.firmware.signatures import authority
from tdxstack.measurement.pe import Image
from tdxstack.run import Report, run, silent
from tdxstack.toolbox.programs import Program, Toolbox

_SECONDS = 120.0


def sign(program: bytes, keys: OwnKeys, toolbox: Toolbox, *, report: Report = silent) -> bytes:
    """An EFI program with a signature of the own db key behind those that it has.

    The same program gives the same bytes: the signature bears the time from which the key is valid, which no
    firmware looks at.
    Raises `MalformedError` for what is no PE image, `CommandError` where sbsign fails.
    """
    Image.parse(program)
    with tempfile.TemporaryDirectory(prefix="tdx-sign-") as name:
        source, target = Path(name, "program.efi"), Path(name, "signed.efi")
        source.write_bytes(program)
        command = sign_command(toolbox.program("sbsign", report), source, target, keys.directory)
        run([*_fixed_time(keys), *command], timeout=_SECONDS)
        signed = target.read_bytes()
    if not is_signed_by(Image.parse(signed), keys):
        raise CommandError(
            "sbsign made a signature that firmware would not accept",
            hint="check that it is a whole EFI program",
        )
    return signed


def sign_command(program: Program, source: Path, target: Path, keys: Path) -> list[str]:
    """How sbsign signs the file `source` into the file `target`, with the db key of the directory `keys`."""
    pair = ("--key", key_file(keys, DB), "--cert", certificate_file(keys, DB))
    return program.argv(*pair, "--output", target, source)


def _fixed_time(keys: OwnKeys) -> list[str]:
    """What gives libfaketime(1), in the toolbox's sbsign, a time that stands still."""
    start = int(keys.certificates[DB].not_valid_before_utc.timestamp())
    return ["env", "TZ=UTC", "FAKETIME_FMT=%s", f"FAKETIME={start}"]


def is_signed_by(image: Image, keys: OwnKeys) -> bool:
    """Whether a firmware whose db holds only the own key lets it start."""
    return authority(image, keys.database()) is not None
