"""Attacks on what witnesses cosigned, by somebody with all keys of the log; without a witness they offer nothing."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Final

from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.ledger.line import event_type_of
from klingai_audit.tlog.checkpoint import Checkpoint, parse_checkpoint
from klingai_audit.tlog.cosignature import cosign
from klingai_audit.tlog.keys import COSIGNATURE, SignerKey
from klingai_audit.tlog.merkle import EMPTY_ROOT, CompactRange
from klingai_audit.tlog.note import Note, SignatureLine, format_note, parse_note, sign_note
from klingai_audit.trust.verdict import ThreatName
from klingai_audit.trust.witnessed import read_size
from klingai_audit.upkeep.attacks import Attack, Eyes, need
from klingai_audit.upkeep.copy import Impossible, LogCopy, target_of
from klingai_audit.upkeep.forge import edited, hashes_of, rechained
from klingai_audit.upkeep.thefts import current_epoch_begins, current_keys, rewrite_present

__all__ = ["witness_attacks"]

_POLICY: Final = "a witness that the verifier trusts"
_UNSEEN: Final = "no witness is asked for: a rewrite by whoever holds the keys is not ruled out"
_NEVER: Final = "no witness ever cosigned: a rewrite by whoever holds the keys is not ruled out"
_CLOSED: Final = "what witnesses cosigned was signed in an earlier epoch, whose keys are gone"

_NOTE: Final = re.compile(rb'"note":("(?:[^"\\]|\\.)*")')

_Cosigners = Callable[[Note], tuple[SignatureLine, ...]]
"""A forged note -> the cosignature lines to put under it."""


def witness_attacks(keys: KeyFolder, here: Eyes) -> list[Attack]:
    """Return the attacks; `here` is what this machine knows of the log besides its key."""

    def rewrite(copy: LogCopy) -> None:
        end = _cosigned_end(copy, here)

        def change(lines: list[bytes], begin: int) -> None:
            index = begin + target_of(lines[begin:end])
            lines[index] = edited(lines[index])

        rewrite_present(copy, keys, change)

    def spoil(copy: LogCopy) -> None:
        _cosigned_end(copy, here)

        def flipped(note: Note) -> Note:
            *rest, line = note.signatures
            need(len(rest) > 1, "the newest entry of witnesses holds no line of theirs")
            blob = line.blob[:-1] + bytes([line.blob[-1] ^ 1])
            return Note(note.text, (*rest, SignatureLine(line.name, line.key_id, blob)))

        def change(lines: list[bytes], begin: int) -> None:
            index = max(i for i, line in enumerate(lines) if i >= begin and _is_witnessed(line))
            lines[index] = _with_note(lines[index], flipped(_note_of(lines[index])))

        rewrite_present(copy, keys, change)

    def strip_one(copy: LogCopy) -> Eyes:
        _cosigned_end(copy, here)

        def change(lines: list[bytes], begin: int) -> None:
            index = max(i for i, line in enumerate(lines) if i >= begin and _is_witnessed(line))
            note = _note_of(lines[index])
            left = Note(note.text, note.signatures[:-1])
            need(len(left.signatures) > 1 and not _is_enough(left, here), "the witnesses' other lines are enough")
            lines[index] = _with_note(lines[index], left)

        rewrite_present(copy, keys, change)
        return Eyes(witnesses=here.witnesses)

    def strip(copy: LogCopy) -> Eyes:
        _resign(copy, keys, here, lambda _note: ())
        return Eyes(witnesses=here.witnesses)

    def strip_demanded(copy: LogCopy) -> Eyes:
        begin = current_epoch_begins(copy)
        _resign(copy, keys, here, lambda _note: ())
        before = any(_is_witnessed(line) for _, line in copy.all_lines()[:begin])
        need(not before, "witnesses cosigned earlier epochs, too, and that stays")
        return Eyes(witnesses=here.witnesses, demanded=True)

    def another_witness(copy: LogCopy) -> Eyes:
        policy = here.witnesses
        need(policy is not None and policy.witnesses, _UNSEEN)
        name = policy.witnesses[0].key.name if policy is not None else ""
        own = SignerKey.generate(name, COSIGNATURE)
        _resign(copy, keys, here, lambda note: (cosign(note.text, own, int(time.time())),))
        return Eyes(witnesses=here.witnesses)

    open_threats: frozenset[ThreatName] = frozenset({"fork", "key_holder"})
    return [
        Attack(
            "rewrite_witnessed",
            "steals all keys and rewrites what witnesses cosigned",
            frozenset({"witness_disagrees"}),
            rewrite,
            needs=_POLICY,
        ),
        Attack(
            "spoil_cosignature",
            "steals all keys and changes a witness's signature",
            frozenset({"cosignature_invalid"}),
            spoil,
            needs=_POLICY,
        ),
        Attack(
            "strip_one_cosignature",
            "steals all keys and leaves one witness's line out, so that too few are left",
            frozenset(),
            strip_one,
            open_threats,
        ),
        Attack(
            "strip_cosignatures",
            "steals all keys, rewrites, and leaves the witnesses' lines out",
            frozenset(),
            strip,
            open_threats,
        ),
        Attack(
            "strip_demanded",
            "leaves the witnesses' lines out, and shows it to somebody who demands witnesses",
            frozenset({"quorum_missing"}),
            strip_demanded,
            needs=f"{_POLICY}, and --require-witness",
        ),
        Attack(
            "another_witness",
            "steals all keys, rewrites, and cosigns with a key of its own under a witness's name",
            frozenset(),
            another_witness,
            open_threats,
        ),
    ]


def _is_enough(note: Note, here: Eyes) -> bool:
    """Tell whether the lines of a note, whatever they say, are by enough witnesses."""
    policy, by = here.witnesses, {(line.name, line.key_id) for line in note.signatures}
    return policy is not None and policy.is_satisfied({key for key in policy.keys if (key.name, key.key_id) in by})


def _is_witnessed(line: bytes) -> bool:
    return event_type_of(line) == "checkpoint_witnessed"


def _cosigned_end(copy: LogCopy, here: Eyes) -> int:
    """Return the largest size that witnesses cosigned in the current epoch. Raises: Impossible."""
    need(here.witnesses, _UNSEEN)
    lines = [line for _, line in copy.all_lines()]
    sizes = [read_size(line) or 0 for line in lines if _is_witnessed(line)]
    need(sizes, _NEVER)
    begin = current_epoch_begins(copy)
    end = max(sizes)
    need(end > begin and any(_is_witnessed(line) for line in lines[begin:]), _CLOSED)
    return end


def _resign(copy: LogCopy, keys: KeyFolder, here: Eyes, cosigners: _Cosigners) -> None:
    """Rewrite the current epoch so that all fits, the notes that its entries of witnesses hold, too."""
    end = _cosigned_end(copy, here)
    log_key, epoch_key, _ = current_keys(keys)

    def change(lines: list[bytes], begin: int) -> None:
        index = begin + target_of(lines[begin:end])
        lines[index] = edited(lines[index])
        for number in range(index + 1, len(lines)):
            if not _is_witnessed(lines[number]):
                continue
            old = _note_of(lines[number])
            size = parse_checkpoint(old.text).size
            if size <= index:
                continue
            lines[:size] = rechained(lines[:size], EMPTY_ROOT)
            tree = CompactRange()
            tree.extend(hashes_of(lines[:size]))
            text = Checkpoint(log_key.name, size, tree.root()).text()
            new = parse_note(sign_note(text, log_key, epoch_key))
            lines[number] = _with_note(lines[number], Note(text, (*new.signatures, *cosigners(new))))

    rewrite_present(copy, keys, change)


def _note_of(line: bytes) -> Note:
    found = _NOTE.search(line)
    if found is None:
        raise Impossible("an entry of witnesses holds no checkpoint")
    return parse_note(str(json.loads(found[1])).encode())


def _with_note(line: bytes, note: Note) -> bytes:
    text = json.dumps(format_note(note).decode(), ensure_ascii=False).encode()
    return _NOTE.sub(lambda _match: b'"note":' + text, line, count=1)
