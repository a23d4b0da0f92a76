"""What an image is to be, as people write it: one YAML file. docs/reference/image-recipe.md has every key."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tdxstack import yaml_text
from tdxstack.errors import MalformedError
from tdxstack.evidence.binding import host_key_blob

HINT = "docs/reference/image-recipe.md describes every key"
MIN_SIZE = 1 << 30
MAX_SIZE = 1 << 44

_UNITS = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d{1,9})([MGT])")
_PASSWORD_KEYS = ("password", "passwd", "hashed_passwd", "plain_text_passwd", "root_password")


class Boot(StrEnum):
    """What the firmware starts."""

    GRUB = "grub"
    """The distribution's signed shim and GRUB."""
    UKI = "uki"
    """One program: systemd's stub with kernel, command line and initial RAM file system."""
    DIRECT = "direct"
    """Nothing of the disk: kernel and initial RAM file system lie beside it, for `-kernel` and `-initrd`."""


class Root(StrEnum):
    """The root file system."""

    EXT4 = "ext4"
    VERITY_EROFS = "verity-erofs"
    VERITY_EXT4 = "verity-ext4"

    @property
    def verified(self) -> bool:
        """Whether every block that is read is checked against a root hash; writes go to memory then."""
        return self is not Root.EXT4


class Format(StrEnum):
    """Formats of the disk's file."""

    QCOW2 = "qcow2"
    QCOW2_ZSTD = "qcow2-zstd"
    """Compressed: for storage and transport; `tdx predict` does not read it."""
    RAW = "raw"
    """Sparse."""

    @property
    def qemu(self) -> str:
        """What QEMU calls it."""
        return "raw" if self is Format.RAW else "qcow2"


def _listed(value: object) -> object:
    """One value stands for a list of it."""
    return [value] if isinstance(value, str | dict) else value


def _place(value: object, info: ValidationInfo) -> object:
    """A path as it is from the recipe's directory."""
    if not isinstance(value, str) or not value:
        raise ValueError("give a path")
    return Path((info.context or {}).get("directory", "."), value)


def _existing(kind: Callable[[Path], bool], name: str) -> Callable[[Path], Path]:
    def check(path: Path) -> Path:
        if not kind(path):
            raise ValueError(f"{path} is no {name} that can be read")
        return path

    return check


def _mode(value: object) -> object:
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3,4}", value):
        raise ValueError(f"{str(value)[:20]!r} is no mode in octal, such as 0644")
    return int(value, 8)


def _size(value: object) -> object:
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    size = int(match[1]) * _UNITS[match[2]] if match else 0
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"{str(value)[:40]!r} is no size between 1G and 16T, such as 4G or 2500M")
    return size


def _target(value: str) -> str:
    parts = PurePosixPath(value).parts
    if not value.startswith("/") or len(parts) < 2 or not {"..", "."}.isdisjoint(value.split("/")):
        raise ValueError(f"{value[:100]!r} is no absolute path of a file without . and ..")
    if any(ord(character) < 32 for character in value):
        raise ValueError(f"{value[:100]!r} has control characters")
    return str(PurePosixPath(*parts[1:]))


def _ssh_key(value: object, info: ValidationInfo) -> str:
    """A public key as one line, or the file that has it."""
    text = str(value).strip()
    if " " not in text:
        path = Path((info.context or {}).get("directory", "."), text)
        try:
            text = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise ValueError(f"{str(value)[:80]!r} is neither an SSH public key nor a file of one") from None
    if "PRIVATE KEY" in text:
        raise ValueError(f"{str(value)[:80]!r} is a private key; give the public one")
    try:
        host_key_blob(text.encode())
    except MalformedError as error:
        raise ValueError(error.message) from None
    return text


def _keys(value: object, info: ValidationInfo) -> object:
    if value in (None, "own"):
        return value
    path = _place(value, info)
    if not isinstance(path, Path) or not path.is_dir():
        raise ValueError(f"{path} is no directory of keys; give one, or own")
    return path


ReadableFile = Annotated[Path, BeforeValidator(_place), AfterValidator(_existing(Path.is_file, "file"))]
Package = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]*([=/][A-Za-z0-9.+:~_-]+)?$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]
Account = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
Release = Annotated[str, Field(pattern=r"^[a-z]{1,32}$")]
SshKeys = Annotated[list[Annotated[str, BeforeValidator(_ssh_key)]], BeforeValidator(_listed)]
Octal = Annotated[int | None, BeforeValidator(_mode)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_passwords(cls, value: object) -> object:
        found = [key for key in _PASSWORD_KEYS if isinstance(value, dict) and key in value]
        if found:
            raise ValueError(f"{found[0]}: images have no passwords; give ssh_keys")
        return value


class File(_Strict):
    """A file or directory that is put into the image, owned by root."""

    source: Annotated[
        Path | None, BeforeValidator(_place), AfterValidator(_existing(Path.exists, "file or directory"))
    ] = None
    content: str | None = None
    target: Annotated[str, AfterValidator(_target)]
    """Without the leading slash."""
    mode: Octal = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.source is None) == (self.content is None):
            raise ValueError("give either source or content")
        return self


class User(_Strict):
    """An account that SSH keys alone open."""

    name: Account
    ssh_keys: SshKeys = []
    groups: Annotated[list[Account], BeforeValidator(_listed)] = []
    shell: Annotated[str, Field(pattern=r"^/[A-Za-z0-9/._-]+$")] = "/bin/bash"
    sudo: bool = False

    @field_validator("name")
    @classmethod
    def _not_root(cls, name: str) -> str:
        if name == "root":
            raise ValueError("root is there already; its keys are `ssh_keys` of the recipe")
        return name


class CloudInit(_Strict):
    """cloud-init, with its seed (data source NoCloud) in the image; an empty one is for a seed disk."""

    user_data: ReadableFile | None = None
    meta_data: ReadableFile | None = None


class Mkosi(_Strict):
    """What mkosi is to make."""

    distribution: Literal["alma", "centos", "debian", "fedora", "rocky", "ubuntu"]
    release: Annotated[str, Field(pattern=r"^[A-Za-z0-9.]{1,32}$")]
    mirror: Annotated[str, Field(pattern=r"^https?://[!-~]+$")] | None = None
    packages: Annotated[
        list[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9+._/:=~-]*$")]],
        BeforeValidator(_listed),
        Field(min_length=1),
    ]
    """All but what the distribution's smallest system has: also the kernel, systemd and sshd."""


class Base(_Strict):
    """A disk image to customise: a file, an address with its checksum, or what mkosi makes."""

    mkosi: Mkosi | None = None
    image: ReadableFile | None = None
    url: Annotated[str, Field(pattern=r"^https?://[!-~]+$")] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.image is not None) + (self.url is not None) + (self.mkosi is not None) != 1:
            raise ValueError("give one of image, url and mkosi")
        if self.url is not None and self.sha256 is None:
            raise ValueError("sha256: what is downloaded needs its checksum")
        return self


class Kernel(_Strict):
    """Which kernel: by origin, by version, or from package files."""

    origin: Literal["default", "distribution", "backports"] = "default"
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9.+:~-]{1,80}$")] | None = None
    debs: Annotated[list[ReadableFile], BeforeValidator(_listed)] = []

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return {"origin": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.origin != "default") + (self.version is not None) + bool(self.debs) > 1:
            raise ValueError("give one of origin, version and debs")
        return self


BASE_TAKES = frozenset({"name", "base", "hostname", "files", "ssh_keys", "cloud_init", "format"})
"""Keys of a recipe that go with `base`."""


class ImageRecipe(_Strict):
    """One image. The defaults are the image that `tdx up` starts from."""

    name: Name = "tdx"
    base: Base | None = None
    """Customised instead of installing a system; what `BASE_TAKES` does not have stays as it is in it."""
    distribution: Literal["debian", "ubuntu"] | None = None
    """The host's, if none is given."""
    release: Release | None = None
    mirror: str = ""
    kernel: Kernel = Kernel()
    boot: Boot = Boot.GRUB
    root: Root = Root.EXT4
    size: Annotated[int, BeforeValidator(_size)] = 4 << 30
    """Bytes of the disk; a verified root makes it as large as its contents."""
    hostname: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")] = "tdx"
    kernel_options: Annotated[list[Annotated[str, Field(pattern=r"^[!-~]+$")]], BeforeValidator(_listed)] = []
    packages: Annotated[list[Package], BeforeValidator(_listed)] = []
    files: Annotated[list[File], BeforeValidator(_listed)] = []
    users: Annotated[list[User], BeforeValidator(_listed)] = []
    ssh_keys: SshKeys = []
    """Of root, besides the one that a machine is started with."""
    cloud_init: CloudInit | None = None
    guest_agent: bool = False
    scripts: Annotated[list[ReadableFile], BeforeValidator(_listed)] = []
    secure_boot: Annotated[Literal["own"] | Path | None, BeforeValidator(_keys)] = None
    """Sign with the keys in a directory, or with those that `tdx firmware enroll` makes."""
    format: Format = Format.QCOW2

    @field_validator("users")
    @classmethod
    def _different(cls, users: list[User]) -> list[User]:
        names = [user.name for user in users]
        doubles = sorted({name for name in names if names.count(name) > 1})
        if doubles:
            raise ValueError(f"{doubles[0]!r} is there twice")
        return users

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        kept = sorted(self.model_fields_set - BASE_TAKES)
        if self.base is not None and kept:
            raise ValueError(
                f"{', '.join(kept)}: a base image keeps its own, since nothing of it runs here; with it go "
                f"only {', '.join(sorted(BASE_TAKES))}; cloud-init does the rest at the first start"
            )
        changed = [option for option in self.kernel_options if set(option) & set("'\"\\")]
        if changed and self.boot is Boot.GRUB:
            raise ValueError(
                f"kernel_options: GRUB does not pass {changed[0]!r} on as it is: leave out quotes and "
                "backslashes, or use uki or direct"
            )
        if self.root.verified and self.boot is Boot.GRUB:
            raise ValueError(
                "boot: GRUB's configuration is not signed, so that nothing would vouch for the root hash; "
                "a verified root needs uki or direct"
            )
        if self.root.verified and "size" in self.model_fields_set:
            raise ValueError("size: a verified root is as large as its contents")
        if self.secure_boot is not None and self.boot is not Boot.UKI:
            raise ValueError("secure_boot: only what boots as uki is signed with keys of one's own")
        return self


def parse_recipe(
    text: bytes, directory: Path, options: Mapping[str, Any] | None = None, *, name: str = ""
) -> ImageRecipe:
    """Read a recipe in YAML whose paths start at `directory`. `options` replace what it says, list by list.

    `name` is what an image is called whose recipe does not say. Raises `MalformedError` that lists everything
    that is wrong, with its place.
    """
    document = yaml_text.load(text, "recipe", hint=HINT)
    if isinstance(document, dict):
        document = ({"name": name} if name else {}) | document | dict(options or {})
    try:
        return ImageRecipe.model_validate(document, context={"directory": str(directory)})
    except ValidationError as error:
        raise yaml_text.invalid(error, "recipe", hint=HINT, text=text) from None
