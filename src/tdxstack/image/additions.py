"""The files that a recipe adds to the installed tree, or replaces in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tdxstack.errors import UsageError
from tdxstack.image.distribution import Distribution
from tdxstack.image.guest_side import GuestFile, evidence_files, guest_files
from tdxstack.image.recipe import CloudInit, File, ImageRecipe

SEED = "var/lib/cloud/seed/nocloud"
"""Where cloud-init's data source NoCloud looks before it looks for a disk labelled CIDATA."""

MAX_FILE_SIZE = 1 << 30

_NAME = re.compile("[^\x00-\x1f\x7f\ud800-\udfff]+")
_SSHD = "etc/ssh/sshd_config.d/tdxstack.conf"
_USER_SESSIONS = "etc/systemd/system/systemd-user-sessions.service"
_CLOUD_CONFIG = """\
# The host key and the network are tdxstack's: evidence binds the key that is there when sshd starts.
datasource_list: [NoCloud, None]
growpart: {mode: off}
manage_etc_hosts: false
network: {config: disabled}
resize_rootfs: false
ssh_deletekeys: false
ssh_genkeytypes: []
"""


def additions(recipe: ImageRecipe, distribution: Distribution, package: Path) -> list[GuestFile]:
    """Everything that is put into the tree, in order of the paths; what the recipe says comes last.

    `package` is the directory of the package tdxstack. Raises `UsageError` for a file that cannot be read.
    """
    found = {file.path: file for file in guest_files(package, distribution)}
    found[_SSHD] = _sshd(found[_SSHD], recipe)
    found["etc/hostname"] = GuestFile("etc/hostname", f"{recipe.hostname}\n".encode())
    hosts = found["etc/hosts"].data.decode().replace("127.0.1.1 tdx\n", f"127.0.1.1 {recipe.hostname}\n")
    found["etc/hosts"] = GuestFile("etc/hosts", hosts.encode())
    if recipe.ssh_keys:
        found |= {file.path: file for file in _root_keys(recipe)}
    for user in recipe.users:
        if user.sudo:
            path = f"etc/sudoers.d/{user.name}"
            found[path] = GuestFile(path, f"{user.name} ALL=(ALL:ALL) NOPASSWD: ALL\n".encode(), 0o440)
    if recipe.cloud_init is not None:
        # PAM lets only root in until this has run.
        del found[_USER_SESSIONS]
        found |= {file.path: file for file in _cloud_init(recipe.cloud_init, recipe.name)}
    for wanted in recipe.files:
        found |= {file.path: file for file in _files(wanted)}
    return sorted(found.values(), key=lambda file: file.path)


def base_additions(recipe: ImageRecipe, package: Path) -> list[GuestFile]:
    """What is put into a base image: tdxstack's guest side without its rules for the rest of the system."""
    found = {file.path: file for file in evidence_files(package)}
    if "hostname" in recipe.model_fields_set:
        found["etc/hostname"] = GuestFile("etc/hostname", f"{recipe.hostname}\n".encode())
    if recipe.ssh_keys:
        found |= {file.path: file for file in _root_keys(recipe)}
    if recipe.cloud_init is not None:
        for name, data in seed(recipe.cloud_init, recipe.name).items():
            found[f"{SEED}/{name}"] = GuestFile(f"{SEED}/{name}", data, 0o600)
    for wanted in recipe.files:
        found |= {file.path: file for file in _files(wanted)}
    return sorted(found.values(), key=lambda file: file.path)


def _root_keys(recipe: ImageRecipe) -> Iterator[GuestFile]:
    keys = "".join(f"{key}\n" for key in recipe.ssh_keys).encode()
    yield GuestFile("root/.ssh/authorized_keys", keys, 0o600)


def seed(cloud_init: CloudInit, name: str) -> dict[str, bytes]:
    """The files of a NoCloud seed by name; what the recipe does not give is the least that there must be."""
    user_data, meta_data = cloud_init.user_data, cloud_init.meta_data
    return {
        "meta-data": meta_data.read_bytes() if meta_data else f"instance-id: {name}\n".encode(),
        "user-data": user_data.read_bytes() if user_data else b"#cloud-config\n{}\n",
    }


def _cloud_init(cloud_init: CloudInit, name: str) -> Iterator[GuestFile]:
    yield GuestFile("etc/cloud/cloud.cfg.d/90_tdxstack.cfg", _CLOUD_CONFIG.encode())
    if cloud_init.user_data is not None or cloud_init.meta_data is not None:
        for file, data in seed(cloud_init, name).items():
            yield GuestFile(f"{SEED}/{file}", data, 0o600)


def _sshd(file: GuestFile, recipe: ImageRecipe) -> GuestFile:
    """Who may enter: root and the recipe's users; with cloud-init, whoever that makes an account of."""
    text = file.data.decode()
    if recipe.cloud_init is not None:
        # Accounts that cloud-init locks are closed to sshd, unless PAM decides.
        text = text.replace("AllowUsers root\n", "").replace("UsePAM no\n", "UsePAM yes\n")
    elif recipe.users:
        names = " ".join(["root", *(user.name for user in recipe.users)])
        text = text.replace("AllowUsers root\n", f"AllowUsers {names}\n")
    return GuestFile(file.path, text.encode(), file.mode)


def _files(wanted: File) -> Iterator[GuestFile]:
    source = wanted.source
    if source is None:
        yield GuestFile(wanted.target, (wanted.content or "").encode(), wanted.mode or 0o644)
    elif source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                continue
            if not path.is_file():
                raise UsageError(
                    f"{path} is a link to a directory, or to nothing, or no file",
                    hint="put a file in its place",
                )
            name = str(path.relative_to(source))
            if not _NAME.fullmatch(name):
                raise UsageError(
                    f"{name!r} in {source} has control characters or is no UTF-8", hint="rename the file"
                )
            yield _file(path, f"{wanted.target}/{name}", wanted.mode)
    else:
        yield _file(source, wanted.target, wanted.mode)


def _file(source: Path, target: str, mode: int | None) -> GuestFile:
    try:
        status = source.stat()
        if status.st_size > MAX_FILE_SIZE:
            raise UsageError(
                f"{source} has {status.st_size} bytes, more than {MAX_FILE_SIZE}",
                hint="give it to the guest on a disk of its own",
            )
        # only whether it can be run is taken over: other bits would depend on who checked the file out
        return GuestFile(target, source.read_bytes(), mode or (0o755 if status.st_mode & 0o100 else 0o644))
    except OSError as error:
        raise UsageError(
            f"{source} cannot be read: {error.strerror}", hint="leave it out of the recipe's files"
        ) from None
