"""What a guest image is made of: packages, disk, kernel command line."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

VERSION = 1
"""Counts up with every change to how images are made that no digest in the cache key would show."""

ESSENTIAL = (
    "base-files",
    "base-passwd",
    "bash",
    "bsdutils",
    "coreutils",
    "dash",
    "debianutils",
    "diffutils",
    "dpkg",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "init-system-helpers",
    "libc-bin",
    "ncurses-base",
    "ncurses-bin",
    "perl-base",
    "sed",
    "sysvinit-utils",
    "tar",
    "util-linux",
)
"""The essential packages, of Debian and Ubuntu alike: what every other's installation may rely on."""

SYSTEM = (
    "acpid",
    "apt",
    "iproute2",
    "kmod",
    "openssh-server",
    "procps",
    "python3",
    "systemd-sysv",
    "tiny-initramfs",
    "udev",
)

BOOT_LOADERS = ("shim-signed", "grub-efi-amd64-signed")
"""Only their EFI programs are used; they are not installed in the guest."""

GRUB = "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"


@dataclass(frozen=True, slots=True)
class Distribution:
    """What differs between the distributions that guests are made of."""

    kernel: tuple[str, ...]
    backported_kernel: bool
    """Whether the kernel is taken from the backports suite, for one that has the RTMRs in sysfs."""
    shim: str
    grub_directory: str
    """Where on the EFI system partition the signed GRUB looks for its configuration."""
    initramfs_modules: tuple[str, ...]
    """What the kernel, having it not built in, reads the root file system with."""
    masked_units: tuple[str, ...] = ()
    """Besides `MASKED_UNITS`."""


DISTRIBUTIONS = {
    "debian": Distribution(
        kernel=("linux-image-cloud-amd64", "linux-base-cloud-amd64", "linux-modules-cloud-amd64"),
        backported_kernel=True,
        shim="usr/lib/shim/shimx64.efi.signed",
        grub_directory="EFI/debian",
        initramfs_modules=("virtio_blk",),
    ),
    "ubuntu": Distribution(
        kernel=("linux-image-virtual",),
        backported_kernel=False,
        shim="usr/lib/shim/shimx64.efi.signed.latest",
        grub_directory="EFI/ubuntu",
        initramfs_modules=(),
        # the first would ask a server of Ubuntu's for news; the second is of no use without logind
        masked_units=("motd-news.timer", "systemd-logind-varlink.socket"),
    ),
}

DISK_SIZE = 4 << 30
ESP_SIZE = 32 << 20
DISK_UUID = UUID("7c1b4f4e-2d7a-4c0b-9d0e-7464782d3031")
ESP_UUID = UUID("7c1b4f4e-2d7a-4c0b-9d0e-7464782d3032")
ROOT_PARTITION_UUID = UUID("7c1b4f4e-2d7a-4c0b-9d0e-7464782d3033")
ROOT_UUID = UUID("7c1b4f4e-2d7a-4c0b-9d0e-7464782d3034")
HASH_SEED = UUID("7c1b4f4e-2d7a-4c0b-9d0e-7464782d3035")
ESP_VOLUME_ID = "74647831"

KERNEL_OPTIONS = (
    "rw",
    "console=ttyS0,115200",
    "net.ifnames=0",
    "systemd.show_status=1",
    "systemd.log_level=notice",
)

MASKED_UNITS = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "autovt@.service",
    "console-getty.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "fstrim.timer",
    "getty-static.service",
    "getty.target",
    "getty@.service",
    "kmod-static-nodes.service",
    "ldconfig.service",
    "modprobe@dm_mod.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "modprobe@loop.service",
    "proc-sys-fs-binfmt_misc.automount",
    "run-lock.mount",
    "serial-getty@.service",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-binfmt.service",
    "systemd-hibernate-clear.service",
    "systemd-journal-catalog-update.service",
    "systemd-journal-flush.service",
    "systemd-journald-audit.socket",
    "systemd-logind.service",
    "systemd-network-generator.service",
    "systemd-networkd-persistent-storage.service",
    "systemd-pcrmachine.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-pcrphase.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-sysusers.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-tmpfiles-setup-dev-early.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-tpm2-setup-early.service",
    "systemd-tpm2-setup.service",
    "systemd-udev-load-credentials.service",
    "systemd-update-done.service",
    "systemd-update-utmp.service",
    "systemd-user-sessions.service",
    "systemd-vconsole-setup.service",
    "tmp.mount",
)
"""Units that a guest without passwords, terminals and upgrades of its own does not need; each costs seconds
where every instruction is emulated."""

MASKED_GENERATORS = (
    "systemd-bless-boot-generator",
    "systemd-cryptsetup-generator",
    "systemd-debug-generator",
    "systemd-getty-generator",
    "systemd-gpt-auto-generator",
    "systemd-hibernate-resume-generator",
    "systemd-import-generator",
    "systemd-integritysetup-generator",
    "systemd-rc-local-generator",
    "systemd-run-generator",
    "systemd-ssh-generator",
    "systemd-system-update-generator",
    "systemd-sysv-generator",
    "systemd-tpm2-generator",
    "systemd-veritysetup-generator",
)
"""Programs that systemd runs at every start to make units; the fstab generator remains."""


def kernel_command_line() -> str:
    """The options that GRUB starts the kernel with, without BOOT_IMAGE, which GRUB puts before them."""
    return " ".join((f"root=UUID={ROOT_UUID}", *KERNEL_OPTIONS))


def grub_config(kernel_version: str) -> str:
    """GRUB's configuration: no menu, no wait; every line is measured as it is executed."""
    return (
        f"search --no-floppy --fs-uuid --set=root {ROOT_UUID}\n"
        f"linux /boot/vmlinuz-{kernel_version} {kernel_command_line()}\n"
        f"initrd /boot/initrd.img-{kernel_version}\n"
        "boot\n"
    )
