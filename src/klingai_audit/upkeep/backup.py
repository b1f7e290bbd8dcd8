"""Backups: a copy of a log that verifies, made while writers run; and what comes after one was put back.

A restored log that simply goes on is a second history beside the one that was lost. So it stays as it is, and a
successor begins, which names the last known checkpoints and what is missing between them.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from klingai_audit.config import Places, open_reader, open_store
from klingai_audit.durable import OPS, PRIVATE_MODE, FileOps, open_regular, read_optional
from klingai_audit.errors import InvalidSignature, LogDamaged, StorageError, UsageError
from klingai_audit.event.own import own_event
from klingai_audit.ledger.clock import SYSTEM_CLOCK
from klingai_audit.ledger.keys import KeyFolder, read_public_key
from klingai_audit.ledger.mirror import copy_log
from klingai_audit.ledger.reader import LogReader
from klingai_audit.ledger.sealed import is_sealed
from klingai_audit.ledger.state import StateFolder
from klingai_audit.ledger.store import LogFile, Store
from klingai_audit.log import AuditLog
from klingai_audit.privacy.vault import SEALED_SUFFIX
from klingai_audit.privacy.vault_policy import MAX_SEALED_BYTES
from klingai_audit.stores.days import count_lines
from klingai_audit.tlog.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from klingai_audit.tlog.note import parse_note
from klingai_audit.trust.verify import verify
from klingai_audit.views.erasures import erasures_in

__all__ = ["Backup", "Progress", "Succession", "back_up", "succeed"]

_CHUNK: Final = 1 << 20
_TURNS: Final = 10
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_HASH: Final = 32
_PRIVATE_FOLDER: Final = 0o700
_KEYS_NOT_COPIED: Final = ("next",)
"""Of the keys folder: an unfinished rotation is none of the past."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy that verified: where, how many entries its checkpoint covers, bytes copied, whether keys are in it."""

    folder: Path
    size: int
    bytes: int
    keys: bool


@dataclass(frozen=True, slots=True)
class Succession:
    """A new log that follows a restored one: its origin, the old one's, the restored size and the last size known."""

    origin: str
    former: str
    restored: int
    known: int


def back_up(
    places: Places,
    folder: Path,
    *,
    keys: bool = False,
    vault: bool = False,
    ops: FileOps = OPS,
    progress: Progress | None = None,
) -> Backup:
    """Copy the log up to its published checkpoint into `folder`/audit, and verify the copy; durable on return.

    Writers may go on: what they append after the checkpoint was read is left out. With `keys` the keys folder, the
    table of people and the remembered head are copied too, closed to others; with `vault` what is sealed beside the
    log. The copy appears under its name only when it is whole.
    Raises: UsageError (the folder is there already), LogDamaged (the copy does not verify: nothing is left),
    LogNotFound, StorageError.
    """
    reader = open_reader(places)
    if folder.exists():
        raise UsageError(f"{folder} is there already.", do="Name a new folder: a backup is never written over.")
    part = folder.with_name(folder.name + ".part")
    key = read_public_key(places.keys / "log.pub")
    try:
        note, copied = _copy_still(reader, part, _PRIVATE_FOLDER if keys else 0o755, ops, progress)
        checkpoint = parse_checkpoint(parse_note(note).text)
        if keys:
            copied += _copy_keys(places, part, note, ops)
        if vault:
            copied += _copy_vault(places.vault, part / "audit.vault", ops)
        copy = open_store(Places.resolve(part / "audit"))
        with closing(copy):
            verdict = verify(copy, key=key.format(), key_source="keys folder", remembered=note, patience=0)
        if not verdict.integrity_ok:
            first = verdict.findings[0]
            shutil.rmtree(part)
            raise LogDamaged(f"The copy does not verify: {first.message}", kind_of_damage=first.kind)
        ops.rename(part, folder)
        ops.sync_folder(folder.parent)
    except (OSError, sqlite3.Error) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise StorageError(f"{getattr(exc, 'filename', None) or folder} cannot be copied: {reason}.") from exc
    return Backup(folder, checkpoint.size, copied, keys)


def succeed(restored: Places, successor: Places, known: Sequence[bytes] = (), reason: str | None = None) -> Succession:
    """Begin a log that follows a restored one; the restored one is not written to.

    `known` are later checkpoints of the old log that somebody kept (signed notes). The new log has keys and an
    origin of its own (an ML-DSA-44 key if the old one had); people keep their pseudonyms, but whom the restored log
    names as erased is not among them. Its first entry after `log_created` and `log_opened` is `log_recovered` with
    the old log's last checkpoint, the known ones, and the range of entries that is lost.
    Raises: LogNotFound; UsageError (there is something at the new places); InvalidSignature (a known checkpoint is
    not of the old log); StorageError.
    """
    reader = open_reader(restored)
    key = read_public_key(restored.keys / "log.pub")
    note = reader.checkpoint_note()
    last, _, _ = open_checkpoint(note, key.name, [key])
    later = sorted((_known(data, key), data) for data in known)
    most = max([last.size, *(size for size, _ in later)])
    if successor.log == "memory:" or any(Path(place).exists() for place in (successor.log, successor.keys)):
        raise UsageError("There is something at the new log's places already.", do="Name new ones: --into FOLDER")
    try:
        _carry_over(restored, successor)
    except (OSError, sqlite3.Error) as exc:
        reason_ = getattr(exc, "strerror", None) or str(exc)
        raise StorageError(f"The new keys folder {successor.keys} cannot be filled: {reason_}.") from exc
    told: dict[str, Any] = {
        "restored": {"origin": last.origin, "log_key": key.format(), "checkpoint": note.decode()},
        "known": [data.decode() for _, data in later],
        "lost": {"begin": last.size, "end": most if most > last.size else None},
        **({"reason": reason} if reason else {}),
    }
    second = (restored.keys / "mldsa.pub").exists()
    with AuditLog.open(
        successor.log,
        keys=successor.keys,
        state=successor.state,
        subjects=successor.subjects,
        vault=successor.vault,
        post_quantum=second,
    ) as audit:
        audit.subjects.destroy_all(erasures_in(reader.entries(0, last.size)))  # the table may be older than the log
        audit.append(own_event("log_recovered", told, SYSTEM_CLOCK.now_ns())).wait("published")
        return Succession(audit.origin, last.origin, last.size, most)


def _known(data: bytes, key: Any) -> int:
    try:
        return open_checkpoint(data, key.name, [key])[0].size
    except InvalidSignature as exc:
        raise InvalidSignature("A checkpoint given as known is not signed by the restored log's key.") from exc


def _copy_still(reader: LogReader, part: Path, mode: int, ops: FileOps, progress: Progress | None) -> tuple[bytes, int]:
    """Copy the log into `part`/audit, while no day is being sealed; return its checkpoint and bytes copied.

    A sealed day may hold purged entries whose authority came after the checkpoint that was read: then once more.
    """
    if any(file.path is None for file in reader.store.inspect()):
        return _copy_far(reader, part, mode, ops, progress)
    for turn in range(_TURNS):
        before = _sealed(reader.store)
        note = reader.checkpoint_note()
        _begin_part(part, mode, ops)
        try:
            copied = _copy_log(
                reader.store, part / "audit", parse_checkpoint(parse_note(note).text), note, ops, progress
            )
        except FileNotFoundError:
            if turn == _TURNS - 1 or before == _sealed(reader.store):
                raise
            continue
        if before == _sealed(reader.store):
            return note, copied
    raise StorageError(
        "Days were sealed again and again while the log was copied.", do="Try again when retention apply is done."
    )


def _copy_far(reader: LogReader, part: Path, mode: int, ops: FileOps, progress: Progress | None) -> tuple[bytes, int]:
    """Copy a log that has no files of its own, such as one on a server."""
    _begin_part(part, mode, ops)
    copied = copy_log(reader.store, part / "audit", beyond=False, durable=True, ops=ops, progress=progress)
    note = copied.extent.note
    return reader.checkpoint_note() if note is None else note, copied.size


def _begin_part(part: Path, mode: int, ops: FileOps) -> None:
    if part.exists():
        shutil.rmtree(part)
    ops.make_folder(part, mode)


def _sealed(store: Store) -> list[tuple[str, object]]:
    return [(file.name, file.identity) for file in store.inspect() if is_sealed(file.name)]


def _copy_log(
    store: Store, target: Path, checkpoint: Checkpoint, note: bytes, ops: FileOps, progress: Progress | None
) -> int:
    """Copy what the checkpoint covers, `checkpoint` last; returns bytes."""
    files = store.inspect()
    days = [file for file in files if file.kind == "entries"]
    total, copied, left = sum(file.size for file in days), 0, checkpoint.size
    for inner in ("tree", "checkpoints"):
        ops.make_folder(target / inner)
    for file in days:
        if left == 0:
            break
        if is_sealed(file.name) and file.path is not None:
            packed, lines = _copy_sealed(file.path, target / file.name, ops)
            copied, left = copied + packed, left - lines
            if left < 0:
                raise LogDamaged(
                    f"{file.name} was sealed with entries that no checkpoint covers.",
                    kind_of_damage="checkpoint_behind",
                )
            continue
        with _Written(target / file.name, ops) as out:
            for piece, lines in _lines_of(file, left):
                out.write(piece)
                copied, left = copied + len(piece), left - lines
                if progress is not None:
                    progress(copied, total)
    if left:
        raise LogDamaged(f"The log lacks {left} of the entries that its checkpoint covers.", kind_of_damage="tail_cut")
    for file in files:
        length = _covered(file, checkpoint.size)
        if length is not None and file.path is not None:
            ops.make_folder((target / file.name).parent)
            with file.path.open("rb") as source, _Written(target / file.name, ops) as out:
                data = source.read(length)
                out.write(data)
                copied += len(data)
    ops.replace(target / "checkpoint", note)
    return copied + len(note)


def _copy_sealed(source: Path, target: Path, ops: FileOps) -> tuple[int, int]:
    """Copy a sealed day as it is; return its bytes and the lines in it, both of the copy."""
    length = 0
    with open_regular(source, follow=False) as file, _Written(target, ops) as out:
        while piece := file.read(_CHUNK):
            out.write(piece)
            length += len(piece)
    return length, count_lines(target)


def _lines_of(file: LogFile, most: int) -> Iterator[tuple[bytes, int]]:
    """Yield pieces of a day file with the number of line ends in each, up to `most` lines."""
    if file.path is None:
        return
    with file.path.open("rb") as source:
        while most and (piece := source.read(_CHUNK)):
            lines = piece.count(b"\n")
            if lines >= most:
                at = -1
                for _ in range(most):
                    at = piece.index(b"\n", at + 1)
                yield piece[: at + 1], most
                return
            most -= lines
            yield piece, lines


def _covered(file: LogFile, size: int) -> int | None:
    """Return how many bytes of a tree file or kept checkpoint belong to a tree of `size`, None if the file does not."""
    folder, _, name = file.name.partition("/")
    if file.kind == "tree" and name.isdigit():
        return (size >> 8 * int(name)) * _HASH or None
    stem = name.partition(".")[0]
    if folder == "checkpoints" and stem.isdigit() and int(stem) <= size and not name.endswith(".tmp"):
        return file.size
    return None


class _Written:
    """A new file that is durable when the block ends without an error."""

    def __init__(self, path: Path, ops: FileOps) -> None:
        self._path = path
        self._ops = ops
        self._fd = -1

    def __enter__(self) -> Self:
        self._fd = self._ops.open(self._path, _NEW_FILE)
        return self

    def write(self, data: bytes) -> None:
        self._ops.write_all(self._fd, data)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self._ops.sync(self._fd)
        finally:
            self._ops.close(self._fd)
        if kind is None:
            self._ops.sync_folder(self._path.parent)


def _copy_keys(places: Places, part: Path, note: bytes, ops: FileOps) -> int:
    target = part / "audit.keys"
    ops.make_folder(target, _PRIVATE_FOLDER)
    copied = 0
    for path in sorted(places.keys.iterdir()):
        if path.is_file() and path.name not in _KEYS_NOT_COPIED and not path.name.startswith("subjects.sqlite"):
            data = path.read_bytes()
            mode = 0o644 if path.suffix in (".pub", ".toml", ".policy") else PRIVATE_MODE
            ops.replace(target / path.name, data, mode=mode)
            copied += len(data)
    copied += _copy_subjects(places.subjects_file, target / "subjects.sqlite", ops)
    state = StateFolder(part / "audit.state", ops)
    state.create()
    state.write_head(note)
    return copied


def _copy_vault(source: Path, target: Path, ops: FileOps) -> int:
    """Copy what is sealed, as it is; what is erased meanwhile is left out."""
    copied = 0
    ops.make_folder(target, _PRIVATE_FOLDER)
    for path in sorted(source.glob(f"*/*/*{SEALED_SUFFIX}")):
        data = read_optional(path, limit=2 * MAX_SEALED_BYTES, follow=False)
        if data is not None:
            place = target / path.relative_to(source)
            ops.make_folder(place.parent, _PRIVATE_FOLDER)
            ops.replace(place, data, mode=PRIVATE_MODE)
            copied += len(data)
    return copied


def _copy_subjects(source: Path | None, target: Path, ops: FileOps) -> int:
    """Copy the table of people at one instant, by SQLite itself; one in a database is its server's to back up."""
    if source is None or not source.exists():
        return 0
    ops.close(ops.open(target, _NEW_FILE, PRIVATE_MODE))
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old,
        closing(sqlite3.connect(target)) as new,
    ):
        new.execute("PRAGMA journal_mode = DELETE")
        new.execute("PRAGMA synchronous = EXTRA")
        old.backup(new)
    return target.stat().st_size


def _carry_over(restored: Places, successor: Places, ops: FileOps = OPS) -> None:
    """Give the new keys folder the look-up key, the policies and the people, so that pseudonyms stay."""
    ops.make_folder(successor.keys, _PRIVATE_FOLDER)
    for name in ("lookup.key", "policy.toml", "witness.policy"):
        path = restored.keys / name
        if path.is_file():
            ops.replace(successor.keys / name, path.read_bytes(), mode=PRIVATE_MODE if name == "lookup.key" else 0o644)
    KeyFolder(restored.keys).lookup_key  # noqa: B018  (refuses a key that others may read, or that is none)
    if successor.subjects_file is not None:
        _copy_subjects(restored.subjects_file, successor.subjects_file, ops)
