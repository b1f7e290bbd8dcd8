"""Attacks by somebody who can sign: with keys of their own, with the log's current keys, or with an old state."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from klingai_audit.errors import KlingAuditError
from klingai_audit.ledger.handover import handover_text
from klingai_audit.ledger.keys import KeyFolder, epoch_name
from klingai_audit.ledger.line import event_type_of, parse_members
from klingai_audit.ledger.tree import GrowingTree
from klingai_audit.tlog.keys import ML_DSA_44, SignerKey, VerifierKey
from klingai_audit.tlog.merkle import EMPTY_ROOT
from klingai_audit.tlog.note import sign_note
from klingai_audit.upkeep.attacks import Attack, Eyes, need
from klingai_audit.upkeep.copy import Impossible, LogCopy, target_of
from klingai_audit.upkeep.forge import edit_one, edited, forge, hashes_of, rechained

__all__ = ["current_epoch_begins", "current_keys", "rewrite_present", "rewrite_under_keys", "thefts"]

_HEAD: Final = "a signed checkpoint kept elsewhere"
_VKEY: Final = r"{name}\+[0-9a-f]{{8}}\+[A-Za-z0-9+/=]+"


def thefts(keys: KeyFolder, here: Eyes) -> list[Attack]:
    """Return the attacks; `here` is what this machine knows of the log besides its key."""
    no_head = "no signed head is remembered on this machine: {} is not ruled out"

    def roll_back(copy: LogCopy) -> None:
        need(here.remembered, no_head.format("a rollback"))
        _roll_back(copy)

    def rewrite(copy: LogCopy) -> None:
        need(here.remembered, no_head.format("a rewrite by the key holder"))
        rewrite_present(copy, keys, _edit_from)

    def rewrite_past(copy: LogCopy) -> None:
        signers, epoch = _stolen(keys)
        need(epoch > 0, "the log is still in its first epoch")

        def edit_past(lines: list[bytes]) -> None:
            end = next(i for i, line in enumerate(lines) if event_type_of(line) == "signing_key_rotated")
            index = target_of(lines[:end])
            lines[index] = edited(lines[index])

        forge(copy, edit_past, signers=lambda _size: signers)

    def delete_past(copy: LogCopy) -> None:
        signers, epoch = _stolen(keys)
        need(epoch > 0, "the log is still in its first epoch")

        def delete(lines: list[bytes]) -> None:
            end = next(i for i, line in enumerate(lines) if event_type_of(line) == "signing_key_rotated")
            del lines[target_of(lines[:end])]

        forge(copy, delete, signers=lambda _size: signers)
        for size in copy.kept():
            if copy.attacked(f"checkpoints/{size:020}") == copy.read(f"checkpoints/{size:020}"):
                copy.drop(f"checkpoints/{size:020}")

    def show_another(copy: LogCopy) -> Eyes:
        rewrite_present(copy, keys, _edit_from)
        other = copy.attacked("checkpoint")
        copy.restore()
        return Eyes(remembered=other)

    def replace_epochs(copy: LogCopy) -> Eyes:
        first = re.search(rb'"epoch_key":"([^"]+)"', copy.lines(copy.days[0])[0])
        need(first, "the log's first entry names no epoch key")
        (log_key, _, *more), _ = _stolen(keys)
        rewrite_under_keys(copy, log_key, *more)
        return Eyes(epoch_key=None if first is None else first[1].decode())

    def unseen(act: Callable[[LogCopy], object]) -> Callable[[LogCopy], Eyes]:
        def work(copy: LogCopy) -> Eyes:
            act(copy)
            return Eyes()

        return work

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
            "roll_back", "puts an older, validly signed state back", frozenset({"rollback"}), roll_back, needs=_HEAD
        ),
        Attack(
            "roll_back_unseen",
            "puts an older, validly signed state back and shows it to somebody who never saw a newer one",
            frozenset(),
            unseen(_roll_back),
            frozenset({"rollback"}),
        ),
        Attack(
            "thief_rewrites_past",
            "steals today's keys and rewrites an earlier epoch, whose key is gone",
            frozenset({"epoch_misused", "handover_invalid", "epoch_signature"}),
            rewrite_past,
        ),
        Attack(
            "thief_deletes_past",
            "steals today's keys, takes an entry out of an earlier epoch and signs all that follows anew",
            frozenset({"epoch_misused", "handover_invalid", "epoch_signature"}),
            delete_past,
        ),
        Attack(
            "thief_replaces_epochs",
            "steals the log key and rewrites everything with epoch keys of its own",
            frozenset({"epoch_replaced"}),
            replace_epochs,
            needs="epoch 0's public key",
        ),
        Attack(
            "thief_replaces_epochs_unseen",
            "rewrites everything with epoch keys of its own, and shows it to somebody who has the log key alone",
            frozenset(),
            unseen(replace_epochs),
            frozenset({"key_theft", "key_holder"}),
        ),
        Attack(
            "thief_rewrites_present",
            "steals today's keys and rewrites the current epoch",
            frozenset({"fork"}),
            rewrite,
            needs=_HEAD,
        ),
        Attack(
            "thief_rewrites_present_unseen",
            "rewrites the current epoch and shows it to somebody who never saw the first history and asks no witness",
            frozenset(),
            unseen(lambda copy: rewrite_present(copy, keys, _edit_from)),
            frozenset({"fork", "key_holder", "key_theft"}),
        ),
        Attack(
            "show_another",
            "has shown another history of the same length to another reader, who kept its checkpoint",
            frozenset({"fork"}),
            show_another,
            needs=_HEAD,
        ),
    ]


def rewrite_present(copy: LogCopy, keys: KeyFolder, change: Callable[[list[bytes], int], None]) -> None:
    """What a thief of today's keys can sign: `change` gets all entries and the index that the current epoch begins at.

    What an earlier epoch signed stays as it is. Raises: Impossible if there are no private keys.
    """
    signers, _ = _stolen(keys)
    begin = current_epoch_begins(copy)
    handover = max((size for size in copy.kept() if size <= begin), default=0)
    forge(copy, lambda lines: change(lines, begin), signers=lambda _size: signers)
    for size in copy.kept():
        if size <= handover:
            copy.put(f"checkpoints/{size:020}", copy.read(f"checkpoints/{size:020}"))


def current_epoch_begins(copy: LogCopy) -> int:
    """Return the index of the first entry after the last rotation, 0 if there is none."""
    lines = copy.all_lines()
    return 1 + max((i for i, (_, line) in enumerate(lines) if event_type_of(line) == "signing_key_rotated"), default=-1)


def _edit_from(lines: list[bytes], begin: int) -> None:
    index = begin + target_of(lines[begin:])
    lines[index] = edited(lines[index])


def current_keys(keys: KeyFolder) -> tuple[SignerKey, SignerKey, int]:
    """Return the log key, the epoch's key and its number. Raises: Impossible if they cannot be read."""
    try:
        log_key, current = keys.log_signer, keys.current
    except KlingAuditError as exc:
        raise Impossible("the private keys cannot be read here") from exc
    if not isinstance(log_key, SignerKey):
        raise Impossible("the log key lies elsewhere, and nobody asks it for a forgery")
    return log_key, current.signer, current.epoch


def _stolen(keys: KeyFolder) -> tuple[tuple[SignerKey, ...], int]:
    """All that signs checkpoints today, and the number of the epoch. Raises: Impossible."""
    log_key, epoch_key, epoch = current_keys(keys)
    try:
        mldsa = keys.mldsa_signer
    except KlingAuditError as exc:
        raise Impossible("the ML-DSA-44 key cannot be read here") from exc
    return (log_key, epoch_key, *([] if mldsa is None else [mldsa])), epoch


def _sign_with_other_key(copy: LogCopy) -> None:
    text, _, _ = copy.read("checkpoint").partition(b"\n\n")
    name = text.split(b"\n", 1)[0].decode()
    own = SignerKey.generate(name)
    epoch = SignerKey.generate(_epoch_line_name(copy))
    copy.put("checkpoint", sign_note(text.decode() + "\n", own, epoch))


def _epoch_line_name(copy: LogCopy) -> str:
    return copy.read("checkpoint").decode().split("\n")[5].split(" ")[1]


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
            copy.put_lines(day, of_day)
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
    more = [SignerKey.generate(origin, ML_DSA_44)] if b'"mldsa_key":"' in copy.lines(copy.days[0])[0] else []
    rewrite_under_keys(copy, SignerKey.generate(origin), *more)


def rewrite_under_keys(copy: LogCopy, log_key: SignerKey, *more: SignerKey) -> None:
    """Rewrite all with new epoch keys; `more` sign every checkpoint, too, and entry 0 names them."""
    origin = log_key.name
    epochs = [SignerKey.generate(epoch_name(origin, 0))]
    ends: list[int] = []

    def rewrite(lines: list[bytes]) -> None:
        edit_one(lines)
        for key in (log_key, epochs[0], *more):
            lines[0] = _with_key(lines[0], key)
        lines[0] = rechained(lines[:1], EMPTY_ROOT)[0]
        for index, line in enumerate(lines):
            if event_type_of(line) != "signing_key_rotated":
                continue
            lines[:index] = rechained(lines[:index], EMPTY_ROOT)
            epochs.append(SignerKey.generate(epoch_name(origin, len(epochs))))
            ends.append(index + 1)
            lines[index] = _handed_over(line, origin, epochs, hashes_of(lines[:index]))

    def signers(size: int) -> tuple[SignerKey, ...]:
        return log_key, epochs[sum(end < size for end in ends)], *more

    forge(copy, rewrite, signers=signers)


def _with_key(line: bytes, key: SignerKey) -> bytes:
    def replaced(match: re.Match[bytes]) -> bytes:
        same_kind = VerifierKey.parse(match[0].decode()).algorithm == key.algorithm
        return key.verifier.format().encode() if same_kind else match[0]

    return re.sub(_VKEY.format(name=re.escape(key.name)).encode(), replaced, line)


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
