"""Whoever writes a log refuses places that are open to others, and says what mends them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from klingai_audit import AuditLog
from klingai_audit.config import Places, open_reader
from klingai_audit.errors import UnsafePermissions


@pytest.mark.parametrize("place", ["audit", "audit.keys", "audit.state", "audit.vault"])
def test_a_place_that_others_may_write(tmp_path: Path, place: str) -> None:
    """It is refused; the command that the message names mends it. Nothing was written meanwhile."""
    AuditLog.open(tmp_path / "audit").close()
    folder = tmp_path / place
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    with pytest.raises(UnsafePermissions, match="by others") as caught:
        AuditLog.open(tmp_path / "audit")
    command = caught.value.do.removeprefix("Run: ")
    assert command.startswith("chmod o-")
    subprocess.run(command.split(), check=True)
    with AuditLog.open(tmp_path / "audit") as audit:
        assert [] == [one.kind for one in audit.verify().findings]


def test_a_vault_that_others_may_enter(tmp_path: Path) -> None:
    """Sealed content is nobody's business, even sealed; the other folders may be looked into."""
    AuditLog.open(tmp_path / "audit").close()
    for place in ("audit", "audit.keys", "audit.state"):
        (tmp_path / place).chmod(0o755)
    (tmp_path / "audit.vault").mkdir(mode=0o750)
    AuditLog.open(tmp_path / "audit").close()
    (tmp_path / "audit.vault").chmod(0o751)
    with pytest.raises(UnsafePermissions, match=r"vault .* entered"):
        AuditLog.open(tmp_path / "audit")


def test_the_group_may_write(tmp_path: Path) -> None:
    """Several users of one group may share a log: that is its owner's decision."""
    AuditLog.open(tmp_path / "audit").close()
    for place in ("audit", "audit.state"):
        (tmp_path / place).chmod(0o2770)
    AuditLog.open(tmp_path / "audit").close()


def test_readers_refuse_nothing(tmp_path: Path) -> None:
    """Evidence is read as it is found."""
    AuditLog.open(tmp_path / "audit").close()
    (tmp_path / "audit").chmod(0o777)
    assert 3 == open_reader(Places.resolve(tmp_path / "audit")).size
