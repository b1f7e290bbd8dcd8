"""Proofs of many entries under one checkpoint: tiles of the tree, and runs of entries, are read once for all."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Final

from klingai_audit.ledger.line import PURGED_PREFIX
from klingai_audit.ledger.reader import LogReader
from klingai_audit.tlog.checkpoint import parse_checkpoint
from klingai_audit.tlog.merkle import build_inclusion
from klingai_audit.tlog.note import parse_note
from klingai_audit.tlog.proof import TlogProof
from klingai_audit.tlog.tile import TILE_WIDTH, node_reader

__all__ = ["prove_all"]

_HASH: Final = 32


def prove_all(reader: LogReader, seqs: Sequence[int], note: bytes) -> list[TlogProof] | None:
    """Return the proof of each entry under the signed checkpoint `note`, the entry in it; as `trust.proofs` makes them.

    None if the checkpoint does not cover them all. Raises: UsageError if one was purged.
    """
    size = parse_checkpoint(parse_note(note).text).size
    if max(seqs) >= size:
        return None

    @functools.cache
    def tile(level: int, number: int) -> bytes:
        return reader.store.read_hashes(level, number * TILE_WIDTH, (number + 1) * TILE_WIDTH)

    def hashes(level: int, begin: int, end: int) -> bytes:
        number, at = divmod(begin, TILE_WIDTH)  # what a node needs never lies in two tiles
        return tile(level, number)[at * _HASH : (at + end - begin) * _HASH]

    node = functools.cache(node_reader(hashes))
    entries = dict(_entries(reader, seqs))
    return [TlogProof(seq, build_inclusion(seq, size, node), note, extra=entries[seq]) for seq in seqs]


def _entries(reader: LogReader, seqs: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    runs: list[list[int]] = []
    for seq in sorted(set(seqs)):
        if runs and seq == runs[-1][-1] + 1:
            runs[-1].append(seq)
        else:
            runs.append([seq])
    for run in runs:
        for seq, line in zip(run, reader.lines(run[0], run[-1] + 1), strict=True):
            yield seq, reader.entry(seq) if line.startswith(PURGED_PREFIX) else line
