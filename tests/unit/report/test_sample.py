"""Samples: drawn by seed, with proofs that anyone can check, from a population that has a name."""

from __future__ import annotations

import csv
import hashlib
import io

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.report.sample import HEAD, choose, draw_sample
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.merkle import leaf_hash
from klingai_audit.trust.proofs import check_entry_proof
from tests.unit.report.conftest import opened


@pytest.fixture(scope="module")
def audit(small):
    """The small log, open."""
    with opened(small) as audit:
        yield audit


def rows_of(sample):
    return list(csv.DictReader(io.StringIO(sample.data.decode(), newline="")))


def test_equal_seeds_draw_equal_samples():
    """The same seed and population give the same entries, in whatever order the population comes."""
    assert choose(range(1000), 25, "audit 2026") == choose(reversed(range(1000)), 25, "audit 2026")


def test_other_seeds_draw_other_samples():
    """Seeds decide."""
    assert choose(range(1000), 25, "a") != choose(range(1000), 25, "b")


def test_the_choice_is_the_documented_one():
    """The smallest hashes win: somebody with sha256sum can draw it again."""

    def rank(seq):
        return hashlib.sha256(b"klingai-audit/sample/v1\0seed\0" + str(seq).encode()).digest()

    assert tuple(sorted(sorted(range(200), key=rank)[:7])) == choose(range(200), 7, "seed")


def test_every_entry_is_drawn_about_equally_often():
    """Over many seeds no entry is preferred."""
    counts = [0] * 20
    for seed in range(2000):
        for seq in choose(range(20), 5, str(seed)):
            counts[seq] += 1
    assert all(400 < count < 600 for count in counts)


def test_a_small_population_is_drawn_whole(audit):
    """More asked for than there is gives all."""
    sample = draw_sample(audit.reader, [1, 3, 5], 25, "s")
    assert ((1, 3, 5), 3) == (sample.seqs, sample.population)


def test_every_row_proves_its_entry(audit):
    """The proof of each row checks with the log's public key alone and holds that entry."""
    sample = draw_sample(audit.reader, range(10), 4, "s")
    key = VerifierKey.parse(audit.vkey)
    for row in rows_of(sample):
        proven = check_entry_proof(row["proof"].encode(), [key], None)
        assert (int(row["seq"]), row["leaf_hash"]) == (proven.index, leaf_hash(proven.entry).hex())


def test_the_population_has_a_digest(audit):
    """It is the SHA-256 of the leaf hashes in order."""
    lines = list(audit.reader.entries(0, 8))
    expected = hashlib.sha256(b"".join(leaf_hash(line) for line in lines)).hexdigest()
    assert expected == draw_sample(audit.reader, range(8), 2, "s").population_sha256


def test_the_columns_are_documented(audit):
    """The head of the file is what the documentation lists."""
    sample = draw_sample(audit.reader, range(8), 2, "s")
    assert ",".join(HEAD).encode() == sample.data.split(b"\r\n", 1)[0]


@pytest.mark.parametrize("count,seed", [(0, "s"), (-1, "s"), (10_001, "s"), (5, "")])
def test_impossible_samples_are_refused(audit, count, seed):
    """A count out of range or an empty seed is a usage error."""
    with pytest.raises(UsageError):
        draw_sample(audit.reader, range(8), count, seed)
