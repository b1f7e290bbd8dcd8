"""The objects of a log in a bucket: their names, and the bytes of `head` and of `staging/…` (docs/object-layout.md).

Beside them lie the tiles and bundles of C2SP tlog-tiles, `checkpoint`, `checkpoints/<20 digits>[.tsr]` and
`days/<day>/<20 digits>`, which tells at which entry a UTC day begins.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from klingai_audit.errors import LogDamaged, Malformed
from klingai_audit.ledger.batches import SignedBatch
from klingai_audit.ledger.tree import HashWrite
from klingai_audit.tlog.checkpoint_text import parse_checkpoint
from klingai_audit.tlog.note import parse_note
from klingai_audit.tlog.tile import HASH_BYTES, MAX_ENTRY_BYTES, parse_tile_path

__all__ = [
    "CHECKPOINT",
    "HEAD",
    "WAITING",
    "HeadObject",
    "NameKind",
    "Staged",
    "Staging",
    "day_path",
    "encode_head",
    "encode_staging",
    "kept_path",
    "kind_of",
    "note_size",
    "parse_day_path",
    "parse_head",
    "parse_staging",
    "staging_path",
    "token_path",
]

HEAD: Final = "head"
CHECKPOINT: Final = "checkpoint"
WAITING: Final = "waiting"

NameKind = Literal["head", "waiting", "checkpoint", "cosigned", "staging", "day", "kept", "token", "tile", "stray"]
"""What an object is, by its name."""

_HEAD_LINE: Final = b"klingai-audit/head/v1"
_STAGING_LINE: Final = b"klingai-audit/staging/v1"
_NUMBER: Final = rb"(0|[1-9][0-9]{0,18})"
_DAY: Final = rb"([0-9]{4}-[0-9]{2}-[0-9]{2})"
_STAGED: Final = re.compile(rb"([0-9a-f]{64}) %b %b %b" % (_NUMBER, _NUMBER, _DAY))
_BATCH: Final = re.compile(rb"batch ([0-9a-f]{32}) %b %b %b" % (_NUMBER, _NUMBER, _DAY))
_HASHES: Final = re.compile(rb"hashes ([0-9]|[1-5][0-9]|6[0-3]) %b %b" % (_NUMBER, _NUMBER))
_KEPT: Final = re.compile(rb"kept %b %b" % (_NUMBER, _NUMBER))
_KEPT_PATH: Final = re.compile(r"checkpoints/[0-9]{20}(\.tsr)?", re.ASCII)
_DAY_PATH: Final = re.compile(r"days/([0-9]{4}-[0-9]{2}-[0-9]{2})/([0-9]{20})", re.ASCII)
_STAGING_PATH: Final = re.compile(r"staging/[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Staged:
    """A batch `[begin, end)` of UTC day `day` that lies in a staging object; `name` is its SHA-256 in hex."""

    name: str
    begin: int
    end: int
    day: dt.date


@dataclass(frozen=True, slots=True)
class HeadObject:
    """The object `head`: the signed checkpoint `note` of `size` entries, and where they lie.

    Entries `[0, tiled)` lie in tiles and bundles, `[tiled, size)` in the staging objects `tail`, oldest first; the
    first of those may begin before `tiled`.
    """

    note: bytes
    size: int
    tiled: int
    tail: tuple[Staged, ...]


@dataclass(frozen=True, slots=True)
class Staging:
    """What a staging object holds: see `SignedBatch`. Its level 0 of `hashes` are the leaf hashes."""

    id: str
    begin: int
    day: dt.date
    entries: Sequence[bytes]
    hashes: Sequence[HashWrite]
    kept: Mapping[int, bytes]

    def read_hashes(self, level: int, begin: int, end: int) -> bytes:
        """Return those of the hashes `[begin, end)` of a level that this batch completed, 32 bytes each."""
        for own, first, data in self.hashes:
            if own == level:
                return data[max(0, begin - first) * HASH_BYTES : max(0, end - first) * HASH_BYTES]
        return b""


# --- names -----------------------------------------------------------------------------------------------------------


def staging_path(name: str) -> str:
    """Return the path of a staging object by its SHA-256 in hex."""
    return f"staging/{name}"


def kept_path(size: int) -> str:
    """Return the path of the kept checkpoint of `size` entries."""
    return f"checkpoints/{size:020}"


def token_path(size: int) -> str:
    """Return the path of the time stamp beside it."""
    return f"checkpoints/{size:020}.tsr"


def day_path(day: dt.date, begin: int) -> str:
    """Return the path of the object which tells that `day` begins at entry `begin`."""
    return f"days/{day.isoformat()}/{begin:020}"


def parse_day_path(path: str) -> tuple[dt.date, int] | None:
    """Return (day, first entry) of such a path; None for every other."""
    match = _DAY_PATH.fullmatch(path)
    try:
        return None if match is None else (dt.date.fromisoformat(match[1]), int(match[2]))
    except ValueError:
        return None


def kind_of(path: str) -> NameKind:
    """Tell what an object is by its name alone."""
    if path in (HEAD, WAITING, CHECKPOINT):
        return path  # type: ignore[return-value]  # all are kinds
    if path == "checkpoint.cosigned":
        return "cosigned"
    if _STAGING_PATH.fullmatch(path):
        return "staging"
    if parse_day_path(path) is not None:
        return "day"
    if (kept := _KEPT_PATH.fullmatch(path)) is not None:
        return "token" if kept[1] else "kept"
    try:
        parse_tile_path(path)
    except Malformed:
        return "stray"
    return "tile"


def note_size(note: bytes) -> int:
    """Return the size that a signed checkpoint states. Raises: Malformed."""
    return parse_checkpoint(parse_note(note).text).size


# --- head ------------------------------------------------------------------------------------------------------------


def encode_head(tiled: int, tail: Sequence[Staged], note: bytes) -> bytes:
    """Return the bytes of `head`: its version, `tiled`, a line for each batch of the tail, an empty line, the note."""
    lines = [b"%b %d %d %b" % (s.name.encode(), s.begin, s.end, s.day.isoformat().encode()) for s in tail]
    return b"\n".join([_HEAD_LINE, b"%d" % tiled, *lines, b"", note])


def parse_head(data: bytes, url: str) -> HeadObject:
    """Read `head`. Raises: LogDamaged for anything that `encode_head` does not write."""
    top, empty, note = data.partition(b"\n\n")
    version, _, rest = top.partition(b"\n")
    first, *lines = rest.split(b"\n")
    try:
        if version != _HEAD_LINE or not empty or not re.fullmatch(_NUMBER, first):
            raise Malformed("It does not begin like one.")
        tiled, tail, size = int(first), [], note_size(note)
        for line in lines:
            match = _STAGED.fullmatch(line)
            if match is None:
                raise Malformed("A line of its tail is not one.")
            day = dt.date.fromisoformat(match[4].decode())
            tail.append(Staged(match[1].decode(), int(match[2]), int(match[3]), day))
        _check_tail(tiled, tail, size)
    except ValueError as exc:
        raise LogDamaged(
            f"The object `head` of {url} is not one: {exc}", kind_of_damage="checkpoint_malformed"
        ) from exc
    return HeadObject(note, size, tiled, tuple(tail))


def _check_tail(tiled: int, tail: Sequence[Staged], size: int) -> None:
    at = tail[0].begin if tail else tiled
    if at > tiled:
        raise Malformed("There is a gap behind its tiles.")
    for staged in tail:
        if staged.begin != at or staged.end <= max(at, tiled):
            raise Malformed("Its batches do not follow each other.")
        at = staged.end
    if at != size:
        raise Malformed("Its batches do not end where its checkpoint does.")


# --- staging ---------------------------------------------------------------------------------------------------------


def encode_staging(batch: SignedBatch) -> tuple[str, bytes]:
    """Return name and bytes of the staging object of a batch; the name is nobody else's, as `batch.id` is random."""
    kept = sorted(batch.kept)
    top = [
        _STAGING_LINE,
        b"batch %b %d %d %b" % (batch.id.encode(), batch.begin, len(batch.entries), batch.day.isoformat().encode()),
        *(b"hashes %d %d %d" % (level, begin, len(data) // HASH_BYTES) for level, begin, data in batch.hashes),
        *(b"kept %d %d" % (size, len(note)) for size, note in kept),
        b"\n",
    ]
    body = [b"\n".join(top), *(data for _level, _begin, data in batch.hashes), *(note for _size, note in kept)]
    for entry in batch.entries:
        body += (len(entry).to_bytes(2, "big"), entry)
    data = b"".join(body)
    return hashlib.sha256(data).hexdigest(), data


def parse_staging(data: bytes, staged: Staged) -> Staging:
    """Read a staging object that the head names. Raises: Malformed, also if its digest is another."""
    if hashlib.sha256(data).hexdigest() != staged.name:
        raise Malformed("Its digest is not the one in the head.")
    top, empty, _ = data.partition(b"\n\n")
    version, _, rest = top.partition(b"\n")
    first, *lines = rest.split(b"\n")
    match = _BATCH.fullmatch(first)
    if version != _STAGING_LINE or not empty or match is None:
        raise Malformed("It does not begin like one.")
    at, hashes, kept = len(top) + 2, list[HashWrite](), dict[int, bytes]()
    for line in lines:
        if (one := _HASHES.fullmatch(line)) is not None:
            end = at + int(one[3]) * HASH_BYTES
            hashes.append((int(one[1]), int(one[2]), data[at:end]))
        elif (one := _KEPT.fullmatch(line)) is not None:
            end = at + int(one[2])
            kept[int(one[1])] = data[at:end]
        else:
            raise Malformed("One of its lines is unknown.")
        at = end
    entries = _entries(data, at)
    begin, count = int(match[2]), int(match[3])
    if (begin, count, match[4].decode()) != (staged.begin, staged.end - staged.begin, staged.day.isoformat()):
        raise Malformed("It is another batch than the head says.")
    if len(entries) != count:
        raise Malformed(f"It holds {len(entries)} entries, not {count}.")
    return Staging(match[1].decode(), begin, staged.day, entries, hashes, kept)


def _entries(data: bytes, at: int) -> list[bytes]:
    entries = []
    while at < len(data):
        begin = at + 2
        at = begin + int.from_bytes(data[at:begin], "big")
        if begin > len(data) or at > len(data) or at - begin > MAX_ENTRY_BYTES:
            raise Malformed("Its last entry is cut short.")
        entries.append(data[begin:at])
    return entries
