"""Damage of any amount: verification takes seconds, and the verdict stays readable."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from klingai_audit.trust.verdict import MAX_FINDINGS, Finding, Verdict, limited
from tests.support.logsmith import Smith
from tests.unit.trust.attacks import check, edited, join, split

SIZES = [pytest.param(5_000, id="5,000"), pytest.param(20_000, id="20,000", marks=pytest.mark.slow)]
EMPTY_LINES = 15
"""Empty lines put into one place, for each entry."""

SECONDS = 30.0


def shuffled(data: bytes) -> bytes:
    first, *lines, last = split(data)
    random.Random(7).shuffle(lines)
    return join([first, *lines, last])


def every_second(data: bytes) -> bytes:
    return join([edited(line) if number % 2 else line for number, line in enumerate(split(data))])


def middle(data: bytes) -> bytes:
    at = data.index(b"\n", len(data) // 2) + 1
    return data[:at] + empty(data) + data[at:]


def end(data: bytes) -> bytes:
    return data + empty(data)


def empty(data: bytes) -> bytes:
    return b"\n" * (EMPTY_LINES * data.count(b"\n"))


class Judged:
    """A log of so many entries, and what verification says of it after an attack, asked for once."""

    def __init__(self, folder: Path, entries: int) -> None:
        self.entries = entries
        self._folder = folder
        self._log = Smith().create().work(entries - 2, 33)
        self._verdicts: dict[str, tuple[Verdict, float]] = {}

    def after(self, attack: Callable[[bytes], bytes]) -> tuple[Verdict, float]:
        """Return the verdict and how many seconds it took."""
        if attack.__name__ not in self._verdicts:
            files = self._log.files()
            day = next(name for name in files if name.startswith("audit-"))
            began = time.process_time()
            files |= {day: attack(files[day])}
            folder = self._folder / attack.__name__
            verdict = check(folder, files, key=self._log.log_key.vkey, processes=1)
            self._verdicts[attack.__name__] = verdict, time.process_time() - began
        return self._verdicts[attack.__name__]


@pytest.fixture(scope="module", params=SIZES)
def log(request, tmp_path_factory) -> Judged:
    return Judged(tmp_path_factory.mktemp("damage"), request.param)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "kinds"),
    [
        (shuffled, {"entry_moved"}),
        (every_second, {"entry_changed"}),
        (middle, {"entry_inserted"}),
        (end, {"unsigned_tail"}),
    ],
)
def test_much_damage_takes_seconds(log, attack, kinds):
    """All entries shuffled, every second one changed, many empty lines: no step is quadratic."""
    verdict, took = log.after(attack)
    assert (kinds, took < SECONDS) == ({finding.kind for finding in verdict.broken}, True)
    assert len(verdict.findings) <= MAX_FINDINGS + len(kinds)


def test_every_entry_counts_though_not_every_finding_is_listed(log):
    """Every second entry changed is as many invalid ones, of which 1,000 are named."""
    verdict, _ = log.after(every_second)
    half = log.entries // 2
    assert (verdict.invalid, verdict.valid, len(verdict.findings)) == (half, half, MAX_FINDINGS + 1)
    assert verdict.findings[-1].message == f"{half - MAX_FINDINGS:,} more of the kind entry_changed."


def test_lines_side_by_side_are_one_finding(log):
    """Empty lines in one place are one insertion, at the first of them."""
    verdict, _ = log.after(middle)
    assert [finding.kind for finding in verdict.broken] == ["entry_inserted"]
    assert verdict.broken[0].message.startswith(f"{EMPTY_LINES * log.entries} lines stand after entry ")


def test_short_lists_stay_as_they_are():
    """Only beyond the limit findings are summed up, one for each kind."""
    found = [Finding("entry_moved", "x", number) for number in range(MAX_FINDINGS)]
    assert limited(found) == tuple(found)
    more = [Finding("torn_tail", "y"), Finding("entry_moved", "z", 5), Finding("torn_tail", "y")]
    assert [(f.kind, f.message) for f in limited([*found, *more])[MAX_FINDINGS:]] == [
        ("torn_tail", "2 more of the kind torn_tail."),
        ("entry_moved", "1 more of the kind entry_moved."),
    ]
