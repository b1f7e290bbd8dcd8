"""A writer that seals, and an officer who unseals, are killed with SIGKILL before each operation on a file."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from klingai_audit import AuditLog, acting
from klingai_audit.privacy.unseal_key import read_unseal_key
from klingai_audit.trust.openings import commitments_in
from klingai_audit.upkeep.unseal import make_unseal_key, unseal
from klingai_audit.views.entry import EntryView
from tests.support.mortal import NEGATIVE, PROMPT, order

ROOT = Path(__file__).resolve().parents[2]
MANY = 400

pytestmark = pytest.mark.slow


def make(base: Path) -> None:
    """Create a log whose policy has prompts sealed."""
    AuditLog.open(base / "audit").close()
    make_unseal_key(base / "audit.keys")
    (base / "audit.keys" / "policy.toml").write_text("[vault]\nseal = ['prompt', '*_prompt']\n")


def judge(base: Path, acknowledged: list[int]) -> None:
    """Everything in the log opens, nothing of it stands on the disk in plain, and the log verifies."""
    with AuditLog.open(base / "audit") as audit:
        assert audit.verify().integrity_ok
        key = read_unseal_key(base / "audit.keys" / "unseal.key")
        found = []
        for line in audit.reader.entries():
            entry = EntryView(line)
            subject = audit.subjects.get(entry.actor_id or "")
            for pointer, stored in commitments_in(entry.metadata).items():
                assert subject is not None
                value = audit.vault.open(subject, entry.event_id, pointer, stored, key).decode()
                assert value == (PROMPT if pointer == "/metadata/prompt" else NEGATIVE)
                found.append(entry.seq)
        assert set(acknowledged) <= set(found)
        assert set(found) == {seq for seq in found if found.count(seq) == 2}
    for path in base.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert (b"Wombat-7731" in data, b"Zeppelin-4402" in data) == (False, False), path.name


def killed_at_each_step(base: Path, story: str, check: Callable[[Path, list[str]], None]) -> int:
    """Play once for every other operation, killed before it; returns at which one the story came to its end."""
    for number in range(0, MANY, 2):
        place = base / str(number)
        shutil.copytree(base / "made", place)
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.mortal", story, str(place), str(number)],
            capture_output=True, timeout=120, check=False, cwd=ROOT,
        )  # fmt: skip
        check(place, done.stdout.decode().splitlines())
        shutil.rmtree(place)
        if done.returncode == 0:
            return number
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    pytest.fail("it never came to its end")


def test_a_writer_killed_while_it_seals(ram: Path) -> None:
    """Whatever was acknowledged has its content sealed; what was not may have left a file that harms nobody."""

    def check(place: Path, lines: list[str]) -> None:
        judge(place, [int(line) for line in lines])
        with AuditLog.open(place / "audit") as audit:
            seq = order(audit, "user@example.com")
            with acting("officer@example.com"):
                assert unseal(audit, seq, "prompt", reason="a look").text == PROMPT
            assert sum(audit.vault.erase(name) for name in list(audit.vault.subjects())) >= 4
        assert [path for path in (place / "audit.vault").rglob("*") if path.is_file()] == []

    make(ram / "made")
    assert killed_at_each_step(ram, "seal", check) > 25


def test_an_officer_killed_while_unsealing(ram: Path) -> None:
    """What was shown stands in the log; done again it opens, and the log verifies."""
    make(ram / "made")
    with AuditLog.open(ram / "made" / "audit") as audit:
        seq = order(audit, "user@example.com")
        audit.flush("published")

    def check(place: Path, lines: list[str]) -> None:
        judge(place, [seq])
        with AuditLog.open(place / "audit") as audit, acting("officer@example.com"):
            told = [entry.seq for entry in audit.query(event_type="content_unsealed")]
            assert {int(line) for line in lines} <= set(told)
            assert unseal(audit, seq, "prompt", reason="a look").text == PROMPT
            assert len(told) + 1 == len(list(audit.query(event_type="content_unsealed")))

    assert killed_at_each_step(ram, "unseal", check) > 3
