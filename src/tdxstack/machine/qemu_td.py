"""What QEMU is told of a TD: the objects tdx-guest (KVM) and tdx-tcg-guest (the emulator)."""

from __future__ import annotations

import base64

from tdxstack.abi.tdreport import (
    TD_ATTRIBUTE_DEBUG,
    TD_ATTRIBUTE_PERFMON,
    TD_ATTRIBUTE_PKS,
    TD_ATTRIBUTE_SEPT_VE_DISABLE,
)
from tdxstack.machine.placement import Placement
from tdxstack.machine.qemu_text import json_option
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import Kind, Td
from tdxstack.machine.spec_values import NoService, QuoteAddress, UnixAddress, VsockAddress


def quote_service(spec: MachineSpec, placement: Placement) -> QuoteAddress | None:
    """Where QEMU will ask for the machine's quotes, None where it gets none."""
    address = spec.td.quote_service or placement.quote_service
    return None if spec.kind is not Kind.TD or isinstance(address, NoService) else address


def td_objects(spec: MachineSpec, placement: Placement) -> list[str]:
    """The options that make the objects of a TD, the TD's own with the id `tdx0`."""
    properties: dict[str, object] = {"id": "tdx0", **_launch_properties(spec.td)}
    address = quote_service(spec, placement)
    if address is not None:
        properties["quote-generation-socket"] = _socket_address(address)
    silicon = placement.silicon
    if silicon is None:
        return ["-object", json_option(qom_type="tdx-guest", **properties)]
    key = {"qom-type": "secret", "id": "report-mac", "file": str(silicon.mac_key)}
    properties |= {
        "report-mac-key": "report-mac",
        "mrseam": _base64(silicon.mrseam),
        "cpusvn": _base64(silicon.cpusvn),
        "tee-tcb-svn": _base64(silicon.tee_tcb_svn),
        "ve": spec.emulation.ve,
        "sept": spec.emulation.sept.value,
    }
    return ["-object", json_option(**key), "-object", json_option(qom_type="tdx-tcg-guest", **properties)]


def _socket_address(address: QuoteAddress) -> dict[str, str]:
    """A SocketAddress (QEMU qapi/sockets.json)."""
    if isinstance(address, UnixAddress):
        return {"type": "unix", "path": str(address.path)}
    assert isinstance(address, VsockAddress), "without a service there is no address"
    return {"type": "vsock", "cid": str(address.cid), "port": str(address.port)}


def _launch_properties(td: Td) -> dict[str, object]:
    attributes = (
        (TD_ATTRIBUTE_SEPT_VE_DISABLE if td.sept_ve_disable else 0)
        | (TD_ATTRIBUTE_DEBUG if td.debug else 0)
        | (TD_ATTRIBUTE_PKS if td.pks else 0)
        | (TD_ATTRIBUTE_PERFMON if td.perfmon else 0)
    )
    return {
        "attributes": attributes,
        "mrconfigid": _base64(td.mrconfigid),
        "mrowner": _base64(td.mrowner),
        "mrownerconfig": _base64(td.mrownerconfig),
    }


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
