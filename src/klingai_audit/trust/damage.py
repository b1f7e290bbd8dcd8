"""The state of a log as the judgement sees it: of a whole one cheaply, of a damaged one by diagnosis."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from klingai_audit.ledger.line import parse_members, seq_of
from klingai_audit.ledger.purged import line_hash, parse_purged
from klingai_audit.ledger.sealed import is_sealed, unpacked_size
from klingai_audit.ledger.store import Store
from klingai_audit.tlog.merkle import leaf_hash
from klingai_audit.tlog.tile import HASH_BYTES, MAX_ENTRY_BYTES
from klingai_audit.trust.anchors import Anchor
from klingai_audit.trust.chunk import Purged, Report, join_runs
from klingai_audit.trust.diagnose import Diagnosis, diagnose
from klingai_audit.trust.evidence import Roots, compare_hashes
from klingai_audit.trust.expected import Expected, build_expected
from klingai_audit.trust.forest import Forest, hashes_at
from klingai_audit.trust.look import Look, reader_of, settle_length
from klingai_audit.trust.place import DayFile, Scanned
from klingai_audit.trust.purges import Leaves
from klingai_audit.trust.quick import Start
from klingai_audit.trust.reading import Reading
from klingai_audit.trust.verdict import Finding, Unsigned

__all__ = ["State", "damaged_state", "whole_state"]

_ENTRY_START: Final = b'{"schema":1,"event_id":"'
_PIECE: Final = 4096


@dataclass(slots=True)
class State:
    """What the entries are: `root(size)`, `place(seq)`, `own` entries, and what is wrong with them.

    The leaf hashes of entries below `proven` are those that were signed.
    Epochs and checkpoints are judged up to the size `limit`, below which no entry is changed or gone.
    `levels` are the computed tree levels. `renamed` are stray files that hold entries. `linked_tail` tells that
    the lines beyond the signed size link to the log, `sealed_tail` that they end with a seal; `reach` is `root` with
    those lines.
    """

    root: Roots
    place: Callable[[int], tuple[str | None, int | None]]
    own: Sequence[tuple[int, bytes]]
    levels: Sequence[bytes | bytearray]
    limit: int
    damaged: Callable[[int], bool]
    proven: int
    findings: list[Finding] = field(default_factory=list)
    bad_lines: int = 0
    unsigned: Unsigned = field(default_factory=Unsigned)
    renamed: Collection[str] = ()
    linked_tail: bool = False
    sealed_tail: bool = False
    reach: Roots = lambda _size: None
    purged: Sequence[Purged] = ()
    leaves: Leaves = lambda _begin, _end: b""


def whole_state(reading: Reading, start: Start | None, anchors: Sequence[Anchor], size: int) -> State | None:
    """Return the state of a log in which nothing is off among entries, `tree/0` and signed roots; else None.

    `start` is where a quick verification began.
    """
    scanned = reading.scanned
    if not reading.readable or not scanned.is_whole() or scanned.lines != size or not size:
        return None
    if any(file.torn or not file.day for file in scanned.files):
        return None
    if not all(part.report.stored for part in scanned.ranges):
        return None
    forest = _forest(reading, start)
    if any(forest.root(anchor.size) != anchor.root for anchor in anchors if anchor.size <= size):
        return None
    state = State(forest.root, scanned.place, scanned.own(), forest.levels, size, lambda _seq: False, size)
    state.purged, state.leaves = scanned.purged(), _hashes(reading)
    return state


def _forest(reading: Reading, start: Start | None = None) -> Forest:
    """The tree over all scanned entries of a log that is whole."""
    leaves = _hashes(reading)
    forest = Forest(leaves) if start is None else start.forest
    for part in reading.scanned.ranges:
        forest.add(part.report)
    return forest


def _hashes(reading: Reading) -> Leaves:
    """Leaf hashes of a log that is whole: as they are stored, or where they are not, of the entries."""
    stored = reading.reader("tree/0")

    def leaves(begin: int, end: int) -> bytes:
        hashes = stored(begin * HASH_BYTES, end * HASH_BYTES)
        return hashes if len(hashes) == (end - begin) * HASH_BYTES else reading.scanned.leaves(begin, end)

    return leaves


def damaged_state(
    reading: Reading, anchors: Sequence[Anchor], size: int, look: Look, *, tolerant: bool = False
) -> State:
    """Find out what is wrong. `size` is the signed size.

    `tolerant` tells that lines beyond may stay: then their stored hashes are compared too.
    """
    scanned = reading.scanned
    whole = reading.readable and scanned.is_whole() and all(file.day and not file.torn for file in scanned.files)
    stored = reading.reader("tree/0")

    def stored_leaves(begin: int, end: int) -> bytes:
        hashes = stored(begin * HASH_BYTES, end * HASH_BYTES)
        return hashes[: len(hashes) - len(hashes) % HASH_BYTES]

    usable = [anchor for anchor in anchors if anchor.size <= size]
    all_stored = whole and all(part.report.stored for part in scanned.ranges)
    forest = _forest(reading) if all_stored else _rehashed(scanned) if whole else None
    scanned.settle()
    expected = build_expected(size, usable, stored_leaves, forest, scanned.leaves, lambda b, e: _claimed(scanned, b, e))
    found = diagnose(scanned, expected, whole=whole)
    renamed = _renamed(reading.store, look, found, expected)
    if renamed:
        reading.scan_files(renamed)
        found = diagnose(scanned, expected, whole=False)
    beyond = [line_hash(line.data) for line in found.tail if line.ended] if expected.proven == size else []
    tree = expected.forest(b"".join(beyond))
    compared = expected.proven + (len(beyond) if tolerant else 0)
    first_gap = min((gap.begin for gap in found.order.gaps if gap.begin < gap.end), default=size)
    state = State(
        root=lambda n: tree.root(n) if n <= expected.proven else None,
        place=found.place,
        own=found.own,
        levels=_levels(tree, compared) if expected.proven >= size else (),
        limit=min(first_gap, size),
        damaged=found.damaged,
        proven=expected.proven,
        findings=[*found.findings, *_compare_leaves(expected, stored_leaves)],
        reach=lambda n: tree.root(n) if n <= tree.size else None,
        bad_lines=found.bad_lines,
        unsigned=Unsigned(sum(line.ended for line in found.tail), found.oldest_unsigned),
        renamed={file.name for file in renamed},
        purged=join_runs(sorted(set(found.purged))),
        leaves=lambda begin, end: expected.leaves(begin, min(end, expected.proven)),
        linked_tail=all(line.linked and line.ended for line in found.tail),
        sealed_tail=found.sealed,
    )
    if tolerant and beyond:
        stored_beyond = stored_leaves(size, size + len(beyond))
        state.findings += compare_hashes("tree/0", 0, size, b"".join(beyond), stored_beyond)
    return state


def _levels(tree: Forest, size: int) -> list[bytearray]:
    """The tree levels, as far as they are about the first `size` entries."""
    return [row[: hashes_at(size, level) * HASH_BYTES] for level, row in enumerate(tree.levels)]


def _rehashed(scanned: Scanned) -> Forest:
    """The tree over whole entries when `tree/0` is not what they hash to."""
    forest = Forest(scanned.leaves)
    for part in scanned.ranges:
        forest.add(part.report)
    return forest


def _claimed(scanned: Scanned, begin: int, end: int) -> Iterator[tuple[int, bytes, bool]]:
    """Yield (entry, leaf hash, stated by a link) for entries `[begin, end)`, of lines that claim to be there.

    A purged line claims to be the entry after the line before it.
    """
    place = 0
    for file in scanned.files:
        parts = scanned.of(file)
        near = [part for part in parts if not part.report.sound or _touches(part.report, begin, end)]
        if parts and not near and parts[-1].report.base + parts[-1].report.lines <= begin:
            place = parts[-1].report.base + parts[-1].report.lines
        for line in itertools.chain(*map(scanned.read, near), scanned.torn(file)):
            members = parse_members(line.data)
            place = (place if members is None else members.seq) + 1
            if members is None and begin < place <= end and parse_purged(line.data) is not None:
                yield place - 1, line_hash(line.data), False
            if members is not None and begin <= members.seq < end:
                yield members.seq, line_hash(line.data), False
            if members is not None and begin < members.seq <= end:
                yield members.seq - 1, members.prev_hash, True


def _touches(report: Report, begin: int, end: int) -> bool:
    return report.base <= end and begin < report.base + report.lines


def _renamed(store: Store, look: Look, found: Diagnosis, expected: Expected) -> list[DayFile]:
    """Stray files that begin with an entry that is missing."""
    missing = [gap for gap in found.order.gaps if gap.begin < gap.end]
    files: list[DayFile] = []
    for file in look.kind("stray") if missing else []:
        read = reader_of(store, file)
        try:
            data = read(0, MAX_ENTRY_BYTES + 1)
            first = data[: max(0, data.find(b"\n"))]
            size = unpacked_size(file.path) if file.path is not None and is_sealed(file.name) else file.size
            length, torn = settle_length(read, size) if first.startswith(_ENTRY_START) else (0, 0)
        except OSError:
            continue
        seq = seq_of(first) if first.startswith(_ENTRY_START) else None
        if seq is not None and expected.leaf(seq) == leaf_hash(first) and found.damaged(seq):
            path = None if file.path is None else str(file.path)
            files.append(DayFile(file.name, "", read, length, torn, path))
    return files


def _compare_leaves(expected: Expected, stored: Callable[[int, int], bytes]) -> Iterator[Finding]:
    """Name hashes in `tree/0` that are not those of the proven entries."""
    for begin in range(0, expected.proven, _PIECE):
        end = min(begin + _PIECE, expected.proven)
        if not expected.is_stored(begin, end):
            yield from compare_hashes("tree/0", 0, begin, expected.leaves(begin, end), stored(begin, end))
