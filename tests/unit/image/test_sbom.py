from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from tdxstack.image.sbom import declared, licences, sbom
from tdxstack.toolbox.apt import Deb

HEAD = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n"
DEBS = [Deb("bash", "5.2-1", Path(), "aa"), Deb("libx+y", "1:2~3", Path(), "bb")]


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("free software", ""),
        (HEAD, ""),
        (HEAD + "Files: *\nLicense: GPL-2+\n text\n", "GPL-2.0-or-later"),
        (HEAD + "Files: *\nLicense: Expat\n\nFiles: x\nLicense: LGPL-2.1\n", "LGPL-2.1-only AND MIT"),
        (HEAD + "Files: *\nLicense: GPL-1+ or Artistic\n", "(Artistic-1.0-Perl OR GPL-1.0-or-later)"),
        (HEAD + "Files: *\nLicense: GPL-3+ and zlib\n", "GPL-3.0-or-later AND Zlib"),
        (HEAD + "Files: *\nLicense: my own (odd) one\n", "LicenseRef-Debian-my-own-odd-one"),
    ],
)
def test_what_a_copyright_file_declares(text: str, expression: str) -> None:
    assert declared(text) == expression


def test_licences_of_a_tree(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "tree.tar", "w") as tree:
        for name, text in (("bash", HEAD + "Files: *\nLicense: GPL-3+\n"), ("dash", "free")):
            info = tarfile.TarInfo(f"./usr/share/doc/{name}/copyright")
            info.size = len(text)
            tree.addfile(info, io.BytesIO(text.encode()))
    assert licences(tmp_path / "tree.tar") == {"bash": "GPL-3.0-or-later"}


def test_the_document() -> None:
    text = sbom("web", "debian", DEBS, {"bash": "MIT AND LicenseRef-Debian-odd"}, 1000)
    assert text == sbom("web", "debian", DEBS, {"bash": "MIT AND LicenseRef-Debian-odd"}, 1000)
    document = json.loads(text)
    assert document["spdxVersion"] == "SPDX-2.3"
    assert document["creationInfo"]["created"] == "1970-01-01T00:16:40Z"
    bash, other = document["packages"]
    assert (bash["name"], bash["versionInfo"]) == ("bash", "5.2-1")
    assert bash["licenseDeclared"] == "MIT AND LicenseRef-Debian-odd"
    assert other["licenseDeclared"] == "NOASSERTION"
    assert other["externalRefs"][0]["referenceLocator"] == "pkg:deb/debian/libx%2By@1%3A2~3"
    assert document["hasExtractedLicensingInfos"][0]["licenseId"] == "LicenseRef-Debian-odd"
    names = [document["SPDXID"], *(package["SPDXID"] for package in document["packages"])]
    assert all(character.isalnum() or character in ".-" for name in names for character in name)
    assert len(set(names)) == len(names)
