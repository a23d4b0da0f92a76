"""What differs between releases of edk2 in what a TD measures.

Source: the history of tianocore/edk2, OvmfPkg/IntelTdx, OvmfPkg/Tcg and SecurityPkg/Tcg.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace


@dataclass(frozen=True, slots=True)
class Shown:
    """The differences that a firmware image shows by itself.

    acpi: the ACPI tables that QEMU provides are measured (935343cf16).
    fw_cfg: items of fw_cfg that the firmware uses are measured (2eac71a1ee; IntelTdxX64 only).
    smbios: the SMBIOS table is measured (cd76265f1a).
    setup_option: UiApp is a boot option of its own, besides the boot manager's menu (d433b4c8e4).
    initrd_first: "initrd=initrd" stands before the command line of a direct kernel, not behind (a2ac0fea49).
    fat_flush: FAT volumes are flushed when boot services end, so that the first attempt fails (12c5ded287).
    named_kernel: a kernel that fw_cfg names etc/boot/kernel is taken as it is (20df7c42bd).
    """

    acpi: bool = False
    fw_cfg: bool = False
    smbios: bool = False
    setup_option: bool = False
    initrd_first: bool = False
    named_kernel: bool = False
    fat_flush: bool = False

    def __le__(self, other: Shown) -> bool:
        """Whether `other` shows everything that this does."""
        return all(mine <= theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True))


@dataclass(frozen=True, slots=True)
class Profile:
    """How one release measures. `name` is its stable tag.

    boot_variables_in_rtmr0: else they go into RTMR1 (e0dcfb31fb).
    separator_in_rtmr0: the separator at the first boot attempt goes into RTMR0, else into RTMR1 (efaf8931bb).
    """

    name: str
    shown: Shown
    boot_variables_in_rtmr0: bool = True
    separator_in_rtmr0: bool = False


TAG = "edk2-stable"


def _tag(release: str) -> str:
    return f"{TAG}{release}"


_BEFORE_202302 = Shown()
_BEFORE_202502 = Shown(acpi=True)
_202502 = replace(_BEFORE_202502, named_kernel=True)
_202505 = replace(_202502, fw_cfg=True, smbios=True, setup_option=True)
_202508 = replace(_202505, initrd_first=True)

PROFILES = (
    Profile(_tag("202211"), _BEFORE_202302, boot_variables_in_rtmr0=False, separator_in_rtmr0=True),
    *(
        Profile(_tag(release), _BEFORE_202502, separator_in_rtmr0=True)
        for release in ("202302", "202305", "202308", "202311", "202402", "202405", "202408")
    ),
    Profile(_tag("202411"), _BEFORE_202502),
    Profile(_tag("202502"), _202502),
    Profile(_tag("202505"), _202505),
    *(Profile(_tag(release), _202508) for release in ("202508", "202511", "202602", "202605")),
    Profile(_tag("202608"), replace(_202508, fat_flush=True)),
)
"""Oldest first."""


RELEASES = tuple(profile.name.removeprefix(TAG) for profile in PROFILES)
"""The names without what all begin with."""


def of_release(release: str) -> Profile:
    """The profile of a release, one of `RELEASES`."""
    return PROFILES[RELEASES.index(release)]


def look_alikes(profile: Profile) -> tuple[Profile, ...]:
    """Releases whose images show the same as this one's, and which measure otherwise."""
    named = next(one for one in PROFILES if one.name == profile.name)
    return tuple(
        one for one in PROFILES if one.shown == named.shown and replace(one, name=named.name) != named
    )
