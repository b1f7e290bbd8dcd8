"""Attacks that pass for retention, and on what retention left: purged entries and sealed days."""

from __future__ import annotations

import gzip
from typing import Final

from klingai_audit.ledger.line import PURGED_PREFIX
from klingai_audit.ledger.purged import Purged, line_hash, parse_purged, purged_line
from klingai_audit.ledger.sealed import is_sealed
from klingai_audit.upkeep.attacks import Attack, need
from klingai_audit.upkeep.copy import Impossible, LogCopy, target_of
from klingai_audit.upkeep.forge import edited

__all__ = ["purge_attacks"]

_PURGED: Final = "purged entries"
_SEALED: Final = "sealed days"


def purge_attacks() -> list[Attack]:
    """Return the attacks."""
    return [
        Attack(
            "purge_unlisted",
            "purges an entry on the authority of one that authorises nothing",
            frozenset({"purge_unauthorised"}),
            _purge_unlisted,
        ),
        Attack(
            "purge_more",
            "purges an entry more than a real authorisation lists",
            frozenset({"purge_unauthorised"}),
            _purge_more,
            needs=_PURGED,
        ),
        Attack(
            "purge_in_advance",
            "purges an entry on the authority of one that is yet to come",
            frozenset({"purge_unauthorised"}),
            _purge_in_advance,
        ),
        Attack(
            "invent_purged",
            "puts an entry of its own in the place of a purged one",
            frozenset({"entry_changed"}),
            _invent_purged,
            needs=_PURGED,
        ),
        Attack(
            "change_purged",
            "changes the hash that stands for a purged entry",
            frozenset({"entry_changed"}),
            _change_purged,
            needs=_PURGED,
        ),
        Attack(
            "drop_purged",
            "removes what stands for a purged entry",
            frozenset({"entry_missing"}),
            _drop_purged,
            needs=_PURGED,
        ),
        Attack(
            "repack_sealed",
            "packs a sealed day anew, with the same entries",
            frozenset({"sealed_changed"}),
            _repack,
            needs=_SEALED,
        ),
        Attack(
            "purge_sealed",
            "purges an entry of a sealed day and seals it again",
            frozenset({"purge_unauthorised", "sealed_changed"}),
            _purge_sealed,
            needs=_SEALED,
        ),
        Attack(
            "spoil_sealed",
            "changes a byte of a sealed day",
            frozenset({"file_unreadable", "sealed_changed"}),
            _spoil,
            needs=_SEALED,
        ),
    ]


def _purged(lines: list[bytes], index: int, by: int) -> None:
    lines[index] = purged_line(line_hash(lines[index]), by)


def _purge_unlisted(copy: LogCopy) -> None:
    copy.change_lines(copy.longest_day(), lambda lines: _purged(lines, target_of(lines), 0))


def _purge_more(copy: LogCopy) -> None:
    day, at, found = _some_purged(copy)
    first = 1 if day == copy.days[0] else 0  # a log's first entry cannot be listed at all
    near = [index for index, line in enumerate(copy.lines(day)) if index >= first and parse_purged(line) is None]
    need(near, "whole days are purged, and nothing is left beside it")
    copy.change_lines(day, lambda lines: _purged(lines, min(near, key=lambda index: abs(index - at)), found.by))


def _purge_in_advance(copy: LogCopy) -> None:
    size = len(copy.all_lines())
    copy.change_lines(copy.longest_day(), lambda lines: _purged(lines, target_of(lines), size))


def _invent_purged(copy: LogCopy) -> None:
    day, at, _ = _some_purged(copy)
    other = next((line for line in copy.lines(day) if not line.startswith(PURGED_PREFIX)), copy.lines(copy.days[-1])[0])
    copy.change_lines(day, lambda lines: lines.__setitem__(at, edited(other)))


def _change_purged(copy: LogCopy) -> None:
    day, at, found = _some_purged(copy)
    copy.change_lines(
        day, lambda lines: lines.__setitem__(at, purged_line(bytes([found.leaf[0] ^ 1]) + found.leaf[1:], found.by))
    )


def _drop_purged(copy: LogCopy) -> None:
    day, at, _ = _some_purged(copy)
    copy.change_lines(day, lambda lines: lines.__delitem__(at))


def _repack(copy: LogCopy) -> None:
    day = _sealed(copy)
    copy.put(day, gzip.compress(b"".join(line + b"\n" for line in copy.lines(day)), 1, mtime=1))


def _purge_sealed(copy: LogCopy) -> None:
    day = _sealed(copy)
    lines = copy.lines(day)
    _purged(lines, target_of(lines), 0)
    copy.seal(day, lines)


def _spoil(copy: LogCopy) -> None:
    day = _sealed(copy)
    data = copy.read(day)
    at = len(data) // 2
    copy.put(day, data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])


def _some_purged(copy: LogCopy) -> tuple[str, int, Purged]:
    """Return the day file of a purged line, its index there, and what it says. Raises: Impossible."""
    found = [
        (day, index, purged)
        for day in copy.days
        for index, line in enumerate(copy.lines(day))
        if (purged := parse_purged(line)) is not None
    ]
    need(found, "no entry of the log is purged")
    return found[len(found) // 2]


def _sealed(copy: LogCopy) -> str:
    """Return the largest sealed day with something to attack. Raises: Impossible."""
    days = [day for day in copy.days if is_sealed(day)]
    need(days, "no day of the log is sealed")
    for day in sorted(days, key=lambda day: -(copy.whole / day).stat().st_size):
        try:
            target_of(copy.lines(day))
        except Impossible:
            continue
        return day
    raise Impossible("everything in sealed days is purged or the log's own")
