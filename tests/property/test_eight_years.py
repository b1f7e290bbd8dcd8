"""Whatever happens to a log in eight years, it verifies, proofs hold, holds hold, and what is gone stays gone."""

from __future__ import annotations

import pytest

from tests.support.years import Years


def live(folder, seed: int, most_days: int) -> Years:
    years = Years(folder, seed)
    try:
        while not years.over:
            years.step(most_days)
    except BaseException as exc:
        exc.add_note(f"seed {seed}: " + ", ".join(years.done[-12:]))
        raise
    finally:
        years.close()
    return years


def test_eight_years_in_great_steps(tmp_path):
    """Eight years in some fifteen steps."""
    years = live(tmp_path, 32, 450)
    assert years.model.purged
    assert years.model.erased


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 3])
def test_eight_years(tmp_path, seed):
    """Eight years in some seventy steps."""
    years = live(tmp_path, seed, 90)
    assert years.model.purged
    assert years.model.erased
    assert years.proofs
