"""What a bundle proves, as one JSON document: entries with inclusion proofs, the checkpoint, and how it came about.

`evidence.json` is the whole of it; every other file of a bundle repeats a part in a form that other software reads.
"""

from __future__ import annotations

import base64
import functools
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any, Final, Literal

import msgspec

from klingai_audit.errors import Malformed, UsageError
from klingai_audit.event.types import EventType
from klingai_audit.ledger.line import PURGED_PREFIX
from klingai_audit.ledger.reader import LogReader
from klingai_audit.tlog.checkpoint import parse_checkpoint
from klingai_audit.tlog.merkle import build_consistency, build_inclusion
from klingai_audit.tlog.note import parse_note
from klingai_audit.tlog.strict import format_base64
from klingai_audit.tlog.tile import node_reader
from klingai_audit.views.entry import EntryView
from klingai_audit.views.query import Filter, query

__all__ = ["FORMAT", "MAX_ENTRIES", "Evidence", "Proven", "Stamped", "Step", "gather", "read_evidence"]

FORMAT: Final = "klingai-audit/bundle/v1"
MAX_ENTRIES: Final = 10_000
"""Most chosen entries of one bundle: a browser holds and checks them all."""

_NEAR: Final = 1024
"""Entries that are at most so far apart are read in one go."""

_HISTORY: Final = (
    EventType.SIGNING_KEY_ROTATED,
    EventType.CHECKPOINT_WITNESSED,
    EventType.CHECKPOINT_TIMESTAMPED,
)


class Proven(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Entry `seq`, its exact bytes as text, and its inclusion proof under the checkpoint (base64, sibling first)."""

    seq: int
    entry: str
    proof: tuple[str, ...]


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The consistency proof from the tree of `size` entries to that of the checkpoint (base64)."""

    size: int
    proof: tuple[str, ...]


class Stamped(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The kept checkpoint of `size` as text, and the RFC 3161 reply beside it (base64)."""

    size: int
    checkpoint: str
    token: str


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a bundle proves. `entries` are ascending; `chosen` names those that were asked for.

    The others are history: `log_created`, every `signing_key_rotated`, and the `checkpoint_witnessed` and
    `checkpoint_timestamped` entries that speak of the chosen ones. `made_by` is not evidence.
    """

    format: Literal["klingai-audit/bundle/v1"]
    made_by: str
    checkpoint: str
    chosen: tuple[int, ...]
    entries: tuple[Proven, ...]
    consistency: tuple[Step, ...] = ()
    stamps: tuple[Stamped, ...] = ()

    def encode(self) -> bytes:
        """Return `evidence.json`."""
        return msgspec.json.encode(self)

    @property
    def lines(self) -> dict[int, bytes]:
        """Entries by seq, as bytes."""
        return {one.seq: one.entry.encode() for one in self.entries}


def read_evidence(data: bytes) -> Evidence:
    """Read `evidence.json`; verifies nothing. Raises: Malformed."""
    try:
        found = msgspec.json.decode(data, type=Evidence)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise Malformed("The bundle's evidence.json is not evidence in a form that this version knows.") from exc
    seqs = [one.seq for one in found.entries]
    sizes = [step.size for step in found.consistency]
    if sorted(set(seqs)) != seqs or sorted(set(sizes)) != sizes or sorted(set(found.chosen)) != list(found.chosen):
        raise Malformed("The parts of the evidence are not in order, or stand there twice.")
    if not found.chosen or not {0, *found.chosen} <= set(seqs):
        raise Malformed("The evidence lacks entries that it names, or the log's first one.")
    return found


def gather(reader: LogReader, chosen: Iterable[int], lines: Iterable[bytes] | None = None) -> Evidence:
    """Collect the evidence for the entries `chosen` under the published checkpoint; O(log n) hashes for each.

    `lines` are the log's entries in order, possibly indexed; by default they are read.
    Raises: UsageError for none, too many, or one that the checkpoint does not cover.
    """
    note = reader.checkpoint_note()
    size = parse_checkpoint(parse_note(note).text).size
    wanted = sorted(set(chosen))
    if not 1 <= len(wanted) <= MAX_ENTRIES:
        raise UsageError(
            f"A bundle holds 1 to {MAX_ENTRIES:,} entries, not {len(wanted):,}.", do="Choose fewer, or make several."
        )
    if not (wanted[0] >= 0 and wanted[-1] < size):
        beyond = next(seq for seq in wanted if not 0 <= seq < size)
        raise UsageError(f"Entry {beyond} is not under the checkpoint of {size} entries.", do="klingai-audit query")
    own = list(
        query(reader.entries(0, size) if lines is None else lines, Filter(event_type=_HISTORY, duplicates=True), None)
    )
    rotations = [one for one in own if one.event_type == EventType.SIGNING_KEY_ROTATED and one.seq < size]
    witnessed = _covering([one for one in own if one.event_type == EventType.CHECKPOINT_WITNESSED], wanted, size)
    stamped = _covering([one for one in own if one.event_type == EventType.CHECKPOINT_TIMESTAMPED], wanted, size)
    kept = sorted({_size_of(one) for one in stamped})
    stamps = [found for at in kept if (found := _stamp(reader, at)) is not None]
    seqs = sorted({0, *wanted, *(one.seq for one in (*rotations, *witnessed, *stamped))})
    sizes = {one.seq for one in rotations} | {_size_of(one) for one in witnessed} | {one.size for one in stamps}
    hashes = functools.cache(node_reader(reader.store.read_hashes))
    texts = _read(reader, seqs)
    return Evidence(
        FORMAT,
        f"klingai-audit {version('klingai-audit')}",
        note.decode(),
        tuple(wanted),
        tuple(Proven(seq, texts[seq], _text(build_inclusion(seq, size, hashes))) for seq in seqs),
        tuple(Step(old, _text(build_consistency(old, size, hashes))) for old in sorted(sizes) if 0 < old < size),
        tuple(stamps),
    )


def _read(reader: LogReader, seqs: Sequence[int]) -> dict[int, str]:
    """Return the entries of these ascending seqs; what lies close together is read in one go."""
    found: dict[int, str] = {}
    at = 0
    while at < len(seqs):
        end = at + 1
        while end < len(seqs) and seqs[end] - seqs[end - 1] <= _NEAR:
            end += 1
        wanted = set(seqs[at:end])
        begin = seqs[at]
        lines = enumerate(reader.lines(begin, seqs[end - 1] + 1), begin)
        found |= {seq: line.decode() for seq, line in lines if seq in wanted and not line.startswith(PURGED_PREFIX)}
        at = end
    if len(found) != len(seqs):
        lost = next(seq for seq in seqs if seq not in found)
        reader.entry(lost)  # says so if it was purged
        raise UsageError(f"Entry {lost} cannot be read.", do="klingai-audit verify")
    return found


def _text(proof: Sequence[bytes]) -> tuple[str, ...]:
    return tuple(map(format_base64, proof))


def _size_of(entry: EntryView) -> int:
    size: Any = entry.metadata.get("size")
    return size if type(size) is int else 0


def _covering(rounds: Sequence[EntryView], wanted: Sequence[int], size: int) -> list[EntryView]:
    """Return for every wanted entry the smallest round that covers it, and the largest of all."""
    usable = [one for one in rounds if one.seq < size and 0 < _size_of(one) <= one.seq]
    usable.sort(key=_size_of)
    sizes = [_size_of(one) for one in usable]
    places = {bisect_right(sizes, seq) for seq in wanted} | {len(usable) - 1}
    return [usable[place] for place in sorted(places) if 0 <= place < len(usable)]


def _stamp(reader: LogReader, size: int) -> Stamped | None:
    kept, token = reader.store.read_kept(size), reader.store.read_token(size)
    if kept is None or token is None:
        return None
    return Stamped(size, kept.decode(), base64.b64encode(token).decode())
