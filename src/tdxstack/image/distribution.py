"""What guests of each distribution consist of: packages, boot loaders, units that are not needed."""

from __future__ import annotations

from dataclasses import dataclass

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

VERITY_PACKAGES = ("busybox-static", "cryptsetup-bin")
"""What the initial RAM file system of a guest with a verified root is made of."""

BOOT_LOADERS = ("shim-signed", "grub-efi-amd64-signed", "systemd-boot-efi")
"""Only their EFI programs are used; they are not installed in the guest."""

GRUB = "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
STUB = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"


@dataclass(frozen=True, slots=True)
class Distribution:
    """What differs between the distributions that guests are made of."""

    kernel: tuple[str, ...]
    """What has the release's own kernel."""
    backported_kernel: tuple[str, ...]
    """What has the kernel of the backports suite; nothing where there is none for guests."""
    shim: str
    grub_directory: str
    """Where on the EFI system partition the signed GRUB looks for its configuration."""
    initramfs_modules: tuple[str, ...]
    """What the kernel, having it not built in, reads the root file system with."""
    masked_units: tuple[str, ...] = ()
    """Besides `MASKED_UNITS`."""


DISTRIBUTIONS = {
    "debian": Distribution(
        kernel=("linux-image-cloud-amd64",),
        backported_kernel=(
            "linux-image-cloud-amd64",
            "linux-base-cloud-amd64",
            "linux-modules-cloud-amd64",
        ),
        shim="usr/lib/shim/shimx64.efi.signed",
        grub_directory="EFI/debian",
        initramfs_modules=("virtio_blk",),
    ),
    "ubuntu": Distribution(
        kernel=("linux-image-virtual",),
        backported_kernel=(),
        shim="usr/lib/shim/shimx64.efi.signed.latest",
        grub_directory="EFI/ubuntu",
        initramfs_modules=(),
        # the first would ask a server of Ubuntu's for news; the second is of no use without logind
        masked_units=("motd-news.timer", "systemd-logind-varlink.socket"),
    ),
}

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
