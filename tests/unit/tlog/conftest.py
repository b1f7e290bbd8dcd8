"""The large known tree, hashed once."""

from __future__ import annotations

import pytest

from klingai_audit.tlog import fold_tile, hash_leaves
from tests.unit.tlog import vectors


@pytest.fixture(scope="session")
def integer_levels():
    """Flat tile levels of the tree of 70,000 integers."""
    levels = [hash_leaves(vectors.integer_entries())]
    while len(levels[-1]) >= 8192:
        below = levels[-1]
        levels.append(b"".join(fold_tile(below[at : at + 8192]) for at in range(0, len(below) // 8192 * 8192, 8192)))
    return levels
