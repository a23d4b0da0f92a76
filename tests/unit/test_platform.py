from __future__ import annotations

from dataclasses import dataclass

import pytest

from tdxstack.errors import UnavailableError
from tdxstack.platform import KVM_CAP_VM_TYPES, Platform, choose_platform


@dataclass
class ScriptedHost:
    """A host whose KVM reports `vm_types`, or has no KVM where that is None."""

    vm_types: int | None

    def kvm_extension(self, capability: int) -> int:
        assert capability == KVM_CAP_VM_TYPES
        if self.vm_types is None:
            raise UnavailableError("/dev/kvm does not exist")
        return self.vm_types


@pytest.mark.parametrize(
    ("vm_types", "platform", "reason"),
    [
        (0b100001, Platform.HARDWARE, "KVM offers the TDX VM type"),
        (
            0b011111,
            Platform.EMULATED,
            "KVM does not offer the TDX VM type (KVM_CAP_VM_TYPES is 0x1f, bit 5 is clear)",
        ),
        (None, Platform.EMULATED, "/dev/kvm does not exist"),
    ],
)
def test_platform_follows_the_host(vm_types: int | None, platform: Platform, reason: str) -> None:
    choice = choose_platform(ScriptedHost(vm_types), None)
    assert (choice.platform, choice.reason) == (platform, reason)
    assert choice.emulated is (platform is Platform.EMULATED)


def test_emulated_on_request_even_on_a_tdx_host() -> None:
    assert choose_platform(ScriptedHost(0b100001), Platform.EMULATED).emulated


@pytest.mark.parametrize("vm_types", [0b011111, None])
def test_hardware_requested_and_absent_is_exit_code_3(vm_types: int | None) -> None:
    with pytest.raises(UnavailableError, match="cannot run TDs on hardware") as caught:
        choose_platform(ScriptedHost(vm_types), Platform.HARDWARE)
    assert caught.value.exit_code == 3
    assert "--platform emulated" in caught.value.hint
