"""Attacks by somebody who can sign: with keys of their own, with the log's current keys, or with an old state."""

from __future__ import annotations

import re
from typing import Final

from klingai_audit.errors import KlingAuditError
from klingai_audit.ledger.handover import handover_text
from klingai_audit.ledger.keys import KeyFolder, epoch_name
from klingai_audit.ledger.line import event_type_of, parse_members
from klingai_audit.ledger.tree import GrowingTree
from klingai_audit.tlog.hashing import hash_leaves
from klingai_audit.tlog.keys import SignerKey
from klingai_audit.tlog.merkle import EMPTY_ROOT
from klingai_audit.tlog.note import sign_note
from klingai_audit.upkeep.attacks import Attack
from klingai_audit.upkeep.copy import Impossible, LogCopy, target_of
from klingai_audit.upkeep.forge import edit_one, edited, forge, rechained

__all__ = ["thefts"]

_VKEY: Final = r"{name}\+[0-9a-f]{{8}}\+[A-Za-z0-9+/=]+"


def thefts(keys: KeyFolder, *, remembered: bool) -> list[Attack]:
    """Return the attacks; `remembered` tells whether a signed head is known from elsewhere."""

    def roll_back(copy: LogCopy) -> None:
        _need(remembered, "no signed head is remembered on this machine: a rollback is not ruled out")
        _roll_back(copy)

    def rewrite_present(copy: LogCopy) -> None:
        _need(remembered, "no signed head is remembered on this machine: a rewrite by the key holder is not ruled out")
        log_key, epoch_key, _ = _current(keys)

        def edit_present(lines: list[bytes]) -> None:
            begin = max((i for i, line in enumerate(lines) if event_type_of(line) == "signing_key_rotated"), default=-1)
            index = begin + 1 + target_of(lines[begin + 1 :])
            lines[index] = edited(lines[index])

        # What an earlier epoch signed stays as it is: the thief has only today's keys.
        handover = max((size for size in copy.kept() if size <= _last_rotation(copy) + 1), default=0)
        forge(copy, edit_present, signers=lambda _size: (log_key, epoch_key))
        for size in copy.kept():
            if size <= handover:
                copy.put(f"checkpoints/{size:020}", copy.read(f"checkpoints/{size:020}"))

    def rewrite_past(copy: LogCopy) -> None:
        log_key, epoch_key, epoch = _current(keys)
        _need(epoch > 0, "the log is still in its first epoch")

        def edit_past(lines: list[bytes]) -> None:
            end = next(i for i, line in enumerate(lines) if event_type_of(line) == "signing_key_rotated")
            index = target_of(lines[:end])
            lines[index] = edited(lines[index])

        forge(copy, edit_past, signers=lambda _size: (log_key, epoch_key))

    return [
        Attack(
            "rewrite_other_keys",
            "rewrites the whole log under keys of its own",
            frozenset({"foreign_key"}),
            _rewrite_under_other_keys,
        ),
        Attack(
            "sign_other_key",
            "signs the checkpoint with another key of the same name",
            frozenset({"foreign_key", "checkpoint_signature"}),
            _sign_with_other_key,
        ),
        Attack(
            "roll_back",
            "puts an older, validly signed state back",
            frozenset({"rollback"}),
            roll_back,
        ),
        Attack(
            "thief_rewrites_past",
            "steals today's keys and rewrites an earlier epoch",
            frozenset({"epoch_misused", "handover_invalid", "epoch_signature"}),
            rewrite_past,
        ),
        Attack(
            "thief_rewrites_present",
            "steals today's keys and rewrites the current epoch",
            frozenset({"fork"}),
            rewrite_present,
        ),
    ]


def _need(given: bool, otherwise: str) -> None:  # noqa: FBT001  # reads as an assertion
    if not given:
        raise Impossible(otherwise)


def _current(keys: KeyFolder) -> tuple[SignerKey, SignerKey, int]:
    try:
        return keys.log_signer, keys.current.signer, keys.current.epoch
    except KlingAuditError as exc:
        raise Impossible("the private keys cannot be read here") from exc


def _last_rotation(copy: LogCopy) -> int:
    """Index of the last rotation entry, -1 if there is none."""
    lines = copy.all_lines()
    return max((i for i, (_, line) in enumerate(lines) if event_type_of(line) == "signing_key_rotated"), default=-1)


def _sign_with_other_key(copy: LogCopy) -> None:
    text, _, _ = copy.read("checkpoint").partition(b"\n\n")
    name = text.split(b"\n", 1)[0].decode()
    own = SignerKey.generate(name)
    epoch = SignerKey.generate(_epoch_line_name(copy))
    copy.put("checkpoint", sign_note(text.decode() + "\n", own, epoch))


def _epoch_line_name(copy: LogCopy) -> str:
    return copy.read("checkpoint").decode().split("\n")[-2].split(" ")[1]


def _roll_back(copy: LogCopy) -> None:
    """An older state: everything after a kept checkpoint is taken away, and that checkpoint put in place."""
    named = copy.all_lines()
    older = [size for size in copy.kept() if size < len(named)]
    if not older:
        raise Impossible("no older checkpoint is kept")
    size = older[-1]
    for day in copy.days:
        of_day = [line for index, (name, line) in enumerate(named) if name == day and index < size]
        if of_day:
            copy.put(day, b"".join(line + b"\n" for line in of_day))
        else:
            copy.drop(day)
    for kept in copy.kept():
        if kept > size:
            copy.drop(f"checkpoints/{kept:020}")
            copy.drop(f"checkpoints/{kept:020}.tsr")
    level, width = 0, size
    while (copy.whole / "tree" / str(level)).exists():
        if width:
            copy.change(f"tree/{level}", lambda data, width=width: data[: 32 * width])  # type: ignore[misc]
        else:
            copy.drop(f"tree/{level}")
        level, width = level + 1, width // 256
    copy.put("checkpoint", copy.read(f"checkpoints/{size:020}"))


def _rewrite_under_other_keys(copy: LogCopy) -> None:
    """Everything as it should be, links, tree, handovers and all, but by other keys of the same names."""
    origin = copy.read("checkpoint").split(b"\n", 1)[0].decode()
    log_key = SignerKey.generate(origin)
    epochs = [SignerKey.generate(epoch_name(origin, 0))]
    ends: list[int] = []

    def rewrite(lines: list[bytes]) -> None:
        edit_one(lines)
        lines[0] = _with_key(_with_key(lines[0], log_key), epochs[0])
        lines[0] = rechained(lines[:1], EMPTY_ROOT)[0]
        for index, line in enumerate(lines):
            if event_type_of(line) != "signing_key_rotated":
                continue
            lines[:index] = rechained(lines[:index], EMPTY_ROOT)
            epochs.append(SignerKey.generate(epoch_name(origin, len(epochs))))
            ends.append(index + 1)
            lines[index] = _handed_over(line, origin, epochs, hash_leaves(lines[:index]))

    def signers(size: int) -> tuple[SignerKey, SignerKey]:
        return log_key, epochs[sum(end < size for end in ends)]

    forge(copy, rewrite, signers=signers)


def _with_key(line: bytes, key: SignerKey) -> bytes:
    pattern = _VKEY.format(name=re.escape(key.name))
    return re.sub(pattern.encode(), key.verifier.format().encode(), line)


def _handed_over(line: bytes, origin: str, epochs: list[SignerKey], hashes: bytes) -> bytes:
    """The rotation entry with a handover note that fits the rewritten log."""
    members = parse_members(line)
    if members is None:
        raise Impossible("a rotation entry has no ledger members")
    tree = GrowingTree()
    tree.extend(hashes)
    vkey = epochs[-1].verifier.format()
    text = handover_text(origin, len(epochs) - 1, members.seq, tree.root(), vkey)
    note = sign_note(text, epochs[-2]).decode().replace("\n", "\\n")
    line = _with_key(line, epochs[-1])
    return re.sub(rb'"handover":"[^"]*"', lambda _match: f'"handover":"{note}"'.encode(), line)
