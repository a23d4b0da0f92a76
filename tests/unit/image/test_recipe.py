from __future__ import annotations

from tdxstack.image import recipe


def test_grub_configuration() -> None:
    assert recipe.grub_config("7.3.4+deb13-cloud-amd64") == (
        "search --no-floppy --fs-uuid --set=root 7c1b4f4e-2d7a-4c0b-9d0e-7464782d3034\n"
        "linux /boot/vmlinuz-7.3.4+deb13-cloud-amd64 root=UUID=7c1b4f4e-2d7a-4c0b-9d0e-7464782d3034 rw"
        " console=ttyS0,115200 net.ifnames=0 systemd.show_status=1 systemd.log_level=notice\n"
        "initrd /boot/initrd.img-7.3.4+deb13-cloud-amd64\n"
        "boot\n"
    )


def test_boot_is_shown() -> None:
    options = recipe.kernel_command_line().split()
    assert "quiet" not in options
    assert any(option.startswith("console=ttyS0") for option in options)


def test_lists_have_no_doubles() -> None:
    packages = [
        [*recipe.ESSENTIAL, *recipe.SYSTEM, *distribution.kernel, *recipe.BOOT_LOADERS]
        for distribution in recipe.DISTRIBUTIONS.values()
    ]
    for names in (*packages, recipe.MASKED_UNITS, recipe.MASKED_GENERATORS):
        assert len(set(names)) == len(names)


def test_what_is_needed_is_not_masked() -> None:
    needed = {"ssh.service", "systemd-networkd.service", "systemd-udevd.service", "sys-kernel-config.mount"}
    assert needed.isdisjoint(recipe.MASKED_UNITS)
