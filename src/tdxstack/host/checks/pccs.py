"""Where the quoting enclave's certificates come from: QCNL's configuration and the caching service (PCCS)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urljoin, urlsplit

from tdxstack.errors import MalformedError
from tdxstack.host.check import ENABLING_GUIDE, Check, Circumstances, Finding, Purpose
from tdxstack.host_access import AbsentError, Host, HostError, WebAnswer

QCNL_CONFIG = "/etc/sgx_default_qcnl.conf"
PCCS_DIRECTORY = "/opt/intel/sgx-dcap-pccs"
PCCS_CONFIG = f"{PCCS_DIRECTORY}/config/default.json"
PCCS_DATABASE = f"{PCCS_DIRECTORY}/pckcache.db"
PCCS_GUIDE = "https://github.com/intel/confidential-computing.tee.dcap.pccs"
ANSWER_SECONDS = 3.0
COLLATERAL_DAYS = 30
"""Intel's TCB info names a next update 30 days after its date of issue."""

_OLD_FORM = re.compile(r"^[ \t]*(PCCS_URL|USE_SECURE_CERT)[ \t]*=[ \t]*(\S+)", re.MULTILINE)

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Qcnl:
    """What QCNL, the library that fetches PCK certificates for the QGS, is told."""

    pccs_url: str
    secure: bool
    cache_only: bool

    @property
    def local(self) -> bool:
        """Whether the PCCS is on this machine."""
        return (urlsplit(self.pccs_url).hostname or "") in LOOPBACK


class Config(Check):
    """Whether the QGS knows where to ask."""

    id = "qcnl.config"
    purpose = Purpose.ATTEST
    looks_at = QCNL_CONFIG
    expected = "pccs_url is an https URL"
    why = "The QGS fetches the platform's PCK certificate from the PCCS that this file names."
    fix = f'sudo apt-get install libsgx-dcap-default-qpl; set "pccs_url" in {QCNL_CONFIG}'
    link = ENABLING_GUIDE
    needs = ("qgs.service",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        try:
            qcnl = read_qcnl(host)
        except AbsentError as error:
            return self.fail(error.message, "the QGS is not told where to fetch PCK certificates")
        except MalformedError as error:
            return self.fail(error.message, "the QGS cannot read where to fetch PCK certificates", error.hint)
        if qcnl.cache_only:
            return self.ok("certificates come from a local cache only")
        if urlsplit(qcnl.pccs_url).scheme != "https" or not urlsplit(qcnl.pccs_url).hostname:
            return self.fail(qcnl.pccs_url or "no pccs_url", "pccs_url is no https URL")
        return self.ok(f"{qcnl.pccs_url}, its certificate must be trusted: {'yes' if qcnl.secure else 'no'}")


class Answer(Check):
    """Whether the PCCS answers."""

    id = "pccs.answer"
    purpose = Purpose.ATTEST
    looks_at = "the PCCS that QCNL is told; one on another machine only with --network"
    expected = "the PCCS answers over HTTPS"
    why = "Without a PCCS the QGS finds no PCK certificate, and quotes fail with 0xe011 or 0x11001."
    fix = "sudo systemctl status pccs; sudo journalctl -u pccs -b"
    link = PCCS_GUIDE
    needs = ("qcnl.config",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        answer = _ask(host, circumstances)
        if isinstance(answer, str):
            return self.skip(answer)
        if isinstance(answer, HostError):
            return self.fail(answer.message, "the PCCS does not answer")
        if circumstances.network and answer.status != 200:
            return self.fail(
                f"HTTP status {answer.status}", "the PCCS has no root CA CRL: it does not reach Intel"
            )
        return self.ok(f"HTTP status {answer.status}")


class Certificate(Check):
    """Whether QCNL will accept the PCCS' certificate."""

    id = "pccs.certificate"
    purpose = Purpose.ATTEST
    looks_at = f"the certificate of the PCCS, use_secure_cert in {QCNL_CONFIG}"
    expected = "a trusted certificate, or use_secure_cert false for a PCCS on this machine"
    why = "PCCS makes itself a self-signed certificate; QCNL refuses that unless it is told otherwise."
    fix = (
        f'for a PCCS on this machine set "use_secure_cert": false in {QCNL_CONFIG}; '
        "sudo systemctl restart qgsd"
    )
    link = PCCS_GUIDE
    needs = ("pccs.answer",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        answer = _ask(host, circumstances)
        if isinstance(answer, str):
            return self.skip(answer)
        if isinstance(answer, HostError):
            return self.unsure(answer.message, answer.hint)
        qcnl = read_qcnl(host)
        if answer.trusted:
            return self.ok("trusted")
        if qcnl.secure:
            return self.fail("not trusted", "QCNL demands a trusted certificate, and the PCCS has none")
        if not qcnl.local:
            return self.warn(
                "not trusted",
                "QCNL accepts any certificate from a PCCS on another machine",
                'give the PCCS a certificate that this host trusts, and set "use_secure_cert": true',
            )
        return self.ok("self-signed, which use_secure_cert allows")


class ApiKey(Check):
    """Whether the PCCS may ask Intel."""

    id = "pccs.api_key"
    purpose = Purpose.ATTEST
    looks_at = f"ApiKey and CachingFillMode in {PCCS_CONFIG}"
    expected = "a key, where the PCCS fetches certificates itself"
    why = (
        "Intel gives PCK certificates only to subscribers: the PCCS sends the subscription key with each "
        "request."
    )
    fix = (
        "get a key at https://api.portal.trustedservices.intel.com/provisioning-certification; sudo "
        "pccs-configure; sudo systemctl restart pccs"
    )
    link = "https://api.portal.trustedservices.intel.com/provisioning-certification"
    needs = ("qcnl.config",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        try:
            document = parse_object(host.read(PCCS_CONFIG).decode(errors="replace"), PCCS_CONFIG)
        except AbsentError:
            return self.skip("no PCCS is installed on this machine")
        except MalformedError as error:
            return self.fail(error.message, "the PCCS cannot read its configuration", "sudo pccs-configure")
        mode = str(document.get("CachingFillMode", "LAZY"))
        if mode == "OFFLINE":
            return self.skip("the PCCS is offline and asks nobody")
        if str(document.get("ApiKey", "")).strip():
            return self.ok(f"set, mode {mode}")
        return self.fail(
            f"empty, mode {mode}", "the PCCS has no subscription key: Intel refuses it certificates"
        )


class CacheAge(Check):
    """Whether what the PCCS has may be out of date."""

    id = "pccs.cache"
    purpose = Purpose.ADVICE
    looks_at = f"the time of {PCCS_DATABASE}"
    expected = f"changed within {COLLATERAL_DAYS} days"
    why = (
        "Intel's TCB info is valid for 30 days: an older cache holds collateral that verifiers reject as "
        "expired."
    )
    fix = "curl -k -X POST -H 'admin-token: ...' https://localhost:8081/sgx/certification/v4/refresh"
    link = PCCS_GUIDE
    needs = ("qcnl.config",)

    def examine(self, host: Host, circumstances: Circumstances) -> Finding:
        try:
            changed = host.status(PCCS_DATABASE).modified
        except AbsentError:
            return self.skip("no cache of a PCCS is on this machine")
        found = f"changed {changed:%Y-%m-%d}"
        if circumstances.now - changed > timedelta(days=COLLATERAL_DAYS):
            return self.warn(found, "the PCCS' cache has not changed for a month: its collateral has expired")
        return self.ok(found)


def read_qcnl(host: Host) -> Qcnl:
    """QCNL's configuration: JSON with lines of comment, or the older NAME=value.

    Raises `MalformedError` where it is neither, and what `Host.read` raises.
    """
    content = host.read(QCNL_CONFIG).decode(errors="replace")
    lines = [line for line in content.splitlines() if not line.lstrip().startswith(("//", "#"))]
    if old := dict(_OLD_FORM.findall("\n".join(lines))):
        return Qcnl(
            old.get("PCCS_URL", ""), old.get("USE_SECURE_CERT", "").upper() != "FALSE", cache_only=False
        )
    document = parse_object("\n".join(lines), QCNL_CONFIG)
    return Qcnl(
        pccs_url=str(document.get("pccs_url", "")),
        secure=document.get("use_secure_cert", True) is not False,
        cache_only=document.get("local_cache_only", False) is True,
    )


def parse_object(text: str, name: str) -> dict[str, Any]:
    """A JSON object. Raises `MalformedError`, which says where it is broken."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"{name} is not JSON: {error}", hint=f"mend {name}") from None
    if not isinstance(document, dict):
        raise MalformedError(f"{name} is not a JSON object", hint=f"mend {name}")
    return document


def _ask(host: Host, circumstances: Circumstances) -> WebAnswer | HostError | str:
    """The PCCS' answer, why there is none, or why it is not asked.

    Without `network` only a PCCS on this machine is asked, and for nothing that it would fetch from Intel.
    """
    try:
        qcnl = read_qcnl(host)
    except (HostError, MalformedError):
        return f"{QCNL_CONFIG} names no PCCS"
    if qcnl.cache_only:
        return "certificates come from a local cache only"
    if not qcnl.local and not circumstances.network:
        return "the PCCS is on another machine; tdx doctor --network asks it"
    base = qcnl.pccs_url if qcnl.pccs_url.endswith("/") else f"{qcnl.pccs_url}/"
    try:
        return host.fetch(
            urljoin(base, "rootcacrl") if circumstances.network else base, timeout=ANSWER_SECONDS
        )
    except HostError as error:
        return error
