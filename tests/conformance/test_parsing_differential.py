"""tdxstack and dcap-qvl read the same: every public quote, and every shape with random contents."""

from __future__ import annotations

import random
from dataclasses import fields
from typing import Any

import pytest

from tdxstack.abi.quote import Quote, TdBody10, TdBody15, TdBody15Ex
from tdxstack.abi.sgx_report import SgxReportBody
from tdxstack.verification.certificates import read_chain
from tests.conformance import vectors
from tests.conformance.test_differential import QUOTES
from tests.synthetic.evidence import Workshop

dcap_qvl = pytest.importorskip("dcap_qvl")

TD_NAMES = {
    "mrseam": "mr_seam",
    "mrsignerseam": "mr_signer_seam",
    "mrtd": "mr_td",
    "mrconfigid": "mr_config_id",
    "mrowner": "mr_owner",
    "mrownerconfig": "mr_owner_config",
    "rtmr0": "rt_mr0",
    "rtmr1": "rt_mr1",
    "rtmr2": "rt_mr2",
    "rtmr3": "rt_mr3",
    "mrservicetd": "mr_service_td",
    "vm_id": "vmid",
    "device_info": "dev_info",
    "initial_servtd_hash": "init_service_td_hash",
    "initial_servtd_attributes": "init_service_td_attributes",
    "initial_cpusvn": "init_cpu_svn",
    "initial_tee_tcb_svn": "init_tee_tcb_svn",
    "initial_tee_fmspc": "init_tee_fmspc",
    "current_servtd_hash": "cur_service_td_hash",
    "current_servtd_attributes": "cur_service_td_attributes",
}
"""dcap-qvl's names where they are others than ours."""

SGX_NAMES = {
    "mrenclave": "mr_enclave",
    "mrsigner": "mr_signer",
    "report_data": "report_data",
    "cpusvn": "cpu_svn",
}


def same_value(ours: Any, theirs: Any) -> bool:
    """Numbers are numbers with us, and some of them 8 little-endian bytes with them."""
    if isinstance(ours, int) and isinstance(theirs, bytes):
        return ours.to_bytes(8, "little") == theirs
    return bool(ours == theirs)


def compare(data: bytes) -> Quote:
    """Every field that dcap-qvl shows of header and body."""
    quote, peer = Quote.parse(data), dcap_qvl.parse_quote(data)
    header = quote.header
    assert (header.version, header.attestation_key_type) == (
        peer.header.version,
        peer.header.attestation_key_type,
    )
    assert header.tee_type == peer.header.tee_type
    assert header.qe_vendor_id == bytes(peer.header.qe_vendor_id)
    assert header.user_data == bytes(peer.header.user_data)
    body = quote.body
    if isinstance(body, SgxReportBody):
        for ours, theirs in SGX_NAMES.items():
            assert getattr(body, ours) == bytes(getattr(peer.report, theirs)), ours
        assert body.attributes == bytes(peer.report.attributes)
        return quote
    for field in fields(body):
        theirs = getattr(peer.report, TD_NAMES.get(field.name, field.name))
        assert same_value(getattr(body, field.name), theirs), field.name
    return quote


@pytest.mark.vectors
@pytest.mark.parametrize("name", QUOTES)
def test_public_quotes(name: str) -> None:
    compare(vectors.quote(name))


@pytest.mark.vectors
@pytest.mark.parametrize("name", [name for name in QUOTES if not name.startswith(vectors.INTEL_QVL)])
def test_pck_certificates_of_public_quotes(name: str) -> None:
    """Intel's two sample quotes hold none in PEM."""
    chain = Quote.parse(vectors.quote(name)).signature.certification.data
    ours = read_chain(chain)[0].sgx_extension()
    theirs = dcap_qvl.parse_pck_extension_from_pem(chain)
    assert (ours.ppid, ours.cpusvn, ours.pce_id, ours.fmspc) == (
        bytes(theirs.ppid),
        bytes(theirs.cpu_svn),
        bytes(theirs.pce_id),
        bytes(theirs.fmspc),
    )
    assert (ours.pcesvn, ours.sgx_type) == (theirs.pce_svn, theirs.sgx_type)
    instance = theirs.platform_instance_id
    assert ours.platform_instance_id == (bytes(instance) if instance is not None else None)


@pytest.mark.parametrize("kind", [TdBody10, TdBody15, TdBody15Ex, SgxReportBody])
def test_random_bodies(
    tmp_path_factory: pytest.TempPathFactory, kind: type[TdBody10] | type[SgxReportBody]
) -> None:
    """Body type 4 too, of which no example is public: two readings of Intel's headers agree on its layout."""
    shop = Workshop(tmp_path_factory.mktemp("parsing"))
    chance = random.Random(kind.NAME)
    for _ in range(20):
        body = kind.parse(chance.randbytes(kind.SIZE))
        assert compare(shop.quote(body).to_bytes()).body == body
