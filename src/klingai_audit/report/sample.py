"""A random sample that anyone can draw again: chosen by hash from a stated population, each entry with its proof.

Which entries are taken follows from the seed and their indexes alone: those with the smallest SHA-256 of
`klingai-audit/sample/v1` 0 seed 0 decimal index. The population is named by the SHA-256 of its leaf hashes in order.
"""

from __future__ import annotations

import csv
import hashlib
import heapq
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from klingai_audit.errors import UsageError
from klingai_audit.ledger.reader import LogReader
from klingai_audit.report.table import harmless
from klingai_audit.tlog.merkle import leaf_hash
from klingai_audit.trust.proofs import prove_entry
from klingai_audit.views.entry import EntryView

__all__ = ["HEAD", "MAX_SAMPLE", "Sample", "choose", "draw_sample"]

MAX_SAMPLE: Final = 10_000
"""Most entries of one sample; for whole ranges there is export."""

HEAD: Final = (
    *("n", "seq", "event_id", "timestamp", "event_type", "actor_id", "outcome", "resource_type", "resource_id"),
    *("leaf_hash", "tree_size", "population", "population_sha256", "seed", "proof"),
)  # fmt: skip
"""Columns of a sample; `proof` is the text of a C2SP .tlog-proof file that holds the entry."""

_DOMAIN: Final = b"klingai-audit/sample/v1\x00"
_RANGE: Final = 65_536


@dataclass(frozen=True, slots=True)
class Sample:
    """A drawn sample: the chosen indexes in order, the size and digest of the population, and the CSV."""

    seqs: tuple[int, ...]
    population: int
    population_sha256: str
    tree_size: int
    data: bytes


def choose(population: Iterable[int], count: int, seed: str) -> tuple[int, ...]:
    """Return `count` of the given indexes (all, if there are fewer), ascending; equal arguments give equal choices."""
    start = hashlib.sha256(_DOMAIN + seed.encode() + b"\x00")

    def rank(seq: int) -> bytes:
        digest = start.copy()
        digest.update(b"%d" % seq)
        return digest.digest()

    return tuple(sorted(heapq.nsmallest(count, population, key=rank)))


def draw_sample(reader: LogReader, population: Sequence[int], count: int, seed: str) -> Sample:
    """Draw `count` entries of `population` (indexes, ascending, each once), each proved under the published checkpoint.

    Raises: UsageError: a count that is not in 1..10,000, or an empty seed.
    """
    if not 1 <= count <= MAX_SAMPLE:
        raise UsageError(f"--n is {count}.", do=f"Use a number from 1 to {MAX_SAMPLE:,}.")
    if not seed:
        raise UsageError("The seed is empty.", do="Agree on one with whoever checks: --seed TEXT")
    chosen = choose(population, count, seed)
    digest = _digest(reader, population)
    size = reader.size
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(HEAD)
    for number, seq in enumerate(chosen, 1):
        line = reader.entry(seq)
        entry = EntryView(line)
        shown = (
            entry.event_id, entry.timestamp.isoformat(), entry.event_type, entry.actor_id, entry.outcome,
            entry.resource_type, entry.resource_id,
        )  # fmt: skip
        proof = prove_entry(reader, seq).format().decode()
        row = [number, seq, *map(harmless, shown), leaf_hash(line).hex(), size, len(population), digest]
        writer.writerow([*row, harmless(seed), proof])
    return Sample(chosen, len(population), digest, size, out.getvalue().encode())


def _digest(reader: LogReader, population: Sequence[int]) -> str:
    """Return the SHA-256, in hex, of the population's leaf hashes, 32 bytes each, in order."""
    digest = hashlib.sha256()
    begin, hashes = 0, b""
    for seq in population:
        if not begin <= seq < begin + len(hashes) // 32:
            begin = seq - seq % _RANGE
            hashes = reader.store.read_hashes(0, begin, min(begin + _RANGE, reader.size))
        digest.update(hashes[(seq - begin) * 32 : (seq - begin + 1) * 32])
    return digest.hexdigest()
