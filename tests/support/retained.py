"""Logs that say what they purged and sealed, made by the independent small writer, and ways in which that is wrong."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tests.support.logsmith import POLICY, Smith, leaf_hash

__all__ = ["RETAINED", "WRONG", "Keeper", "keeper", "pack", "purged_line"]

Ranges = Sequence[tuple[int, int]]


def pack(lines: bytes, level: int = 6) -> bytes:
    """One gzip member without a name, its time 0."""
    return gzip.compress(lines, level, mtime=0)


def purged_line(leaf: bytes, by: int) -> bytes:
    """The line of docs/format.md, section 2.3."""
    return b'{"purged":"%b","by":%d}' % (leaf.hex().encode(), by)


class Keeper:
    """Applies retention to a log of `smith`: what its entries list is purged, days are packed.

    `lines` holds what stands in the place of purged entries, `packed` the sealed files.
    """

    def __init__(self, smith: Smith) -> None:
        self.smith = smith
        self.lines: dict[int, bytes] = {}
        self.packed: dict[str, bytes] = {}

    def _entry(self, metadata: dict[str, Any]) -> int:
        smith = self.smith
        smith.batch(smith.event("retention_applied", metadata, actor_id="klingai-audit", actor_type="system"))
        return len(smith.entries) - 1

    def purge(self, *ranges: tuple[int, int], remove: Ranges | None = None, by: int | None = None, **other: Any) -> int:
        """List ranges (inclusive) and purge them, or what `remove` says instead; return the entry that lists them.

        `by` is what the purged lines name, `other` replaces members of the entry.
        """
        listed = [seq for first, last in ranges for seq in range(first, last + 1)]
        known = [leaf_hash(self.smith.entries[seq]) for seq in listed if seq < len(self.smith.entries)]
        told = {"action": "purge", "entries": len(listed), "ranges": [list(one) for one in ranges]}
        told |= {"leaves": hashlib.sha256(b"".join(known)).hexdigest(), "types": {"x": len(listed)}, "policy": POLICY}
        seq = self._entry(told | other)
        for first, last in ranges if remove is None else remove:
            for gone in range(first, last + 1):
                self.lines[gone] = purged_line(leaf_hash(self.smith.entries[gone]), seq if by is None else by)
        return seq

    def day(self, day: str) -> bytes:
        """The lines of a day as they are now."""
        several = zip(self.smith.days, self.smith.entries, strict=True)
        kept = [self.lines.get(seq, entry) for seq, (one, entry) in enumerate(several) if one == day]
        return b"".join(line + b"\n" for line in kept)

    def seal(self, *days: str, **other: Any) -> None:
        """Pack days and say so; `other` replaces members of the entries."""
        for day in days:
            name, data = f"audit-{day}.jsonl.gz", pack(self.day(day))
            seqs = [seq for seq, one in enumerate(self.smith.days) if one == day]
            told = {"action": "seal", "file": name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            self._entry(told | {"first": seqs[0], "last": seqs[-1]} | other)
            self.packed[name] = data

    def days(self) -> list[str]:
        """The days of the log, ascending."""
        return sorted(set(self.smith.days))

    def files(self) -> dict[str, bytes]:
        """All files: sealed days in the place of the others, purged lines in that of entries."""
        files = self.smith.files()
        for day in self.days():
            name = f"audit-{day}.jsonl"
            files[name] = self.day(day)
            if name + ".gz" in self.packed:
                del files[name]
        return files | self.packed

    def done(self) -> Keeper:
        """Close the log."""
        self.smith.closed("w3")
        return self


def keeper(*, silent: bool = False) -> Keeper:
    """Some 110 entries over four days and two epochs, none of them purged or sealed yet; the last day is open.

    The second day holds acts alone; the first one ends with `log_closed` unless the log falls `silent`,
    then that follows behind the second.
    """
    smith = Smith().create().work(29 if silent else 28)
    smith.work(1) if silent else smith.closed()
    smith.next_day().work(30)
    if silent:
        smith.closed()
    smith.next_day().opened("w2").rotate().work(30).closed("w2")
    smith.next_day().opened("w3").work(12)
    return Keeper(smith)


def _made(*steps: Callable[[Keeper], object], silent: bool = False) -> Keeper:
    made = keeper(silent=silent)
    for step in steps:
        step(made)
    return made.done()


def _whole_day(made: Keeper) -> tuple[int, int]:
    day = made.days()[1]
    seqs = [seq for seq, one in enumerate(made.smith.days) if one == day]
    return seqs[0], seqs[-1]


def _acts(made: Keeper) -> list[tuple[int, int]]:
    """All entries that are not about the log itself, as inclusive ranges."""
    own = ("log_", "signing_", "retention_")
    seqs = [seq for seq, entry in enumerate(made.smith.entries) if not entry[118:].decode().startswith(own)]
    starts = [seq for seq in seqs if seq - 1 not in seqs]
    return list(zip(starts, [seq for seq in seqs if seq + 1 not in seqs], strict=True))


def _all_days(made: Keeper) -> None:
    made.seal(*made.days()[:3])


RETAINED: dict[str, Callable[[], Keeper]] = {
    "sealed": lambda: _made(_all_days),
    "purged": lambda: _made(lambda k: k.purge((5, 7), (10, 10), (20, 29))),
    "purged and sealed": lambda: _made(lambda k: k.purge((5, 7), (10, 10), (20, 29)), _all_days),
    "several purges": lambda: _made(
        lambda k: k.purge((5, 7)), lambda k: k.purge((8, 9), (50, 60)), lambda k: k.purge((61, 61)), _all_days
    ),
    "first lines of a day": lambda: _made(lambda k: k.purge((_whole_day(k)[0], _whole_day(k)[0] + 4)), _all_days),
    "last lines of a day": lambda: _made(lambda k: k.purge((_whole_day(k)[1] - 4, _whole_day(k)[1])), _all_days),
    "a whole day": lambda: _made(lambda k: k.purge(_whole_day(k)), _all_days),
    "several days": lambda: _made(
        lambda k: k.purge((2, 9), (20, 28)),
        lambda k: k.purge((_whole_day(k)[0], _whole_day(k)[0] + 9), (_day_three(k)[0] + 2, _day_three(k)[1] - 1)),
        _all_days,
    ),
    "everything that may be": lambda: _made(lambda k: k.purge(*_acts(k)), _all_days),
    "a silence": lambda: _made(lambda k: k.purge((5, 9)), _all_days, silent=True),
    "a silence behind what is purged": lambda: _made(
        lambda k: k.purge((_whole_day(k)[0] - 1, _whole_day(k)[0] - 1)), _all_days, silent=True
    ),
    "a silence before what is purged": lambda: _made(
        lambda k: k.purge((_whole_day(k)[0], _whole_day(k)[0])), silent=True
    ),
    "a silence among what is purged": lambda: _made(lambda k: k.purge(*_acts(k)), _all_days, silent=True),
    "listed and whole": lambda: _made(lambda k: k.purge((5, 9), remove=[(5, 6)]), _all_days),
    "nothing listed": lambda: _made(lambda k: k.purge()),
    "sealed twice": lambda: _made(_all_days, lambda k: k.purge((5, 6)), _all_days),
}
"""Logs in which nothing is broken."""


def _day_three(made: Keeper) -> tuple[int, int]:
    seqs = [seq for seq, one in enumerate(made.smith.days) if one == made.days()[2]]
    return seqs[0], seqs[-1]


def _repacked(made: Keeper) -> None:
    _all_days(made)
    name = min(made.packed)
    made.packed[name] = pack(gzip.decompress(made.packed[name]), 1)


def _other(made: Keeper, change: Callable[[bytes], bytes]) -> None:
    _all_days(made)
    name = sorted(made.packed)[1]
    made.packed[name] = change(made.packed[name])


def _edit(number: int) -> Callable[[Keeper], None]:
    def edit(made: Keeper) -> None:
        made.purge((5, 9))
        made.lines[7] = purged_line(bytes([number]) * 32, len(made.smith.entries) - 1)

    return edit


def _displaced(*order: int) -> Callable[[Keeper], None]:
    """Purged lines 5 to 9 stand in another order, some twice or not at all."""

    def displace(made: Keeper) -> None:
        made.purge((5, 9))
        lines = [made.lines[5 + at] for at in order]
        for at in range(6, 10):
            made.lines[at] = b""
        made.lines[5] = b"\n".join(lines)

    return displace


WRONG: dict[str, tuple[Iterable[Callable[[Keeper], object]], set[str]]] = {
    "wrong digest": ([lambda k: k.purge((5, 9), leaves="0" * 64)], {"purge_unauthorised"}),
    "digest of another type": ([lambda k: k.purge((5, 9), leaves=7)], {"purge_unauthorised"}),
    "beyond what is listed": ([lambda k: k.purge((5, 9), remove=[(4, 11)])], {"purge_unauthorised"}),
    "range of itself": ([lambda k: k.purge((5, len(k.smith.entries)), remove=[(5, 6)])], {"purge_unauthorised"}),
    "range of entry 0": ([lambda k: k.purge((0, 6), remove=[(5, 6)])], {"purge_unauthorised"}),
    "ranges that overlap": ([lambda k: k.purge((5, 7), (7, 9))], {"purge_unauthorised"}),
    "ranges that descend": ([lambda k: k.purge((8, 9), (5, 6))], {"purge_unauthorised"}),
    "a range turned round": ([lambda k: k.purge((5, 9), ranges=[[9, 5]])], {"purge_unauthorised"}),
    "a range of three": ([lambda k: k.purge((5, 9), ranges=[[5, 9, 9]])], {"purge_unauthorised"}),
    "a range of truth": ([lambda k: k.purge((1, 1), ranges=[[True, 1]])], {"purge_unauthorised"}),
    "a range of doubles": ([lambda k: k.purge((5, 9), ranges=[[5.0, 9.0]])], {"purge_unauthorised"}),
    "no ranges": ([lambda k: k.purge((5, 9), ranges="5-9")], {"purge_unauthorised"}),
    "another action": ([lambda k: k.purge((5, 9), action="seal")], {"purge_unauthorised"}),
    "by an entry of another type": ([lambda k: k.purge((5, 9), by=1)], {"purge_unauthorised"}),
    "by entry 0": ([lambda k: k.purge((5, 9), by=0)], {"purge_unauthorised"}),
    "by itself": ([lambda k: k.purge((5, 9), by=5)], {"purge_unauthorised"}),
    "by nobody": ([lambda k: k.purge((5, 9), by=10**9)], {"purge_unauthorised"}),
    "by a seal": (
        [_all_days, lambda k: k.purge((5, 9), by=len(k.smith.entries) - 1), _all_days],
        {"purge_unauthorised"},
    ),
    "another hash": ([_edit(1)], {"entry_changed"}),
    "repacked": ([_repacked], {"sealed_changed"}),
    "sealed without a word": ([_all_days, lambda k: k.packed.update({"audit-2026-11-22.jsonl.gz": pack(k.day(
        "2026-11-22"), 9)})], {"sealed_changed"}),
    "sealed under another name": ([lambda k: k.seal(*k.days()[:3], file="audit-2026-11-19.jsonl.gz")],
        {"sealed_changed"}),
    "something behind": ([lambda k: _other(k, lambda data: data + b"\0")], {"file_unreadable"}),
    "two members": ([lambda k: _other(k, lambda data: data + pack(b""))], {"file_unreadable"}),
    "cut off": ([lambda k: _other(k, lambda data: data[:-1])], {"file_unreadable"}),
    "of nothing": ([lambda k: _other(k, lambda _data: b"")], {"file_unreadable"}),
    "empty": ([lambda k: _other(k, lambda _data: pack(b""))], {"file_empty", "sealed_changed"}),
    "not packed": ([lambda k: _other(k, gzip.decompress)], {"file_unreadable"}),
    "no last line feed": ([lambda k: _other(k, lambda data: pack(gzip.decompress(data)[:-1]))], {"torn_tail"}),
    "a closing is gone": ([lambda k: k.purge((_day_three(k)[1], _day_three(k)[1])), _all_days], {"kept_unexpected"}),
    "an epoch is gone": ([lambda k: k.purge(_day_three(k)), _all_days], {"epoch_signature", "kept_unexpected"}),
    "a line less": ([_displaced(0, 1, 3, 4)], {"entry_missing"}),
    "lines exchanged": ([_displaced(1, 0, 2, 3, 4)], {"entry_moved"}),
    "a line twice": ([_displaced(0, 1, 1, 2, 3, 4)], {"entry_duplicated"}),
}  # fmt: skip
"""How retention can be wrong: steps, and kinds of findings that it must show."""
