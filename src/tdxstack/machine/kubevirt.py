"""From a machine's specification to a KubeVirt VirtualMachine.

As KubeVirt 1.7 to 1.9 define it (kubevirt.io/api core/v1: schema.go and types.go; what a TD may not have:
pkg/virt-api/webhooks/amd64.go). Their `launchSecurity.tdx` has no settings.
"""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from tdxstack.errors import UsageError
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import Console, Disk, Kind, Nic, Smbios, Td
from tdxstack.platform import Platform
from tdxstack.terminal import printable

HINT = "leave that out, or set it up in the cluster; docs/how-to/libvirt.md lists what KubeVirt cannot do"

_PAGE_SIZES = {"2M": "2Mi", "1G": "1Gi"}


def build_virtual_machine(spec: MachineSpec) -> str:
    """The VirtualMachine as YAML, below comments that say what the cluster must have for it.

    Raises `UsageError` that names everything that KubeVirt cannot do.
    """
    if refused := list(refusals(spec)):
        raise UsageError(f"KubeVirt cannot run machine {spec.name!r}: {'; '.join(refused)}", hint=HINT)
    volumes = _volumes(spec)
    template: dict[str, object] = {
        "architecture": "amd64",
        "domain": _domain(spec),
        "networks": [{"name": "default", "pod": {}} for _ in spec.nics],
        "volumes": [
            {"name": name, "persistentVolumeClaim": {"claimName": _claim(spec, name)}} for name in volumes
        ],
    }
    document = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": spec.name},
        "spec": {
            "runStrategy": "Always",
            "template": {
                "metadata": {"labels": {"kubevirt.io/domain": spec.name}},
                "spec": {key: value for key, value in template.items() if value},
            },
        },
    }
    comments = "".join(f"# {printable(line)}\n" for line in _notes(spec))
    return comments + yaml.safe_dump(document, sort_keys=False)


def refusals(spec: MachineSpec) -> Iterator[str]:
    """What KubeVirt cannot do of a machine, each with the reason."""
    if spec.kind is Kind.TD:
        if spec.platform is Platform.EMULATED:
            yield "platform: TDs of a cluster run on TDX hardware"
        for name in Td.model_fields:
            if getattr(spec.td, name) != getattr(Td(), name):
                yield f"td.{name}: launchSecurity.tdx has no settings"
    if spec.firmware is not None:
        yield "firmware: KubeVirt brings its own"
    if spec.direct_kernel is not None or spec.uki is not None:
        kernel = "uki" if spec.uki is not None else "direct_kernel"
        yield f"{kernel}: KubeVirt takes a kernel out of a container image only"
    if not spec.machine_type.removeprefix("pc-").startswith("q35"):
        yield f"machine_type: KubeVirt has q35 machines, not {spec.machine_type}"
    if spec.console is not Console.SERIAL:
        yield "console: KubeVirt's console is the serial port"
    if spec.cpu.model == "max":
        yield "cpu.model: max is a CPU of TCG, and KubeVirt's machines run on KVM"
    if spec.cpu.tsc_frequency is not None:
        yield "cpu.tsc_frequency: KubeVirt has no setting for it"
    if spec.pinning:
        yield "pinning: KubeVirt chooses the CPUs that it dedicates to a machine"
    if spec.vsock is not None and spec.vsock.cid is not None:
        yield "vsock.cid: KubeVirt chooses it"
    if spec.smbios != Smbios():
        yield "smbios: KubeVirt has strings of its own"
    for name, reason in (
        ("numa", "KubeVirt takes the nodes from those of the host"),
        ("sgx", "KubeVirt has no setting for it"),
        ("fw_cfg", "KubeVirt has no setting for it"),
        ("vfio", "KubeVirt takes devices by names that the cluster has given to their kinds"),
    ):
        if getattr(spec, name):
            yield f"{name}: {reason}"
    if spec.pic is not None:
        yield "pic: KubeVirt has no setting for it"
    yield from _network_refusals(spec.nics)


def _network_refusals(nics: tuple[Nic, ...]) -> Iterator[str]:
    for number, nic in enumerate(nics):
        if nic.type != "user":
            yield f"nics.{number}: other networks than the pod's are made by the cluster"
        elif number:
            yield f"nics.{number}: a machine joins the pod's network once"


def _domain(spec: MachineSpec) -> dict[str, object]:
    domain: dict[str, object] = {
        "machine": {"type": spec.machine_type},
        "cpu": _cpu(spec),
        "memory": {"guest": f"{spec.memory}Mi"},
        "firmware": {"bootloader": _boot_loader(spec)},
        "devices": _devices(spec),
    }
    if spec.huge_pages is not None:
        domain["memory"] = {
            "guest": f"{spec.memory}Mi",
            "hugepages": {"pageSize": _PAGE_SIZES[spec.huge_pages]},
        }
    if spec.smm is not None:
        domain["features"] = {"smm": {"enabled": spec.smm}}
    if spec.kind is Kind.TD:
        domain["launchSecurity"] = {"tdx": {}}
    return domain


def _cpu(spec: MachineSpec) -> dict[str, object]:
    cpu: dict[str, object] = {
        "model": "host-passthrough" if spec.cpu.model in (None, "host") else spec.cpu.model
    }
    shape = spec.topology
    if shape is None:
        cpu["cores"] = spec.vcpus
    else:
        cpu |= {"sockets": shape.sockets, "cores": shape.cores, "threads": shape.threads}
    if spec.cpu.features:
        cpu["features"] = [
            {"name": name, "policy": "require" if on else "disable"}
            for name, on in sorted(spec.cpu.features.items())
        ]
    return cpu


def _boot_loader(spec: MachineSpec) -> dict[str, object]:
    # Secure Boot is on unless refused, and wants SMM, which before 1.9 goes for a TD too, that has none.
    return {"bios": {}} if spec.kind is Kind.LEGACY else {"efi": {"secureBoot": bool(spec.smm)}}


def _devices(spec: MachineSpec) -> dict[str, object]:
    devices: dict[str, object] = {
        "autoattachGraphicsDevice": False,
        "autoattachMemBalloon": False,
        "rng": {},
        "disks": [_disk(name, disk) for name, disk in _volumes(spec).items()],
        "interfaces": [_interface(nic) for nic in spec.nics],
    }
    if not spec.nics:
        devices["autoattachPodInterface"] = False
    if spec.vsock is not None:
        devices["autoattachVSOCK"] = True
    if spec.tpm:
        devices["tpm"] = {}
    return devices


def _volumes(spec: MachineSpec) -> dict[str, Disk | None]:
    """The disks by the names of their volumes; None for tdx's own image."""
    said: list[Disk | None] = [] if spec.diskless else [spec.image]
    return {f"disk{number}": disk for number, disk in enumerate([*said, *spec.disks])}


def _disk(name: str, disk: Disk | None) -> dict[str, object]:
    target: dict[str, object] = {"bus": "virtio"}
    if disk is not None and disk.read_only:
        target["readonly"] = True
    entry: dict[str, object] = {"name": name, "disk": target}
    if disk is not None and disk.serial is not None:
        entry["serial"] = disk.serial
    return entry


def _interface(nic: Nic) -> dict[str, object]:
    interface: dict[str, object] = {"name": "default", "model": "virtio", "masquerade": {}}
    if nic.mac is not None:
        interface["macAddress"] = nic.mac
    return interface


def _claim(spec: MachineSpec, volume: str) -> str:
    return f"{spec.name}-{volume}"


def _notes(spec: MachineSpec) -> Iterator[str]:
    if spec.kind is Kind.TD:
        yield "A TD: KubeVirt 1.7 or newer on TDX hardware, with the feature gate WorkloadEncryptionTDX."
        yield "Quotes: KubeVirt 1.9 or newer; the QGS is the cluster's,"
        yield "spec.configuration.confidentialCompute.tdx.attestation of its KubeVirt object."
    if spec.vsock is not None:
        yield "vsock: the feature gate VSOCK."
    for name, disk in _volumes(spec).items():
        image = "tdx's own image" if disk is None else str(disk.path)
        writes = "" if disk is not None and not disk.has_overlay else ", and is written to"
        yield f"The claim {_claim(spec, name)} holds a copy of {image}{writes}."
    for nic in spec.nics:
        for forward in nic.forwards:
            yield (
                f"Port {forward.guest}/{forward.protocol} of the guest: make a Service, "
                "or use virtctl port-forward."
            )
    yield "The SSH key that tdx hands in by fw_cfg must be in the image, or come by cloud-init."
