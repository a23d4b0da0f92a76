"""Builds guest images: from a recipe to a bootable disk, in stages that are kept."""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tdxstack.firmware.keys import DB, OwnKeys
from tdxstack.image import built, customise, disk, root_archive, sbom
from tdxstack.image.additions import additions
from tdxstack.image.boot_chain import BootChain, boot_chain, grub_config, kernel_command_line
from tdxstack.image.built import LOCK, SBOM, Image
from tdxstack.image.disk import Tools
from tdxstack.image.guest_side import GuestFile
from tdxstack.image.initramfs import VERITY_INIT, modules_for
from tdxstack.image.kernel import GuestKernel, guest_kernel
from tdxstack.image.packages import Lock
from tdxstack.image.recipe import Boot, ImageRecipe
from tdxstack.image.trees import Origin, Tree, tree_of
from tdxstack.image.zstd import unpacker
from tdxstack.run import Report, silent
from tdxstack.toolbox.apt import Deb
from tdxstack.toolbox.programs import Toolbox

PACKAGE = Path(__file__).parent.parent
"""The directory of the package tdxstack, whose guest side goes into images."""

VERSION = 2
"""Counts up with every change to how images are made that no digest in the cache key would show."""

_NEED = 3 << 29
"""Bytes of disk that an image takes while it is made, besides the files that are put into it."""


@dataclass(frozen=True, slots=True)
class Builder:
    """Where and with what images are built. `uid` is who runs this: users need user namespaces."""

    cache: Path
    toolbox: Toolbox
    uid: int
    report: Report = silent
    keys: OwnKeys | None = None
    """What unified kernel images are signed with."""

    def build(
        self, recipe: ImageRecipe, origin: Origin, *, refresh: bool = False, lock: Lock | None = None
    ) -> Image:
        """The image of `recipe`, built below `cache` if it is not there yet.

        The network is used only where no tree of the recipe's packages is in the cache, or with `refresh`,
        which looks for newer ones, or with a `lock`, whose packages are taken and whose time is the image's.
        Safe to call from several processes at once; a build that is killed leaves nothing that the next one
        does not remove.

        Raises `UnavailableError` for a missing network, namespace, space or kernel option, `CommandError`
        where a program fails, `UsageError` for a recipe that cannot be followed.
        """
        with built.only_builder(self.cache, self.report):
            tree = tree_of(
                recipe, origin, self.cache, uid=self.uid, report=self.report, refresh=refresh, lock=lock
            )
            if lock is not None:
                tree = replace(tree, build_time=lock.epoch)
            added = additions(recipe, tree.distribution, PACKAGE)
            key = _digest([tree.directory.name, str(tree.build_time), *self._identity(recipe, tree, added)])
            place = self.cache / "images" / key
            if not (place / built.MANIFEST).is_file():
                need = _NEED + 3 * sum(len(file.data) for file in added)
                with built.workspace(self.cache, need) as work:
                    self._make(recipe, tree, added, key, work)
                    built.publish(work / "image", place)
            return built.load(place)

    def _identity(self, recipe: ImageRecipe, tree: Tree, added: Sequence[GuestFile]) -> list[str]:
        """Of what an image depends on besides the installed tree."""
        command_line = kernel_command_line(recipe, "HASH" if recipe.root.verified else "")
        partitions = disk.table(None, {"x": b""}, size=recipe.size)
        return [
            str(VERSION),
            *(recipe.name, recipe.boot, recipe.root, recipe.format, str(recipe.size)),
            *(command_line, grub_config("VERSION", command_line), self._signer(recipe)),
            *(partitions.primary().hex(), *disk.vfat_arguments(partitions.partitions[0])),
            *disk.ext4_arguments(0),
            *(*modules_for(recipe.root), VERITY_INIT.read_text() if recipe.root.verified else ""),
            customise.users_script(recipe.users),
            *(f"{script.name} {built.sha256(script)}" for script in recipe.scripts),
            customise.SCRIPT.read_text() if customise.is_needed(recipe) else "",
            *(
                f"{file.path} {file.mode:o} {file.link} {hashlib.sha256(file.data).hexdigest()}"
                for file in added
            ),
        ]

    def _signer(self, recipe: ImageRecipe) -> str:
        if self.keys is None or recipe.boot is not Boot.UKI:
            return ""
        pem = self.keys.certificate_file(DB).read_text(encoding="ascii")
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()

    def _make(
        self, recipe: ImageRecipe, tree: Tree, added: Sequence[GuestFile], key: str, work: Path
    ) -> None:
        """Make the disk, what lies beside it, and its manifest in `work`/image."""
        self.report("guest image: kernel", 0.05)
        tools = Tools(self.toolbox, tree.build_time, self.report)
        kernel = guest_kernel(recipe, tree.archive, unpacker(self.toolbox, work, self.report))
        archive = self._root_archive(recipe, tree, added, kernel, work)
        verified = None
        if recipe.root.verified:
            self.report("guest image: verified root file system", 0.3)
            verified = disk.verified_root(tools, recipe.root, archive, work)
        self.report("guest image: boot files", 0.5)
        chain = boot_chain(
            *(recipe, tree.distribution, kernel, tree.loaders),
            *(verified.root_hash if verified else "", tools, work / "unified", self.keys),
        )
        self.report("guest image: disk", 0.6)
        raw = disk.assemble(tools, verified or archive, chain.esp, work, size=recipe.size)
        result = work / "image"
        result.mkdir()
        path = result / f"disk.{recipe.format.qemu}"
        self.report("guest image: format", 0.8)
        disk.convert(tools, raw, path, recipe.format)
        self.report("guest image: manifest", 0.9)
        self._finish(recipe, tree, kernel, chain, verified.root_hash if verified else "", key, path)
        self.report("guest image", 1.0)

    def _root_archive(
        self,
        recipe: ImageRecipe,
        tree: Tree,
        added: Sequence[GuestFile],
        kernel: GuestKernel,
        work: Path,
    ) -> Path:
        self.report("guest image: files", 0.1)
        files = list(added)
        if recipe.boot is Boot.GRUB:
            files.append(GuestFile(f"boot/initrd.img-{kernel.version}", kernel.initrd))
        root = work / "root.tar"
        root_archive.write(tree.archive, files, root, epoch=tree.build_time)
        if not customise.is_needed(recipe):
            return root
        return customise.customise(
            recipe,
            root,
            work / "customise",
            epoch=tree.build_time,
            log=self.cache / "customise.log",
            uid=self.uid,
            report=self.report,
        )

    def _finish(
        self,
        recipe: ImageRecipe,
        tree: Tree,
        kernel: GuestKernel,
        chain: BootChain,
        root_hash: str,
        key: str,
        path: Path,
    ) -> None:
        lock = replace(tree.lock, epoch=tree.build_time)
        beside = {
            **chain.beside,
            LOCK: lock.to_json(),
            SBOM: sbom.sbom(recipe.name, tree.distribution_name, _debs(lock), tree.licences, lock.epoch),
        }
        for name, data in beside.items():
            path.with_name(name).write_bytes(data)
        path.chmod(0o444)
        booted = {
            **chain.esp,
            f"boot/vmlinuz-{kernel.version}": kernel.image,
            f"boot/initrd.img-{kernel.version}": kernel.initrd,
        }
        image = Image(
            path=path,
            key=key,
            name=recipe.name,
            format=recipe.format.qemu,
            distribution=tree.distribution_name,
            release=tree.release,
            boot=recipe.boot.value,
            root=recipe.root.value,
            root_hash=root_hash,
            kernel_version=kernel.version,
            kernel_command_line=chain.command_line,
            root_uuid=str(disk.ROOT_UUID),
            build_time=tree.build_time,
            signed_by=self._signer(recipe),
            packages=tree.packages,
            suites=tree.suites,
            boot_files={name: hashlib.sha256(data).hexdigest() for name, data in sorted(booted.items())},
            files={name: built.sha256(path.with_name(name)) for name in (path.name, *sorted(beside))},
            warnings=kernel.warnings,
        )
        built.write_manifest(image)


def _debs(lock: Lock) -> list[Deb]:
    """The packages of a lock, without their files."""
    entries = sorted((name, *values) for group in lock.groups.values() for name, values in group.items())
    return [Deb(name, version, Path(), digest) for name, version, digest in entries]


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:16]
