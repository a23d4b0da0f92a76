"""What a machine needs and a QEMU lacks is told before it is started, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tdxstack.errors import UnavailableError
from tdxstack.machine.qemu_lacks import check_qemu, needed_types
from tdxstack.machine.spec_file import parse_spec
from tdxstack.platform import Platform
from tdxstack.qemu.abilities import Abilities, TdObject

BARE = Abilities("10.0.13", frozenset({"tcg-accel"}), {})
LACKING = {
    "kind: td, platform: hardware": "platform: no kvm-accel; kind: no tdx-guest",
    "kind: td, platform: emulated": "kind: no tdx-tcg-guest",
    "kind: efi, platform: hardware": "platform: no kvm-accel",
    "kind: efi, machine_type: pc-q35-10.1": "machine_type: no pc-q35-10.1-machine",
    "kind: efi, vsock: {}": "vsock: no vhost-vsock-pci",
    "kind: efi, tpm: on": "tpm: no tpm-crb; tpm: no tpm-emulator",
    "kind: legacy, tpm: on": "tpm: no tpm-tis; tpm: no tpm-emulator",
    "kind: efi, platform: hardware, sgx: [{size: 1M}]": "platform: no kvm-accel; sgx: no memory-backend-epc",
    "kind: efi, huge_pages: 2M": "huge_pages: no memory-backend-memfd",
    "kind: efi, vfio: ['01:00.0']": "vfio: no vfio-pci",
    "kind: efi, console: virtio": "console: no virtconsole",
    "kind: efi, guest_agent: on": "guest_agent: no virtserialport",
    "kind: efi, cpu: {model: Denverton}": "cpu.model: no Denverton-x86_64-cpu",
}


@pytest.mark.parametrize("text", LACKING)
def test_lacking_types(text: str) -> None:
    spec = parse_spec(f"{{{text}}}".encode(), Path())
    platform = spec.platform or Platform.EMULATED
    with pytest.raises(UnavailableError) as caught:
        check_qemu(spec, platform, BARE)
    assert caught.value.message == f"QEMU 10.0.13 cannot run this machine: {LACKING[text]}"
    types = frozenset(type_ for _, type_ in needed_types(spec, platform))
    check_qemu(spec, platform, Abilities("11.1.3", types, {}))


def test_lacking_properties_of_the_td() -> None:
    spec = parse_spec(f"{{emulation: {{ve: on, sept: log}}, td: {{mrowner: {'11' * 48}}}}}".encode(), Path())
    types = frozenset({"tcg-accel", "tdx-tcg-guest"})
    old = Abilities("10.0", types, {"tdx-tcg-guest": TdObject(frozenset({"mrowner", "ve"}), frozenset())})
    with pytest.raises(UnavailableError, match=r"emulation: tdx-tcg-guest has no sept$"):
        check_qemu(spec, Platform.EMULATED, old)
