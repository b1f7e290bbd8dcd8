"""Erasure is killed with SIGKILL at every step, and at random moments inside SQLite; the next opening completes it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from klingai_audit import AuditLog, acting
from klingai_audit.upkeep.erasure import erase_subject
from tests.support.children import Child, Tell

USER, OFFICER = "user@example.com", "officer@example.com"
BASIS = "GDPR Art. 17(1)(b)"
COMMITMENT = "A" * 43
STEPS = frozenset({"execute", "fdatasync", "write", "pwrite", "open", "unlink", "rmdir", "rename", "replace", "close"})
"""C functions by which anything changes on the disk."""


@dataclass(frozen=True)
class Made:
    """A log with one person to erase: where, their pseudonym, what must be in no file afterwards."""

    folder: Path
    pseudonym: str
    needles: tuple[bytes, ...]


def make(folder: Path, people: int = 20) -> Made:
    """Make the log, the person, others, and something in the vault."""
    with AuditLog.open(folder / "audit") as audit:
        for who in (USER, *(f"other{number}@example.com" for number in range(people))):
            with acting(who):
                audit.log("prompt_submitted", action="text_to_video", prompt="A lake")
        subject = audit.subjects.find(USER)
        assert subject is not None
        sealed = audit.vault.file(subject.pseudonym, COMMITMENT)
        for place in (audit.vault.path, sealed.parent.parent, sealed.parent):
            place.mkdir(0o750)
        sealed.write_bytes(b"sealed content")
    database = sqlite3.connect(folder / "audit.keys" / "subjects.sqlite")
    wanted = "SELECT key, sealed, lookup FROM subjects WHERE pseudonym = ?"
    row = database.execute(wanted, (subject.pseudonym,)).fetchone()
    database.close()
    return Made(folder, subject.pseudonym, (*map(bytes, row), b"sealed content"))


def at(made: Made, folder: Path) -> Made:
    """Return a copy of the log."""
    for part in made.folder.iterdir():
        shutil.copytree(part, folder / part.name)
    return Made(folder, made.pseudonym, made.needles)


def left(made: Made) -> list[str]:
    """Return the files that still hold anything of the person."""
    found = []
    for path in made.folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            data = path.read_bytes()
            found += [path.name for needle in made.needles if needle in data]
    return found


def erase(made: Made, tell: Tell, stop: Callable[[], None] = lambda: None) -> None:
    """Erase, and say so once it is told as done."""
    with AuditLog.open(made.folder / "audit") as audit, acting(OFFICER):
        tell("open")
        stop()
        certificate = erase_subject(audit, USER, basis=BASIS, verify=False)
        sys.setprofile(None)
        tell(f"erased {certificate.seq}")
        os.kill(os.getpid(), signal.SIGKILL)


def check(made: Made, told: list[str]) -> str:
    """Nothing half-done was told as done; opening the log completes what was recorded; running it again is enough."""
    if told[-1:] and told[-1].startswith("erased"):
        assert [] == left(made)
    with AuditLog.open(made.folder / "audit") as audit, acting(OFFICER):
        entries = [entry.seq for entry in audit.query(event_type="subject_erased")]
        if entries:
            assert [] == left(made)
            assert None is audit.subjects.get(made.pseudonym)
            again = erase_subject(audit, made.pseudonym, basis=BASIS)
            assert (entries, True, True) == ([again.seq], again.again, again.verified)
        else:
            assert USER == audit.subjects.reveal(made.pseudonym)
            assert {"subjects.sqlite", f"{COMMITMENT}.sealed"} <= set(left(made))
            assert erase_subject(audit, USER, basis=BASIS).verified
        assert 1 == len(list(audit.query(event_type="subject_erased")))
        assert [] == left(made)
        assert audit.subjects.find("other3@example.com") is not None
    return "completed" if entries else "begun anew"


@pytest.mark.slow
def test_killed_at_every_step(ram: Path) -> None:
    """Before and after each call that changes anything on the disk, from the first to the last."""
    original, steps, became = make(ram / "original"), 0, []
    while True:
        steps += 1
        made = at(original, ram / f"step-{steps}")

        def act(tell: Tell, made: Made = made, number: int = steps) -> None:
            left_over = number

            def profile(_frame: FrameType, event: str, function: Any) -> None:
                nonlocal left_over
                if event in ("c_call", "c_return") and getattr(function, "__name__", "") in STEPS:
                    left_over -= 1
                    if left_over == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            erase(made, tell, lambda: sys.setprofile(profile))

        child = Child(act)
        assert -signal.SIGKILL == child.wait()
        became.append(check(made, child.lines))
        shutil.rmtree(made.folder)
        if child.lines[-1].startswith("erased"):
            break
    assert steps > 20
    assert {"completed", "begun anew"} == set(became)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments(ram: Path, seed: int) -> None:
    """Wherever it happens to be, in the middle of a transaction or of writing the file anew."""
    rng = random.Random(seed)
    original = make(ram / "original", people=100)
    for number in range(15):
        made = at(original, ram / f"copy-{number}")
        child = Child(lambda tell, made=made: erase(made, tell))  # type: ignore[misc]
        while not child.lines:
            time.sleep(0.0002)
        time.sleep(rng.random() * 0.02)
        child.kill()
        check(made, child.lines)
        shutil.rmtree(made.folder)
