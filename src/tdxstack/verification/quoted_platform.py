"""Which platform a quote is from, as far as it takes to find collateral for it. Nothing here is verified."""

from __future__ import annotations

from tdxstack.abi.quote import CERTIFICATION_PCK_CHAIN, CERTIFICATION_PCK_LEAF, TEE_TYPE_TDX, Quote
from tdxstack.collateral.platform_id import CAS, SGX, TDX, PlatformId
from tdxstack.errors import MalformedError
from tdxstack.verification.certificates import read_chain


def platform_of_quote(quote: Quote, pck_chain: bytes | None = None) -> PlatformId:
    """FMSPC and CA by the PCK certificate in the quote, or in `pck_chain` (PEM) for quotes without one.

    Raises `MalformedError` where there is none or it cannot be read.
    """
    certification = quote.signature.certification
    if pck_chain is None and certification.type not in (CERTIFICATION_PCK_CHAIN, CERTIFICATION_PCK_LEAF):
        raise MalformedError(
            f"the quote has certification data of type {certification.type} and no PCK certificate",
            hint="name its platform: FMSPC and CA",
        )
    leaf = read_chain(certification.data if pck_chain is None else pck_chain)[0]
    issuer = leaf.issuer_name.lower()
    ca = next((ca for ca in CAS if ca in issuer), "")
    if not ca:
        raise MalformedError(
            f"the PCK certificate is issued by {leaf.issuer_name!r}, neither platform nor processor CA",
            hint="name the platform of the quote: FMSPC and CA",
        )
    tee = TDX if quote.header.tee_type == TEE_TYPE_TDX else SGX
    return PlatformId(leaf.sgx_extension().fmspc, ca, tee)
