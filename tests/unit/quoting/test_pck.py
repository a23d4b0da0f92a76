"""The SGX extension: against one that Intel has issued, a peer's parser, and our own verifier's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from tdxstack.abi.quote import Quote
from tdxstack.quoting.pck import SGX_EXTENSION_OID, sgx_extension
from tdxstack.quoting.pki import Pki
from tdxstack.quoting.platform import EmulatedPlatform
from tdxstack.verification.sgx_extension import SgxExtension

dcap_qvl = pytest.importorskip("dcap_qvl")

VECTORS = Path(__file__).parents[3].parent / "shared/vectors"
INTEL_QUOTE = VECTORS / "Phala-Network+dcap-qvl/sample/tdx_quote"


def sgx_extension_of(certificate: x509.Certificate) -> bytes:
    value = certificate.extensions.get_extension_for_oid(SGX_EXTENSION_OID).value
    assert isinstance(value, x509.UnrecognizedExtension)
    return value.value


@pytest.mark.skipif(not INTEL_QUOTE.exists(), reason="public quote vectors are not here")
def test_it_is_what_intel_writes_for_the_same_values() -> None:
    quote = Quote.parse(INTEL_QUOTE.read_bytes())
    issued = sgx_extension_of(x509.load_pem_x509_certificates(quote.signature.certification.data)[0])
    theirs = SgxExtension.parse(issued)
    assert theirs.platform_instance_id is not None
    platform = replace(
        EmulatedPlatform(),
        fmspc=theirs.fmspc,
        pce_id=theirs.pce_id,
        pcesvn=theirs.pcesvn,
        cpusvn=theirs.cpusvn,
    )
    # The components of that certificate are not its CPUSVN, and its three configuration flags are set.
    ours = sgx_extension(platform, theirs.ppid, theirs.platform_instance_id).value
    assert len(ours) == len(issued)
    flags = {at for at in range(len(ours)) if ours[at] != issued[at] and issued[at] == 0xFF}
    assert len(flags) == 3
    differing = [at for at in range(len(ours)) if ours[at] != issued[at] and at not in flags]
    assert [issued[at] for at in differing] == [
        theirs.components[number]
        for number in range(16)
        if theirs.components[number] != theirs.cpusvn[number]
    ]


def test_our_verifier_reads_what_was_written(pki: Pki) -> None:
    extension = SgxExtension.parse(sgx_extension_of(pki.pck))
    platform = pki.platform
    assert (extension.fmspc, extension.pce_id, extension.pcesvn, extension.cpusvn) == (
        platform.fmspc,
        platform.pce_id,
        platform.pcesvn,
        platform.cpusvn,
    )
    assert bytes(extension.components) == platform.cpusvn


def test_a_peer_reads_what_was_written(pki: Pki) -> None:
    extension = dcap_qvl.parse_pck_extension_from_pem(pki.pck_chain)
    platform = pki.platform
    assert extension.fmspc == platform.fmspc
    assert extension.pce_id == platform.pce_id
    assert extension.pce_svn == platform.pcesvn
    assert extension.cpu_svn == platform.cpusvn
    assert extension.sgx_type == 1
    assert len(extension.ppid) == 16 and any(extension.ppid)
    assert extension.platform_instance_id is not None and len(extension.platform_instance_id) == 16


@pytest.mark.parametrize("svn", [0, 1, 127, 128, 255])
def test_security_versions_of_every_size_are_der_integers(svn: int) -> None:
    platform = replace(EmulatedPlatform(), cpusvn=bytes((svn,)) * 16, pcesvn=svn * 257)
    extension = SgxExtension.parse(sgx_extension(platform, bytes(16), bytes(16)).value)
    assert bytes(extension.components) == platform.cpusvn
    assert extension.pcesvn == svn * 257
