"""Takes over logs that the two published recipes wrote: line by line, with what their own checks say.

Old lines become entries through the same door as everything else. The same file again adds nothing twice: a line is
recognised by its event id and by a keyed reference in `metadata.import`. See docs/how-to/import-old-logs.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from klingai_audit.durable import NO_FORK, OPS, PRIVATE_MODE, FileOps
from klingai_audit.errors import InvalidEvent, Malformed, StorageError, UsageError
from klingai_audit.event.context import acting
from klingai_audit.event.record import Draft, decode_event
from klingai_audit.event.types import EventType
from klingai_audit.ledger.receipt import Receipt
from klingai_audit.log import AuditLog
from klingai_audit.upkeep.old_events import read_event
from klingai_audit.upkeep.recipes import MAX_LINE_BYTES, BadLine, Chain, OldLine, parse_line

__all__ = ["FileImport", "FindingKind", "ImportFinding", "ImportResult", "import_files"]

FindingKind = Literal["bad_line", "checksum_bad", "chain_broken", "chain_restart", "chain_interleaved", "chain_open",
               "repeated_line", "event_id_reused"]  # fmt: skip

CHUNK: Final = 1_000
"""Entries that are under way at most before the import waits for the disk."""

_DOMAIN: Final = b"klingai-audit/import/v1\0"
_MARK: Final = b'"import":{'
_FAULTS: Final = ("checksum_bad", "chain_broken", "event_id_reused")


@dataclass(frozen=True, slots=True)
class ImportFinding:
    """Something about one line: `kind`, the line's number from 1, and words that hold nothing of the line."""

    kind: FindingKind
    line: int
    message: str


@dataclass(frozen=True, slots=True)
class FileImport:
    """What became of one file. `lines` = `imported` + `already_there` + `repeated` + `bad`.

    `checksums` and `chain` count lines by what their own checks say; `sha256` is that of the file as it was read.
    """

    path: Path
    sha256: str
    bytes: int
    lines: int
    imported: int
    already_there: int
    repeated: int
    bad: int
    formats: dict[str, int]
    checksums: dict[str, int]
    chain: dict[str, int]
    findings: tuple[ImportFinding, ...] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the members as JSON values."""
        plain = {name: getattr(self, name) for name in self.__slots__ if name not in ("path", "findings")}
        findings = [{"kind": found.kind, "line": found.line, "message": found.message} for found in self.findings]
        return {"file": str(self.path), **plain, "findings": findings}


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What became of all files. `exit_code`: 0, 1 if lines could not be taken over, 4 if a check of theirs fails."""

    files: tuple[FileImport, ...]

    def total(self, name: Literal["lines", "imported", "already_there", "repeated", "bad"]) -> int:
        """Return one count over all files."""
        return sum(getattr(file, name) for file in self.files)

    @property
    def exit_code(self) -> int:
        """0: every line is in the log and holds; 1: some could not be taken over; 4: all are, some do not hold."""
        if self.total("bad"):
            return 1
        return 4 if any(found.kind in _FAULTS for file in self.files for found in file.findings) else 0


def import_files(
    audit: AuditLog, paths: Sequence[str | os.PathLike[str]], *, progress: Callable[[int, int], None] | None = None,
    ops: FileOps = OPS,
) -> ImportResult:  # fmt: skip
    """Take over the lines of `paths`, in this order; durable on return.

    Who imports comes from `acting(…)` and stands in one `log_imported` a file; the lines keep their own actors and
    times. `progress` is called with bytes done and bytes in all.
    Raises: UsageError: a file cannot be read or holds no line of either recipe (later files are not looked at; what was
    taken over stays). AuditUnavailable, StorageError: an import that was cut off may be repeated.
    """
    files = [_Source.open(Path(path)) for path in paths]
    try:
        with _alone(audit, ops):
            meter = _Meter(sum(file.size for file in files) * 2, progress)
            known = _Known(audit)
            for file in files:
                known.expect(file.references(audit, meter))
            known.look_up()
            chain = Chain()
            return ImportResult(tuple(_Import(audit, file, known, chain).run(meter) for file in files))
    finally:
        for file in files:
            file.close()


# --- one file -----------------------------------------------------------------------------------------------


class _Meter:
    def __init__(self, total: int, report: Callable[[int, int], None] | None) -> None:
        self._total = total
        self._done = 0
        self._report = report

    def add(self, count: int) -> None:
        self._done += count
        if self._report is not None:
            self._report(self._done, self._total)


class _Source:
    """A file as it was when it was opened: what is appended meanwhile belongs to the next import."""

    def __init__(self, path: Path, handle: BinaryIO) -> None:
        self.path = path
        self._handle = handle
        self.size = os.fstat(handle.fileno()).st_size
        self.sha256 = ""

    @classmethod
    def open(cls, path: Path) -> _Source:
        try:
            return cls(path, path.open("rb"))
        except OSError as exc:
            raise UsageError(
                f"{path} cannot be read: {exc.strerror}.", do="Name a file that one of the recipes wrote."
            ) from exc

    def close(self) -> None:
        self._handle.close()

    def lines(self, meter: _Meter) -> Iterator[bytes]:
        """Yield the lines without LF; of one that is too long only what shows that it is."""
        self._handle.seek(0)
        digest, left = hashlib.sha256(), self.size
        while left > 0:
            raw = self._handle.readline(min(left, MAX_LINE_BYTES + 2))
            size, line = len(raw), raw
            digest.update(raw)
            while raw and not raw.endswith(b"\n") and size < left:
                raw = self._handle.readline(min(left - size, MAX_LINE_BYTES))
                size += len(raw)
                digest.update(raw)
            if not line:
                break
            left -= size
            meter.add(size)
            yield line.rstrip(b"\n")
        if self.sha256 not in ("", digest.hexdigest()) or left:
            raise StorageError(f"{self.path} was changed while it was read.", do="Import a copy that nobody writes to.")
        self.sha256 = digest.hexdigest()

    def references(self, audit: AuditLog, meter: _Meter) -> Iterator[str]:
        """Yield the event ids by which lines of this file would stand in the log. Raises: UsageError."""
        found = False
        for raw in self.lines(meter):
            with contextlib.suppress(BadLine):
                own = read_event(parse_line(raw)).event_id
                found = True
                if own is not None:
                    yield own
            yield _derived_id(audit, raw)
        if self.size and not found:
            raise UsageError(
                f"{self.path} holds no line that one of the two recipes wrote.",
                do="Give the file of JSON lines, not the text log; docs/import.md shows both formats.",
            )


def _line_reference(audit: AuditLog, raw: bytes, use: str = "") -> str:
    """Return 16 hex digits that stand for a line in this log: keyed, so that nobody can guess the line from them."""
    return audit.fingerprint((_DOMAIN + use.encode() + hashlib.sha256(raw.strip()).digest()).decode("latin-1"))


def _derived_id(audit: AuditLog, raw: bytes) -> str:
    """Return the event id of a line that has none of its own: a name-based UUID (version 5), the same each time."""
    return str(uuid.UUID(hex=_line_reference(audit, raw, "id\0") + _line_reference(audit, raw, "more\0"), version=5))


class _Known:
    """Which lines the log holds already: event id → the reference in `metadata.import`, empty for other entries."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit
        self._wanted: set[bytes] = set()
        self._found: dict[str, str] = {}

    def expect(self, event_ids: Iterator[str]) -> None:
        self._wanted.update(uuid.UUID(event_id).bytes for event_id in event_ids)

    def look_up(self) -> None:
        self._audit.flush()
        for entry in self._audit.entries():
            event_id = entry[24:60].decode("ascii", "replace")
            if bytes.fromhex(event_id.replace("-", "")) in self._wanted:
                self._found.setdefault(event_id, _reference_in(entry))
        self._wanted.clear()

    def get(self, event_id: str) -> str | None:
        return self._found.get(event_id)

    def add(self, event_id: str, reference: str) -> None:
        self._found[event_id] = reference


def _reference_in(entry: bytes) -> str:
    if _MARK in entry:
        with contextlib.suppress(Malformed):
            facts = decode_event(entry).details.get("import")
            if isinstance(facts, dict):
                return str(facts.get("ref", ""))
    return ""


class _Import:
    """One file on its way in."""

    def __init__(self, audit: AuditLog, source: _Source, known: _Known, chain: Chain) -> None:
        self._audit = audit
        self._source = source
        self._known = known
        self._chain = chain
        self._counts: Counter[str] = Counter()
        self._formats: Counter[str] = Counter()
        self._checksums: Counter[str] = Counter()
        self._links: Counter[str] = Counter()
        self._findings: list[ImportFinding] = []
        self._seen: set[str] = set()
        self._under_way: list[Receipt] = []

    def run(self, meter: _Meter) -> FileImport:
        self._chain.next_file()
        with acting.restore(None):
            for number, raw in enumerate(self._source.lines(meter), 1):
                self._counts["lines"] += 1
                try:
                    self._take(number, raw)
                except BadLine as exc:
                    self._bad(number, str(exc))
                except InvalidEvent as exc:
                    self._bad(number, exc.message)
            self._settle()
        made = self._result()
        if made.imported:
            self._record(made)
        return made

    def _take(self, number: int, raw: bytes) -> None:
        line = parse_line(raw)
        facts = self._checked(number, line)
        old = read_event(line)
        reference = _line_reference(self._audit, raw)
        derived = _derived_id(self._audit, raw)
        event_id = old.event_id or derived
        if reference in self._seen:
            self._counts["repeated"] += 1
            self._find("repeated_line", number, "the same line stands in this file before")
            return
        self._seen.add(reference)
        if reference in (self._known.get(event_id), self._known.get(derived)):
            self._counts["already_there"] += 1
            return
        if self._known.get(event_id) is not None:
            self._find("event_id_reused", number, "another line, or an entry of this log, has its event_id")
            old.notes["event_id"] = event_id
            event_id = derived
        facts |= {"ref": reference, **old.notes}
        draft = old.draft.replace(event_id=event_id, metadata={**old.draft.metadata, "import": facts})
        self._append(draft)
        self._known.add(event_id, reference)
        self._counts["imported"] += 1

    def _checked(self, number: int, line: OldLine) -> dict[str, Any]:
        """Count what the line's own checks say, and return it as the entry tells it."""
        self._formats[line.format] += 1
        self._checksums[line.checksum] += 1
        if line.checksum == "bad":
            self._find("checksum_bad", number, "its checksum is not that of its content")
        facts: dict[str, Any] = {
            "format": line.format, "file": self._source.sha256, "line": number, "checksum": line.checksum,
        }  # fmt: skip
        if line.format == "hash-chain":
            facts["chain"] = state = self._chain.follow(line)
            self._links[state] += 1
            if state in _CHAIN_FINDINGS:
                kind, words = _CHAIN_FINDINGS[state]
                self._find(kind, number, words)
        return facts

    def _append(self, draft: Draft) -> None:
        with contextlib.ExitStack() as stack:
            if draft.actor_id == "unknown":  # the old line names nobody: there is nothing to bind
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            admitted = self._audit.admit(draft)
        self._under_way.append(self._audit.append(admitted))
        if len(self._under_way) >= CHUNK:
            self._settle()

    def _settle(self) -> None:
        for receipt in self._under_way:
            receipt.wait()
        self._under_way.clear()

    def _bad(self, number: int, reason: str) -> None:
        self._counts["bad"] += 1
        self._find("bad_line", number, reason)

    def _find(self, kind: FindingKind, number: int, message: str) -> None:
        self._findings.append(ImportFinding(kind, number, message))

    def _result(self) -> FileImport:
        counts = {name: self._counts[name] for name in ("lines", "imported", "already_there", "repeated", "bad")}
        return FileImport(
            path=self._source.path,
            sha256=self._source.sha256,
            bytes=self._source.size,
            **counts,
            formats=dict(self._formats),
            checksums=dict(self._checksums),
            chain=dict(self._links),
            findings=tuple(self._findings),
        )

    def _record(self, made: FileImport) -> None:
        """Write who imported what: the file by its digest, never by its path."""
        facts = made.to_json()
        kinds = dict(Counter(found.kind for found in made.findings))
        facts = {name: value for name, value in facts.items() if name not in ("file", "sha256", "findings")}
        draft = Draft(
            event_type=EventType.LOG_IMPORTED,
            resource_type="file",
            resource_id=made.sha256,
            action="import",
            metadata={**facts, "findings": kinds},
        )
        self._audit.record(draft).wait()


_CHAIN_FINDINGS: Final[dict[str, tuple[FindingKind, str]]] = {
    "restart": ("chain_restart", "the chain begins anew, as it does with every process"),
    "interleaved": ("chain_interleaved", "it follows an earlier line than the one before it: two processes wrote"),
    "open": ("chain_open", "it follows a line that is in none of these files"),
    "broken": ("chain_broken", "it follows no line before it"),
    "absent": ("chain_broken", "it names no line before it"),
}


@contextlib.contextmanager
def _alone(audit: AuditLog, ops: FileOps) -> Iterator[None]:
    """Keep other imports into this log out: they would not see each other's lines. Raises: StorageError."""
    path = audit.places.state / "import.lock"
    try:
        with NO_FORK:
            fd = ops.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_MODE)
    except OSError as exc:
        raise StorageError(f"{path} cannot be opened for writing: {exc.strerror}.") from exc
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StorageError("Another import into this log is under way.", do="Wait for its end.") from exc
        yield
    finally:
        ops.close(fd)
