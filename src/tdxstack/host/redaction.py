"""Takes secrets and identities out of a host's answers, without changing what a diagnosis sees in them.

Answers whose form is known keep only what checks look at. All other text goes through patterns. An address or
the name of another machine becomes the same stand-in wherever it occurs, in questions too, so that a
recording stays consistent; loopback and this machine stay what they are.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tdxstack.abi.qgs import GetPlatformInfoResponse
from tdxstack.errors import MalformedError
from tdxstack.host.checks.kernel import HOST_OPTIONS, SGX_OPTION
from tdxstack.host.checks.pccs import PCCS_CONFIG, QCNL_CONFIG, parse_object
from tdxstack.host.checks.qgs import QEMU_USERS, QGS_USER
from tdxstack.host.checks.registration import STATUS_VARIABLE
from tdxstack.host.recording import Answers

REMOVED: Final = "<removed>"

LOG_LINES = re.compile(
    r"tdx|seam|\btme\b|mktme|sgx|kvm|hibernat|Linux version|^(?:\[[ 0-9.]+\] )?(?:Kernel )?[Cc]ommand line",
    re.IGNORECASE,
)
"""The lines of the kernel's log that a report keeps."""

_CONFIG_LINES = re.compile(r"^CONFIG_\w*(?:TDX|SGX|KVM|HIBERNATION|KEXEC|MEMORY_HOTPLUG)\w*=", re.MULTILINE)
_COMMAND_LINE = re.compile(
    r"^((?:\[[ 0-9.]+\] )?(?:Kernel )?command line: )(.*)$", re.IGNORECASE | re.MULTILINE
)
_PARAMETERS = re.compile(
    r"(?:kvm|kvm_intel|tdx\w*|sgx|nosgx|nohibernate|hibernate|intel_iommu|iommu|crashkernel|mce|mem|memmap|"
    r"numa_balancing|transparent_hugepage|hugepages\w*|default_hugepagesz|quiet|ro|rw|nomodeset)(?:[.=].*)?$"
)
"""Parameters of the kernel whose values a report keeps."""

_USERS = ("root", QGS_USER, *QEMU_USERS)
_GROUPS = (*_USERS, "sgx", "sgx_prv", "kvm", "libvirt")
_PCCS_KEYS = ("HTTPS_PORT", "uri", "CachingFillMode", "RefreshSchedule", "LogLevel", "ApiKey")
_QCNL_KEYS = (
    "pccs_url",
    "use_secure_cert",
    "collateral_service",
    "local_cache_only",
    "retry_times",
    "retry_delay",
    "pck_cache_expire_hours",
    "verify_collateral_cache_expire_hours",
)
_PUBLIC_HOSTS = ("intel.com", "github.com", "kernel.org")
_KEPT = re.compile(re.escape(STATUS_VARIABLE.rsplit("/", 1)[1]))
"""Names of fixed identifiers that look like one machine's."""

_BINARY = (f"read {STATUS_VARIABLE}", "read /proc/config.gz")
"""Answers that are not text, and hold nothing that is secret."""

_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_EQUALS = r"[\"']?(?:[ \t]{0,8}[:=][ \t]{0,8}|[ \t])"
_VALUE = r"(\"(?:[^\"\\\n]|\\.)+\"|'[^'\n]+'|[^\s\"']+)"
_SECRET = re.compile(
    r"((?:key|token|tokenhash|(?<!by)pass(?:word|wd|phrase)?|pwd|secret|credentials?|cookie|psk|authorization|bearer)"
    rf"{_EQUALS}(?:(?:basic|bearer|digest)[ \t]{{1,8}})?){_VALUE}",
    re.IGNORECASE,
)
_WEB_TOKEN = re.compile(r"(?<![\w-])eyJ[\w-]{4,}\.[\w-]+(?:\.[\w-]*)?")
"""A JSON web token, wherever it stands."""
_IDENTITY = re.compile(
    r"((?:serial(?: number| no\.?)?|service tag|asset tag|(?:encrypted_)?ppid|qe_?id|machine[-_]id)"
    rf"{_EQUALS}){_VALUE}",
    re.IGNORECASE,
)
_HOME = re.compile(r"(?<=/home/)(?!user\b)[^/\s\"':]+")
_USERINFO = re.compile(r"(?<=://)[^/\s@]+@")
_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)*")
_MAC = re.compile(r"(?<![0-9A-Fa-f])(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}(?![0-9A-Fa-f])")
_UUID = re.compile(r"\b[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\b")
_LONG = re.compile(r"\b(?:[0-9A-Fa-f]{24,}|(?=[A-Za-z+_-]{0,39}\d)[A-Za-z0-9+_-]{40,})={0,2}")
_IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?!\d|\.\d)")
_IPV6 = re.compile(r"(?<![0-9A-Fa-f:])[0-9A-Fa-f:]{2,45}(?![0-9A-Fa-f:])")
_DOMAIN = re.compile(r"(?<![\w./@-])(?:[A-Za-z0-9-]{1,63}\.){2,8}[A-Za-z]{2,24}\b(?!\.\w)")
_URL_HOST = re.compile(r"(https?://)(\[?[^/\s:\]\"'<>]+\]?)")

_DOCUMENTATION: Final = {4: ipaddress.ip_network("192.0.2.0/24"), 6: ipaddress.ip_network("2001:db8::/32")}
"""Addresses that belong to nobody (RFC 5737, RFC 3849): the stand-ins."""

_MISSING: Final = "<not readable as JSON, and removed>"


class Redactor:
    """Removes secrets, and the `names` of this machine. `removed` counts what was taken out, by kind."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.removed: Counter[str] = Counter()
        self._hosts: dict[str, str] = {}
        self._addresses: dict[str, str] = {}
        known = sorted(
            (name for name in set(names) if len(name) > 2 and name != "localhost"), key=len, reverse=True
        )
        self._names = (
            re.compile("|".join(rf"\b{re.escape(name)}\b" for name in known), re.IGNORECASE)
            if known
            else None
        )

    def redact(self, answers: Answers) -> dict[str, dict[str, Any]]:
        """The answers as they may leave the machine."""
        return {self.text(question): self._answer(question, answer) for question, answer in answers.items()}

    def text(self, text: str) -> str:
        """One text without secrets, identities and addresses."""
        parts = _KEPT.split(text)
        kept = _KEPT.findall(text)
        clean = [self._patterns(part) for part in parts]
        return "".join(one for pair in zip(clean, [*kept, ""], strict=True) for one in pair)

    def _answer(self, question: str, answer: Mapping[str, Any]) -> dict[str, Any]:
        reduced = dict(answer)
        if "value" in reduced and (reduce := self._reduction(question)):
            reduced["value"] = reduce(reduced["value"])
        if (
            question.startswith("read ")
            and question not in _BINARY
            and isinstance(reduced.get("value"), dict)
        ):
            reduced["value"] = base64.b64decode(reduced["value"]["base64"]).decode(errors="replace")
        return {key: self._clean(value) for key, value in reduced.items()}

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return self.text("\n".join(value)).split("\n") if value else value
        if isinstance(value, list):
            return [self._clean(one) for one in value]
        if isinstance(value, dict):
            return {key: one if key == "base64" else self._clean(one) for key, one in value.items()}
        return value

    def _reduction(self, question: str) -> Callable[[Any], Any] | None:
        """What is kept of an answer in a known form."""
        return {
            "kernel_log": self._log,
            "read /proc/cmdline": _of_text(self._parameters),
            "read /etc/passwd": _of_text(_passwd),
            "read /etc/group": _of_text(_group),
            f"read {QCNL_CONFIG}": _of_text(self._qcnl),
            f"read {PCCS_CONFIG}": _of_text(self._pccs),
        }.get(question) or {
            "exchange": self._platform_info,
            "fetch": self._page,
            "read": _of_text(_config)
            if question.startswith(("read /boot/config-", "read /lib/modules/"))
            else None,
        }.get(question.split(" ", 1)[0])

    def _log(self, value: Any) -> Any:
        lines = [line for line in value["lines"] if LOG_LINES.search(line)]
        return {
            **value,
            "lines": [
                _COMMAND_LINE.sub(lambda found: found[1] + self._parameters(found[2]), line) for line in lines
            ],
        }

    def _parameters(self, text: str) -> str:
        words = []
        for word in text.split():
            name, separator, _ = word.partition("=")
            if _PARAMETERS.match(word):
                words.append(word)
            else:
                self.removed["kernel parameters"] += 1
                words.append(f"{name}={REMOVED}" if separator and re.fullmatch(r"[\w.-]+", name) else REMOVED)
        return " ".join(words)

    def _pccs(self, text: str) -> str:
        try:
            document = parse_object(text, PCCS_CONFIG)
        except MalformedError:
            return _MISSING
        kept = {key: document[key] for key in _PCCS_KEYS if key in document}
        if str(kept.get("ApiKey", "")).strip():
            self.removed["secrets"] += 1
            kept["ApiKey"] = REMOVED
        return json.dumps(kept, indent=1)

    def _qcnl(self, text: str) -> str:
        if re.search(r"^[ \t]*PCCS_URL[ \t]*=", text, re.MULTILINE):
            return "\n".join(re.findall(r"^[ \t]*(?:PCCS_URL|USE_SECURE_CERT)[ \t]*=.*$", text, re.MULTILINE))
        lines = (line for line in text.splitlines() if not line.lstrip().startswith(("//", "#")))
        try:
            document = parse_object("\n".join(lines), QCNL_CONFIG)
        except MalformedError:
            return _MISSING
        return json.dumps({key: document[key] for key in _QCNL_KEYS if key in document}, indent=1)

    def _platform_info(self, value: Any) -> Any:
        """The QGS' answer with zeros for the platform's id; what is no such answer is emptied."""
        try:
            data = base64.b64decode(value["base64"]) if isinstance(value, dict) else str(value).encode()
            answer = GetPlatformInfoResponse.parse(data)
        except (MalformedError, ValueError, KeyError):
            return ""
        self.removed["platform ids"] += 1
        clean = GetPlatformInfoResponse(
            qe_isvsvn=answer.qe_isvsvn,
            pce_isvsvn=answer.pce_isvsvn,
            platform_id=bytes(len(answer.platform_id)),
            cpusvn=answer.cpusvn,
            error_code=answer.error_code,
            minor_version=answer.minor_version,
            padding=answer.padding,
        )
        return {"base64": base64.b64encode(clean.to_bytes()).decode()}

    def _page(self, value: Any) -> Any:
        return {**value, "headers": {}, "body": ""}

    def _patterns(self, text: str) -> str:
        text = self._replace(_PEM, text, "private keys")
        text = self._replace(_USERINFO, text, "secrets", "")
        text = self._replace(_WEB_TOKEN, text, "secrets")
        text = self._replace(_HOME, text, "names of people and machines", "user")
        text = _SECRET.sub(lambda found: self._value(found, "secrets"), text)
        text = _IDENTITY.sub(lambda found: self._value(found, "serial numbers"), text)
        text = self._replace(_MAC, text, "MAC addresses", "00:00:5e:00:53:00")
        text = self._replace(_UUID, text, "UUIDs", "00000000-0000-0000-0000-000000000000")
        text = self._replace(_EMAIL, text, "names of people and machines")
        text = self._replace(_LONG, text, "long numbers")
        text = _IPV4.sub(self._address, text)
        text = _IPV6.sub(self._address, text)
        text = _URL_HOST.sub(lambda found: found[1] + self._host(found[2]), text)
        text = _DOMAIN.sub(lambda found: self._host(found[0]), text)
        return self._replace(self._names, text, "names of this machine", "this-host") if self._names else text

    def _replace(self, pattern: re.Pattern[str], text: str, kind: str, stand_in: str = REMOVED) -> str:
        clean, count = pattern.subn(stand_in, text)
        if count:
            self.removed[kind] += count
        return clean

    def _value(self, found: re.Match[str], kind: str) -> str:
        """What names a secret, and a stand-in in the quotes that the secret had."""
        quote = found[2][0] if found[2][0] in "\"'" else ""
        if found[2].strip("\"'") == REMOVED:
            return found[0]
        self.removed[kind] += 1
        return f"{found[1]}{quote}{REMOVED}{quote}"

    def _address(self, found: re.Match[str]) -> str:
        """A stand-in for an address, which may have a colon too much before or behind it."""
        for text in dict.fromkeys(
            (found[0], found[0].rstrip(":"), found[0].lstrip(":"), found[0].strip(":"))
        ):
            try:
                address = ipaddress.ip_address(text)
            except ValueError:
                continue
            return found[0].replace(text, self._stand_in(address))
        return found[0]

    def _stand_in(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
        if address.is_loopback or address.is_unspecified or address in _DOCUMENTATION[address.version]:
            return str(address)
        self.removed["IP addresses"] += 1
        number = len(self._addresses) + 1
        stand_in = f"192.0.2.{number % 256}" if address.version == 4 else f"2001:db8::{number:x}"
        return self._addresses.setdefault(str(address), stand_in)

    def _host(self, written: str) -> str:
        name = written.strip("[]").lower()
        public = any(name == one or name.endswith(f".{one}") for one in _PUBLIC_HOSTS)
        if public or name == "localhost" or name.endswith(".invalid") or _is_address(name):
            return written
        self.removed["names of other machines"] += 1
        return self._hosts.setdefault(name, f"host-{len(self._hosts) + 1}.invalid")


def _of_text(reduce: Callable[[str], str]) -> Callable[[Any], Any]:
    """A reduction of a text that is given as one string or as lines."""

    def reduced(value: Any) -> Any:
        if isinstance(value, dict):
            return ""
        text = reduce("\n".join(value) if isinstance(value, list) else value)
        return text.split("\n") if "\n" in text else text

    return reduced


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _passwd(text: str) -> str:
    """The users that checks know, without what is said about them."""
    lines = (line.split(":") for line in text.splitlines())
    return "\n".join(":".join([*fields[:4], "", "", ""]) for fields in lines if fields[0] in _USERS)


def _group(text: str) -> str:
    """The groups that checks know and those that a known user is in, with no other members."""
    kept = []
    for line in text.splitlines():
        name, *fields = line.split(":")
        members = [member for member in fields[-1].split(",") if member in _USERS] if fields else []
        if members or name in _GROUPS:
            kept.append(":".join([name, *fields[:-1], ",".join(members)]))
    return "\n".join(kept)


def _config(text: str) -> str:
    wanted = (*HOST_OPTIONS, SGX_OPTION)
    return "\n".join(
        line for line in text.splitlines() if _CONFIG_LINES.match(line) or line.startswith(tuple(wanted))
    )
