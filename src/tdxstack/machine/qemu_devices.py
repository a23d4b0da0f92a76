"""What QEMU is told of a machine's devices: disks, networks, consoles, channels, SMBIOS and fw_cfg."""

from __future__ import annotations

from tdxstack.errors import UsageError
from tdxstack.machine.placement import Placement
from tdxstack.machine.qemu_text import escape, json_option
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import Console, Disk, DiskFormat, Forward, Kind, Nic
from tdxstack.machine.store import MachineFiles

AUTHORIZED_KEY_ITEM = "opt/org.tdxstack/authorized_key"
"""fw_cfg item through which the SSH key comes in; TDVF measures no such item into any RTMR."""

AGENT_PORT = "org.qemu.guest_agent.0"
"""Name of the virtio port that QEMU's guest agent opens."""

BOOT_DISK = "disk0"
SSH = 22
SMBIOS_TYPES = {"bios": 0, "system": 1, "board": 2, "chassis": 3}


def disks(spec: MachineSpec, files: MachineFiles) -> list[str]:
    """The disk to boot from, then the others in order."""
    words = []
    if not spec.diskless:
        image = spec.image
        if image is None or image.has_overlay:
            words += _overlay(BOOT_DISK, files, 0)
        else:
            words += _image(BOOT_DISK, image)
        # QEMU gives a kernel of its own the first place in the boot order.
        index = 1 if spec.direct_kernel or spec.uki else 0
        words += ["-device", f"virtio-blk-pci,drive={BOOT_DISK}{_serial(image)},bootindex={index}"]
    for number, disk in enumerate(spec.disks, 1):
        node = f"disk{number}"
        words += _overlay(node, files, number) if disk.has_overlay else _image(node, disk)
        words += ["-device", f"virtio-blk-pci,drive={node}{_serial(disk)}"]
    return words


def _overlay(node: str, files: MachineFiles, number: int) -> list[str]:
    """An overlay ends with its machine, so that it need not outlive the host's power."""
    file = {"driver": "file", "filename": str(files.overlay(number))}
    cache = {"no-flush": True}
    return [
        "-blockdev",
        json_option(driver="qcow2", node_name=node, discard="unmap", cache=cache, file=file),
    ]


def _image(node: str, disk: Disk) -> list[str]:
    file = {"driver": "file", "filename": str(disk.path)}
    format_ = disk.known_format or DiskFormat.RAW
    option = json_option(
        driver=format_.value, node_name=node, discard="unmap", read_only=disk.read_only, file=file
    )
    return ["-blockdev", option]


def _serial(disk: Disk | None) -> str:
    return f",serial={disk.serial}" if disk is not None and disk.serial else ""


def networks(spec: MachineSpec, placement: Placement) -> list[str]:
    """The network cards. No card has an option ROM: what is to be measured is the firmware's own."""
    words = []
    lead_to_ssh = True
    for number, nic in enumerate(spec.nics):
        forwards = nic.forwards
        if nic.type == "user" and lead_to_ssh:
            lead_to_ssh = False
            if not any(forward.guest == SSH and forward.protocol == "tcp" for forward in forwards):
                forwards = (Forward(guest=SSH), *forwards)
        mac = nic.mac or placement.macs.get(number)
        words += ["-netdev", _netdev(f"net{number}", nic, forwards)]
        words += ["-device", f"virtio-net-pci,netdev=net{number}{f',mac={mac}' if mac else ''},romfile="]
    return words


def _netdev(name: str, nic: Nic, forwards: tuple[Forward, ...]) -> str:
    if nic.type == "tap":
        return f"tap,id={name},ifname={nic.interface},script=no,downscript=no"
    if nic.type == "bridge":
        return f"bridge,id={name},br={nic.bridge}"
    rules = (
        f",hostfwd={forward.protocol}:{forward.address}:{forward.host}-:{forward.guest}"
        for forward in forwards
    )
    return f"user,id={name}{''.join(rules)}"


def others(spec: MachineSpec, placement: Placement, files: MachineFiles) -> list[str]:
    """vsock, TPM and devices of the host."""
    words = []
    if spec.vsock is not None:
        cid = spec.vsock.cid or placement.vsock_cid
        if cid is None:
            raise UsageError("the vsock device has no CID", hint="say vsock.cid")
        words += ["-device", f"vhost-vsock-pci,guest-cid={cid}"]
    if spec.tpm:
        model = "tpm-tis" if spec.kind is Kind.LEGACY else "tpm-crb"
        words += ["-chardev", f"socket,id=tpm,path={escape(files.tpm_socket)}"]
        words += ["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", f"{model},tpmdev=tpm0"]
    for address in spec.vfio:
        words += ["-device", f"vfio-pci,host={address}"]
    return words


def firmware_items(spec: MachineSpec, files: MachineFiles) -> list[str]:
    """SMBIOS strings and fw_cfg items."""
    words = []
    for table, number in SMBIOS_TYPES.items():
        fields: dict[str, str] = getattr(spec.smbios, table)
        if fields:
            text = ",".join(f"{name}={escape(value)}" for name, value in fields.items())
            words += ["-smbios", f"type={number},{text}"]
    if spec.smbios.oem_strings:
        text = ",".join(f"value={escape(value)}" for value in spec.smbios.oem_strings)
        words += ["-smbios", f"type=11,{text}"]
    words += ["-fw_cfg", f"name={AUTHORIZED_KEY_ITEM},file={escape(files.authorized_key)}"]
    for item in spec.fw_cfg:
        content = f"string={escape(item.text or '')}" if item.file is None else f"file={escape(item.file)}"
        words += ["-fw_cfg", f"name={item.name},{content}"]
    return words


def consoles(spec: MachineSpec, files: MachineFiles) -> list[str]:
    """The console and the channel of the guest agent."""
    words = [
        "-chardev",
        f"socket,id=console,path={escape(files.console_socket)},server=on,wait=off,"
        f"logfile={escape(files.console_log)},logappend=off",
    ]
    virtio = spec.console is Console.VIRTIO
    if virtio or spec.guest_agent:
        words += ["-device", "virtio-serial-pci"]
    words += ["-device", "virtconsole,chardev=console"] if virtio else ["-serial", "chardev:console"]
    if spec.guest_agent:
        words += ["-chardev", f"socket,id=agent,path={escape(files.agent)},server=on,wait=off"]
        words += ["-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"]
    return words
