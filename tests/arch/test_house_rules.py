"""The house rules hold, and each of them would notice if it did not."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tools import check_source
from tools.check_source import SRC_RULES, TEST_RULES, Source, check_repository, check_text

WORDY = '"""Doc."""\n\n__all__ = []\n'

PLANTED = [
    ("src/klingai_audit/event/long.py", "\n" * 401, "length"),
    ("src/klingai_audit/event/a.py", "open('x', 'w')", "writes"),
    ("src/klingai_audit/event/a.py", "open('x', mode='ab')", "writes"),
    ("src/klingai_audit/event/a.py", "path.open('r+')", "writes"),
    ("src/klingai_audit/event/a.py", "path.write_text('x')", "writes"),
    ("src/klingai_audit/event/a.py", "path.write_bytes(b'x')", "writes"),
    ("src/klingai_audit/event/a.py", "os.rename(a, b)", "writes"),
    ("src/klingai_audit/event/a.py", "os.unlink(a)", "writes"),
    ("src/klingai_audit/event/a.py", "os.open(a, os.O_RDWR)", "writes"),
    ("src/klingai_audit/event/a.py", "path.unlink(missing_ok=True)", "writes"),
    ("src/klingai_audit/event/a.py", "path.rename(other)", "writes"),
    ("src/klingai_audit/event/a.py", "path.replace(other)", "writes"),
    ("src/klingai_audit/event/a.py", "path.mkdir(parents=True)", "writes"),
    ("src/klingai_audit/event/a.py", "shutil.rmtree(a)", "writes"),
    ("src/klingai_audit/durable.py", "x = 1", "writes"),
    ("src/klingai_audit/tlog/a.py", "time.time()", "clock"),
    ("src/klingai_audit/event/a.py", "text.splitlines()", "splitlines"),
    ("src/klingai_audit/stores/a.py", "from klingai_audit.event.record import EncodedEvent", "imports"),
    ("src/klingai_audit/stores/a.py", "from klingai_audit.ledger import keys", "imports"),
    ("src/klingai_audit/stores/a.py", "import klingai_audit.ledger.storekeeper", "imports"),
    ("src/klingai_audit/kling/simulator/a.py", "from klingai_audit.kling import client", "imports"),
    ("src/klingai_audit/tlog/a.py", "from klingai_audit import durable", "imports"),
    ("src/klingai_audit/event/a.py", "def run(): ...", "exports"),
    ("src/klingai_audit/event/a.py", "Reader = Callable[[int], bytes]", "exports"),
    ("src/klingai_audit/event/a.py", "__all__ = ['a']\nB = b = a = 1", "exports"),
    ("src/klingai_audit/event/a.py", "__all__ = ['a', 'b']\na = 1", "exports"),
    ("src/klingai_audit/event/__init__.py", "__all__ = []\nfrom klingai_audit.event.record import Event", "exports"),
    ("src/klingai_audit/event/a.py", "__all__ = ['A']\nclass A:\n  def run(self): ...", "docstring"),
    ("tests/unit/test_a.py", "def test_a():\n  assert 1", "test"),
    ("tests/unit/test_a.py", "def test_a():\n  'Doc.'", "test"),
    ("tests/unit/test_a.py", "pytest.skip()", "skip"),
    ("tests/unit/test_a.py", "pytest.mark.skip", "skip"),
    ("tests/unit/test_a.py", "pytest.mark.skipif(x, reason='')", "skip"),
    ("tests/unit/test_a.py", "pytest.mark.xfail(strict=True)", "skip"),
]

INNOCENT = [
    ("src/klingai_audit/event/a.py", "open('x')"),
    ("src/klingai_audit/event/a.py", "path.open('rb')"),
    ("src/klingai_audit/event/a.py", "shutil.which('player')"),
    ("src/klingai_audit/event/a.py", "os.open(folder, os.O_RDONLY)"),
    ("src/klingai_audit/event/a.py", "os.open(os.devnull, os.O_WRONLY)"),
    ("src/klingai_audit/event/a.py", "ops.unlink(path), ops.rename(a, b), ops.mkdir(path, 0o700), ops.rmdir(path)"),
    ("src/klingai_audit/event/a.py", "text.replace('a', 'b')"),
    ("src/klingai_audit/event/a.py", "moment.replace(tzinfo=None), dataclasses.replace(draft, team=None)"),
    ("src/klingai_audit/event/a.py", "time.time_ns()"),
    ("src/klingai_audit/stores/a.py", "from klingai_audit.ledger.store import Store"),
    ("src/klingai_audit/stores/a.py", "from klingai_audit.durable import OPS"),
    ("src/klingai_audit/kling/simulator/a.py", "from klingai_audit.kling.simulator.clock import Clock"),
    ("src/klingai_audit/event/a.py", "import os\n__all__ = ['A']\nclass A:\n  def run(self): 'Doc.'"),
    ("src/klingai_audit/event/a.py", "__all__ = ['A']\nclass A:\n  def wait(self): ..."),
    ("src/klingai_audit/event/_a.py", "def run(): ..."),
    ("src/klingai_audit/event/a.py", "MAX_BYTES = 1"),
    ("src/klingai_audit/event/__init__.py", "from klingai_audit.event.record import Event\n__all__ = ['Event']"),
    ("tests/unit/test_a.py", "def test_a():\n  'Doc.'\n  assert 1"),
    ("tests/unit/test_a.py", "pytest.skip('only on macOS')"),
    ("tests/unit/test_a.py", "pytest.mark.skipif(x, reason=WHY)"),
]


def rules_broken(path: str, text: str) -> set[str]:
    """Return the names of the rules that one made-up file breaks."""
    source = Source(path, text, ast.parse(text), frozenset({"wait"}))
    rules = SRC_RULES if path.startswith("src/") else TEST_RULES
    return {breach.rule for rule in rules for breach in rule(source)}


@pytest.mark.parametrize("path,text,rule", PLANTED)
def test_planted_breach_is_found(path: str, text: str, rule: str) -> None:
    """Each rule reports the file that breaks it."""
    assert rule in rules_broken(path, text)


@pytest.mark.parametrize("path,text", INNOCENT)
def test_innocent_code_passes(path: str, text: str) -> None:
    """No rule reports code that only resembles a breach."""
    assert set() == rules_broken(path, text)


@pytest.mark.parametrize(
    "path,text,rule",
    [
        ("docs/a.md", "a tamper" + "-proof log", "wording"),
        ("README.md", "GDPR " + "compliant", "wording"),
        ("src/klingai_audit/a.py", "raise NotImplemented" + "Error", "wording"),
        ("tests/a.py", "/wo" + "rk/main", "place"),
        ("Makefile", "https://pypi" + ".org/simple", "place"),
    ],
)
def test_planted_words_are_found(path: str, text: str, rule: str) -> None:
    """Promises we do not make and places of one machine are reported, with their line."""
    assert [(2, rule)] == [(breach.line, breach.rule) for breach in check_text(path, f"fine\n{text}")]


def test_words_that_only_resemble_pass() -> None:
    """Tamper-evident, compliance and folders called work are ordinary words."""
    assert [] == list(check_text("docs/a.md", "tamper-evident, compliance, ./wo" + "rk/x, framework/y, GDPR"))


@pytest.mark.slow
def test_repository_keeps_the_house_rules(repository: Path) -> None:
    """The tree as it is breaks none of the rules."""
    assert [] == [str(breach) for breach in check_repository(repository)]


def test_breaches_end_the_command_with_failure(tmp_path: Path) -> None:
    """Run as `make check` runs it, a breach is printed with its place and the exit code is 1."""
    script = tmp_path / "tools" / "check_source.py"
    script.parent.mkdir()
    script.write_text(Path(check_source.__file__).read_text())
    package = tmp_path / "src" / "klingai_audit"
    package.mkdir(parents=True)
    for allowed in check_source.MAY_WRITE:
        (tmp_path / allowed).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / allowed).write_text(WORDY + "open('x', 'w')\n")
    (package / "late.py").write_text(WORDY + "open('x', 'w')\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    expected = "src/klingai_audit/late.py:4: writes: `open`: files are written through durable.FileOps\n"
    assert (1, expected) == (done.returncode, done.stdout)


@pytest.mark.parametrize(
    "path,code,rule",
    [
        ("src/klingai_audit/event/a.py", "print('x')", "T201"),
        ("src/klingai_audit/event/a.py", "assert 1", "S101"),
        ("src/klingai_audit/event/a.py", "import datetime as dt\n\ndt.datetime.now()", "DTZ005"),
        ("src/klingai_audit/event/a.py", "import datetime as dt\n\ndt.datetime.utcnow()", "DTZ003"),
        ("src/klingai_audit/event/a.py", "# TO" + "DO later", "FIX002"),
        ("src/klingai_audit/event/a.py", "# FIX" + "ME", "FIX001"),
        ("src/klingai_audit/event/a.py", "def run() -> None: ...", "D103"),
        ("src/klingai_audit/event/a.py", "x = 1  # type: ignore", "PGH003"),
        ("src/klingai_audit/event/a.py", "x = 1", "I002"),
    ],
)
def test_ruff_is_configured_to_refuse(repository: Path, path: str, code: str, rule: str) -> None:
    """What the rules above leave to ruff is refused by ruff."""
    command = [sys.executable, "-m", "ruff", "check", "--output-format", "concise", "--stdin-filename", path, "-"]
    done = subprocess.run(command, cwd=repository, input=code, capture_output=True, text=True, check=False)
    assert f" {rule} " in done.stdout


def test_command_line_may_print(repository: Path) -> None:
    """Printing is refused by room, not everywhere."""
    command = [sys.executable, "-m", "ruff", "check", "--stdin-filename", "src/klingai_audit/cli/a.py", "-"]
    done = subprocess.run(command, cwd=repository, input="print('x')", capture_output=True, text=True, check=False)
    assert "T201" not in done.stdout
