"""Chains and revocation lists that should not be believed, signed as genuinely as an attacker could."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from tdxstack.errors import MalformedError
from tdxstack.quoting.authority import MARKER, new_key
from tdxstack.quoting.pck import SGX_EXTENSION_OID
from tdxstack.quoting.platform import EmulatedPlatform
from tdxstack.verification.certificates import INTEL_SGX_ROOT_CA, TrustAnchor
from tests.synthetic.certificates import Digest, Extension, authority, pem, remade, revocations, usage
from tests.synthetic.evidence import Evidence, Workshop

UNKNOWN: Extension = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)
LEAF = usage("digital_signature", "content_commitment")
ISSUER = usage("key_cert_sign", "crl_sign")


def under(shop: Workshop, *chain: x509.Certificate) -> Evidence:
    """Evidence whose quote carries this chain."""
    return shop.evidence(shop.quote(chain=pem(*chain)))


def test_what_the_workshop_makes_is_accepted(shop: Workshop) -> None:
    assert shop.evidence().failing() == []
    assert shop.evidence(root_ca_crl=shop.root_crl(), pck_crl=shop.pck_crl()).failing() == []
    assert under(shop, remade(shop.pck, shop.platform_ca_key), shop.platform_ca, shop.root).failing() == []


# Other keys under the same names.


def test_a_root_of_the_same_name_is_not_the_root(shop: Workshop, other_shop: Workshop) -> None:
    assert shop.root.subject == other_shop.root.subject
    theirs = other_shop.evidence()
    assert theirs.failing() == []
    assert "pck.trust_anchor" in theirs.but(anchors=(shop.anchor,)).failing()
    assert "pck.trust_anchor" in theirs.but(anchors=(INTEL_SGX_ROOT_CA,)).failing()
    mixed = other_shop.quote(chain=pem(other_shop.pck, other_shop.platform_ca, shop.root))
    assert "pck.chain" in shop.evidence(mixed).failing()


def test_a_root_called_intels_is_not_intels(shop: Workshop) -> None:
    key = new_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Intel SGX Root CA")])
    root = remade(
        shop.root, key, name="Intel SGX Root CA", issuer=name, key=key.public_key(), without=[MARKER.oid]
    )
    ca = remade(shop.platform_ca, key, issuer=root.subject)
    evidence = under(shop, shop.pck, ca, root).but(anchors=(INTEL_SGX_ROOT_CA,))
    assert "pck.trust_anchor" in evidence.failing()


def test_an_authority_of_the_same_name_is_not_the_authority(shop: Workshop, other_shop: Workshop) -> None:
    """Whichever of the two comes first in the chain."""
    for chain in (
        (other_shop.pck, shop.platform_ca, shop.root),
        (shop.pck, other_shop.platform_ca, shop.root),
        (other_shop.pck, other_shop.platform_ca, shop.platform_ca, shop.root),
        (other_shop.pck, shop.platform_ca, other_shop.platform_ca, shop.root),
    ):
        evidence = shop.evidence(shop.quote(chain=pem(*chain), pck_key=other_shop.pck_key))
        assert "pck.chain" in evidence.failing()


def test_collateral_of_another_root_is_not_taken(shop: Workshop, other_shop: Workshop) -> None:
    """Not even where both roots are trusted: one vouches for the platform, the other for nothing."""
    evidence = shop.evidence(anchors=(shop.anchor, other_shop.anchor))
    assert evidence.failing() == []
    theirs = other_shop.pki.collateral()
    for names, check in (
        (("root_ca_crl",), "crl.root"),
        (("pck_crl",), "crl.pck"),
        (("tcb_info", "tcb_info_issuer_chain"), "tcb_info.signature"),
        (("qe_identity", "qe_identity_issuer_chain"), "qe_identity.signature"),
    ):
        assert evidence.but(**{name: getattr(theirs, name) for name in names}).failing() == [check]


def test_a_certificate_names_its_issuer(shop: Workshop) -> None:
    """The right key under another name is another authority."""
    other = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "SGX PCK Processor CA")])
    pck = remade(shop.pck, shop.platform_ca_key, issuer=other)
    assert under(shop, pck, shop.platform_ca, shop.root).failing() == ["pck.chain"]
    ca = remade(shop.platform_ca, shop.root_key, issuer=other)
    assert under(shop, shop.pck, ca, shop.root).failing() == ["pck.chain"]
    signer = remade(shop.tcb_signing, shop.root_key, issuer=other)
    assert shop.evidence(tcb_info_issuer_chain=pem(signer, shop.root)).failing() == ["tcb_info.signature"]


# Certificates that may not do what they do.


@pytest.mark.parametrize("which", ["pck", "platform_ca", "root", "tcb_signing"])
def test_unknown_critical_extensions_are_not_passed_over(shop: Workshop, which: str) -> None:
    certificates = {name: getattr(shop, name) for name in ("pck", "platform_ca", "root", "tcb_signing")}
    keys = {"pck": shop.platform_ca_key}
    certificates[which] = remade(certificates[which], keys.get(which, shop.root_key), extensions=[UNKNOWN])
    evidence = under(shop, certificates["pck"], certificates["platform_ca"], certificates["root"]).but(
        tcb_info_issuer_chain=pem(certificates["tcb_signing"], certificates["root"])
    )
    expected = {"tcb_signing": ["tcb_info.signature"], "root": ["pck.chain", "tcb_info.signature"]}
    assert evidence.failing() == expected.get(which, ["pck.chain"])


@pytest.mark.parametrize(
    "extensions",
    [
        [authority(ca=False)],
        [authority(path_length=0), usage("digital_signature")],
        [authority(path_length=0), usage("crl_sign")],
        [authority(path_length=0), usage("digital_signature", "crl_sign")],
    ],
)
def test_only_authorities_issue_certificates(shop: Workshop, extensions: list[Extension]) -> None:
    ca = remade(shop.platform_ca, shop.root_key, extensions=extensions)
    assert "pck.chain" in under(shop, shop.pck, ca, shop.root).failing()


@pytest.mark.parametrize("without", [x509.BasicConstraints.oid, x509.KeyUsage.oid])
@pytest.mark.parametrize("which", ["platform_ca", "root"])
def test_an_authority_says_that_it_is_one(shop: Workshop, which: str, without: x509.ObjectIdentifier) -> None:
    changed = remade(getattr(shop, which), shop.root_key, without=[without])
    chain = [shop.pck, changed if which == "platform_ca" else shop.platform_ca]
    root = changed if which == "root" else shop.root
    assert "pck.chain" in under(shop, *chain, root).failing()


def test_path_lengths_count(shop: Workshop) -> None:
    short = remade(shop.root, shop.root_key, extensions=[authority(path_length=0)])
    assert under(shop, shop.pck, shop.platform_ca, short).failing() == ["pck.chain"]
    free = remade(shop.root, shop.root_key, extensions=[authority()])
    assert under(shop, shop.pck, shop.platform_ca, free).failing() == []
    longer = remade(shop.platform_ca, shop.root_key, extensions=[authority(path_length=5)])
    assert under(shop, shop.pck, longer, shop.root).failing() == []


@pytest.mark.parametrize(
    "extensions", [[authority()], [authority(), ISSUER], [ISSUER], [usage("key_agreement")]]
)
def test_a_key_that_signs_evidence_is_made_for_that(shop: Workshop, extensions: list[Extension]) -> None:
    """An authority's key, or one for something else, makes no evidence, though its certificate is genuine."""
    pck = remade(shop.pck, shop.platform_ca_key, extensions=extensions)
    assert under(shop, pck, shop.platform_ca, shop.root).failing() == ["pck.chain"]
    signer = remade(shop.tcb_signing, shop.root_key, extensions=extensions)
    evidence = shop.evidence(tcb_info_issuer_chain=pem(signer, shop.root))
    assert evidence.failing() == ["tcb_info.signature"]


def test_a_leaf_without_constraints_is_no_authority(shop: Workshop) -> None:
    """Certificates may leave both out; a PCK certificate then issues nothing either."""
    absent = [x509.BasicConstraints.oid, x509.KeyUsage.oid]
    pck = remade(shop.pck, shop.platform_ca_key, without=absent)
    assert under(shop, pck, shop.platform_ca, shop.root).failing() == []
    below = remade(shop.pck, shop.pck_key, issuer=pck.subject)
    assert "pck.chain" in under(shop, below, pck, shop.platform_ca, shop.root).failing()


def test_a_pck_says_which_platform_it_is(shop: Workshop) -> None:
    """Without its SGX extension, or with a damaged one, nothing can be said of the platform."""
    damaged = x509.UnrecognizedExtension(SGX_EXTENSION_OID, b"\x30\x02\x05\x00")
    for pck in (
        remade(shop.pck, shop.platform_ca_key, without=[SGX_EXTENSION_OID]),
        remade(shop.pck, shop.platform_ca_key, extensions=[(damaged, False)]),
    ):
        failing = under(shop, pck, shop.platform_ca, shop.root).failing()
        assert set(failing) == {"pck.chain", "tcb_info.fmspc", "tcb.status"}


def test_a_pck_issues_no_pck(shop: Workshop) -> None:
    """A chain of the right length, whose middle is a PCK certificate with a fitting name."""
    key = new_key()
    name = "SGX PCK Certificate CA"
    middle = remade(shop.pck, shop.platform_ca_key, name=name, issuer=shop.root.subject)
    leaf = remade(shop.pck, shop.pck_key, issuer=middle.subject, key=key.public_key())
    quote = shop.quote(chain=pem(leaf, middle, shop.root), pck_key=key)
    assert "pck.chain" in shop.evidence(quote).failing()


def test_extended_key_usage_that_must_be_understood_is_not_passed_over(shop: Workshop) -> None:
    extension = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), True
    pck = remade(shop.pck, shop.platform_ca_key, extensions=[extension])
    assert under(shop, pck, shop.platform_ca, shop.root).failing() == ["pck.chain"]


@pytest.mark.parametrize("digest", [hashes.SHA384(), hashes.SHA512(), hashes.SHA224()])
def test_other_hashes_are_not_taken(shop: Workshop, digest: Digest) -> None:
    pck = remade(shop.pck, shop.platform_ca_key, digest=digest)
    assert under(shop, pck, shop.platform_ca, shop.root).failing() == ["pck.chain"]
    assert shop.evidence(pck_crl=shop.pck_crl(digest=digest)).failing() == ["crl.pck"]


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP256K1(), ec.SECP224R1()])
def test_other_curves_are_not_taken(shop: Workshop, curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    pck = remade(shop.pck, shop.platform_ca_key, key=key.public_key())
    assert "pck.chain" in under(shop, pck, shop.platform_ca, shop.root).failing()
    with pytest.raises(MalformedError, match="P-256"):
        TrustAnchor.from_certificate(pem(remade(shop.root, key, key=key.public_key())))


def test_the_tcb_signer_certifies_no_platform(shop: Workshop) -> None:
    """And the authority for PCK certificates signs no TCB info."""
    pck = remade(shop.pck, shop.tcb_signing_key, issuer=shop.tcb_signing.subject)
    assert "pck.chain" in under(shop, pck, shop.tcb_signing, shop.root).failing()
    named = remade(shop.platform_ca, shop.root_key, name="SGX TCB Signing CA")
    info = shop.signed_document("tcbInfo", b"{}", shop.platform_ca_key)
    evidence = shop.evidence(tcb_info=info, tcb_info_issuer_chain=pem(named, shop.root))
    assert "tcb_info.signature" in evidence.failing()


# The mark of emulated evidence.


def test_the_mark_can_neither_be_left_out_nor_hidden(shop: Workshop) -> None:
    """A root without the mark, which its own user trusts by mistake, still certifies an emulated FMSPC."""
    bare = remade(shop.root, shop.root_key, without=[MARKER.oid])
    anchor = TrustAnchor.from_certificate(pem(bare))
    assert not anchor.emulated
    for anchors, root in (((anchor,), bare), ((anchor,), shop.root), ((shop.anchor,), bare)):
        evidence = under(shop, shop.pck, shop.platform_ca, root).but(anchors=anchors)
        assert evidence.failing() == ["emulated.allowed"]
        assert evidence.verify().emulated


def test_one_mark_makes_evidence_emulated(shop: Workshop) -> None:
    """With the FMSPC of a real platform too, and wherever in the chain the mark is."""
    platform = EmulatedPlatform(fmspc=bytes.fromhex("00806f050000"))
    pck = shop.pck_of(platform)
    info = shop.tcb_info(fmspc="00806F050000")
    assert under(shop, pck, shop.platform_ca, shop.root).but(tcb_info=info).verify().emulated
    bare = remade(shop.root, shop.root_key, without=[MARKER.oid])
    unmarked = under(shop, pck, shop.platform_ca, bare).but(
        tcb_info=info, anchors=(TrustAnchor.from_certificate(pem(bare)),)
    )
    result = unmarked.verify()
    assert result.accepted
    assert not result.emulated
    marked_ca = remade(shop.platform_ca, shop.root_key, extensions=[(MARKER, False)])
    hidden = under(shop, pck, marked_ca, bare).but(tcb_info=info, anchors=unmarked.anchors)
    assert hidden.failing() == ["emulated.allowed"]


# Trust anchors.


def test_a_file_with_several_certificates_is_no_trust_anchor(shop: Workshop) -> None:
    """The first of a chain is a PCK certificate: to trust its key as a root is not what anyone means."""
    with pytest.raises(MalformedError, match="3 certificates"):
        TrustAnchor.from_certificate(shop.pck_chain())


def test_a_trusted_leaf_is_no_root(shop: Workshop) -> None:
    leaf = TrustAnchor.from_certificate(shop.pck.public_bytes(Encoding.DER))
    for chain in ((shop.pck,), (shop.pck, shop.platform_ca), (shop.pck, shop.platform_ca, shop.root)):
        failing = under(shop, *chain).but(anchors=(leaf,)).failing()
        assert failing
        assert set(failing) & {"pck.chain", "pck.trust_anchor"}


# Revocation lists.


@pytest.mark.parametrize(
    "extension",
    [
        (x509.DeltaCRLIndicator(1), True),
        (x509.DeltaCRLIndicator(1), False),
        (x509.IssuingDistributionPoint(None, None, False, False, None, True, False), True),
        (x509.IssuingDistributionPoint(None, None, False, False, None, True, False), False),
        (x509.IssuingDistributionPoint(None, None, False, True, None, False, False), True),
        (x509.IssuingDistributionPoint(None, None, False, True, None, False, False), False),
        UNKNOWN,
    ],
)
def test_partial_lists_are_not_taken(shop: Workshop, extension: Extension) -> None:
    """Delta lists, indirect lists, and lists of authorities alone say nothing of who is not on them."""
    for item, make, check in (
        ("pck_crl", shop.pck_crl, "crl.pck"),
        ("root_ca_crl", shop.root_crl, "crl.root"),
    ):
        evidence = shop.evidence().but(**{item: make(extensions=[extension])})
        assert evidence.failing() == [check]


def test_lists_of_other_authorities_are_not_taken(shop: Workshop, other_shop: Workshop) -> None:
    processor = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "SGX PCK Processor CA")])
    issued = shop.now - timedelta(days=1)
    for crl in (
        shop.root_crl(),
        other_shop.pck_crl(),
        shop.pck_crl(name=processor),
        revocations(shop.platform_ca, shop.root_key, issued),
        revocations(shop.platform_ca, shop.pck_key, issued),
        revocations(shop.platform_ca, shop.tcb_signing_key, issued),
    ):
        assert shop.evidence(pck_crl=crl).failing() == ["crl.pck"]
    for crl in (shop.pck_crl(), other_shop.root_crl(), shop.root_crl(name=processor)):
        assert shop.evidence(root_ca_crl=crl).failing() == ["crl.root"]


def test_the_whole_name_of_a_lists_issuer_counts(shop: Workshop) -> None:
    """The same common name in another organization is another authority, as in Intel's library."""
    common_name = shop.platform_ca.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    namesake = x509.Name([*common_name, x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Somebody else")])
    assert shop.evidence(pck_crl=shop.pck_crl(name=namesake)).failing() == ["crl.pck"]


def test_only_those_who_may_sign_lists_do(shop: Workshop) -> None:
    ca = remade(shop.platform_ca, shop.root_key, extensions=[usage("key_cert_sign")])
    assert under(shop, shop.pck, ca, shop.root).failing() == ["crl.pck"]
    root = remade(shop.root, shop.root_key, extensions=[usage("key_cert_sign")])
    assert under(shop, shop.pck, shop.platform_ca, root).failing() == ["crl.root"]


def test_a_removed_entry_is_an_entry(shop: Workshop) -> None:
    """removeFromCRL means something in delta lists alone."""
    crl = shop.pck_crl(revoked=[shop.pck.serial_number], reason=x509.ReasonFlags.remove_from_crl)
    assert shop.evidence(pck_crl=crl).failing() == ["pck.revocation"]


# What the quote says of itself.


def test_a_platform_is_what_its_certificate_says(shop: Workshop) -> None:
    """PCE-ID and FMSPC are compared with TCB info, whatever else fits."""
    for platform in (EmulatedPlatform(pce_id=b"\0\1"), EmulatedPlatform(fmspc=b"\xfeOTHER")):
        quote = shop.quote(chain=shop.pck_chain(shop.pck_of(platform)))
        evidence = shop.evidence(quote)
        assert evidence.failing() == ["tcb_info.fmspc", "tcb.status"]
        assert evidence.verify().tcb is None


def test_another_platforms_key_signs_nothing_here(shop: Workshop, other_shop: Workshop) -> None:
    quote = shop.quote(pck_key=other_shop.pck_key)
    assert shop.evidence(quote).failing() == ["quote.qe_report_signature"]
