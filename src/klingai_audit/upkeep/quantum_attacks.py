"""Attacks on the ML-DSA-44 line: taken away, made by another key, and what a forger of Ed25519 does without that key.

A quantum computer is played by the log's own private Ed25519 keys: whoever forges signatures can do no more with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.ledger.line import KEPT_INTERVAL
from klingai_audit.tlog.checkpoint import parse_checkpoint
from klingai_audit.tlog.cosignature import cosign
from klingai_audit.tlog.keys import ML_DSA_44, SignerKey
from klingai_audit.tlog.note import Note, format_note, parse_note
from klingai_audit.trust.epochs import FirstEntry
from klingai_audit.upkeep.attacks import Attack, Eyes, need
from klingai_audit.upkeep.copy import LogCopy, target_of
from klingai_audit.upkeep.forge import edited, forge
from klingai_audit.upkeep.thefts import current_epoch_begins, current_keys, rewrite_under_keys

__all__ = ["quantum_attacks"]

_KEY: Final = "the log's ML-DSA-44 public key"
_TIME: Final = 1_800_000_000


def quantum_attacks(keys: KeyFolder) -> list[Attack]:
    """Return the attacks; `keys` are the log's, whose Ed25519 keys the forger computes."""

    def forge_present(copy: LogCopy) -> Eyes:
        vkey = _named(copy)
        log_key, epoch_key, _ = current_keys(keys)
        begin = current_epoch_begins(copy)
        due = [
            size for size in copy.kept() if size > begin and not (copy.whole / f"checkpoints/{size:020}.tsr").exists()
        ]
        need(due, "no checkpoint of this epoch is kept yet")

        def edit(lines: list[bytes]) -> None:
            index = begin + target_of(lines[begin:])
            lines[index] = edited(lines[index])

        forge(copy, edit, signers=lambda _size: (log_key, epoch_key))
        for size in copy.kept():
            if size <= begin:
                copy.put(f"checkpoints/{size:020}", copy.read(f"checkpoints/{size:020}"))
        return Eyes(mldsa_key=vkey)

    def choose_own_key(copy: LogCopy) -> Eyes:
        vkey = _named(copy)
        log_key, _, _ = current_keys(keys)
        rewrite_under_keys(copy, log_key, SignerKey.generate(log_key.name, ML_DSA_44))
        return Eyes(mldsa_key=vkey)

    def unseen(copy: LogCopy) -> Eyes:
        choose_own_key(copy)
        return Eyes()

    return [
        Attack(
            "strip_mldsa_line",
            "removes the ML-DSA-44 line of a handover or closing",
            frozenset({"mldsa_missing"}),
            _on_kept(lambda note: Note(note.text, note.signatures[:2])),
        ),
        Attack(
            "other_mldsa_key",
            "has another ML-DSA-44 key sign a handover or closing",
            frozenset({"mldsa_invalid"}),
            _on_kept(_countersigned_by_another),
        ),
        Attack(
            "quantum_forger",
            "computes the Ed25519 keys and rewrites the current epoch, without the ML-DSA-44 key",
            frozenset({"mldsa_missing"}),
            forge_present,
            needs=_KEY,
        ),
        Attack(
            "quantum_forger_own_key",
            "computes the Ed25519 keys and rewrites everything with an ML-DSA-44 key of its own",
            frozenset({"mldsa_replaced"}),
            choose_own_key,
            needs=_KEY,
        ),
        Attack(
            "quantum_forger_unseen",
            "rewrites everything with an ML-DSA-44 key of its own and shows it to somebody who has the log key alone",
            frozenset(),
            unseen,
            frozenset({"quantum"}),
        ),
    ]


def _named(copy: LogCopy) -> str:
    """The vkey that the log's first entry names. Raises: Impossible."""
    key = FirstEntry(copy.lines(copy.days[0])[0]).mldsa_key
    need(key, "the log has no ML-DSA-44 key")
    return "" if key is None else key.format()


def _on_kept(change: Callable[[Note], Note]) -> Callable[[LogCopy], None]:
    def act(copy: LogCopy) -> None:
        _named(copy)
        named = [size for size in copy.kept() if size % KEPT_INTERVAL]
        due = [size for size in named if not (copy.whole / f"checkpoints/{size:020}.tsr").exists()]
        need(due, "no handover or closing is signed yet")
        name = f"checkpoints/{due[len(due) // 2]:020}"
        copy.put(name, format_note(change(parse_note(copy.read(name)))))

    return act


def _countersigned_by_another(note: Note) -> Note:
    other = SignerKey.generate(parse_checkpoint(note.text).origin, ML_DSA_44)
    return Note(note.text, (*note.signatures[:2], cosign(note.text, other, _TIME)))
