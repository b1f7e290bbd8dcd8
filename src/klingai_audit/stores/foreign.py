"""Taking bytes out of day files that no writer put there; the files are replaced whole, never edited in place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from klingai_audit.durable import FileOps
from klingai_audit.stores.days import read_from

__all__ = ["find_cuts", "take_out"]


def find_cuts(
    paths: Sequence[Path], offset: int, foreign: Sequence[tuple[int, int | None]]
) -> dict[Path, list[tuple[int, int]]]:
    """Return the byte ranges `[begin, end)` of each file that `foreign` means; see `Transaction.remove`.

    Lines are counted from byte `offset` of the first path on, as `DirectoryTransaction.pull` does. Raises: OSError.
    """
    wanted = dict(foreign)
    found: dict[Path, list[tuple[int, int]]] = {}
    number = 0
    for path in paths:
        data, _ = read_from(path, offset)
        lines = data.split(b"\n")
        ends = len(lines) - 1
        for index, line in enumerate(lines):
            ended = index < ends
            if not ended and (not line or path is paths[-1]):
                continue
            if number in wanted:
                length = wanted[number]
                found.setdefault(path, []).append((offset, offset + (len(line) + ended if length is None else length)))
            offset += len(line) + ended
            number += 1
        offset = 0
    return found


def take_out(ops: FileOps, path: Path, cuts: Sequence[tuple[int, int]]) -> None:
    """Replace a file by one without these byte ranges, or remove one of which nothing is left; durable on return.

    Whole old or whole new after a crash. Raises: OSError.
    """
    if sum(end - begin for begin, end in cuts) == path.stat().st_size:
        ops.unlink(path)
        ops.sync_folder(path.parent)
    else:
        ops.renew(path, without=cuts)
