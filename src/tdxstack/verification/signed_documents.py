"""TCB info and QE identity as documents: signed by the TCB signing certificate, and fresh."""

from __future__ import annotations

from collections.abc import Sequence

from tdxstack.collateral.signed_json import SignedJson
from tdxstack.verification.certificates import Chain, TrustAnchor
from tdxstack.verification.chains import (
    RevocationList,
    chain_problems,
    signer_problems,
    stamp,
    validity_problems,
)
from tdxstack.verification.inputs import Loaded, Terms
from tdxstack.verification.qe_identity import QeIdentity
from tdxstack.verification.result import Check, fail, judged, unknown
from tdxstack.verification.signatures import der_signature
from tdxstack.verification.tcb_info import TcbInfo

_SIGNER_NAME = "SGX TCB Signing"


def signing_problems(
    chain: Loaded[Chain], root_ca_crl: Loaded[RevocationList], anchor: TrustAnchor | None, terms: Terms
) -> list[str]:
    """Why `chain` is not that of a valid TCB signing certificate under `anchor`, or under any if None."""
    if chain.value is None:
        return [chain.problem]
    problems = chain_problems(chain.value, terms.memory)
    problems += _role_problems(chain.value, (anchor,) if anchor else terms.anchors)
    problems += validity_problems(chain.value, terms.time)
    if root_ca_crl.value is not None:
        problems += [f"revoked: {name}" for name in root_ca_crl.value.revoked(chain.value)]
    return problems


def check_signature(
    check_id: str,
    document: Loaded[SignedJson],
    chain: Loaded[Chain],
    signer: Sequence[str],
    terms: Terms,
) -> Check:
    """The document is signed by the TCB signing certificate of `chain`, whose problems are `signer`."""
    expected = "a signature by a TCB signing certificate under the trust anchor"
    if document.value is None or chain.value is None:
        return fail(check_id, expected, "none", document.problem or chain.problem)
    problems = list(signer)
    signature = der_signature(document.value.signature)
    if not terms.memory.signed(chain.value[0].key, signature, document.value.body):
        problems.append(f"{document.value.name} does not bear the signature of {chain.value[0].described}")
    found = ", ".join(certificate.name for certificate in chain.value)
    return judged(check_id, not problems, expected, found, "; ".join(problems))


def check_freshness(check_id: str, item: Loaded[TcbInfo] | Loaded[QeIdentity], terms: Terms) -> Check:
    """The document is issued, not out of date, and of the evaluation that the policy demands."""
    value = item.value
    if value is None:
        return unknown(check_id, item.problem)
    policy, time = terms.policy, stamp(terms.time)
    problems = []
    if terms.time < value.issue_date:
        problems.append(f"issued after {time}")
    if terms.time - value.next_update > policy.collateral_grace:
        problems.append(f"out of date at {time}")
    if value.evaluation_number < policy.minimum_evaluation_number:
        problems.append(f"of TCB evaluation {value.evaluation_number}")
    expected = "current at the time"
    if policy.minimum_evaluation_number:
        expected += f", TCB evaluation {policy.minimum_evaluation_number} or later"
    found = (
        f"{stamp(value.issue_date)} to {stamp(value.next_update)}, TCB evaluation {value.evaluation_number}"
    )
    return judged(check_id, not problems, expected, found, "; ".join(problems))


def _role_problems(chain: Chain, anchors: Sequence[TrustAnchor]) -> list[str]:
    """Why the chain is not one of a TCB signing certificate under one of `anchors`."""
    signer, root = chain[0], chain[-1]
    problems = signer_problems(signer)
    if len(chain) != 2:
        problems.append(f"the signing chain has {len(chain)} certificates, not 2")
    if _SIGNER_NAME not in signer.name:
        problems.append(f"the name of {signer.described} does not contain {_SIGNER_NAME!r}")
    if root.key.der not in {anchor.public_key_der for anchor in anchors}:
        problems.append(f"the root {root.described} is not the trust anchor")
    return problems
