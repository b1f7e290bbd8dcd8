"""The locks pin everything by hash, name no place to download from, and agree with pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = ("build", "core", "demo", "image", "lock", "report", "test", "thirdparty", "thirdparty-needs")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = (("linux", "Linux", "x86_64"), ("linux", "Linux", "aarch64"), ("darwin", "Darwin", "arm64"))


def read_lock(repository: Path, name: str) -> dict[str, tuple[Requirement, list[str]]]:
    """Return one lock as name → (requirement, hashes)."""
    text = (repository / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    found: dict[str, tuple[Requirement, list[str]]] = {}
    for line in filter(None, lines.split("\n")):
        requirement, *hashes = re.split(r"\s+--hash=", line.strip())
        parsed = Requirement(requirement)
        found[canonicalize_name(parsed.name)] = (parsed, hashes)
    return found


def environments() -> list[dict[str, str]]:
    """Return what markers see on every supported Python and platform."""
    return [
        {
            **{key: str(value) for key, value in default_environment().items()},
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
            "python_version": version,
            "python_full_version": f"{version}.0",
            "sys_platform": system,
            "platform_system": name,
            "platform_machine": machine,
        }
        for version in PYTHONS
        for system, name, machine in PLATFORMS
    ]


@pytest.mark.parametrize("name", LOCKS)
def test_everything_is_pinned_by_hash(repository: Path, name: str) -> None:
    """Each line is one exact version with at least one SHA-256."""
    locked = read_lock(repository, name)
    assert locked
    for requirement, hashes in locked.values():
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(requirement.specifier)), requirement
        assert hashes
        assert [] == [item for item in hashes if not re.fullmatch(r"sha256:[0-9a-f]{64}", item)]


@pytest.mark.parametrize("name", LOCKS)
def test_no_place_to_download_from(repository: Path, name: str) -> None:
    """Where packages come from is the installer's own setting."""
    text = (repository / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    assert [] == re.findall(r"https?:|file:|--index|--extra-index|--find-links|--trusted-host| @ ", text)


def test_locks_agree(repository: Path) -> None:
    """A package has one version in all locks, so that test tools never replace what the demo installed."""
    versions: dict[str, set[str]] = {}
    for name in ("build", "core", "demo", "image", "report", "test"):
        for package, (requirement, _) in read_lock(repository, name).items():
            versions.setdefault(package, set()).add(str(requirement.specifier))
    assert {} == {package: pins for package, pins in versions.items() if len(pins) > 1}
    assert {*read_lock(repository, "core")} <= {*read_lock(repository, "report")}
    assert {*read_lock(repository, "build"), *read_lock(repository, "demo"), *read_lock(repository, "report")} <= {
        *read_lock(repository, "test")
    }


def test_core_lock_satisfies_the_project_everywhere(repository: Path) -> None:
    """On every supported Python and platform each dependency is locked, at a version that the project accepts."""
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = read_lock(repository, "core")
    for environment in environments():
        active = {name for name, (item, _) in locked.items() if not item.marker or item.marker.evaluate(environment)}
        for dependency in map(Requirement, project["dependencies"]):
            name = canonicalize_name(dependency.name)
            (pin,) = locked[name][0].specifier
            assert name in active, (name, environment)
            assert dependency.specifier.contains(pin.version), name


def test_lock_supports_the_pythons_that_the_project_names(repository: Path) -> None:
    """The classifiers name exactly the versions that these tests look at."""
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    prefix = "Programming Language :: Python :: "
    named = [item.removeprefix(prefix) for item in project["classifiers"] if re.fullmatch(prefix + r"3\.\d+", item)]
    assert list(PYTHONS) == named
