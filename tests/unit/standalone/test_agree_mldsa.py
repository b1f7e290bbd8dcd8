"""Both verifiers find the same in logs with ML-DSA-44 lines, but for the signatures, which only the package checks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.both import ask_both, disagreement, mutate, three_days
from tests.unit.trust import test_countersigned as countersigned

pytestmark = pytest.mark.slow

LINED = three_days(post_quantum=True)
LINED_KEY = LINED.second.vkey if LINED.second else ""
LINED_FILES = LINED.files()


def lined_differs(folder: Path, changed: dict[str, bytes], mldsa_key: str | None = LINED_KEY) -> list[str]:
    """In what the two differ about the log with ML-DSA-44 lines."""
    known = {} if mldsa_key is None else {"mldsa_key": mldsa_key}
    return disagreement(folder / "audit", LINED_FILES | changed, LINED.log_key.vkey, LINED.now, **known)


def test_a_log_with_ml_dsa_lines(tmp_path):
    """Whole for both; only the package checks the signatures."""
    assert [] == lined_differs(tmp_path / "a", {})
    package, single = ask_both(tmp_path / "a" / "audit", LINED.log_key.vkey, LINED.now, mldsa_key=LINED_KEY)
    assert ("ruled_out", "not_checked") == (package.states["quantum"], single.states["quantum"])


@pytest.mark.parametrize("known", [None, countersigned.OTHER.vkey], ids=["none", "another"])
def test_a_log_with_ml_dsa_lines_and_no_or_another_key(tmp_path, known):
    """Kept from elsewhere, or not."""
    assert [] == lined_differs(tmp_path, {}, known)


@pytest.mark.parametrize("name", ["checkpoint", *countersigned.KEPT])
def test_a_stripped_ml_dsa_line(tmp_path, name):
    """Both miss it."""
    stripped = b"".join(LINED_FILES[name].splitlines(keepends=True)[:-1])
    assert [] == lined_differs(tmp_path, {name: stripped})
    assert {"mldsa_missing"} == ask_both(tmp_path / "audit", LINED.log_key.vkey, LINED.now)[1].kinds


@pytest.mark.parametrize("name", countersigned.OUT_OF_FORM)
def test_ml_dsa_lines_out_of_form(tmp_path, name):
    """Order, number, length and name."""
    kept = countersigned.KEPT[0]
    changed = b"".join(countersigned.OUT_OF_FORM[name](LINED_FILES[kept].splitlines(keepends=True)))
    assert [] == lined_differs(tmp_path, {kept: changed})


def test_an_ml_dsa_line_by_another_key(tmp_path):
    """Its key id tells; a wrong signature only the package sees."""
    kept = countersigned.KEPT[0]
    assert [] == lined_differs(tmp_path / "a", {kept: countersigned.WRONG["another key"](LINED_FILES[kept])})
    found = lined_differs(tmp_path / "b", {kept: countersigned.flipped(LINED_FILES[kept])})
    assert ["only the package says mldsa_invalid"] == found


@pytest.mark.slow
def test_random_damage_to_a_log_with_ml_dsa_lines(tmp_path):
    """The same, but for signatures that are changed within their form."""
    found = []
    for seed in range(7000, 7060):
        luck, files = random.Random(seed), dict(LINED_FILES)
        what = mutate(files, luck)
        if not any(name.startswith("checkpoint") for name in files):
            continue
        known = {"mldsa_key": LINED_KEY}
        differing = disagreement(tmp_path / str(seed) / "audit", files, LINED.log_key.vkey, LINED.now, **known)
        if differing and differing != ["only the package says mldsa_invalid"]:
            found.append((seed, what, differing))
    assert [] == found
