"""What somebody with time and tools would do: change an entry and make everything after it fit again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from klingai_audit.ledger.line import names_checkpoint
from klingai_audit.ledger.purged import line_hash
from klingai_audit.ledger.tree import GrowingTree
from klingai_audit.tlog.checkpoint import Checkpoint
from klingai_audit.tlog.cosignature import cosign
from klingai_audit.tlog.keys import ED25519, SignerKey
from klingai_audit.tlog.merkle import EMPTY_ROOT
from klingai_audit.tlog.note import Note, format_note, signed_note
from klingai_audit.upkeep.copy import LogCopy, target_of

__all__ = ["Forgery", "Signers", "edit_one", "edited", "forge", "hashes_of", "rechained", "signed"]

_LINK: Final = re.compile(rb'"prev_hash":"[0-9a-f]{64}"(?=(?:,"seal":"[A-Za-z0-9_-]{43}")?\}\Z)')

_SEQ: Final = re.compile(rb'"seq":[0-9]+,(?="logged_at":"[^"]*","prev_hash":"[0-9a-f]{64}")')

Signers = Callable[[int], tuple[SignerKey, ...]]
"""Tree size → who signs the checkpoint of that size."""


def edited(line: bytes) -> bytes:
    """Return the entry with one letter of its outcome's neighbourhood changed: still JSON, another fact."""
    for old, new in (
        (b'"outcome":"success"', b'"outcome":"failure"'),
        (b'"outcome":"failure"', b'"outcome":"success"'),
        (b'"outcome":"blocked"', b'"outcome":"success"'),
        (b'"outcome":"unknown"', b'"outcome":"success"'),
    ):
        if old in line:
            return line.replace(old, new, 1)
    return line.replace(b'"actor_type":"', b'"actor_type":"x', 1)


def rechained(lines: list[bytes], prev: bytes) -> list[bytes]:
    """Return the entries with every `prev_hash` made to fit, the first one's to `prev` (32 bytes).

    What stands for a purged entry keeps the hash that it states: its own link cannot be looked at any more.
    """
    result = []
    for line in lines:
        fitted = _LINK.sub(b'"prev_hash":"%b"' % prev.hex().encode(), line)
        prev = line_hash(fitted)
        result.append(fitted)
    return result


def hashes_of(lines: Iterable[bytes]) -> bytes:
    """Return the leaf hashes that these lines stand for, joined."""
    return b"".join(map(line_hash, lines))


@dataclass(frozen=True, slots=True)
class Forgery:
    """A whole log made to fit; `root` is of all its entries."""

    lines: list[bytes]
    root: bytes


def forge(
    copy: LogCopy,
    change: Callable[[list[bytes]], None],
    *,
    tree: bool = False,
    signers: Signers | None = None,
) -> Forgery:
    """Change entries, fit every link, and with `tree` the tree files, with `signers` the checkpoints too.

    Entries that `change` takes out are taken out of their day; those after them get new numbers.
    """
    named = copy.all_lines()
    lines = [line for _, line in named]
    change(lines)
    days = [day for day, _ in named]
    if len(lines) != len(named):
        left = set(lines)
        days = [day for day, line in named if line in left]
        lines = [_SEQ.sub(b'"seq":%d,' % seq, line) for seq, line in enumerate(lines)]
    lines = rechained(lines, EMPTY_ROOT)
    for name in copy.days:
        of_day = [line for day, line in zip(days, lines, strict=True) if day == name]
        copy.put_lines(name, of_day)
    growing = GrowingTree()
    growing.extend(hashes_of(lines), tuple(seq + 1 for seq, line in enumerate(lines) if names_checkpoint(line)))
    root = growing.root()
    marks, writes = growing.take()
    if tree or signers is not None:
        for level, _begin, hashes in writes:
            copy.put(f"tree/{level}", hashes)
    if signers is not None:
        origin = copy.read("checkpoint").split(b"\n", 1)[0].decode()
        for size, at_size in marks:
            copy.put(f"checkpoints/{size:020}", signed(Checkpoint(origin, size, at_size), signers(size)))
        copy.put("checkpoint", signed(Checkpoint(origin, len(lines), root), signers(len(lines))))
    return Forgery(lines, root)


def signed(checkpoint: Checkpoint, signers: Sequence[SignerKey]) -> bytes:
    """Return the checkpoint signed by each of the signers; those of ML-DSA-44 cosign it now."""
    text = checkpoint.text()
    note = signed_note(text, *(signer for signer in signers if signer.algorithm == ED25519))
    now = int(time.time())
    lines = [cosign(text, signer, now) for signer in signers if signer.algorithm != ED25519]
    return format_note(Note(text, (*note.signatures, *lines)))


def edit_one(lines: list[bytes]) -> None:
    """The change most forgeries are about."""
    index = target_of(lines)
    lines[index] = edited(lines[index])
