"""``python debian/sbom.py VERSION LIBRARIES REPORT``: the package's bill of materials, as CycloneDX 1.6.

LIBRARIES is the directory that is packed, REPORT what ``pip install --report`` wrote when it filled that.
Names, versions and licences are those of the packed metadata; each hash is that of the wheel, as the package
index has it.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

MAIN = "mixpanel-forwarder"


def component(library: Distribution, sha256: str) -> dict[str, Any]:
    """What CycloneDX has to say of one library."""
    name, version = library.metadata["Name"], library.version
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
    return {
        "type": "application" if name == MAIN else "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "licenses": [licence(library)],
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": sha256}],
    }


def hash_of(archive: dict[str, Any]) -> str:
    """The SHA-256 that pip has noted; Debian 12's (23.0) does so in one text alone."""
    return str(
        archive["hashes"]["sha256"] if "hashes" in archive else archive["hash"].removeprefix("sha256=")
    )


def licence(library: Distribution) -> dict[str, Any]:
    """An SPDX expression where the library gives one, or else the name that it gives.

    Raises:
        SystemExit: It gives none; then a person must look.
    """
    metadata = library.metadata
    if expression := metadata.get("License-Expression"):
        return {"expression": expression}
    classifiers = [text for text in metadata.get_all("Classifier", []) if text.startswith("License :: ")]
    name = metadata.get("License") or (classifiers[0].rpartition(" :: ")[2] if classifiers else "")
    if not name:
        sys.exit(f"{metadata['Name']} {library.version} names no licence in its metadata")
    return {"license": {"name": name}}


def main(version: str, libraries: Path, report: Path) -> None:
    """Write it to standard output."""
    installed = json.loads(report.read_text())["install"]
    wheels = {each["metadata"]["name"]: hash_of(each["download_info"]["archive_info"]) for each in installed}
    packed = distributions(path=[str(libraries)])
    found = [component(library, wheels[library.metadata["Name"]]) for library in packed]
    found.sort(key=lambda each: str(each["purl"]))
    (product,) = (each for each in found if each["name"] == MAIN)
    made_at = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": made_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {**product, "version": version},
        },
        "components": [each for each in found if each is not product],
    }
    print(json.dumps(bill, indent=1))


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
