"""The two-person rule through the command line: separate homes, separate keys, one log."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ANNA, BEN = "anna@example.com", "ben@example.com"

pytestmark = pytest.mark.slow


class Office:
    """A log, and people who run processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run("init")
        for user, role in ((ANNA, "admin"), (BEN, "privacy_officer")):
            made = self.run("users", "approver-keygen", "-o", f"{user}.key")
            vkey = ("--approver-key", made["vkey"])
            self.run("users", "add", user, "--role", role, *vkey, "--actor", "root@example.com")
        self.run("policy", "set", "access.two_person", '["unseal", "purge", "rotate"]')

    def run(self, *argv: str, code: int = 0, user: str = ANNA) -> Any:
        """Run a command as somebody; return what it says on stdout, or its error."""
        done = subprocess.run(
            [sys.executable, "-m", "klingai_audit.cli", *argv, "--json"],
            cwd=self.folder,
            env={**os.environ, "KLINGAI_AUDIT_ACTOR": user, "XDG_STATE_HOME": str(self.folder / "home")},
            capture_output=True,
            check=False,
            timeout=120,
        )
        assert code == done.returncode, done.stderr
        if code:
            return json.loads(done.stderr.splitlines()[-1])["error"]
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return lines[0] if len(lines) == 1 else lines


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """Two people and a rule."""
    return Office(tmp_path)


def test_rotation_by_two(office: Office) -> None:
    """Refused alone, refused with one's own approval, done with the other's, once; all of it stands in the log."""
    assert "AccessDenied" == office.run("keys", "rotate", code=1)["kind"]
    reason = ("--reason", "yearly rotation")
    office.run("approve", "rotate", "--key", f"{ANNA}.key", *reason, "-o", "own.approval")
    office.run("keys", "rotate", "--approval", "own.approval", code=1)
    made = office.run("approve", "rotate", "--key", f"{BEN}.key", *reason, "-o", "ben.approval", user=BEN)
    assert "epoch 0" == made["target"]
    assert 1 == office.run("keys", "rotate", "--approval", "ben.approval")["epoch"]
    office.run("keys", "rotate", "--approval", "ben.approval", code=1)
    assert ["missing", "own", "other_target"] == [
        entry["metadata"]["why"] for entry in office.run("query", "--type", "access_denied")
    ]
    used = office.run("query", "--type", "approval_used")
    assert (made["digest"], "rotate") == (used["resource_id"], used["action"])
    office.run("verify")


def test_the_approver_needs_the_log_only(office: Office) -> None:
    """No key of the log, no table of people: a copy of the log is enough to approve."""
    away = office.folder / "away"
    away.mkdir()
    (office.folder / "audit").rename(away / "audit")
    (office.folder / "audit").symlink_to(away / "audit")
    made = office.run(
        *("approve", "rotate", "--log", "away/audit", "--key", f"{BEN}.key", "--reason", "why", "-o", "ben.approval"),
        user=BEN,
    )
    assert "epoch 0" == made["target"]


def test_unsealing_by_two(office: Office) -> None:
    """What was approved is opened; another content of the same entry is not."""
    office.run("keys", "unseal-init")
    office.run("policy", "set", "vault.seal", '["prompt", "*_prompt"]')
    office.run(
        *("log", "prompt_submitted", "--actor", "user@example.com"),
        *("--metadata", '{"prompt": "A quiet lake", "negative_prompt": "fog"}'),
    )
    seq = str(office.run("query", "--type", "prompt_submitted")["seq"])
    opened = ("unseal", seq, "--field", "prompt", "--reason", "case 7")
    office.run(*opened, code=1)
    about = ("--seq", seq, "--field", "prompt", "--reason", "I have seen case 7")
    office.run("approve", "unseal", *about, "--key", f"{BEN}.key", "-o", "ben.approval", user=BEN)
    office.run(
        *("unseal", seq, "--field", "negative_prompt", "--reason", "case 7", "--approval", "ben.approval"), code=1
    )
    assert "A quiet lake" == office.run(*opened, "--approval", "ben.approval")["value"]
    entry = office.run("query", "--type", "content_unsealed")
    used = office.run("query", "--type", "approval_used")
    assert [used["resource_id"]] == entry["metadata"]["approvals"]
    assert used["metadata"]["approvers"] == entry["metadata"]["approvers"]
    assert 2 == len(office.run("query", "--type", "access_denied"))


def test_a_declaration_by_two(office: Office) -> None:
    """The refusal spells what is to be approved, ready to be copied."""
    office.run("policy", "set", "access.two_person", '["govern"]')
    end = ("policy", "set", "access.two_person", '["rotate"]')
    refused = office.run(*end, code=1)
    words = shlex.split(refused["do"].partition("klingai-audit ")[2].partition(" -o FILE")[0])
    assert ["approve", "govern", "--target", "set access.two_person = rotate"] == words
    office.run(*words, "--key", f"{BEN}.key", "--reason", "the trial is over", "-o", "ben.approval", user=BEN)
    assert office.run(*end, "--approval", "ben.approval")["changed"]


def test_nothing_vague_is_approved(office: Office) -> None:
    """Too little, too much, nothing due, no such act: exit 2 and no file."""
    for argv in (
        ("unseal", "--seq", "3"),
        ("erase",),
        ("rotate", "--seq", "3"),
        ("purge", "--plan", "abc"),
        ("purge", "--plan", "a" * 64, "--on", "2026-01-01"),
        ("purge",),
        ("govern",),
        ("dance",),
    ):
        office.run("approve", *argv, "--key", f"{BEN}.key", "--reason", "why", "-o", "x.approval", code=2)
    assert not (office.folder / "x.approval").exists()
