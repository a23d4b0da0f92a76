"""What fuzzing starts from: sound inputs of every kind, made here, and inputs that once broke a parser."""

from __future__ import annotations

import base64
import struct
import tempfile
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from tdxstack.abi import event_log
from tdxstack.abi.tdx_blob import VERSION_1, VERSION_2, TdxBlob
from tdxstack.collateral.writing import INTEL, OWN, write_collateral
from tests.recorded_boot import pki_in, synthetic_boot
from tests.unit.abi import (
    test_aael,
    test_cel,
    test_hcl_report,
    test_ima_log,
    test_qgs,
    test_quote,
    test_td_hob,
)
from tests.unit.abi.tdvf_images import image
from tests.unit.abi.test_seam_sigstruct import SAMPLE as SIGSTRUCT
from tests.unit.abi.test_tdx_blob import MODULE
from tests.unit.abi.test_tdx_blob import SIGSTRUCT as BLOB_SIGSTRUCT
from tests.unit.firmware import firmware_images
from tests.unit.firmware.test_signatures import signer
from tests.unit.image.test_elf import elf
from tests.unit.measurement import test_describe, test_logs
from tests.unit.measurement.test_shim import shim_program
from tests.unit.measurement.test_unified_kernel import unified_program
from tests.unit.prediction import disks, test_boot, test_disks

TIME = datetime(2026, 6, 1, tzinfo=UTC)

SGX_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")

POLICY = b"""\
tcb_status: [UpToDate, SWHardeningNeeded]
collateral_grace: 7 days
any_of:
  - debug: false
  - fmspc: 00806f050000
"""

GRUB = (
    b"search --no-floppy --fs-uuid --set=root AAAA-0001\nlinux /k a=1 'b c' $x\ninitrd /k\nboot\n",
    b"""if [ -s $prefix/grubenv ]; then load_env; fi
set timeout=5
set default="${saved_entry}"
function show { if [ x$feature_all_video_module = xy ]; then insmod all_video; else return 1; fi; }
for i in a "b c" $x; do set y="$y $i"; done
menuentry 'One' --class os --id one { show; linux /k "$y"; initrd /k; }
submenu "More" { menuentry 'Two' { linux /k; } }
""",
)

ENVIRONMENT = b"# GRUB Environment Block\nsaved_entry=a>b\nother=x\\\\y\n#####"

SYSTEMD_BOOT = b"""timeout 3
default a*
\0title A
version 6.1.2~rc1-3
sort-key debian
machine-id 0123
linux /k
initrd /i
options quiet
\0a+3-1.conf\0"""

RECIPE = b"""name: web
kernel: backports
boot: uki
size: 4G
kernel_options: [quiet, panic=1]
packages: [nginx]
files: {content: text, target: /etc/a, mode: 0644}
users: {name: a, groups: [sudo], sudo: yes}
ssh_keys: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHNvbWUga2V5IG9mIHRoaXJ0eS10d28gYnl0ZXM= me
"""

GOLDEN = Path(__file__).parent.parent / "golden"

FOUND: dict[str, tuple[bytes, ...]] = {}
"""By target: what fuzzing found, cut to what matters."""


@cache
def corpus() -> dict[str, tuple[bytes, ...]]:
    """The inputs of each target."""
    with tempfile.TemporaryDirectory() as directory:
        pki = pki_in(Path(directory), TIME)
        boot = synthetic_boot(pki, TIME)
        chain = b"".join(one.public_bytes(Encoding.PEM) for one in (pki.pck, pki.platform_ca, pki.root))
        extension = pki.pck.extensions.get_extension_for_oid(SGX_EXTENSION).value
    assert isinstance(extension, x509.UnrecognizedExtension)
    signed = pkcs7.PKCS7SignatureBuilder().set_data(b"content").add_signer(*signer("fuzz"), hashes.SHA256())
    signature = signed.sign(Encoding.DER, [pkcs7.PKCS7Options.Binary])
    collateral, evidence = boot.collateral, boot.evidence
    quotes = [kind.to_bytes() for kind in test_quote.KINDS.values()]
    logs = (test_logs.CCEL + b"\xff" * 20, test_logs.TPM, test_logs.LEGACY)
    ima = tuple(test_ima_log.packed(name.encode(), data) for name, (data, _) in test_ima_log.TEXTS.items())
    ima_text = tuple(
        b"10 %s %s %s\n" % (b"ab" * 20, name.encode(), text) for name, (_, text) in test_ima_log.TEXTS.items()
    )
    aael = (test_aael.packed(b"a b c"), test_aael.INIT + b"\na b c\n")
    cel_cbor = tuple(test_cel.as_cbor(test_cel.cbor_record(other)) for other in ({}, {9: 4, 10: {0: 2}}))
    cel = (test_cel.packed(), test_cel.packed(1, 1, 11), test_cel.as_json(test_cel.document()), *cel_cbor)
    events = tuple(_event(kind, data) for kind, data, _ in test_describe.WORDS)
    inputs = {
        "aael": aael,
        "ccel_table": (evidence.ccel_table or b"",),
        "cel": cel,
        "certificates": (chain,),
        "certification": (b"P" * 16 + bytes(20), b"P" * 256 + bytes(18), b"P" * 384 + bytes(20)),
        "collateral": (
            collateral.to_json(),
            collateral.to_dcap_qvl_json(),
            *(write_collateral([collateral] * count, form) for count, form in ((2, OWN), (1, INTEL))),
        ),
        "crl": (collateral.pck_crl,),
        "device_path": (test_describe.DISK, test_describe.FIRMWARE_APP),
        "domain_xml": ((GOLDEN / "libvirt-td-everything.xml").read_bytes(),),
        "elf": (elf("libc.so.6", "libm.so.6"),),
        "event": events,
        "event_data": tuple(data[1:] for data in events),
        "event_log": logs,
        "evidence_document": (evidence.to_json().encode(),),
        "ext4": (disks.ext4(test_disks.ROOT, size=60 << 10),),
        "fat": (disks.fat(test_disks.FILES, size=40 << 10),),
        "firmware": (firmware_images.firmware(),),
        "grub": GRUB,
        "grub_environment": (ENVIRONMENT,),
        "hcl_report": (test_hcl_report.packed(),),
        "ima_log": ima + ima_text,
        "input": (quotes[0].hex().encode(), base64.b64encode(quotes[0])),
        "log": (*logs, *ima, *ima_text, *aael, *cel),
        "machine_spec": (b"{}", (GOLDEN / "td-everything.yaml").read_bytes()),
        "partitions": (disks.gpt(),),
        "policy": (POLICY,),
        "program": (test_boot.GRUB, test_boot.systemd_boot(), unified_program(), shim_program()),
        "program_signature": (signature,),
        "qcow2": tuple(
            disks.qcow2(bytes(100) + b"text", compressed=packed)[:140_000] for packed in (False, True)
        ),
        "qe_identity": (collateral.qe_identity,),
        "qgs": tuple(data for _, data in test_qgs.EXAMPLES),
        "quote": (*quotes, evidence.quote),
        "recipe": (RECIPE,),
        "seam_sigstruct": (SIGSTRUCT.to_bytes(),),
        "sgx_extension": (extension.value,),
        "signature_lists": (test_describe.certificates(b"Key") + test_describe.hashes(2),),
        "systemd_boot": (SYSTEMD_BOOT,),
        "tcb_info": (collateral.tcb_info,),
        "td_hob": (test_td_hob.GOOD,),
        "tdreport": (evidence.tdreport,),
        "tdvf": (image(),),
        "tdx_blob": tuple(
            TdxBlob.join(version, BLOB_SIGSTRUCT, MODULE).to_bytes() for version in (VERSION_1, VERSION_2)
        ),
    }
    return {name: (*inputs[name], *FOUND.get(name, ())) for name in inputs}


def _event(kind: int, data: bytes) -> bytes:
    """An input of the target "event"."""
    types = sorted(event_log.EVENT_TYPE_NAMES)
    return struct.pack("B", types.index(kind)) + data if kind in types else data
