"""Checks of everything beside the entries: stray files, tree files, kept checkpoints, remembered heads.

Each function returns findings and never raises for bad data. Format: docs/format.md, sections 1, 5, 8 and 10.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final

from klingai_audit.ledger.store import LogFile
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.tile import HASH_BYTES
from klingai_audit.trust.anchors import KEPT_INTERVAL, NOTE_LIMIT, Anchor, kept_size, read_anchor
from klingai_audit.trust.chunk import Read
from klingai_audit.trust.epochs import Epochs
from klingai_audit.trust.forest import hashes_at
from klingai_audit.trust.look import Look
from klingai_audit.trust.verdict import Finding

__all__ = [
    "Roots",
    "check_kept_set",
    "check_memory",
    "check_roots",
    "check_strays",
    "check_tree",
    "compare_hashes",
    "read_anchors",
]

Roots = Callable[[int], bytes | None]
"""Size -> the root that the entries have, None if it cannot be told."""

_PIECE: Final = 1 << 20
_SHOWN: Final = 20


def check_strays(first: Look, last: Look, renamed: Collection[str] = ()) -> Iterator[Finding]:
    """Name what is no part of a log. Temporary files count if they lie there since the first look."""
    temporary = first.temporary() & last.temporary()
    names = {name for name, _ in temporary}
    for file in last.after:
        if file.kind not in ("stray", "cosigned") or file.name in renamed:
            continue
        if file.name.endswith(".tmp") and file.name not in names:
            continue
        message = f"{file.name} is no part of a log of this format."
        if file.name in names:
            message = f"{file.name} was left behind: nobody is replacing that file."
        yield Finding("file_unexpected", message, file=file.name)


def check_tree(
    first: Look, last: Look, lines: int, size: int, levels: Sequence[bytes | bytearray], read: Callable[[str], Read]
) -> Iterator[Finding]:
    """Compare lengths with the number of lines and the signed size, and levels from 1 up with `levels`.

    `lines` is what the first look held. Level 0 is compared during the scan.
    """
    before = {file.name: file.size for file in first.before if file.kind == "tree"}
    after = {file.name: file.size for file in last.after if file.kind == "tree"}
    needed = itertools.takewhile(lambda level: hashes_at(size, level), itertools.count())
    for name in sorted({*before, *after, *(f"tree/{level}" for level in needed)}):
        level = int(name.removeprefix("tree/"))
        least, most = (hashes_at(count, level) * HASH_BYTES for count in (size, max(size, lines)))
        if after.get(name, 0) < least:
            have = after.get(name, 0) / HASH_BYTES
            message = f"{name} holds {have:g} hashes; the checkpoint of size {size} needs {least // HASH_BYTES}."
            yield Finding("tree_short", message, file=name)
        elif before.get(name, 0) > most or (name in before and not most):
            message = f"{name} has {before[name]} bytes; the entries account for {most}."
            yield Finding("tree_long", message, file=name)
        if 0 < level < len(levels):
            yield from _compare(name, level, levels[level], read(name))


def _compare(name: str, level: int, wanted: bytes | bytearray, read: Read) -> Iterator[Finding]:
    """Name hashes of one stored level that are not the computed ones."""
    for begin in range(0, len(wanted), _PIECE):
        stored = read(begin, min(begin + _PIECE, len(wanted)))
        if stored != wanted[begin : begin + len(stored)]:
            yield from compare_hashes(name, level, begin // HASH_BYTES, bytes(wanted[begin : begin + _PIECE]), stored)


def compare_hashes(name: str, level: int, first: int, wanted: bytes, stored: bytes) -> Iterator[Finding]:
    """Name each differing hash; `first` is the index of the first one given."""
    count = min(len(wanted), len(stored)) // HASH_BYTES
    differing = [
        number
        for number in range(count)
        if wanted[number * HASH_BYTES : (number + 1) * HASH_BYTES]
        != stored[number * HASH_BYTES : (number + 1) * HASH_BYTES]
    ]
    for number in differing[:_SHOWN]:
        begin, end = (first + number) << 8 * level, (first + number + 1) << 8 * level
        message = f"Hash {first + number} in {name} is not that of entries {begin} to {end - 1}."
        yield Finding("tree_changed", message, begin, end, name)
    if len(differing) > _SHOWN:
        message = f"{len(differing) - _SHOWN} more hashes in {name} differ, the last is hash {first + differing[-1]}."
        yield Finding("tree_changed", message, file=name)


def read_anchors(
    look: Look, read: Callable[[LogFile], Read], trusted: VerifierKey | None, claimed: VerifierKey | None
) -> tuple[Anchor | None, list[Anchor], list[Finding]]:
    """Read `checkpoint` and the kept ones; returns (head, all by size, findings)."""
    findings: list[Finding] = []
    head: Anchor | None = None
    if look.fault:
        findings.append(Finding("file_unreadable", f"checkpoint cannot be read: {look.fault}.", file="checkpoint"))
    elif look.head is None:
        message = "The log has no checkpoint: nothing in it is signed."
        findings.append(Finding("checkpoint_missing", message, file="checkpoint"))
    else:
        head, findings = read_anchor("checkpoint", look.head, trusted, claimed)
    anchors = [] if head is None else [head]
    for file in look.kind("kept"):
        try:
            data = read(file)(0, min(file.size, NOTE_LIMIT + 1))
        except OSError as exc:
            findings.append(Finding("file_unreadable", f"{file.name} cannot be read: {exc.strerror}.", file=file.name))
            continue
        anchor, faults = read_anchor(file.name, data, trusted, claimed, kept_size(file.name))
        findings += faults
        anchors += [] if anchor is None else [anchor]
    foreign = [finding for finding in findings if finding.kind == "foreign_key"]
    if len(foreign) > 1:
        findings = [finding for finding in findings if finding.kind != "foreign_key"]
        message = f"{foreign[0].message} The same holds for {len(foreign) - 1} more checkpoint(s)."
        findings.append(Finding("foreign_key", message, file=foreign[0].file, line=foreign[0].line))
    return head, sorted(anchors, key=lambda anchor: (anchor.size, anchor.file != "checkpoint")), findings


def check_roots(anchors: Sequence[Anchor], root: Roots, epochs: Epochs) -> Iterator[Finding]:
    """Check each checkpoint's root, as far as the entries are proven, and its epoch line."""
    agreed = 0
    for anchor in anchors:
        have = root(anchor.size)
        if have == anchor.root:
            agreed = anchor.size
        elif have is not None:
            message = (
                f"{anchor.file} signs another root for size {anchor.size} than the log has, whose later signed size "
                f"confirms it: two signed histories exclude each other."
            )
            yield Finding("checkpoint_root", message, agreed, anchor.size, anchor.file)
        yield from epochs.check(anchor)


def check_kept_set(
    first: Look,
    last: Look,
    size: int,
    lines: int,
    named: Mapping[int, str],
    damaged: Callable[[int], bool],
    borne_out: Collection[int],
    signed: Collection[int],
) -> Iterator[Finding]:
    """Compare the names of kept checkpoints with what docs/format.md, section 8 asks for up to `size`.

    None is missed beyond the `lines` that there are, whatever size a checkpoint states.

    `named` maps sizes that entries ask for to the entries' type; where entries are damaged, none is missed. Kept ones
    beyond `size` whose root the lines have are `borne_out`: nothing is gone. Those that are not `signed` by the log
    prove nothing, whatever size they bear.
    """
    wanted = dict.fromkeys(
        range(KEPT_INTERVAL, min(size, lines) + 1, KEPT_INTERVAL), f"every {KEPT_INTERVAL}th entry has one"
    )
    wanted |= {s: f"entry {s - 1} ({kind}) asks for it" for s, kind in named.items() if s <= size}
    have = {kept_size(file.name): file.name for file in last.kind("kept")}
    for missing in sorted(wanted.keys() - have.keys()):
        message = f"The kept checkpoint of size {missing} is missing; {wanted[missing]}."
        yield Finding("kept_missing", message, file=f"checkpoints/{missing:020}")
    ahead = {kept_size(file.name) for file in first.before if file.kind == "kept"}
    for other, name in have.items():
        if other is None or other in wanted or (other <= size and other % KEPT_INTERVAL == 0):
            continue
        if other > size:
            if other in ahead and other in borne_out:
                message = (
                    f"{name} is signed for {other} entries, but checkpoint only for {size}. The lines have the root "
                    f"that it signs, so nothing is gone: a writer was stopped before it replaced checkpoint, or that "
                    f"alone was set back. Open the log for writing once."
                )
                yield Finding("checkpoint_behind", message, size, other, name)
            elif other in ahead and other not in signed:
                message = f"{name} is kept for more entries than checkpoint signs, and no signature of it counts."
                yield Finding("kept_unexpected", message, file=name)
            elif other in ahead:
                message = (
                    f"{name} is signed for {other} entries, but checkpoint only for {size}, and the lines that there "
                    f"are do not have the root that it signs: the log was set back."
                )
                yield Finding("rollback", message, size, other, name)
        elif not damaged(other - 1):
            yield Finding("kept_unexpected", f"{name} is kept, but no rule asks for a checkpoint there.", file=name)


def check_memory(
    remembered: bytes | None, head: Anchor | None, key: VerifierKey | None, size: int, root: Roots, reach: Roots
) -> tuple[int | None, list[Finding]]:
    """Compare with the checkpoint that is remembered outside the log; returns its size if it says anything.

    `reach` is the root with the lines beyond the signed size: if they have the remembered one, nothing is gone.
    """
    if remembered is None or key is None:
        return None, []
    old, faults = read_anchor("the remembered checkpoint", remembered, key, None)
    if old is None:
        what = faults[0].message if faults else ""
        return None, [Finding("memory_invalid", f"The remembered checkpoint proves nothing: {what}")]
    now = f"{size} entries (root {head.root.hex()})" if head is not None else f"{size} entries"
    if old.size > size and head is not None and reach(old.size) == old.root:
        return old.size, []
    if old.size > size:
        message = (
            f"The log held {old.size} entries (root {old.root.hex()}) and signed that; now it claims {now}. "
            f"Keep both checkpoints: they are the exhibit."
        )
        return old.size, [Finding("rollback", message, size, old.size, "checkpoint")]
    have = root(old.size)
    if have is not None and have != old.root:
        message = (
            f"For size {old.size} the root {old.root.hex()} was signed and remembered, but these entries have "
            f"{have.hex()}. Keep both checkpoints: they are the exhibit."
        )
        return old.size, [Finding("fork", message, 0, old.size, "checkpoint")]
    return (old.size, []) if have is not None else (None, [])
