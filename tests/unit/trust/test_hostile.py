"""Bytes and files made to break the verifier: always a verdict, soon, and never an exception."""

from __future__ import annotations

import pytest

from tests.support.logsmith import leaf_hash
from tests.unit.trust.attacks import DAYS, GOOD, SMITH, broken, check

FIRST, SECOND, THIRD = DAYS


def linked_lines(times: list[str]) -> bytes:
    """Lines that link to the log and to each other, logged at `times`."""
    previous, data = SMITH.entries[-1], b""
    for number, time in enumerate(times, len(SMITH.entries)):
        body = SMITH.event("x_note", {})
        link = leaf_hash(previous).hex()
        previous = body[:-1] + f',"seq":{number},"logged_at":"{time}","prev_hash":"{link}"}}'.encode()
        data += previous + b"\n"
    return data


@pytest.mark.parametrize(
    "times",
    [
        ["2099-01-01T00:99:00.000000Z", "2099-01-01T02:00:00.000000Z", "2099-01-01T02:00:00.000000Z"],
        ["2099-01-01T00:00:00.000000Z", "2099-01-01T00:99:00.000000Z", "2099-01-01T02:00:00.000000Z"],
        ["9999-12-31T23:30:00.000000Z"] * 3,
        ["0001-01-01T00:00:00.000000Z"] * 3,
        ["0000-00-00T00:00:00.000000Z"] * 3,
    ],
)
@pytest.mark.parametrize("proofs_only", [False, True])
def test_added_day_with_strange_times_is_a_finding(tmp_path, times, proofs_only):
    """Times that do not exist, or after which there is no time, are damage and no crash."""
    files = GOOD | {f"audit-{times[0][:10]}.jsonl": linked_lines(times)}
    verdict = check(tmp_path / "audit", files, proofs_only=proofs_only)
    assert verdict.exit_code == 4
    assert "unexplained" not in {finding.kind for finding in verdict.findings}


def test_file_of_a_day_that_does_not_exist_is_stray(tmp_path):
    """The name of a day file alone makes none."""
    verdict = check(tmp_path / "audit", GOOD | {"audit-0000-00-00.jsonl": b"x\n"})
    assert broken(verdict) == [("file_unexpected", None, None, "audit-0000-00-00.jsonl", None)]
