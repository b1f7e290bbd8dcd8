"""Attacks on the time stamps of a log; a log without any offers nothing for them."""

from __future__ import annotations

import datetime as dt

from klingai_audit.upkeep.attacks import Attack
from klingai_audit.upkeep.copy import Impossible, LogCopy
from klingai_audit.upkeep.forged_stamp import forged_stamp

__all__ = ["stamp_attacks"]


def stamp_attacks(copy: LogCopy) -> list[Attack]:
    """Return the attacks that this log offers something for: none if it has no time stamps."""
    if not _stamps(copy):
        return []
    return [
        Attack("remove_stamp", "deletes a time stamp", frozenset({"stamp_missing"}), _remove),
        Attack("move_stamp", "puts a time stamp beside another checkpoint", frozenset({"stamp_moved"}), _move),
        Attack(
            "change_stamp",
            "changes a time stamp",
            frozenset({"stamp_changed", "stamp_malformed", "stamp_moved"}),
            _change,
        ),
        Attack(
            "other_authority",
            "has a checkpoint stamped by an authority of its own",
            frozenset({"stamp_changed", "stamp_untrusted"}),
            _other_authority,
        ),
        Attack(
            "add_stamp", "leaves a time stamp that nobody named", frozenset({"stamp_unexpected", "stamp_moved"}), _add
        ),
    ]


def _stamps(copy: LogCopy) -> list[str]:
    return sorted(f"checkpoints/{path.name}" for path in (copy.whole / "checkpoints").glob("*.tsr"))


def _remove(copy: LogCopy) -> None:
    copy.drop(_stamps(copy)[0])


def _move(copy: LogCopy) -> None:
    stamps = _stamps(copy)
    if len(stamps) == 1:
        raise Impossible("only one checkpoint is time-stamped")
    copy.put(stamps[-1], copy.read(stamps[0]))


def _change(copy: LogCopy) -> None:
    copy.change(_stamps(copy)[0], lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])


def _other_authority(copy: LogCopy) -> None:
    name = _stamps(copy)[0]
    copy.put(name, forged_stamp(copy.read(name.removesuffix(".tsr")), dt.datetime.now(dt.UTC)))


def _add(copy: LogCopy) -> None:
    size = next(size for size in range(1, 10**9) if size not in copy.kept())
    copy.put(f"checkpoints/{size:020}.tsr", forged_stamp(copy.read("checkpoint"), dt.datetime.now(dt.UTC)))
