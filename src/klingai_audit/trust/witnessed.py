"""What the log keeps of being witnessed: the whole cosigned checkpoint, inside an entry of its own.

So the evidence is under every later root and nobody can strip it without a trace; no file beside the log has to be
kept in step. Format: docs/format.md, "Witnesses".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from klingai_audit.errors import InvalidSignature, Malformed
from klingai_audit.event.types import EventType
from klingai_audit.tlog.checkpoint import Checkpoint, parse_checkpoint
from klingai_audit.tlog.cosignature import verify_cosignature
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.note import Note, parse_note
from klingai_audit.tlog.policy import WitnessPolicy
from klingai_audit.trust.verdict import Finding

__all__ = [
    "QUIET_TYPES",
    "Cosigned",
    "Roots",
    "Witnessed",
    "check_witnessed",
    "find_witnessed",
    "is_quiet",
    "read_size",
    "read_witnessed",
    "witnessed_metadata",
]

QUIET_TYPES: Final = frozenset(
    {
        EventType.CHECKPOINT_WITNESSED,
        EventType.CHECKPOINT_TIMESTAMPED,
        EventType.LOG_HEARTBEAT,
        EventType.LOG_OPENED,
        EventType.LOG_CLOSED,
    }
)
"""Entries that alone are no reason to ask witnesses again: else witnessing would feed on its own entries."""

_TYPE_AT: Final = 118
_WANTED: Final = EventType.CHECKPOINT_WITNESSED.encode() + b'"'

Roots = Callable[[int], bytes | None]
"""Size -> the root that the entries have, None if it cannot be told."""


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A cosigned checkpoint of this log: what it covers and who of the known witnesses signed it when (POSIX seconds).

    `foreign` are names in lines by keys that are not known, which count for nothing.
    """

    checkpoint: Checkpoint
    note: Note
    times: Mapping[VerifierKey, int]
    foreign: tuple[str, ...] = ()


def witnessed_metadata(note: bytes) -> dict[str, Any]:
    """Return the metadata of a `checkpoint_witnessed` entry: the size, and the cosigned note as text."""
    parsed = parse_note(note)
    return {"size": parse_checkpoint(parsed.text).size, "note": note.decode()}


def read_witnessed(metadata: Mapping[str, Any], log_key: VerifierKey, witnesses: Iterable[VerifierKey]) -> Cosigned:
    """Check what a `checkpoint_witnessed` entry holds with the log's key and those of the known witnesses.

    A line by a known key must verify. Raises: Malformed; InvalidSignature.
    """
    text, size = metadata.get("note"), metadata.get("size")
    if not isinstance(text, str):
        raise Malformed("The entry holds no cosigned checkpoint.")
    note = parse_note(text.encode("utf-8", "surrogatepass"))
    checkpoint = parse_checkpoint(note.text)
    if checkpoint.size != size or checkpoint.origin != log_key.name:
        raise Malformed("The cosigned checkpoint is of another size or log than the entry states.")
    first = note.signatures[0]
    if first.name != log_key.name:
        raise Malformed("The cosigned checkpoint's first line is not by the log key.")
    log_key.verify(note.text.encode(), first.blob)
    known = {(key.name, key.key_id): key for key in witnesses}
    times: dict[VerifierKey, int] = {}
    foreign: list[str] = []
    for line in note.signatures[2:]:
        key = known.get((line.name, line.key_id))
        if key is None:
            foreign += [] if line.name == log_key.name else [line.name]  # the log's own ML-DSA-44 line
        elif key in times:
            raise InvalidSignature(f"Two lines are by the witness {key.name}.")
        else:
            times[key] = verify_cosignature(note.text, line, key)
    return Cosigned(checkpoint, note, times, tuple(foreign))


def is_quiet(lines: Iterable[bytes]) -> bool:
    """Tell whether all these entries are such as give no reason to ask witnesses again."""
    return all(_type_of(line) in QUIET_TYPES for line in lines)


def find_witnessed(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the entries that tell of being witnessed."""
    return (line for line in lines if line.startswith(_WANTED, _TYPE_AT))


def read_size(line: bytes) -> int | None:
    """Return the size that a `checkpoint_witnessed` entry states, None if it states none."""
    try:
        size = _metadata(line).get("size")
    except Malformed:
        return None
    return size if type(size) is int else None


def _type_of(line: bytes) -> str:
    return line[_TYPE_AT : line.find(b'"', _TYPE_AT)].decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What all such entries of a log establish.

    `size` is the largest that the quorum cosigned (0 if none), `names` who did, `time` the latest of their times
    (POSIX seconds); `quiet_tail` tells that only the log's own bookkeeping follows it. `quorum` describes the policy,
    empty without one. `rounds` are (size, time) of every satisfied one, ascending: the earliest time by
    which enough witnesses say they had seen it.
    """

    findings: tuple[Finding, ...] = ()
    size: int = 0
    names: tuple[str, ...] = ()
    time: int = 0
    quiet_tail: bool = False
    quorum: str = ""
    rounds: tuple[tuple[int, int], ...] = field(default=(), repr=False)


def check_witnessed(
    own: Sequence[tuple[int, bytes]],
    size: int,
    root: Roots,
    key: VerifierKey | None,
    policy: WitnessPolicy | None,
    place: Callable[[int], tuple[str | None, int | None]],
) -> Witnessed:
    """Check every `checkpoint_witnessed` entry among the log's `own` (seq, line) against key, policy and entries.

    Without a policy nobody's line is known: then nothing is established, and nothing is found wrong.
    """
    if policy is None or key is None:
        return Witnessed()
    findings: list[Finding] = []
    best: Cosigned | None = None
    rounds: list[tuple[int, int]] = []
    for seq, line in own:
        if not line.startswith(_WANTED, _TYPE_AT):
            continue
        try:
            found = read_witnessed(_metadata(line), key, policy.keys)
        except (Malformed, InvalidSignature) as exc:
            message = f"Entry {seq} tells of witnesses, but: {exc.message}"
            findings.append(Finding("cosignature_invalid", message, seq, None, *place(seq)))
            continue
        there = root(found.checkpoint.size)
        if there is not None and there != found.checkpoint.root:
            names = ", ".join(sorted(witness.name for witness in found.times)) or "nobody known"
            message = f"At size {found.checkpoint.size} the log has another root than the one cosigned by {names}."
            findings.append(Finding("witness_disagrees", message, seq, None, *place(seq)))
        elif there is not None and policy.quorum is not None and policy.is_satisfied(found.times.keys()):
            moment = policy.time_of(found.times)
            rounds += [] if moment is None else [(found.checkpoint.size, moment)]
            if best is None or found.checkpoint.size >= best.checkpoint.size:
                best = found
    if best is None:
        return Witnessed(tuple(findings), quorum=policy.describe())
    covered = best.checkpoint.size
    after = sum(seq >= covered and _type_of(line) in QUIET_TYPES for seq, line in own if seq < size)
    return Witnessed(
        tuple(findings),
        covered,
        tuple(sorted(witness.name for witness in best.times)),
        max(best.times.values()),
        after == size - covered,
        policy.describe(),
        tuple(sorted(rounds)),
    )


class _Line(msgspec.Struct):
    metadata: dict[str, Any] = {}


def _metadata(line: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=_Line).metadata
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise Malformed("The entry is not of the form of docs/format.md.") from exc
