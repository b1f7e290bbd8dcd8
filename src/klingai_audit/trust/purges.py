"""Purged entries and sealed days: whether entries of the log authorise what is gone. docs/format.md, section 9.7.

A purge is right if an entry `retention_applied` after it lists the entry, and states the digest of the leaf hashes of
all that it lists. A sealed file is right if such an entry states its digest.
"""

from __future__ import annotations

import contextlib
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from klingai_audit.durable import open_regular
from klingai_audit.errors import Malformed
from klingai_audit.ledger.sealed import is_sealed
from klingai_audit.tlog.tile import HASH_BYTES
from klingai_audit.trust.chunk import Purged
from klingai_audit.trust.epochs import read_metadata
from klingai_audit.trust.look import Look
from klingai_audit.trust.verdict import Finding

__all__ = ["Leaves", "Listed", "Place", "check_purges", "check_sealed", "listed_in", "named_seals"]

_RETENTION: Final = b'retention_applied"'
_TYPE_AT: Final = 118
_PIECE: Final = 1 << 15
_READ: Final = 1 << 20

Place = Callable[[int], tuple[str | None, int | None]]
Leaves = Callable[[int, int], bytes]


@dataclass(slots=True)
class Listed:
    """What one `retention_applied` entry lists: half-open ranges, and the digest of their leaf hashes in hex."""

    seq: int
    ranges: list[tuple[int, int]]
    digest: str
    holds: bool | None = field(default=None)

    def unlisted(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of `[begin, end)` that are not listed."""
        return _outside(begin, end, self.ranges)


def listed_in(own: Iterable[tuple[int, bytes]]) -> dict[int, Listed]:
    """Return what the log's entries list for purging, by their `seq`; one that is not of its form lists nothing."""
    found = {}
    for seq, metadata in _retention(own):
        ranges = metadata.get("ranges")
        digest = metadata.get("leaves")
        if metadata.get("action") != "purge" or not isinstance(ranges, list) or not isinstance(digest, str):
            continue
        spans = list(_spans(ranges, seq))
        if len(spans) == len(ranges):
            found[seq] = Listed(seq, spans, digest)
    return found


def _spans(ranges: Sequence[Any], limit: int) -> Iterator[tuple[int, int]]:
    """Yield inclusive ranges as half-open ones as long as they ascend, hold no entry 0 and end before `limit`."""
    after = 1
    for one in ranges:
        if not (isinstance(one, list) and len(one) == 2 and all(type(number) is int for number in one)):
            return
        first, last = one
        if not after <= first <= last < limit:
            return
        yield first, last + 1
        after = last + 1


def named_seals(own: Iterable[tuple[int, bytes]]) -> dict[str, list[str]]:
    """Return the digests (SHA-256, hex) that entries state for sealed files, by file name, in log order."""
    found: dict[str, list[str]] = {}
    for _, metadata in _retention(own):
        name, digest = metadata.get("file"), metadata.get("sha256")
        if metadata.get("action") == "seal" and isinstance(name, str) and isinstance(digest, str):
            found.setdefault(name, []).append(digest)
    return found


def _retention(own: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for seq, line in own:
        if line.startswith(_RETENTION, _TYPE_AT):
            try:
                yield seq, read_metadata(line)
            except Malformed:
                continue


def check_purges(
    purged: Sequence[Purged], listed: dict[int, Listed], leaves: Leaves, place: Place, *, whole: bool
) -> Iterator[Finding]:
    """Name purged entries that nothing authorises; if the log is `whole`, also those that are listed and still there.

    `leaves(begin, end)` gives leaf hashes that are proven.
    """
    for run in purged:
        one = listed.get(run.by)
        parts = [(run.begin, run.end)]
        if one is None:
            why = f"entry {run.by}, which is to have authorised it, lists nothing for purging"
        elif not _holds(one, leaves):
            why = f"the digest that entry {run.by} states is not that of the entries it lists"
        else:
            parts = list(one.unlisted(run.begin, run.end))
            why = f"entry {run.by}, which is to have authorised it, does not list it"
        for begin, end in parts:
            span = f"Entry {begin} is" if end - begin == 1 else f"Entries {begin} to {end - 1} are"
            yield Finding("purge_unauthorised", f"{span} purged, and {why}.", begin, end, *place(begin))
    gone = [(run.begin, run.end) for run in purged]
    for one in listed.values() if whole else ():
        there = [span for begin, end in one.ranges for span in _outside(begin, end, gone)]
        if there:
            count = sum(end - begin for begin, end in there)
            message = f"{count} of the entries that entry {one.seq} lists for purging are still there."
            yield Finding("purge_unfinished", message, there[0][0], there[0][1], *place(there[0][0]))


def _holds(one: Listed, leaves: Leaves) -> bool:
    if one.holds is None:
        digest = hashlib.sha256()
        base, held = 0, b""
        for begin, end in one.ranges:
            for at in range(begin, end, _PIECE):
                stop = min(at + _PIECE, end)
                if not base <= at <= stop <= base + len(held) // HASH_BYTES:
                    base, held = at, leaves(at, min(at + _PIECE, one.seq))
                digest.update(held[(at - base) * HASH_BYTES : (stop - base) * HASH_BYTES])
        one.holds = digest.hexdigest() == one.digest
    return one.holds


def _outside(begin: int, end: int, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the parts of `[begin, end)` that lie in none of `spans`, which ascend."""
    at = max(0, bisect_right(spans, begin, key=lambda span: span[0]) - 1)
    while at < len(spans) and begin < end and spans[at][0] < end:
        if spans[at][0] > begin:
            yield begin, spans[at][0]
        begin = max(begin, spans[at][1])
        at += 1
    if begin < end:
        yield begin, end


def check_sealed(look: Look, named: dict[str, list[str]], unreadable: Collection[str]) -> Iterator[Finding]:
    """Compare sealed files with the digests that entries state, but for those that do not unpack.

    Beside its old file a sealed one is what a stopped run left, if an entry names it.
    """
    for file in look.after:
        if not is_sealed(file.name) or file.path is None or file.kind not in ("entries", "stray"):
            continue
        if file.name in unreadable and file.kind == "entries":
            continue
        digests = named.get(file.name, [])
        digest = _digest(file.path)
        if file.kind == "stray":
            if digest in digests:
                yield Finding("seal_unfinished", f"{file.name} lies beside the file that it replaces.", file=file.name)
        elif digest not in digests:
            what = "states another digest" if digests else "says that it was sealed"
            message = f"{file.name} is not as it was sealed: {'every' if digests else 'no'} entry {what}."
            yield Finding("sealed_changed", message, file=file.name)
        elif digest != digests[-1]:
            message = f"{file.name} is an earlier form than the one that was sealed last."
            yield Finding("seal_unfinished", message, file=file.name)


def _digest(path: Path) -> str:
    """The SHA-256 of a file's bytes; of nothing if it cannot be read, which is told elsewhere."""
    digest = hashlib.sha256()
    with contextlib.suppress(OSError), open_regular(path, follow=False) as file:
        while piece := file.read(_READ):
            digest.update(piece)
    return digest.hexdigest()
