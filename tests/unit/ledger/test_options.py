"""What a log was opened with, as texts that an entry may hold."""

from __future__ import annotations

import os
from pathlib import Path

from klingai_audit.ledger.options import OptionsMemory, describe_options
from tests.support.faulty import QuickOps

ODD = os.fsdecode(b"au\xffdit")


def describe(log: Path, **options: str | Path | None) -> dict[str, str]:
    return describe_options(log.absolute().parent, options, lambda text: f"<{text}>")


def test_places_are_told_as_seen_from_the_log(tmp_path: Path) -> None:
    """Beside the log by their name, elsewhere by fingerprint; what has no value is left out."""
    found = describe(tmp_path / "audit", keys=tmp_path / "audit.keys", state=Path("/elsewhere"), wait=None, policy="x")
    assert found == {"keys": "audit.keys", "state": "elsewhere:</elsewhere>", "policy": "x"}


def test_paths_that_are_no_utf8(tmp_path: Path) -> None:
    """Bytes without a character become an escape, beside the log and elsewhere, so that an entry may hold them."""
    log = tmp_path / ODD
    found = describe(log, keys=Path(f"{log}.keys"), state=Path("/elsewhere") / ODD)
    assert found == {"keys": "au\\xffdit.keys", "state": "elsewhere:</elsewhere/au\\xffdit>"}
    assert all(text.encode() for text in found.values())


def test_such_paths_are_remembered(tmp_path: Path) -> None:
    """The next opening compares them like others."""
    memory = OptionsMemory(tmp_path, QuickOps())
    memory.remember(describe(tmp_path / ODD, keys=Path(f"{tmp_path / ODD}.keys")))
    again = OptionsMemory(tmp_path, QuickOps())
    assert again.changes(describe(tmp_path / ODD, keys=Path(f"{tmp_path / ODD}.keys"))) == {}
    assert again.changes(describe(tmp_path / ODD, keys=tmp_path / "k")) == {
        "keys": {"old": "au\\xffdit.keys", "new": "k"}
    }
