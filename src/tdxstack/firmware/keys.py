"""The user's own Secure Boot keys: made on first use, kept where only their owner can read them.

PK (platform key) lets keys be exchanged, KEK (key exchange key) lets db and dbx be written, db lets programs
start. In a TD no variable outlasts the machine, so that PK and KEK only say whose firmware it is; programs
are signed with db. Source: UEFI specification 2.11, section 32.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tdxstack.errors import UnavailableError
from tdxstack.files import lock, make_private, new_directory, refuse_others, write_atomically
from tdxstack.firmware.signatures import certificate_list

OWNER = UUID("daa38fad-3baf-4d61-80a4-49bf497240ae")
"""Who added an entry to a key list, as the lists say it: tdxstack."""

PK, KEK, DB = "PK", "KEK", "db"
NAMES = (PK, KEK, DB)
RSA_BITS, RSA_EXPONENT = 2048, 65537
"""The only size that the UEFI specification lets every firmware verify."""

# Fixed, so that a wrong clock on the day of first use does no lasting harm; firmware looks at neither.
_NOT_BEFORE = datetime(2024, 1, 1, tzinfo=UTC)
_NOT_AFTER = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """The keys in `directory`, and their certificates by name: PK, KEK and db."""

    directory: Path
    certificates: Mapping[str, x509.Certificate]

    def certificate_file(self, name: str) -> Path:
        """The certificate of one of `NAMES`, PEM."""
        return certificate_file(self.directory, name)

    def key_file(self, name: str) -> Path:
        """Its private key, PEM (PKCS #8), readable by the owner only."""
        return key_file(self.directory, name)

    def database(self) -> bytes:
        """A db that holds the own key and nothing else, as signature lists."""
        return certificate_list(OWNER, self.certificates[DB].public_bytes(Encoding.DER))


def certificate_file(directory: Path, name: str) -> Path:
    """Where a certificate is or would be."""
    return directory / f"{name}.pem"


def key_file(directory: Path, name: str) -> Path:
    """Where a private key is or would be."""
    return directory / f"{name}.key"


def open_own_keys(directory: Path) -> OwnKeys:
    """The keys kept in `directory`, made if there are none. Any number of processes may do this at once.

    Raises `UnavailableError` where the directory is damaged or open to others, and changes nothing.
    """
    try:
        make_private(directory.parent)
        with lock(directory.with_name(f".{directory.name}.lock")):
            if not directory.exists() or not any(directory.iterdir()):
                with new_directory(directory) as unfinished:
                    for name in NAMES:
                        _make(unfinished, name)
            refuse_others(directory, "Secure Boot")
            return OwnKeys(directory, {name: _load(directory, name) for name in NAMES})
    except OSError as error:
        raise UnavailableError(
            f"Secure Boot keys cannot be kept in {directory}: {error.strerror}: {error.filename}",
            hint="make that place writable for you, or choose another (XDG_DATA_HOME)",
        ) from None


def _make(directory: Path, name: str) -> None:
    key = rsa.generate_private_key(RSA_EXPONENT, RSA_BITS)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_atomically(key_file(directory, name), pem, mode=0o600)
    certificate = _self_signed(f"tdxstack Secure Boot {name}", key)
    write_atomically(certificate_file(directory, name), certificate.public_bytes(Encoding.PEM))


def _self_signed(common_name: str, key: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _load(directory: Path, name: str) -> x509.Certificate:
    """Read and check one key and its certificate."""
    path = certificate_file(directory, name)
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        path = key_file(directory, name)
        key = load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError:
        raise _damaged(path, "is missing") from None
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _damaged(path, f"cannot be read: {error}") from None
    if not isinstance(key, rsa.RSAPrivateKey) or key.public_key() != certificate.public_key():
        raise _damaged(path, "does not belong to its certificate")
    return certificate


def _damaged(path: Path, what: str) -> UnavailableError:
    return UnavailableError(
        f"the Secure Boot keys are damaged: {path} {what}",
        hint=f"restore {path.parent} from a copy, or move it away: new keys are then made, "
        "and images signed with the old ones no longer start where only the new are enrolled",
    )
