"""The public vectors, file by file: the check that each must pass, or why there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.conformance import decoded, items
from tests.conformance.vectors import (
    AUTOMATA_SDK,
    CC_API,
    DCAP_RS,
    DERIVED,
    FORTANIX,
    GO_EVENTLOG,
    GO_TDX_GUEST,
    GUEST_COMPONENTS,
    INTEL_DCAP,
    INTEL_QVL,
    NEAR,
    PHALA,
    RUTERI,
    TEEPOT,
    TRUST_AUTHORITY,
    TRUSTEE,
)


@dataclass(frozen=True)
class Elsewhere:
    """A file that another test reads, named here; or that nothing reads, and why."""

    where: str


Check = Callable[[str], None]

PLATFORM_CA = "Intel SGX PCK Platform CA"
PROCESSOR_CA = "Intel SGX PCK Processor CA"
ROOT_CA = "Intel SGX Root CA"

_quote, _log, _crl = items.quote, items.event_log, items.revocation_list
_CCEL = GO_EVENTLOG + "eventlogs/ccel/"
_TPM = GO_EVENTLOG + "eventlogs/tpm/"
_LEGACY = GO_EVENTLOG + "legacydata/"
_LOGS = TRUSTEE + "eventlog/test_data/"
_VERIFIER = TRUSTEE + "verifier/test_data/"

_SAMPLE_PKI = Elsewhere("test_quotes: Intel's sample set, under Intel's sample root")
_OLD_SAMPLE_PKI = Elsewhere("test_quotes: Intel's sample of an SGX quote without PCK certificate")
_POLICY = Elsewhere(
    "a policy of Intel's appraisal library, in a language of its own that tdxstack does not read"
)
_PCK_SELECTION = Elsewhere("which PCK certificate a PCCS hands out; tdxstack has no PCCS that selects")
_PREDICTION = Elsewhere(
    "test_published_registers: RTMR0 of machines with Ubuntu's OVMF 2025.02; MRTD is made of its pages, which"
    " are not among the vectors"
)

ENTRIES: dict[str, Check | Elsewhere] = {
    # Quotes.
    GO_TDX_GUEST + "ccel/cos-113-tdx-quote.dat": partial(_quote, fmspc="00806f050000"),
    GO_TDX_GUEST + "quote_v5_sample.dat": partial(_quote, fmspc="90c06f000000"),
    GO_TDX_GUEST + "tdx_prod_quote_SPR_E4.dat": partial(_quote, fmspc="50806f000000"),
    PHALA + "sample/quote-from-tappd.hex": partial(_quote, fmspc="b0c06f000000"),
    PHALA + "sample/sgx_quote": partial(_quote, fmspc="00a067110000"),
    PHALA + "sample/tdx-quote.hex": partial(_quote, fmspc="b0c06f000000"),
    PHALA + "sample/tdx_quote": partial(_quote, fmspc="b0c06f000000"),
    PHALA + "sample/tdx_quote_outdated": partial(_quote, fmspc="90c06f000000"),
    NEAR + "quote_hex.txt": partial(_quote, fmspc="20a06f000000"),
    RUTERI + "sample_quote.hex": partial(_quote, fmspc="b0c06f000000"),
    _VERIFIER + "tdx_quote_4.dat": partial(_quote, fmspc="50806f000000", debug=True),
    _VERIFIER + "tdx_quote_5.dat": partial(_quote, fmspc="90c06f000000"),
    _VERIFIER + "occlum_quote.dat": partial(_quote, fmspc="00606a000000", debug=True),
    DCAP_RS + "quote_tdx_00806f050000.dat": partial(_quote, fmspc="00806f050000"),
    AUTOMATA_SDK + "sgx_v3_quote.bin": partial(_quote, fmspc="00606a000000"),
    AUTOMATA_SDK + "tdx_v4_quote.bin": partial(_quote, fmspc="00806f050000"),
    AUTOMATA_SDK + "tdx_v5_quote.bin": partial(_quote, fmspc="90c06f000000"),
    CC_API + "quote.bin": partial(_quote, fmspc="10806f070000", root=False),
    # Collateral.
    PHALA + "sample/sgx_quote_collateral.json": items.collateral,
    PHALA + "sample/tdx_quote_collateral.json": items.collateral,
    PHALA + "sample/tdx_quote_outdated_collateral.json": items.collateral,
    NEAR + "quote_collateral.json": items.collateral,
    **{
        f"{DERIVED}collateral-{fmspc}-eval18-{day}.json": partial(items.derived_collateral, fmspc=fmspc)
        for fmspc, day in [
            *((fmspc, "2026-03-16") for fmspc in ("50806f000000", "90c06f000000")),
            *(
                (fmspc, "2025-11-17")
                for fmspc in (
                    "00806f050000",
                    "00a06e050000",
                    "10a06d000000",
                    "10a06f010000",
                    "20a06d080000",
                    "20a06f000000",
                    "50806f000000",
                    "60a06f000000",
                    "70a06d070000",
                    "90c06f000000",
                    "b0c06f000000",
                    "c0806f000000",
                )
            ),
        ]
    },
    DERIVED + "mrseam.json": Elsewhere("items.quote: the MRSEAM of every quote"),
    GO_TDX_GUEST + "sample_qeIdentity_response": partial(items.qe_identity, kind="TD_QE"),
    GO_TDX_GUEST + "sample_tcbInfo_response": partial(
        items.tdx_tcb_info, fmspc="50806f000000", evaluation=15
    ),
    GO_TDX_GUEST + "sample_tcbinfo_response_v5": partial(
        items.tdx_tcb_info, fmspc="90c06f000000", evaluation=18
    ),
    _VERIFIER + "tcbInfo.json": partial(items.tdx_tcb_info, fmspc="00a06d080000", evaluation=17),
    _VERIFIER + "enclaveIdentity.json": partial(items.qe_identity, kind="TD_QE"),
    DCAP_RS + "identityv2_0.json": partial(items.qe_identity, kind="QE"),
    DCAP_RS + "identityv2_1.json": partial(items.qe_identity, kind="QE"),
    DCAP_RS + "qeidentityv2.json": partial(items.qe_identity, kind="QE"),
    DCAP_RS + "qeidentityv2_apiv4.json": partial(items.qe_identity, kind="TD_QE"),
    DCAP_RS + "tcb_info_v3_tdx_0.json": items.tdx_tcb_info,
    DCAP_RS + "tcb_info_v3_tdx_1.json": items.tdx_tcb_info,
    DCAP_RS + "tcbinfov2.json": partial(items.tcb_info, kind="version 2"),
    DCAP_RS + "tcbinfov3_00806f050000.json": partial(items.tdx_tcb_info, fmspc="00806f050000"),
    TEEPOT + "sgx_qae_identity.json": partial(items.qe_identity, kind="QAE"),
    TEEPOT + "sgx_qe_identity.json": partial(items.qe_identity, kind="QE"),
    TEEPOT + "sgx_qe_identity_v3.json": partial(items.qe_identity, kind="QE"),
    TEEPOT + "sgx_qve_identity.json": partial(items.qe_identity, kind="QVE"),
    TEEPOT + "tdx_qe_identity.json": partial(items.qe_identity, kind="TD_QE"),
    TEEPOT + "sgx_tcb_eval_nums.json": partial(items.evaluation_numbers, kind="SGX"),
    TEEPOT + "tdx_tcb_eval_nums.json": partial(items.evaluation_numbers, kind="TDX"),
    TEEPOT + "sgx_tcb_info_00906ED50000.json": partial(items.sgx_tcb_info, fmspc="00906ed50000"),
    TEEPOT + "sgx_tcb_info_alt.json": items.sgx_tcb_info,
    TEEPOT + "sgx_tcb_info_early.json": items.sgx_tcb_info,
    TEEPOT + "sgx_tcb_info_v3.json": partial(items.tcb_info, kind="version 2"),
    TEEPOT + "tdx_tcb_info.json": items.tdx_tcb_info,
    TEEPOT + "tdx_tcb_info_00806F050000.json": partial(items.tdx_tcb_info, fmspc="00806f050000"),
    TEEPOT + "tdx_tcb_info_eval17.json": partial(items.tdx_tcb_info, fmspc="00806f050000", evaluation=17),
    TEEPOT + "fmspcs.json": items.fmspcs,
    TEEPOT + "fmspcs_all_platforms.json": items.fmspcs,
    TEEPOT + "fmspcs_no_filter.json": items.fmspcs,
    # Certificates and revocation lists.
    PHALA + "src/TrustedRootCA.der": items.root_certificate,
    DCAP_RS + "Intel_SGX_Provisioning_Certification_RootCA.cer": items.root_certificate,
    DCAP_RS + "Intel_SGX_Provisioning_Certification_RootCA.pem": items.root_certificate,
    DCAP_RS + "pck_certchain.pem": partial(items.chain, length=3),
    DCAP_RS + "tcb_signing_cert.pem": partial(items.chain, length=2),
    DCAP_RS + "signing_cert.pem": items.signing_certificate,
    DCAP_RS + "intel_root_ca_crl.der": partial(_crl, issuer=ROOT_CA),
    DCAP_RS + "pck_platform_crl.der": partial(_crl, issuer=PLATFORM_CA),
    GO_TDX_GUEST + "rootcrl.der": partial(_crl, issuer=ROOT_CA),
    GO_TDX_GUEST + "pckcrl": partial(_crl, issuer=PLATFORM_CA),
    TEEPOT + "pck_crl_platform.json": partial(_crl, issuer=PLATFORM_CA),
    TEEPOT + "pck_crl_processor.json": partial(_crl, issuer=PROCESSOR_CA),
    TEEPOT + "pck_crl_processor_der.json": partial(_crl, issuer=PROCESSOR_CA),
    **{
        f"{INTEL_DCAP}tools/PCKCertSelection/SampleData/pck{number}_sample.pem": items.other_curve
        for number in range(7)
    },
    INTEL_DCAP + "tools/PCKCertSelection/SampleData/tcb_info.json": _PCK_SELECTION,
    INTEL_DCAP + "tools/PCKCertSelection/SampleData/tcb_info_4.json": _PCK_SELECTION,
    # Intel's sample sets, each under a root of its own.
    **{
        INTEL_QVL + name: _SAMPLE_PKI
        for name in (
            "tdx/intermediateCaCrl.der",
            "tdx/pckCert.pem",
            "tdx/pckSignChain.pem",
            "tdx/qeIdentity.json",
            "tdx/quote.dat",
            "tdx/rootCaCrl.der",
            "tdx/tcbInfo.json",
            "tdx/tcbSignChain.pem",
            "tdx/trustedRootCaCert.pem",
        )
    },
    **{
        INTEL_QVL + name: _OLD_SAMPLE_PKI
        for name in (
            "intermediateCaCrl.der",
            "intermediateCaCrl.pem",
            "pckCert.pem",
            "pckSignChain.pem",
            "qeIdentity.json",
            "quote.dat",
            "rootCaCrl.der",
            "rootCaCrl.pem",
            "tcbInfo.json",
            "tcbSignChain.pem",
            "trustedRootCaCert.pem",
        )
    },
    INTEL_QVL + "generatorInput/qeIdentity.yml": Elsewhere("input of Intel's generator of the sample set"),
    INTEL_QVL + "qveIdentity.json": Elsewhere("identity of Intel's verification enclave, which is not used"),
    # TDREPORTs and REPORTDATA.
    GUEST_COMPONENTS + "tdx_report_1.bin": partial(items.tdreport, version=1),
    INTEL_DCAP + "QuoteGeneration/quote_wrapper/td-ql-logic-rs/tdreport_for_test.dat": partial(
        items.tdreport, version=0
    ),
    GO_TDX_GUEST + "report.dat": items.no_tdreport,
    GO_TDX_GUEST + "ccel/nonce.dat": items.zeros,
    # Event logs of TDs; what they replay to is in test_event_logs.
    GO_TDX_GUEST + "ccel/ccel_data.dat": partial(_log, events=43),
    _CCEL + "CCEL_unpadded.data.bin": partial(_log, events=19),
    _CCEL + "cos-113-intel-tdx.bin": partial(_log, events=43),
    _CCEL + "cos-113-intel-tdx-dupe-separator.bin": partial(_log, events=43),
    _CCEL + "cos-113-intel-tdx-dupe-separator-unpadded.bin": partial(_log, events=43),
    _CCEL + "event_log.bin": partial(_log, events=27),
    _LOGS + "CCEL_data": partial(_log, events=5),
    _LOGS + "CCEL_data_csv": partial(_log, events=82),
    _LOGS + "CCEL_data_grub": partial(_log, events=37),
    _LOGS + "CCEL_data_ovmf": partial(_log, events=20),
    _VERIFIER + "CCEL_data": partial(_log, events=5),
    _VERIFIER + "CCEL_data_ovmf": partial(_log, events=20),
    CC_API + "ccel_data.bin": partial(_log, events=98),
    TRUST_AUTHORITY + "go-tdx/test/resources/CCEL.data.bin": partial(_log, events=19),
    GO_TDX_GUEST + "ccel/ccel_table.dat": partial(items.ccel_table, length=0x40000),
    _CCEL + "cos-113-intel-tdx.table.bin": partial(items.ccel_table, length=0x40000),
    _CCEL + "CCEL.bin": partial(items.ccel_table, length=0x10000),
    TRUST_AUTHORITY + "go-tdx/test/resources/CCEL.bin": partial(items.ccel_table, length=0x10000),
    # What others have decoded.
    _LOGS + "CCEL_data_csv_out.json": partial(decoded.trustee_log, log=_LOGS + "CCEL_data_csv"),
    _LOGS + "CCEL_data_grub_out.json": partial(decoded.trustee_log, log=_LOGS + "CCEL_data_grub"),
    _LOGS + "CCEL_data_out.json": partial(decoded.trustee_log, log=_LOGS + "CCEL_data"),
    _LOGS + "CCEL_data_ovmf_out.json": partial(decoded.trustee_log, log=_LOGS + "CCEL_data_ovmf"),
    _VERIFIER + "parse_tdx_claims_expected.json": partial(
        decoded.trustee_claims, quote=_VERIFIER + "tdx_quote_4.dat", log=_VERIFIER + "CCEL_data"
    ),
    CC_API + "formated_el.txt": partial(decoded.cc_api_log, log=CC_API + "ccel_data.bin"),
    CC_API + "formated_quote.txt": partial(decoded.cc_api_quote, quote=CC_API + "quote.bin"),
    # Event logs of TPMs. Three have digests of something else than what they log of the authority.
    _TPM + "arch-linux-workstation.bin": partial(_log, events=24),
    _TPM + "cos-101-amd-sev.bin": partial(_log, events=48),
    _TPM + "cos-85-amd-sev.bin": partial(_log, events=45, digests=False),
    _TPM + "cos-93-amd-sev.bin": partial(_log, events=45, digests=False),
    _TPM + "debian-10.bin": partial(_log, events=25, crypto_agile=False),
    _TPM + "glinux-alex.bin": partial(_log, events=28),
    _TPM + "rhel8-uefi.bin": partial(_log, events=82),
    _TPM + "ubuntu-1804-amd-sev.bin": partial(_log, events=87),
    _TPM + "ubuntu-2104-no-dbx.bin": partial(_log, events=111),
    _TPM + "ubuntu-2104-no-secure-boot.bin": partial(_log, events=105),
    _LEGACY + "crypto_agile_eventlog": partial(_log, events=26),
    _LEGACY + "sb_cert_eventlog": partial(_log, events=14, digests=False),
    _LEGACY + "option_rom_eventlog": partial(_log, events=61, crypto_agile=False),
    _LEGACY + "short_no_action_eventlog": partial(_log, events=1, crypto_agile=False),
    _LEGACY + "ebs_event_missing_eventlog": partial(_log, events=38, crypto_agile=False),
    TRUST_AUTHORITY + "go-tpm/test_data/binary_bios_measurements12": partial(
        _log, events=162, crypto_agile=False
    ),
    TRUST_AUTHORITY + "go-tpm/test_data/binary_bios_measurements20": partial(_log, events=135),
    # Integrity measurement logs.
    CC_API + "ima_log.bin": Elsewhere("test_event_logs: with the boot log it replays to the quote"),
    "Fraunhofer-AISEC+measured-boot-tools/parse-ima-pcr/test/binary_runtime_measurements": Elsewhere(
        "test_event_logs: round trip, digests and templates"
    ),
    # Firmware, modules, machines.
    "virtee+tdx/tests/data/OVMF.inteltdx.fd": Elsewhere(
        "test_firmware_mrtd: MRTD in both orders; test_published_registers: what it starts with"
    ),
    "intel+confidential-computing.tdx.tdx-module.binaries/mapping_file.json": Elsewhere(
        "test_index: the versions that MRSEAMs are known for"
    ),
    "confidential-containers+td-shim/data/blobs/td-payload.efi": partial(
        items.program,
        digest="a319c2cd790a1792e98dacbf5fb89c498136f9f90bf988046acc9833b93e07d0407a09991b5577148435180750ff628b",
    ),
    **{
        f"{FORTANIX}{machine}/{name}": _PREDICTION
        for machine in ("canonical-defaults", "q35-with-hpet")
        for name in ("acpi_tables.bin", "expected.json", "metadata.json")
    },
    FORTANIX + ".gitignore": Elsewhere("no vector"),
    # Policies.
    **{
        f"{INTEL_DCAP}SampleCode/QuoteAppraisalSample/Policies/{name}.json": _POLICY
        for name in (
            "alibabacloud_tdx_platform_policy_90C06F000000",
            "sgx_enclave_policy",
            "sgx_platform_policy_collateral_grace_period",
            "sgx_platform_policy_min_eval_num",
            "sgx_platform_policy_platform_grace_period",
            "sgx_platform_policy_rejected_id",
            "sgx_platform_policy_strict",
            "tdx_platform_policy_collateral_grace_period",
            "tdx_platform_policy_min_eval_num",
            "tdx_platform_policy_platform_grace_period",
            "tdx_platform_policy_rejected_id",
            "tdx_platform_policy_strict",
            "tenant_td_policy",
        )
    },
    **{
        f"{INTEL_DCAP}QuoteVerification/appraisal/tee_appraisal_tool/data/{name}.json": _POLICY
        for name in ("sgx_platform_policy_payload_template", "tdx_platform_policy_payload_template")
    },
}
