"""Tiles and entry bundles of a log, made from what is stored, and a static folder of them that is kept up to date.

Source: C2SP tlog-tiles. Paths and bytes are those that any client of that format reads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from klingai_audit.durable import OPS, FileOps, read_optional
from klingai_audit.errors import InconsistentCheckpoints, InvalidProof, LogDamaged, Malformed, StorageError, UsageError
from klingai_audit.ledger.line import PURGED_PREFIX
from klingai_audit.ledger.reader import LogReader
from klingai_audit.tlog.checkpoint import Checkpoint, parse_checkpoint
from klingai_audit.tlog.merkle import verify_consistency
from klingai_audit.tlog.note import parse_note
from klingai_audit.tlog.tile import HASH_BYTES, TILE_WIDTH, TileLevel, encode_bundle, new_tiles, tile_path
from klingai_audit.trust.epochs import read_metadata

__all__ = ["CHECKPOINT", "Progress", "Published", "publish_tiles", "tile_bytes"]

_TYPE_AT: Final = 118
_RETENTION: Final = b'retention_applied"'
CHECKPOINT: Final = "checkpoint"
"""Path of the signed checkpoint, beside `tile/`."""

Progress = Callable[[int, int], None]
"""Called with tiles written and tiles in all."""


@dataclass(frozen=True, slots=True)
class Published:
    """What one run did: tree sizes before and after, and how many files were written and removed."""

    old_size: int
    size: int
    written: int
    removed: int


def tile_bytes(reader: LogReader, level: TileLevel, n: int, width: int) -> bytes | None:
    """Return the bytes of one tile (`32 * width`) or entry bundle; None for a bundle of which an entry was purged.

    Raises: LogDamaged if the log does not hold them.
    """
    begin = n * TILE_WIDTH
    if level == "entries":
        lines = list(reader.lines(begin, begin + width))
        if len(lines) == width:
            return None if any(line.startswith(PURGED_PREFIX) for line in lines) else encode_bundle(lines)
    else:
        hashes = reader.store.read_hashes(level, begin, begin + width)
        if len(hashes) == width * HASH_BYTES:
            return hashes
    raise LogDamaged(f"The log does not hold all of {tile_path(level, n, width)}.", kind_of_damage="tree_short")


def publish_tiles(
    reader: LogReader,
    folder: Path,
    *,
    head: Callable[[], bytes] | None = None,
    ops: FileOps = OPS,
    progress: Progress | None = None,
) -> Published:
    """Bring a static tlog-tiles folder up to the log's published checkpoint; durable on return.

    `head` gives another signed checkpoint of the log to publish instead, such as `CosignedHead`. One that the folder
    holds is never replaced by an older one, nor, where nothing else is new, by one with fewer signatures.

    Tiles first, `checkpoint` last, so that a reader never sees a checkpoint whose tiles are missing, whenever this
    stops. Partial tiles of sizes published here stay until the full tile is there. Run again, it goes on.
    Bundles with an entry that was purged are not there, and are taken away when the log says so.

    Raises: InconsistentCheckpoints if the folder holds a state that this log does not extend; UsageError if it
    belongs to another log; LogDamaged; StorageError.
    """
    newest = reader.checkpoint_note()
    note = newest if head is None else head()
    checkpoint = parse_checkpoint(parse_note(note).text)
    try:
        before = _published(folder)
        if before is not None:
            if head is not None and before[1].size > checkpoint.size:
                note, checkpoint = before
                _check_extends(reader, before[0], parse_checkpoint(parse_note(newest).text), before[1], newest)
            else:
                _check_extends(reader, before[0], checkpoint, before[1], note)
            if before[1] == checkpoint and len(parse_note(before[0]).signatures) > len(parse_note(note).signatures):
                note = before[0]
        old = 0 if before is None else before[1].size
        wanted = list(new_tiles(old, checkpoint.size))
        for done, (level, n, width) in enumerate(wanted):
            if progress is not None:
                progress(done, len(wanted))
            data = tile_bytes(reader, level, n, width)
            if data is not None:
                path = folder / tile_path(level, n, width)
                ops.make_folder(path.parent)
                ops.replace(path, data)
        ops.make_folder(folder)
        if before is None or before[0] != note:
            ops.replace(folder / CHECKPOINT, note)
        removed = sum(_drop_partials(folder, level, n, ops) for level, n, width in wanted if width == TILE_WIDTH)
        for n in _purged(reader.entries(old, checkpoint.size), checkpoint.size):
            removed += _drop_partials(folder, "entries", n, ops) + _drop_full(folder, n, ops)
    except OSError as exc:
        raise StorageError(f"{exc.filename or folder} cannot be written: {exc.strerror}.") from exc
    return Published(old, checkpoint.size, len(wanted), removed)


def _published(folder: Path) -> tuple[bytes, Checkpoint] | None:
    data = read_optional(folder / CHECKPOINT)
    if data is None:
        return None
    try:
        return data, parse_checkpoint(parse_note(data).text)
    except Malformed as exc:
        raise UsageError(
            f"{folder / CHECKPOINT} is not a checkpoint.", do="Name a new folder, or one that this command filled."
        ) from exc


def _check_extends(reader: LogReader, older: bytes, head: Checkpoint, before: Checkpoint, newer: bytes) -> None:
    if before.origin != head.origin:
        raise UsageError("The folder holds the tiles of another log.", do="Name a folder of its own for each log.")
    message = "The folder holds a state of this log that the log does not extend."
    try:
        if before.size > head.size:
            raise InvalidProof(message)
        proof = reader.consistency(before.size, head.size) if 0 < before.size < head.size else ()
        verify_consistency(before.size, head.size, before.root, head.root, proof)
    except InvalidProof as exc:
        raise InconsistentCheckpoints(
            message, older=older, newer=newer, do="Preserve both, then run: klingai-audit verify"
        ) from exc


def _drop_partials(folder: Path, level: TileLevel, n: int, ops: FileOps) -> int:
    """Remove the partial tiles that a full one replaces; returns how many."""
    full = folder / tile_path(level, n)
    partials = full.with_name(full.name + ".p")
    removed = 0
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(partials.iterdir()):
            ops.unlink(path)
            removed += 1
        ops.rmdir(partials)
    return removed


def _drop_full(folder: Path, n: int, ops: FileOps) -> int:
    path = folder / tile_path("entries", n)
    if not path.exists():
        return 0
    ops.unlink(path)
    return 1


def _purged(entries: Iterable[bytes], size: int) -> Iterator[int]:
    """Yield the bundles of which entries say that something in them was purged; docs/format.md, section 9.7."""
    for line in entries:
        if not line.startswith(_RETENTION, _TYPE_AT):
            continue
        ranges = read_metadata(line).get("ranges")
        for one in ranges if isinstance(ranges, list) else ():
            if isinstance(one, list) and len(one) == 2 and all(type(number) is int for number in one):
                yield from range(max(0, one[0]) // TILE_WIDTH, min(one[1], size - 1) // TILE_WIDTH + 1)
