"""What becomes of an act of reading that should be recorded and cannot be: the failure policy decides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from klingai_audit.cli.run import run
from klingai_audit.log import AuditLog
from tests.support.faulty import QuickOps


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A log that no writer may open: a sync failed."""
    with AuditLog.open(tmp_path / "audit", ops=QuickOps()) as audit:
        audit.log("x_note", "user@example.com")
    (tmp_path / "audit.state" / "failed-sync").write_text("x: y\n")
    return tmp_path


def export(place: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Export the log to a file, recorded; returns the exit code and what was said."""
    argv = [
        "export",
        "--format",
        "jsonl",
        "-o",
        str(place / "out"),
        "--record",
        "--json",
        "--log",
        str(place / "audit"),
    ]
    code = run(argv)
    said = capfd.readouterr()
    return code, said.out, said.err


def test_an_export_that_cannot_be_recorded_does_not_happen(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`export = "refuse"`, the default: exit code 3, and no file."""
    code, out, err = export(place, capfd)
    assert (code, out) == (3, "")
    assert "failed earlier" in err
    assert not (place / "out").exists()


def test_an_export_goes_out_where_policy_warns(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`export = "warn"`: the file is written, a remark says why it is not recorded, and so does the answer."""
    policy = place / "audit.keys" / "policy.toml"
    policy.write_text(policy.read_text().replace('export = "refuse"', 'export = "warn"'))
    code, out, err = export(place, capfd)
    assert code == 0
    assert json.loads(out)["recorded"] is False
    assert json.loads(err)["recorded"] is False
    assert "failed earlier" in json.loads(err)["problem"]
    assert (place / "out").stat().st_size > 0
