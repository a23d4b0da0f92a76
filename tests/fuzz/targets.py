"""What a parser owes any bytes: a value that becomes those bytes again, or a `MalformedError` with a hint."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Protocol

from tdxstack.abi import event_log
from tdxstack.abi.aael import parse_aael
from tdxstack.abi.ccel import CcelTable
from tdxstack.abi.cel import parse_cel
from tdxstack.abi.event_log import Event, EventLog
from tdxstack.abi.hcl_report import HclReport
from tdxstack.abi.ima_log import is_binary, parse_ima_log
from tdxstack.abi.qgs import (
    GetCollateralRequest,
    GetCollateralResponse,
    GetPlatformInfoRequest,
    GetPlatformInfoResponse,
    GetQuoteRequest,
    GetQuoteResponse,
)
from tdxstack.abi.quote import CertificationData, Quote
from tdxstack.abi.seam_sigstruct import SeamSigstruct
from tdxstack.abi.td_hob import TdHob
from tdxstack.abi.tdreport import TdReport
from tdxstack.abi.tdvf import parse_image
from tdxstack.abi.tdx_blob import TdxBlob
from tdxstack.cli.evidence_input import decode_evidence
from tdxstack.collateral.reading import read_all
from tdxstack.collateral.signed_json import SignedJson
from tdxstack.errors import MalformedError, UnavailableError
from tdxstack.evidence.document import Evidence
from tdxstack.firmware.authenticode import Signature
from tdxstack.firmware.contents import Contents, open_contents
from tdxstack.image.elf import needed
from tdxstack.image.recipe import parse_recipe
from tdxstack.machine.libvirt_calls import element
from tdxstack.machine.spec_file import parse_spec, write_spec
from tdxstack.measurement.decode import decode
from tdxstack.measurement.describe import describe
from tdxstack.measurement.device_path import device_path_text
from tdxstack.measurement.digests import check_digest
from tdxstack.measurement.event_data import (
    BootOption,
    FirmwareBlob,
    GptTable,
    HandoffTables,
    ImageLoad,
    TaggedEvent,
    UefiVariable,
)
from tdxstack.measurement.log_replay import replay_logs
from tdxstack.measurement.logs import read_log
from tdxstack.measurement.pe import Image
from tdxstack.measurement.shim import Shim, shim_events
from tdxstack.measurement.signature_list import parse_signature_lists, subject_name
from tdxstack.measurement.unified_kernel import UnifiedKernel, profile_texts
from tdxstack.prediction.ext4 import Ext4
from tdxstack.prediction.fat import Fat
from tdxstack.prediction.filesystems import content_name
from tdxstack.prediction.grub.environment import read_block
from tdxstack.prediction.grub.files import Volume
from tdxstack.prediction.grub.follow import follow
from tdxstack.prediction.partitions import read_partitions
from tdxstack.prediction.programs import KeyList, describe_program
from tdxstack.prediction.qcow2 import open_disk
from tdxstack.prediction.systemd_boot import NEW, OLD, choose
from tdxstack.verification.certificates import read_chain
from tdxstack.verification.chains import RevocationList
from tdxstack.verification.policy_file import parse_policy
from tdxstack.verification.qe_identity import QeIdentity
from tdxstack.verification.quote_facts import claims_emulated, quote_facts, quoted_pck
from tdxstack.verification.sgx_extension import SgxExtension
from tdxstack.verification.tcb_info import TcbInfo
from tests.unit.firmware import firmware_images
from tests.unit.prediction import disks

Target = Callable[[bytes], object]


class Wire(Protocol):
    def to_bytes(self) -> bytes: ...


def round_trips(*parsers: Callable[[bytes], Wire]) -> Target:
    """Each parser gives a structure that becomes the input again, or refuses it."""

    def run(data: bytes) -> None:
        for parse in parsers:
            try:
                value = parse(data)
            except MalformedError as error:
                check_error(error)
                continue
            assert value.to_bytes() == data

    return run


def parses(parse: Callable[[bytes], object]) -> Target:
    """The parser gives anything at all, or refuses the input."""

    def run(data: bytes) -> None:
        try:
            parse(data)
        except MalformedError as error:
            check_error(error)

    return run


def check_error(error: MalformedError) -> None:
    """An error says what is wrong and what to do, each on one line, at a length that people read."""
    for text in (error.message, error.hint):
        assert text
        assert len(text) < 10_000


def _quote(data: bytes) -> None:
    quote = Quote.parse(data)
    assert quote.to_bytes() == data
    quote_facts(quote), quoted_pck(quote), claims_emulated(quote)


def _certification(data: bytes) -> None:
    for kind in (1, 2, 3):
        try:
            platform = CertificationData(kind, data).platform
        except MalformedError as error:
            check_error(error)
        else:
            assert platform is not None
            assert platform.to_bytes() == data


def _hcl_report(data: bytes) -> None:
    report = HclReport.parse(data)
    assert report.to_bytes() == data
    report.runtime_claims(), report.runtime_data_binds()


def _event(data: bytes) -> None:
    """The type of the event, one byte, then its data."""
    types = sorted(event_log.EVENT_TYPE_NAMES)
    event = Event(1, types[data[0] % len(types)] if data else 0, ((12, bytes(48)),), data[1:])
    decode(event), check_digest(event)
    assert describe(event).isprintable()


def _log(data: bytes) -> None:
    log = read_log(data)
    assert sum(entry.meaning.isprintable() for entry in log.entries()) == log.count
    assert replay_logs([log]).events == log.count


def _ima_log(data: bytes) -> None:
    entries = list(parse_ima_log(data))
    for entry in entries:
        entry.hashed()
    if is_binary(data):
        assert b"".join(entry.to_bytes() for entry in entries) == data


def _cel(data: bytes) -> None:
    records = parse_cel(data)
    if data[:1] == b"\0":
        assert b"".join(record.to_bytes() for record in records) == data


def _signatures(data: bytes) -> None:
    subject_name(data)
    parse_signature_lists(data)


def _qe_identity(data: bytes) -> None:
    QeIdentity.parse(SignedJson.parse(data, "enclaveIdentity").value)


def _tcb_info(data: bytes) -> None:
    TcbInfo.parse(SignedJson.parse(data, "tcbInfo").value)


def _evidence(data: bytes) -> None:
    again = Evidence.from_json(data).to_json()
    assert Evidence.from_json(again).to_json() == again
    json.loads(again)


class Bytes:
    """Bytes that are a disk."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size].ljust(size, b"\0")


class Files:
    """Files that GRUB may find beside its configuration."""

    def __init__(self, configuration: bytes) -> None:
        self._files = {"/grub.cfg": configuration, "/k": b"kernel", "/grubenv": configuration}

    def read(self, path: str) -> bytes | None:
        return self._files.get(path)

    def is_directory(self, path: str) -> bool:
        return path == "/"


def _fat(data: bytes) -> None:
    files = Fat(Bytes(data), 0)
    assert isinstance(files.label, str)
    for path in files.files():
        files.read(path)


def _ext4(data: bytes) -> None:
    files = Ext4(Bytes(data), 0)
    for path in ("/", "/boot", "/up", "/loop"):
        for name in files.names(path):
            files.read(f"{path}/{name}")


def _partitions(data: bytes) -> None:
    disk = Bytes(data)
    for partition in read_partitions(disk).partitions:
        content_name(disk, partition.start)


def _qcow2(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with contextlib.suppress(UnavailableError), open_disk(Path(file.name)) as disk:
            for offset in (0, 1 << 16, disk.size // 2, disk.size - 1, 1 << 62):
                disk.read(max(offset, 0), 600)


def _grub(data: bytes) -> None:
    start = Volume("hd0,gpt1", Files(data), "AAAA-0001", "boot")
    follow(start, "/grub.cfg", [start], secure_boot=True)


@cache
def _contents() -> Contents:
    return open_contents(firmware_images.firmware())


def _systemd_boot(data: bytes) -> None:
    """The configuration, an entry, and its file's name, with a zero after each."""
    loader, entry, name = (*data.split(b"\0", 2), b"", b"")[:3]
    text = name.decode("latin-1")[:100].replace("/", "_") or "a.conf"
    tree: disks.Tree = {"loader": {"loader.conf": loader, "entries": {text: entry}}, "k": b"k", "i": b"i"}
    volume = Fat(Bytes(disks.fat(tree)), 0)
    for version in (OLD, NEW):
        try:
            choice = choose(version, "EFI/BOOT/BOOTX64.EFI", volume, None, _contents())
            assert isinstance(choice.options, str)
            assert isinstance(choice.initrd, bytes)
        except MalformedError as error:
            check_error(error)


def _program(data: bytes) -> None:
    describe_program("a.efi", data, {"own": KeyList(b"")})
    image = Image.parse(data)
    profile_texts(image)
    unified = UnifiedKernel.parse(image)
    if unified is not None:
        list(unified.events("a", "a.efi", secure_boot=False, smbios_tables=b""))
    shim = Shim.parse(image)
    if shim is not None:
        list(shim_events(shim, b"", secure_boot=True))


def _firmware(data: bytes) -> None:
    contents = open_contents(data)
    assert isinstance(contents.problems, list)
    list(contents.policy), contents.menu, contents.setup, contents.shell


def _machine_spec(data: bytes) -> None:
    spec = parse_spec(data, Path("/nowhere"))
    assert parse_spec(write_spec(spec), Path("/nowhere")) == spec
    for text in spec.direct_kernel.arguments if spec.direct_kernel else "":
        text.encode()


TARGETS: dict[str, Target] = {
    "aael": parses(parse_aael),
    "ccel_table": round_trips(CcelTable.parse),
    "cel": parses(_cel),
    "certificates": parses(read_chain),
    "certification": _certification,
    "collateral": parses(read_all),
    "crl": parses(RevocationList.parse),
    "device_path": parses(device_path_text),
    "event": _event,
    "event_data": round_trips(
        UefiVariable.parse,
        BootOption.parse,
        ImageLoad.parse,
        GptTable.parse,
        TaggedEvent.parse,
        lambda data: FirmwareBlob.parse(data, named=False),
        lambda data: FirmwareBlob.parse(data, named=True),
        lambda data: HandoffTables.parse(data, named=False),
        lambda data: HandoffTables.parse(data, named=True),
    ),
    "domain_xml": parses(lambda data: element(data.decode("latin-1"))),
    "elf": parses(needed),
    "event_log": round_trips(EventLog.parse),
    "evidence_document": parses(_evidence),
    "ext4": parses(_ext4),
    "fat": parses(_fat),
    "firmware": parses(_firmware),
    "grub": parses(_grub),
    "grub_environment": parses(lambda data: list(read_block(data))),
    "hcl_report": parses(_hcl_report),
    "ima_log": parses(_ima_log),
    "input": decode_evidence,
    "log": parses(_log),
    "machine_spec": parses(_machine_spec),
    "partitions": parses(_partitions),
    "policy": parses(parse_policy),
    "program": parses(_program),
    "program_signature": parses(Signature.parse),
    "qcow2": parses(_qcow2),
    "qe_identity": parses(_qe_identity),
    "qgs": round_trips(
        GetQuoteRequest.parse,
        GetQuoteResponse.parse,
        GetCollateralRequest.parse,
        GetCollateralResponse.parse,
        GetPlatformInfoRequest.parse,
        GetPlatformInfoResponse.parse,
    ),
    "quote": parses(_quote),
    "recipe": parses(lambda data: parse_recipe(data, Path("/nowhere"))),
    "seam_sigstruct": round_trips(SeamSigstruct.parse),
    "sgx_extension": parses(SgxExtension.parse),
    "signature_lists": parses(_signatures),
    "systemd_boot": parses(_systemd_boot),
    "tcb_info": parses(_tcb_info),
    "td_hob": round_trips(TdHob.parse),
    "tdreport": round_trips(TdReport.parse),
    "tdvf": parses(parse_image),
    "tdx_blob": round_trips(TdxBlob.parse),
}
"""By name. Nothing but an error of a target's own, or a failed assertion, is a find."""
