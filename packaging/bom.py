# SPDX-License-Identifier: AGPL-3.0-only
"""Write the bill of materials of a wheel, in CycloneDX, beside it: a part of ``make dist``.

It lists what pip installs with the wheel under any Python that is supported, at the versions of
``constraints.txt``.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SUFFIX = ".cdx.json"


def write(wheel: Path) -> Path:
    """Install a wheel into an environment of its own and write down what is in there.

    Raises:
        subprocess.CalledProcessError: If pip or cyclonedx-py fails.
    """
    name, version, *_ = wheel.name.split("-")
    bom = wheel.with_name(f"{name}-{version}{SUFFIX}")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    # Also those that are for other Pythons than this: the wheel is for all.
    needed = [requirement.partition(";")[0] for requirement in project["dependencies"]]
    with tempfile.TemporaryDirectory() as folder:
        # Without pip, which is no part of it.
        venv.create(folder, with_pip=False)
        python = f"{folder}/bin/python"
        pip = [sys.executable, "-m", "pip", "--python", python]
        constraints = ["--constraint", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, "install", "--quiet", *constraints, str(wheel), *needed], check=True)
        cyclonedx = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
        described = ["--pyproject", str(ROOT / "pyproject.toml"), "--output-file", str(bom)]
        subprocess.run([*cyclonedx, *described, python], check=True)
        inspected = subprocess.run([*pip, "inspect"], check=True, capture_output=True).stdout
    bill = json.loads(bom.read_text(encoding="utf-8"))
    _describe(bill["metadata"]["component"], wheel, version)
    _forget_extras(bill["dependencies"], json.loads(inspected)["installed"])
    bom.write_text(f"{json.dumps(bill, indent=2)}\n", encoding="utf-8")
    return bom


def _describe(component: dict[str, Any], wheel: Path, version: str) -> None:
    """Say which file it is about; cyclonedx-py knows pyproject.toml, whose version is dynamic."""
    component["version"] = version
    component["purl"] = f"pkg:pypi/{component['name']}@{version}?file_name={wheel.name}"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    component["hashes"] = [{"alg": "SHA-256", "content": digest}]


def _forget_extras(dependencies: list[dict[str, Any]], installed: list[dict[str, Any]]) -> None:
    """Leave out what a component would need for an extra, which nobody asked for."""
    needs = {
        _normal(each["metadata"]["name"]): {
            _normal(re.split(r"[^\w.-]", requirement)[0])
            for requirement in each["metadata"].get("requires_dist", ())
            if not re.search(r"\bextra\s*==", requirement)
        }
        for each in installed
    }
    for dependency in dependencies:
        name = _normal(dependency["ref"].partition("==")[0])
        if name in needs and "dependsOn" in dependency:
            dependency["dependsOn"] = [
                ref
                for ref in dependency["dependsOn"]
                if _normal(ref.partition("==")[0]) in needs[name]
            ]


def _normal(name: str) -> str:
    """Return a name of a distribution in its normal form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Write it for the wheel in a folder."""
    (wheel,) = Path(sys.argv[1]).glob("*.whl")
    write(wheel)


if __name__ == "__main__":
    main()
