"""Damage of any amount: verification takes seconds, and the verdict stays readable."""

from __future__ import annotations

import random
import time

import pytest

from klingai_audit.trust.verdict import MAX_FINDINGS, Finding, limited
from tests.support.logsmith import Smith
from tests.unit.trust.attacks import check, edited, join, split

LARGE = Smith().create().work(19_998, 33)
FILES = LARGE.files()
KEY = LARGE.log_key.vkey
DAY = next(name for name in FILES if name.startswith("audit-"))
SECONDS = 30.0


def shuffled(data: bytes) -> bytes:
    first, *lines, last = split(data)
    random.Random(7).shuffle(lines)
    return join([first, *lines, last])


def every_second(data: bytes) -> bytes:
    return join([edited(line) if number % 2 else line for number, line in enumerate(split(data))])


def middle(data: bytes) -> bytes:
    at = data.index(b"\n", len(data) // 2) + 1
    return data[:at] + b"\n" * 300_000 + data[at:]


@pytest.mark.parametrize(
    ("attack", "kinds"),
    [
        (shuffled, {"entry_moved"}),
        (every_second, {"entry_changed"}),
        (middle, {"entry_inserted"}),
        (lambda data: data + b"\n" * 300_000, {"unsigned_tail"}),
    ],
)
def test_much_damage_takes_seconds(tmp_path, attack, kinds):
    """20,000 entries shuffled, every second one changed, 300,000 empty lines: no step is quadratic."""
    began = time.monotonic()
    verdict = check(tmp_path / "audit", FILES | {DAY: attack(FILES[DAY])}, key=KEY, processes=1)
    took = time.monotonic() - began
    assert (kinds, took < SECONDS) == ({finding.kind for finding in verdict.broken}, True)
    assert len(verdict.findings) <= MAX_FINDINGS + len(kinds)


def test_every_entry_counts_though_not_every_finding_is_listed(tmp_path):
    """10,000 changed entries are 10,000 invalid ones, of which 1,000 are named."""
    verdict = check(tmp_path / "audit", FILES | {DAY: every_second(FILES[DAY])}, key=KEY, processes=1)
    assert (verdict.invalid, verdict.valid, len(verdict.findings)) == (10_000, 10_000, MAX_FINDINGS + 1)
    assert verdict.findings[-1].message == "9,000 more of the kind entry_changed."


def test_lines_side_by_side_are_one_finding(tmp_path):
    """Empty lines in one place are one insertion, at the first of them."""
    verdict = check(tmp_path / "audit", FILES | {DAY: middle(FILES[DAY])}, key=KEY, processes=1)
    assert [finding.kind for finding in verdict.broken] == ["entry_inserted"]
    assert verdict.broken[0].message.startswith("300000 lines stand after entry ")


def test_short_lists_stay_as_they_are():
    """Only beyond the limit findings are summed up, one for each kind."""
    found = [Finding("entry_moved", "x", number) for number in range(MAX_FINDINGS)]
    assert limited(found) == tuple(found)
    more = [Finding("torn_tail", "y"), Finding("entry_moved", "z", 5), Finding("torn_tail", "y")]
    assert [(f.kind, f.message) for f in limited([*found, *more])[MAX_FINDINGS:]] == [
        ("torn_tail", "2 more of the kind torn_tail."),
        ("entry_moved", "1 more of the kind entry_moved."),
    ]
