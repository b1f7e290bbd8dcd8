"""A small log of each format version: every later version must verify it and read it the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from klingai_audit.config import Places, open_reader
from klingai_audit.event.record import canonical_body, decode_event, event_body
from klingai_audit.ledger.line import event_type_of
from klingai_audit.trust.verify import verify
from klingai_audit.upkeep.drill import drill

GOLDEN = Path(__file__).parent
VERSIONS = sorted(path.name for path in GOLDEN.glob("v*"))

FACTS = {
    "v1": {
        "origin": "log.example.com/golden",
        "checkpoint": "7e5e693ba03f0e279d86d1d42661c7d79b15db2434c9a11255f5474a5095c276",
        "entries": "0064b8e38b1bd766f1902c58542a090b6a98e23fc6f6896c430ecc94e1adaf66",
        "types": [
            "log_created",
            "log_opened",
            "prompt_submitted",
            "api_key_used",
            "video_generation_started",
            "task_status_changed",
            "video_generation_completed",
            "video_downloaded",
            "video_downloaded",
            "prompt_submitted",
            "policy_violation",
            "prompt_submitted",
            "video_generation_started",
            "task_status_changed",
            "video_generation_failed",
            "signing_key_rotated",
            "budget_modified",
            "log_closed",
            "log_opened",
            "x_note",
            "log_closed",
        ],
    },
}
"""SHA-256 of the published checkpoint and of the joined entries, and the types in order: written once."""


def places(version: str, tmp_path: Path) -> Places:
    return Places.resolve(GOLDEN / version / "audit", tmp_path / "keys", tmp_path / "state", environ={})


def test_there_is_a_log_for_every_version() -> None:
    """No version is forgotten, none is unknown."""
    assert sorted(FACTS) == VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_bytes_are_those_that_were_made(version: str, tmp_path: Path) -> None:
    """Nobody regenerated a golden log."""
    reader = open_reader(places(version, tmp_path))
    entries = list(reader.entries())
    facts = FACTS[version]
    assert facts["origin"] == reader.origin
    assert facts["checkpoint"] == hashlib.sha256(reader.checkpoint_note()).hexdigest()
    assert facts["entries"] == hashlib.sha256(b"\n".join(entries)).hexdigest()
    assert facts["types"] == [event_type_of(entry) for entry in entries]


@pytest.mark.parametrize("version", VERSIONS)
def test_verifies(version: str, tmp_path: Path) -> None:
    """With the public key that was kept, nothing is broken and nothing noted."""
    vkey = (GOLDEN / version / "log.pub").read_text().strip()
    verdict = verify(open_reader(places(version, tmp_path)).store, key=vkey, patience=0.0)
    assert [] == [finding.as_json() for finding in verdict.findings]
    assert "ruled_out" == verdict.threat("foreign_key").state


@pytest.mark.parametrize("version", VERSIONS)
def test_entries_are_read_and_written_alike(version: str, tmp_path: Path) -> None:
    """Decoding and encoding every event gives its own bytes."""
    for entry in open_reader(places(version, tmp_path)).entries():
        assert event_body(entry) == canonical_body(decode_event(entry))


@pytest.mark.parametrize("version", VERSIONS)
def test_attacks_on_it_are_caught(version: str, tmp_path: Path) -> None:
    """The drill works on it too."""
    result = drill(places(version, tmp_path), key=str(GOLDEN / version / "log.pub"))
    assert () == result.missed
    assert len(result.tried) >= 40
