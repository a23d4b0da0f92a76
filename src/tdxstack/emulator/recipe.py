"""How QEMU's source becomes the emulator: the patch series and the configuration, and a key for both."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import UnavailableError

PATCHES = Path(__file__).parent / "patches"
REQUIREMENTS = Path(__file__).parent / "requirements.txt"

CONFIGURE = (
    "--target-list=x86_64-softmmu",
    "--without-default-features",
    "--enable-system",
    "--enable-tcg",
    "--disable-kvm",
    "--enable-slirp",
    "--enable-pixman",
    "--enable-fdt=system",
    "--enable-tpm",
    "--enable-vhost-kernel",
    "--disable-docs",
    "--disable-user",
    "--disable-install-blobs",
    "--disable-rust",
    "--disable-debug-info",
)
PROGRAM = "qemu-system-x86_64"


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch of the series."""

    name: str
    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """The series to apply, in order, and the options to configure with."""

    patches: tuple[Patch, ...]
    options: tuple[str, ...]
    requirements: Path

    @classmethod
    def load(cls, patches: Path = PATCHES) -> Recipe:
        """The recipe with the series that `patches`/series lists (names, in order; `#` begins a comment).

        Raises `UnavailableError` where a file of the series is missing.
        """
        series = patches / "series"
        try:
            lines = series.read_text().splitlines()
            names = [line.split()[0] for line in lines if line.strip() and not line.lstrip().startswith("#")]
            found = tuple(
                Patch(name, patches / name, _sha256((patches / name).read_bytes())) for name in names
            )
        except FileNotFoundError as error:
            raise UnavailableError(f"{error.filename} is missing", hint="reinstall tdxstack") from None
        return cls(found, CONFIGURE, REQUIREMENTS)

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides about the result besides the source, in hexadecimal."""
        lines = [
            *(f"patch {patch.name} {patch.sha256}" for patch in self.patches),
            *(f"option {option}" for option in self.options),
            f"requirements {_sha256(self.requirements.read_bytes())}",
        ]
        return _sha256("\n".join(lines).encode())

    def key(self, source_sha256: str) -> str:
        """What a build of the source with that hash is kept under: 32 hexadecimal digits."""
        return _sha256(f"{source_sha256} {self.digest}".encode())[:32]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
