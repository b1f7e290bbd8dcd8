"""Imports point down, and importing the package costs no more than it must."""

from __future__ import annotations

import importlib
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import klingai_audit

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(klingai_audit.__path__, "klingai_audit.")
    if not module.name.endswith(".__main__")
)

HEAVY = {"httpx", "httpx2", "rich", "cyclopts", "http.server"}
"""What a program that only wants to log should not load by `import klingai_audit`."""


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n"))


@pytest.mark.parametrize("name", MODULES)
def test_all_names_resolve_and_are_sorted(name: str) -> None:
    """Every module imports, and each name in its `__all__` is there, once."""
    module = importlib.import_module(name)
    exported = list(getattr(module, "__all__", []))
    assert [] == [item for item in exported if not hasattr(module, item)]
    assert len(exported) == len(set(exported))


def test_package_names_resolve() -> None:
    """The front door's `__all__` names what `from klingai_audit import *` gives."""
    namespace: dict[str, object] = {}
    exec("from klingai_audit import *", namespace)
    assert sorted(klingai_audit.__all__) == sorted(set(namespace) - {"__builtins__"})
    assert {*klingai_audit.__all__} <= {*dir(klingai_audit)}


def test_import_budget_of_the_package() -> None:
    """`import klingai_audit` loads neither HTTP nor command line nor database."""
    assert set() == loaded_by("import klingai_audit") & HEAVY


def test_import_budget_of_the_command_line() -> None:
    """The command line starts without HTTP, the provider's client or its simulator."""
    heavy = {"httpx", "httpx2", "http.server", "klingai_audit.kling.client", "klingai_audit.kling.simulator"}
    assert set() == loaded_by("import klingai_audit.cli") & heavy


def test_import_budget_measures() -> None:
    """The measurement sees a heavy import when there is one."""
    assert {"httpx2"} == loaded_by("import httpx2") & {"httpx2", "cyclopts"}


def contracts(root: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter over the source tree below `root`."""
    command = [
        sys.executable,
        "-c",
        "import sys; sys.path.insert(0, 'src'); import importlinter.cli as c; c.lint_imports_command()",
    ]
    return subprocess.run([*command, "--no-cache"], cwd=root, capture_output=True, text=True, check=False)


def test_import_contracts_hold_and_notice(repository: Path, tmp_path: Path) -> None:
    """The contracts hold for the tree; a copy with one upward import, one clock and one stray room breaks them."""
    shutil.copytree(repository / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repository / "pyproject.toml", tmp_path)
    clean = contracts(tmp_path)
    assert (0, True) == (clean.returncode, "0 broken" in clean.stdout), clean.stdout + clean.stderr
    package = tmp_path / "src" / "klingai_audit"
    (package / "tlog" / "late.py").write_text("import time\n")
    (package / "ledger" / "late.py").write_text(
        "from klingai_audit import trust\nfrom klingai_audit.event import context\n"
    )
    (package / "stores" / "late.py").write_text("from klingai_audit import privacy\n")
    (package / "event" / "context.py").touch()
    broken = contracts(tmp_path)
    names = ["imports point downwards", "stores know only", "tlog does no I/O", "ledger imports from event only"]
    assert 1 == broken.returncode, broken.stdout + broken.stderr
    assert [] == [
        name for name in names if not any(name in line and "BROKEN" in line for line in broken.stdout.split("\n"))
    ]


def test_new_room_without_a_floor_is_refused(repository: Path, tmp_path: Path) -> None:
    """A package that the layer list does not name breaks the contract."""
    shutil.copytree(repository / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repository / "pyproject.toml", tmp_path)
    (tmp_path / "src" / "klingai_audit" / "attic.py").write_text('"""Nowhere."""\n')
    assert 1 == contracts(tmp_path).returncode
