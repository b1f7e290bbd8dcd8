"""Attacks on the time stamps of a log; one without any offers nothing for them, and they are skipped."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Final

from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.tlog.checkpoint import Checkpoint
from klingai_audit.tlog.merkle import EMPTY_ROOT, CompactRange
from klingai_audit.tlog.note import sign_note
from klingai_audit.upkeep.attacks import Attack, need
from klingai_audit.upkeep.copy import Impossible, LogCopy, target_of
from klingai_audit.upkeep.forge import edited, forge, hashes_of, rechained
from klingai_audit.upkeep.forged_stamp import forged_stamp
from klingai_audit.upkeep.thefts import current_keys

__all__ = ["stamp_attacks"]

_STAMPS: Final = "time stamps"


def stamp_attacks(keys: KeyFolder) -> list[Attack]:
    """Return the attacks."""

    def rewrite(copy: LogCopy) -> None:
        _rewrite(copy, keys)

    return [
        Attack("remove_stamp", "deletes a time stamp", frozenset({"stamp_missing"}), _remove, needs=_STAMPS),
        Attack(
            "move_stamp",
            "puts a time stamp beside another checkpoint",
            frozenset({"stamp_moved"}),
            _move,
            needs=_STAMPS,
        ),
        Attack(
            "change_stamp",
            "changes a time stamp",
            frozenset({"stamp_changed", "stamp_malformed", "stamp_moved"}),
            _change,
            needs=_STAMPS,
        ),
        Attack(
            "other_authority",
            "has a checkpoint stamped by an authority of its own",
            frozenset({"stamp_changed", "stamp_untrusted"}),
            _other_authority,
            needs=_STAMPS,
        ),
        Attack(
            "rewrite_stamped",
            "steals all keys and rewrites what was stamped, its checkpoint too",
            frozenset({"stamp_moved"}),
            rewrite,
            needs=_STAMPS,
        ),
        Attack(
            "add_stamp", "leaves a time stamp that nobody named", frozenset({"stamp_unexpected", "stamp_moved"}), _add
        ),
    ]


def _stamps(copy: LogCopy) -> list[str]:
    """Return the names of all time stamps. Raises: Impossible if there are none."""
    names = sorted(f"checkpoints/{path.name}" for path in (copy.whole / "checkpoints").glob("*.tsr"))
    need(names, "the log has no time stamps")
    return names


def _remove(copy: LogCopy) -> None:
    copy.drop(_stamps(copy)[0])


def _move(copy: LogCopy) -> None:
    stamps = _stamps(copy)
    others = [name for size in copy.kept() if (name := f"checkpoints/{size:020}.tsr") != stamps[0]]
    need(others, "only one checkpoint is kept")
    copy.put(next((name for name in others if name in stamps), others[0]), copy.read(stamps[0]))


def _change(copy: LogCopy) -> None:
    copy.change(_stamps(copy)[0], lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])


def _other_authority(copy: LogCopy) -> None:
    name = _stamps(copy)[0]
    copy.put(name, forged_stamp(copy.read(name.removesuffix(".tsr")), dt.datetime.now(dt.UTC)))


def _rewrite(copy: LogCopy, keys: KeyFolder) -> None:
    """Everything fits afterwards, checkpoints and entries that name stamps included, but for the stamps themselves."""
    sizes = [int(name.removeprefix("checkpoints/").removesuffix(".tsr")) for name in _stamps(copy)]
    log_key, epoch_key, epoch = current_keys(keys)
    if epoch:
        raise Impossible("what was stamped was signed in an earlier epoch, whose keys are gone")
    signed: dict[int, bytes] = {}

    def work(lines: list[bytes]) -> None:
        index = target_of(lines[: max(sizes)])
        lines[index] = edited(lines[index])
        for size in sizes:
            lines[:size] = rechained(lines[:size], EMPTY_ROOT)
            tree = CompactRange()
            tree.extend(hashes_of(lines[:size]))
            signed[size] = sign_note(Checkpoint(log_key.name, size, tree.root()).text(), log_key, epoch_key)
            old = hashlib.sha256(copy.read(f"checkpoints/{size:020}")).hexdigest().encode()
            new = hashlib.sha256(signed[size]).hexdigest().encode()
            lines[size:] = [line.replace(old, new) for line in lines[size:]]

    forge(copy, work, signers=lambda _size: (log_key, epoch_key))
    for size, note in signed.items():
        copy.put(f"checkpoints/{size:020}", note)


def _add(copy: LogCopy) -> None:
    size = next(size for size in range(1, 10**9) if size not in copy.kept())
    copy.put(f"checkpoints/{size:020}.tsr", forged_stamp(copy.read("checkpoint"), dt.datetime.now(dt.UTC)))
