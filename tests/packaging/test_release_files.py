"""What a release holds beside the package: the same bytes for everybody, and their digests where readers look."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from klingai_audit.bundle.archive import read_bundle
from klingai_audit.bundle.page import embedded_evidence, empty_page, page_with
from tests.support.bundles import make
from tools.release_files import checksums, release_files, write_files

NAMES = ["klingai_audit_verify.py", "verify.html"]


def test_files_and_their_digests(tmp_path: Path) -> None:
    """Each file has its digest beside it, in the form of sha256sum."""
    written = {path.name: path.read_bytes() for path in write_files(tmp_path / "dist")}
    assert sorted(written) == sorted([*NAMES, *(f"{name}.sha256" for name in NAMES)])
    for name in NAMES:
        assert f"{hashlib.sha256(written[name]).hexdigest()}  {name}\n".encode() == written[f"{name}.sha256"]


@pytest.mark.slow
def test_everybody_makes_the_same_bytes(repository: Path, tmp_path: Path) -> None:
    """Another process, another folder, another hash seed, another language, another day."""
    made = []
    for number in ("1", "2"):
        folder = tmp_path / number
        odd = {"PYTHONHASHSEED": number, "LC_ALL": "C" if number == "1" else "C.UTF-8", "TZ": f"UTC{number}"}
        done = subprocess.run(
            [sys.executable, "-m", "tools.release_files", str(folder)],
            cwd=repository,
            env={**os.environ, **odd},
            capture_output=True,
            text=True,
            check=True,
        )
        assert 4 == len(done.stdout.splitlines())
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert made[0] == made[1]


def test_digests_stand_in_the_documentation(repository: Path) -> None:
    """The table is one of the generated parts, and holds what the sources give."""
    page = (repository / "docs" / "how-to" / "verify-without-our-package.md").read_text(encoding="utf-8")
    assert checksums() in page
    assert [hashlib.sha256(data).hexdigest() for data in release_files().values()] == re.findall(
        "`([0-9a-f]{64})`", page
    )


def test_a_bundle_holds_the_released_page_but_for_its_evidence(tmp_path: Path) -> None:
    """Cut the block of data out of the page in a bundle: what is left are the bytes of the release."""
    page = read_bundle(make(tmp_path, notes=1).data)["verify.html"]
    evidence = embedded_evidence(page)
    assert len(evidence) > 1000
    assert release_files()["verify.html"] == page.replace(evidence, embedded_evidence(empty_page()), 1)
    assert page_with(evidence.replace(b"\\u003c", b"<")) == page
