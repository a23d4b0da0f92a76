"""TDX module files: which release, whose signature, for which CPUs.

MRSEAM is the SHA-384 of the module file; the SEAM loader compares it with the SEAMHASH that Intel has signed.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from tdxstack.abi.seam_sigstruct import SeamSigstruct
from tdxstack.abi.tdx_blob import MAX_MODULE_PAGES, MAX_SIGSTRUCT_PAGES, PAGE, SIGNATURE, VERSION_1, TdxBlob
from tdxstack.errors import MalformedError, RejectedError, UsageError
from tdxstack.verification.result import Check, Status, judged, ok

MAX_FILE: Final = (1 + MAX_SIGSTRUCT_PAGES + MAX_MODULE_PAGES) * PAGE
RSA_EXPONENT: Final = 65537

CPU_NAMES: Final[Mapping[int, str]] = {
    0x806F: "Sapphire Rapids",
    0xC06F: "Emerald Rapids",
    0xA06F: "Sierra Forest",
    0xA06D: "Granite Rapids",
    0xA06E: "Granite Rapids D",
}
"""CPUID.1:EAX without the stepping (Linux arch/x86/include/asm/intel-family.h)."""

_SUFFIX: Final = ".sigstruct"
_VERSION_IN_NAME = re.compile(r"([0-9]+\.[0-9]+\.[0-9]+)(?=[._-]|$)")
# EMSA-PKCS1-v1_5 of RFC 8017: the DigestInfo of SHA-384 before the digest itself.
_DIGEST_INFO: Final = bytes.fromhex("3041300d060960864801650304020205000430")


@dataclass(frozen=True, slots=True)
class Release:
    """A TDX module that Intel has published. `svn` is minor, major: TEE_TCB_SVN[0] and [1]."""

    version: str
    mrseam: bytes
    built: date
    svn: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Releases:
    """The published modules, and the keys that sign them (by SHA-384 of the modulus)."""

    releases: tuple[Release, ...]
    signers: Mapping[str, str]

    @classmethod
    def load(cls) -> Releases:
        """Those that come with this version of tdxstack."""
        table = tomllib.loads((files("tdxstack.host") / "module_releases.toml").read_text("utf-8"))
        rows = table["modules"]
        releases = (
            Release(
                row["version"], bytes.fromhex(row["mrseam"]), row["built"], (row["svn"][0], row["svn"][1])
            )
            for row in rows
        )
        return cls(tuple(releases), table["signers"])

    def of_mrseam(self, mrseam: bytes) -> Release | None:
        """The release with this MRSEAM."""
        return next((release for release in self.releases if release.mrseam == mrseam), None)

    def of_version(self, version: str) -> Release | None:
        """The release of this version, as `1.5.16` or as the kernel writes it, `1.5.5`."""
        wanted = version_key(version)
        return next((one for one in self.releases if version_key(one.version) == wanted), None)

    def built_on(self, day: int) -> Release | None:
        """The release of this build date, a decimal number YYYYMMDD, if one only has it."""
        found = [release for release in self.releases if f"{release.built:%Y%m%d}" == str(day)]
        return found[0] if len(found) == 1 else None


@dataclass(frozen=True, slots=True)
class ModuleFile:
    """A TDX module with its sigstruct, from one file or two."""

    path: Path
    form: str
    """`blob 1.0`, `blob 2.0` or `separate files`."""
    module: bytes
    sigstruct: SeamSigstruct
    release: Release | None
    """By MRSEAM; None for a module that this version of tdxstack does not know."""

    @property
    def mrseam(self) -> bytes:
        """SHA-384 of the module."""
        return hashlib.sha384(self.module).digest()

    @property
    def version(self) -> str:
        """By MRSEAM where it is known, else as the file's name says; empty without either."""
        if self.release:
            return self.release.version
        named = _VERSION_IN_NAME.search(self.path.name)
        return named[1] if named else ""

    @property
    def svn(self) -> tuple[int, int]:
        """Minor, major."""
        return self.sigstruct.minor_svn, self.sigstruct.major_svn

    @property
    def signer(self) -> str:
        """SHA-384 of the RSA modulus that the sigstruct names, in hex."""
        return hashlib.sha384(self.sigstruct.modulus).hexdigest()


@dataclass(frozen=True, slots=True)
class MappedRelease:
    """A row of Intel's mapping file: from which versions a runtime update keeps TDs running."""

    version: str
    minimum_running: str
    seamldr_versions: tuple[str, ...]


def read_module(path: Path, sigstruct: Path | None, releases: Releases) -> ModuleFile:
    """Read a blob, or a module with its sigstruct: the one given, or the one beside it.

    Raises `UsageError` where a file cannot be read or there is no sigstruct, and `MalformedError`
    on anything that is no TDX module.
    """
    data = _read(path)
    if SIGNATURE in (data[4:12], data[8:16]):
        blob = TdxBlob.parse(data)
        form = "blob 1.0" if blob.version == VERSION_1 else "blob 2.0"
        parsed = SeamSigstruct.parse(blob.sigstruct[: SeamSigstruct.SIZE])
        return _identified(path, form, blob.module, parsed, releases)
    if path.name.endswith(_SUFFIX):
        raise UsageError(f"{path} is a sigstruct", hint="name the module; its sigstruct is found beside it")
    beside = sigstruct or _sigstruct_of(path)
    parsed = SeamSigstruct.parse(_read(beside))
    if not data or len(data) % PAGE:
        raise MalformedError(
            f"{path} has {len(data)} bytes, not whole pages of {PAGE}",
            hint="take a TDX module: intel_tdx_module.so, tdx_module_*.bin or a .blob file",
        )
    return _identified(path, "separate files", data, parsed, releases)


def _identified(
    path: Path, form: str, module: bytes, sigstruct: SeamSigstruct, releases: Releases
) -> ModuleFile:
    release = releases.of_mrseam(hashlib.sha384(module).digest())
    return ModuleFile(path, form, module, sigstruct, release)


def _sigstruct_of(path: Path) -> Path:
    candidates = (path.with_name(path.name + _SUFFIX), path.with_suffix(_SUFFIX))
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        names = " or ".join(dict.fromkeys(candidate.name for candidate in candidates))
        raise UsageError(
            f"there is no sigstruct beside {path}",
            hint=f"put {names} there, or use a --sigstruct option",
        )
    return found


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", hint="give a file that you may read"
        ) from None
    if len(data) > MAX_FILE:
        raise MalformedError(
            f"{path} has more than {MAX_FILE} bytes, the most a TDX module has",
            hint="take a TDX module file",
        )
    return data


def signature_holds(sigstruct: SeamSigstruct) -> bool:
    """Whether the RSA signature (PKCS #1 v1.5, SHA-384) is of the key that the sigstruct itself names."""
    modulus = int.from_bytes(sigstruct.modulus, "little")
    signature = int.from_bytes(sigstruct.signature, "little")
    if sigstruct.exponent != RSA_EXPONENT or signature >= modulus:
        return False
    size = len(sigstruct.modulus)
    digest = _DIGEST_INFO + hashlib.sha384(sigstruct.signed_bytes()).digest()
    wanted = b"\0\1" + b"\xff" * (size - len(digest) - 3) + b"\0" + digest
    return pow(signature, RSA_EXPONENT, modulus).to_bytes(size, "big") == wanted


def check_file(module: ModuleFile, releases: Releases) -> list[Check]:
    """Whether the SEAM loader would take the file as such, and whether it is Intel's."""
    named = releases.signers.get(module.signer, "")
    signer = ok("module.signer", "Intel", named) if named else _unknown_signer(module.signer)
    return [
        judged(
            "module.hash",
            module.mrseam == module.sigstruct.seamhash,
            module.sigstruct.seamhash.hex(),
            module.mrseam.hex(),
            "module and sigstruct are not of one release",
        ),
        judged(
            "module.signature",
            signature_holds(module.sigstruct),
            "an RSA signature over the sigstruct",
            "it holds" if signature_holds(module.sigstruct) else "it does not hold",
            "the sigstruct was changed or is damaged",
        ),
        signer,
        judged(
            "module.production",
            not module.sigstruct.debug_signed,
            "a production signature",
            "debug-signed" if module.sigstruct.debug_signed else "production",
            "production CPUs refuse a debug-signed module",
        ),
    ]


def _unknown_signer(fingerprint: str) -> Check:
    return Check("module.signer", Status.WARNING, "Intel", fingerprint, "a key that tdxstack does not know")


def read_sound_module(path: Path, releases: Releases) -> ModuleFile:
    """Read a module that a SEAM loader would take on a production CPU.

    Raises `RejectedError` where hash, signature or signing mode are wrong, and what `read_module` raises.
    """
    module = read_module(path, None, releases)
    wrong = next((check for check in check_file(module, releases) if check.status is Status.FAIL), None)
    if wrong is not None:
        raise RejectedError(
            f"no TD will run on the module {path}: {wrong.detail}",
            hint="take a TDX module release of Intel's; `tdx host module show` shows what a file is",
        )
    return module


def cpu_name(signature: int) -> str:
    """A CPUID.1:EAX as people write it: name where known, family and model."""
    family = (signature >> 8 & 0xF) + (signature >> 20 & 0xFF)
    model = (signature >> 4 & 0xF) | (signature >> 12 & 0xF0)
    name = CPU_NAMES.get(signature >> 4, "")
    return f"{name} (family {family}, model {model})" if name else f"family {family}, model {model}"


def version_key(version: str) -> tuple[int, ...]:
    """A version for comparing: 1.5.05 is 1.5.5. Raises `MalformedError` on anything but three numbers."""
    parts = version.strip().split(".")
    if len(parts) != 3 or not all(part.isascii() and part.isdecimal() and len(part) < 6 for part in parts):
        raise MalformedError(
            f"{version[:40]!r} is no version of a TDX module", hint="a version is like 1.5.16"
        )
    return tuple(int(part) for part in parts)


def parse_mapping(data: bytes) -> dict[tuple[int, ...], MappedRelease]:
    """Intel's mapping_file.json, by version. Raises `MalformedError`."""
    try:
        document: Any = json.loads(data)
        rows = document["tdx_module_releases"]
        releases = [
            MappedRelease(
                str(row["version"]),
                str(row["min_module_version_for_td_preserving"]),
                tuple(str(version) for version in row["min_seamldr_versions"]),
            )
            for row in rows
        ]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MalformedError(
            f"the mapping file is not as Intel's: {type(error).__name__} {error}",
            hint="take mapping_file.json of Intel's TDX module binaries",
        ) from None
    for release in releases:
        for version in (release.minimum_running, *release.seamldr_versions):
            version_key(version)
    return {version_key(release.version): release for release in releases}
