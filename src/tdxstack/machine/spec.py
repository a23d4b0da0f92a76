"""What a machine is to be: everything a person may say of one, and nothing that is found or made for it.

docs/reference/machine-spec.md describes every field.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from tdxstack import yaml_text
from tdxstack.errors import UsageError
from tdxstack.machine.refusals import refusals
from tdxstack.machine.spec_parts import (
    Console,
    Cpu,
    DirectKernel,
    Disk,
    Emulation,
    EpcSection,
    FwCfgItem,
    Kind,
    Nic,
    NumaNode,
    Part,
    PciAddress,
    Smbios,
    Td,
    Topology,
    UnifiedKernel,
    Vsock,
)
from tdxstack.machine.spec_values import PATH_ALONE, TEXT, Cpus, FilePath, MiB
from tdxstack.machine.store import check_name
from tdxstack.platform import Platform

MIN_MEMORY_MIB: Final = 512
MAX_VCPUS: Final = 255
WHAT: Final = "machine"
HINT: Final = "docs/reference/machine-spec.md describes every field"


class MachineSpec(Part):
    """One machine. Raises `MalformedError` that lists everything that is wrong, each with its field."""

    name: str = ""
    """Empty where the name is given elsewhere."""
    kind: Kind = Kind.TD
    platform: Platform | None = None
    """None: hardware where it works, else emulated."""
    machine_type: Annotated[str, Field(pattern=r"^(q35|pc|pc-(q35|i440fx)-\d{1,2}\.\d{1,2})$")] = "q35"
    firmware: FilePath | None = None
    """None: found by its descriptor, or fetched."""
    firmware_variables: FilePath | None = None
    """Template of the variables of a firmware in flash; never written."""
    direct_kernel: DirectKernel | None = None
    uki: UnifiedKernel | None = None
    image: Annotated[Disk | None, PATH_ALONE] = None
    """Disk to boot from; None for tdx's own image."""
    diskless: bool = False
    disks: tuple[Annotated[Disk, PATH_ALONE], ...] = ()
    """Further disks."""
    vcpus: int = 2
    topology: Topology | None = None
    cpu: Cpu = Cpu()
    memory: MiB = 2048
    huge_pages: Literal["2M", "1G"] | None = None
    numa: tuple[NumaNode, ...] = ()
    pinning: dict[int, Cpus] = Field(default_factory=dict)
    """CPUs of the host that a vCPU runs on, by the vCPU's number."""
    smm: bool | None = None
    """System management mode; None for what the firmware needs."""
    pic: bool | None = None
    """Legacy interrupt controller; None for what the kind of machine has."""
    nics: tuple[Nic, ...] = (Nic(),)
    vsock: Vsock | None = None
    tpm: bool = False
    console: Console = Console.SERIAL
    guest_agent: bool = False
    """A channel for QEMU's guest agent."""
    td: Td = Td()
    emulation: Emulation = Emulation()
    sgx: tuple[EpcSection, ...] = ()
    smbios: Smbios = Smbios()
    fw_cfg: tuple[FwCfgItem, ...] = ()
    vfio: tuple[PciAddress, ...] = ()
    """PCI devices of the host that the guest has to itself."""

    @field_validator("name")
    @classmethod
    def _usable(cls, name: str) -> str:
        try:
            if name:
                check_name(name)
        except UsageError as error:
            raise ValueError(f"{error.message}; {error.hint}") from None
        return name

    @field_validator("vcpus")
    @classmethod
    def _within(cls, vcpus: int) -> int:
        if not 1 <= vcpus <= MAX_VCPUS:
            raise ValueError(f"{vcpus} vCPUs is out of range: give 1 to {MAX_VCPUS}")
        return vcpus

    @field_validator("memory")
    @classmethod
    def _enough(cls, memory: int) -> int:
        if memory < MIN_MEMORY_MIB:
            raise ValueError(f"{memory} MiB of memory is too little: give at least {MIN_MEMORY_MIB} MiB")
        return memory

    @model_validator(mode="wrap")
    @classmethod
    def _as_a_whole(cls, value: Any, handler: Callable[[Any], Self], info: ValidationInfo) -> Self:
        try:
            spec = handler(_counted(value))
            if refused := refusals(spec):
                raise ValidationError.from_exception_data(
                    WHAT,
                    [
                        InitErrorDetails(
                            type=PydanticCustomError("refused", "{reason}", {"reason": refusal.reason}),
                            loc=refusal.place,
                            input=None,
                        )
                        for refusal in refused
                    ],
                )
            return spec
        except ValidationError as error:
            text = info.context.get(TEXT, b"") if isinstance(info.context, dict) else b""
            raise yaml_text.invalid(error, WHAT, hint=HINT, text=text) from None

    def changed(self, **fields: object) -> Self:
        """The same machine with other `fields`, checked anew."""
        said = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self).model_validate(said | fields)

    def on(self, platform: Platform) -> Self:
        """This machine on the platform that was chosen for it; raises as the constructor does."""
        return self.changed(platform=platform)


def _counted(value: Any) -> Any:
    """With the vCPUs that a topology makes, where their number is not said."""
    if isinstance(value, dict) and value.get("topology") is not None and "vcpus" not in value:
        with contextlib.suppress(ValidationError):
            return value | {"vcpus": Topology.model_validate(value["topology"]).vcpus}
    return value
