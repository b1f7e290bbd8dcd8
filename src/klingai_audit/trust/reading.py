"""Reading a whole log once: which files, in which ranges, by which process, and what a newer checkpoint adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from klingai_audit.ledger.mirror import stated_size
from klingai_audit.ledger.store import LogFile, Store
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.tile import HASH_BYTES
from klingai_audit.trust.chunk import Read, Report, Task
from klingai_audit.trust.look import Look, Watch, reader_of
from klingai_audit.trust.place import DayFile, Scanned
from klingai_audit.trust.pool import PARALLEL_FROM, run_tasks
from klingai_audit.trust.quick import Start, find_start
from klingai_audit.trust.remember import Memory
from klingai_audit.trust.verdict import Finding
from klingai_audit.trust.worker import file_reader, run_task

__all__ = ["CHUNK_BYTES", "Progress", "Reading"]

CHUNK_BYTES: Final = 2 << 20
"""Bytes of a day file that one task scans; what a process holds at a time is a small multiple of it."""

Progress = Callable[[int, int], None]
"""`(bytes done, bytes in all)`, called from the verifying thread."""


@dataclass(slots=True)
class Reading:
    """What is read of one log. `first_lines` is how many lines the first look held."""

    store: Store
    decode: bool
    processes: int
    progress: Progress | None
    scanned: Scanned = field(default_factory=Scanned)
    findings: list[Finding] = field(default_factory=list)
    first_lines: int = 0
    readable: bool = True
    _files: dict[str, LogFile] = field(default_factory=dict)
    _readers: dict[str, Read] = field(default_factory=dict)

    def reader(self, name: str) -> Read:
        """Return a reader of a file by name, of nothing if no look saw it."""
        if name not in self._readers:
            file = self._files.get(name)
            self._readers[name] = file_reader(None) if file is None else self._forgiving(name, file)
        return self._readers[name]

    def _forgiving(self, name: str, file: LogFile) -> Read:
        """Return a reader that gives nothing where the file cannot be read, which becomes a finding."""
        inner = reader_of(self.store, file)

        def read(begin: int, end: int) -> bytes:
            try:
                return inner(begin, end)
            except OSError as exc:
                self._note_unreadable(name, exc.strerror)
                return b""

        return read

    def scan(self, look: Look, memory: Memory | None, trusted: VerifierKey | None) -> Start | None:
        """Scan the entry files of the first look, from where `memory` ends if the log still begins so."""
        files = self._day_files(look)
        for file in files:
            if file.length + file.torn == 0:
                self.findings.append(Finding("file_empty", f"{file.name} is empty.", file=file.name))
        start = None if memory is None else find_start(memory, trusted, files, self.reader)
        if start is not None:
            self.scanned.base, self.scanned.leaf = start.size, start.leaf
            self.scanned.files += start.skipped
            files = files[len(start.skipped) :]
            files[0].begin, files[0].first_line = start.offset, start.line
        self.scan_files(files)
        self.first_lines = self.scanned.lines
        return start

    def scan_files(self, files: Sequence[DayFile]) -> None:
        """Scan `files`, each from its `begin` on, after what was scanned before."""
        path = self._files["tree/0"].path if "tree/0" in self._files else None
        hashes, read_hashes = None if path is None else str(path), self.reader("tree/0")
        tasks: list[Task] = []
        owners: list[DayFile] = []
        for file in files:
            for at in range(file.begin, file.length, CHUNK_BYTES):
                end = min(at + CHUNK_BYTES, file.length)
                tasks.append(Task(len(tasks), file.path, file.day, at, end, file.length, hashes, self.decode))
                owners.append(file)
            self.scanned.list(file)
        total, done = sum(file.length - file.begin for file in files), 0
        far = hashes is not None and all(file.path for file in files)

        def run_here(task: Task) -> Report:
            return run_task(task) if far else run_task(task, owners[task.number].read, read_hashes)

        for task, report in zip(
            tasks, run_tasks(tasks, run_here, self.processes if far and total >= PARALLEL_FROM else 1), strict=True
        ):
            file = owners[task.number]
            if report.error:
                self.cannot_read(file.name, report.error)
            self.scanned.add(file, report)
            if report.sound and not report.first_time:  # it did not know where it belongs
                report.stored = _is_stored(report, read_hashes)
            done += task.end - task.begin
            if self.progress is not None:
                self.progress(done, total)

    def look_again(self, watch: Watch, first: Look) -> Look:
        """Wait for what is unfinished, then take in the lines that a newer checkpoint covers."""
        files = self.scanned.files
        torn = bool(files) and files[-1].torn > 0
        last = watch.until_settled(first, self.first_lines, torn=torn)
        self._see(last)
        if torn and last.size_of(files[-1].name) == files[-1].length:
            files[-1].torn = 0
        wanted = stated_size(last.head) - self.first_lines
        if last is not first and wanted > 0:
            self._take_new_lines(last, wanted)
        return last

    def _take_new_lines(self, look: Look, wanted: int) -> None:
        """Scan exactly `wanted` lines more, from where the first look ended."""
        known = {file.name: file for file in self.scanned.files}
        for fresh in self._day_files(look):
            file = known.get(fresh.name, fresh)
            begin = file.length if fresh.name in known else 0
            end = begin
            for at in range(begin, fresh.length, CHUNK_BYTES):
                data, last = fresh.read(at, min(at + CHUNK_BYTES, fresh.length)), -1
                while wanted and (found := data.find(b"\n", last + 1)) >= 0:
                    last, wanted = found, wanted - 1
                end = at + last + 1 if last >= 0 else end
            if end > begin:
                file.begin, file.length, file.torn = begin, end, 0
                self.scan_files([file])

    def _day_files(self, look: Look) -> list[DayFile]:
        self._see(look)
        files = []
        for listed, file, why in look.day_files(self.store):
            if file is None:
                self.cannot_read(listed.name, why)
            else:
                files.append(file)
        return files

    def _see(self, look: Look) -> None:
        self._files = {file.name: file for file in look.after if file.kind != "stray"}
        self._readers = {}

    def cannot_read(self, name: str, why: str | None) -> None:
        """Note that a file cannot be read."""
        self.readable = False
        self._note_unreadable(name, why)

    def _note_unreadable(self, name: str, why: str | None) -> None:
        finding = Finding("file_unreadable", f"{name} cannot be read: {why}.", file=name)
        if finding not in self.findings:
            self.findings.append(finding)


def _is_stored(report: Report, read_hashes: Read) -> bool:
    """Tell whether `tree/0` holds the hashes of a range that holds nothing but purged lines."""
    stored = read_hashes(report.base * HASH_BYTES, (report.base + report.lines) * HASH_BYTES)
    return report.head[: len(stored)] == stored
