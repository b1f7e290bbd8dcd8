"""What is published is complete, carries nothing else, and works without this source tree."""

from __future__ import annotations

import email
import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement

DOWNLOAD_LIMIT = 60_000_000
"""Bytes that `make demo` may download."""


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Run a command outside of this source tree's settings and return its output."""
    clean = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=clean | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def distributions(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution, and from it the wheel; no network."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, repository, cwd=folder)
    return folder


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    """Return the one wheel."""
    (path,) = distributions.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> Metadata:
    """Return the wheel's metadata, validated as an index would."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Metadata.from_email(archive.read(name), validate=True)


def sources(repository: Path) -> set[str]:
    """Return the package's files as they stand in the source tree."""
    root = repository / "src"
    found = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(root).as_posix() for path in found}


def test_wheel_holds_the_package_and_nothing_else(repository: Path, wheel: Path) -> None:
    """Every source file, the type marker and the licence; no tests, no caches."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    inside = {name for name in names if ".dist-info/" not in name}
    assert sources(repository) == inside
    assert "klingai_audit/py.typed" in inside
    notes = {name.split(".dist-info/")[1] for name in names - inside}
    assert {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"} == notes


def test_source_distribution_holds_what_a_build_needs(repository: Path, distributions: Path) -> None:
    """Sources, build description and the papers; no tests, no lock, no caches."""
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    papers = {"CHANGELOG.md", "LICENSE", "README.md", "SECURITY.md"}
    expected = {f"src/{name}" for name in sources(repository)} | papers | {"pyproject.toml", "PKG-INFO", ".gitignore"}
    assert expected == names


def test_wheels_are_reproducible(repository: Path, wheel: Path, tmp_path: Path) -> None:
    """Built again, straight from the tree, the wheel has the same bytes."""
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, repository, cwd=tmp_path)
    assert wheel.read_bytes() == (tmp_path / wheel.name).read_bytes()


def test_metadata_is_what_an_index_accepts(metadata: Metadata) -> None:
    """Valid by the packaging specifications, with a readable description and stated Python versions."""
    assert str(metadata.name) == "klingai-audit"
    assert metadata.license_expression == "MIT"
    assert metadata.license_files == ["LICENSE"]
    assert str(metadata.requires_python) == ">=3.11"
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description
    assert "Typing :: Typed" in (metadata.classifiers or [])
    assert email.utils.parseaddr(metadata.author or "")[0] or metadata.author_email or metadata.author


def test_core_needs_six_libraries_and_extras_are_real(metadata: Metadata) -> None:
    """The core stays small; an extra exists only once something needs it."""
    core = {item.name for item in metadata.requires_dist or [] if item.marker is None}
    assert {"cryptography", "cyclopts", "duckdb", "httpx2", "msgspec", "rich"} == core
    for extra in metadata.provides_extra or []:
        assert [item for item in metadata.requires_dist or [] if _for_extra(item, extra)], extra


def _for_extra(item: Requirement, extra: str) -> bool:
    return (
        item.marker is not None and item.marker.evaluate({"extra": extra}) and not item.marker.evaluate({"extra": ""})
    )


@pytest.mark.slow
def test_wheel_alone_runs_the_demo(repository: Path, wheel: Path, tmp_path: Path) -> None:
    """In a fresh environment with the locked core, no sources near, the demo runs, verifies and keeps to its folder."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    lock = repository / "requirements" / "core.txt"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "-qq"]
    run(*pip, "download", "--require-hashes", "-r", lock, "-d", tmp_path / "downloads", cwd=tmp_path)
    assert sum(path.stat().st_size for path in (tmp_path / "downloads").iterdir()) <= DOWNLOAD_LIMIT
    offline = ["--no-index", "--find-links", tmp_path / "downloads"]
    run(*pip, "install", "--require-hashes", *offline, "-r", lock, cwd=tmp_path)
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    run(*pip, "check", cwd=tmp_path)

    folder = tmp_path / "empty"
    folder.mkdir()
    command = environment / "bin" / "klingai-audit"
    shown = json.loads(run(command, "demo", "--dir", "D", "--json", cwd=folder))
    assert shown["verdict"]["integrity_ok"] is True
    assert shown["drill"]["mutations"] == shown["drill"]["caught"]
    assert {"D"} == {path.name for path in folder.iterdir()}
    verdict = json.loads(run(command, "verify", "--log", "D/audit", "--json", cwd=folder))
    assert (0, True) == (verdict["exit"], verdict["integrity_ok"])
    where = run(python, "-c", "import klingai_audit; print(klingai_audit.__file__)", cwd=folder).strip()
    assert environment in Path(where).parents
