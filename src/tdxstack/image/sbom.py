"""The packages of an image, with versions, origins and licences, as an SPDX 2.3 document in JSON."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from tdxstack.toolbox.apt import Deb
from tdxstack.toolbox.archive import stanzas

_COPYRIGHT = re.compile(r"\./usr/share/doc/([^/]+)/copyright")
_MAX_COPYRIGHT = 1 << 20
_NO_ASSERTION = "NOASSERTION"
_FORMAT = "copyright-format/1.0"
# short names of Debian's machine-readable copyright format 1.0, section 7.1, whose meaning is SPDX's
_SPDX = {
    "apache-2.0": "Apache-2.0",
    "artistic": "Artistic-1.0-Perl",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "cc0-1.0": "CC0-1.0",
    "expat": "MIT",
    "gfdl-1.3": "GFDL-1.3-only",
    "gfdl-1.3+": "GFDL-1.3-or-later",
    "isc": "ISC",
    "mpl-2.0": "MPL-2.0",
    "openssl": "OpenSSL",
    "zlib": "Zlib",
} | {
    f"{short}{suffix}": f"{name}-{version}{meaning}"
    for name, short_name in (("GPL", "gpl"), ("LGPL", "lgpl"))
    for version in ("1.0", "2.0", "2.1", "3.0")
    if (name, version) not in (("LGPL", "1.0"), ("GPL", "2.1"))
    for short in (f"{short_name}-{version}", f"{short_name}-{version.removesuffix('.0')}")
    for suffix, meaning in (("", "-only"), ("+", "-or-later"))
}


def sbom(name: str, distribution: str, debs: Sequence[Deb], licences: Mapping[str, str], epoch: int) -> bytes:
    """The document of the image `name`; the same packages and `epoch` give the same bytes.

    `licences` are SPDX expressions by package; what is not in them is NOASSERTION.
    """
    declared_here = " ".join(licences.values())
    extracted = sorted(set(re.findall(r"LicenseRef-[\w.-]+", declared_here)))
    content = [
        {
            "SPDXID": _identifier(deb.name),
            "name": deb.name,
            "versionInfo": deb.version,
            "downloadLocation": _NO_ASSERTION,
            "filesAnalyzed": False,
            "licenseConcluded": _NO_ASSERTION,
            "licenseDeclared": licences.get(deb.name, _NO_ASSERTION),
            "copyrightText": _NO_ASSERTION,
            "checksums": [{"algorithm": "SHA256", "checksumValue": deb.sha256}],
            "externalRefs": [
                {
                    "referenceCategory": "PACKAGE-MANAGER",
                    "referenceType": "purl",
                    "referenceLocator": _purl(distribution, deb),
                }
            ],
        }
        for deb in debs
    ]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"https://tdxstack.invalid/spdx/{name}/{digest}",
        "creationInfo": {
            "created": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": ["Tool: tdxstack"],
        },
        "packages": content,
        "relationships": [
            {
                "spdxElementId": "SPDXRef-DOCUMENT",
                "relationshipType": "DESCRIBES",
                "relatedSpdxElement": _identifier(deb.name),
            }
            for deb in debs
        ],
        "hasExtractedLicensingInfos": [
            {"licenseId": word, "extractedText": f"see /usr/share/doc/*/copyright, License: {word[18:]}"}
            for word in extracted
        ],
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def licences(archive: Path) -> dict[str, str]:
    """What the copyright files in the tree `archive` declare, as SPDX expressions by package.

    Packages whose file is not machine-readable (copyright-format 1.0) are left out.
    """
    found = {}
    with tarfile.open(archive) as tree:
        for member in tree:
            match = _COPYRIGHT.fullmatch(member.name)
            if match is None or not member.isreg() or member.size > _MAX_COPYRIGHT:
                continue
            file = tree.extractfile(member)
            text = file.read().decode(errors="replace") if file else ""
            expression = declared(text)
            if expression:
                found[match[1]] = expression
    return found


def declared(copyright_file: str) -> str:
    """All licences of a machine-readable copyright file, joined with AND; empty for any other text."""
    if _FORMAT not in copyright_file[:400]:
        return ""
    found: set[str] = set()
    for fields in stanzas(copyright_file):
        line = fields.get("license", "").split("\n")[0]
        for all_of in re.split(r"\s+and\s+|,", line):
            one_of = sorted({_licence(word) for word in re.split(r"\s+(?:or|and/or)\s+|\|", all_of) if word})
            if one_of:
                found.add(one_of[0] if len(one_of) == 1 else f"({' OR '.join(one_of)})")
    return " AND ".join(sorted(found))


def _licence(short: str) -> str:
    short = short.strip()
    known = _SPDX.get(short.lower())
    return known or f"LicenseRef-Debian-{re.sub(r'[^A-Za-z0-9.]+', '-', short).strip('-')[:60] or 'other'}"


def _purl(distribution: str, deb: Deb) -> str:
    return f"pkg:deb/{distribution}/{quote(deb.name)}@{quote(deb.version, safe='')}"


def _identifier(name: str) -> str:
    return f"SPDXRef-Package-{re.sub(r'[^A-Za-z0-9.-]', '-', name)}"
