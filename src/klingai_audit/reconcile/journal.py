"""What a run has read so far, in the state folder, so that an interrupted run goes on where it stopped.

`reconcile/journal.jsonl`: a header, then one line for each answer of the provider. It holds task ids, amounts and names
of keys, nothing else; it may be deleted at any time, and goes when the run is done. One run at a time holds it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from klingai_audit.durable import NO_FORK, OPS, PRIVATE_MODE, FileOps, read_optional
from klingai_audit.errors import StorageError, UsageError
from klingai_audit.reconcile.records import LedgerLine, Pack, ProviderTask

__all__ = ["Journal", "Page", "Terms"]

MAX_AGE: Final = dt.timedelta(hours=24)
"""A run that stopped longer ago is not gone on with: what it read may have changed since."""

_MAX_BYTES: Final = 2 << 30


class Terms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run compares, [begin, end), and which provider it asks; `as_of` is when it began.

    `asked` is how the two times were put (`-7d`), None where they were left out.
    """

    origin: str
    begin: dt.datetime
    end: dt.datetime
    as_of: dt.datetime
    base_url: str
    new_design: bool
    legacy_lists: bool
    asked: tuple[str | None, str | None] = (None, None)


class Page(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer of the provider: from which `source`, what it held, and where that source goes on (`next`)."""

    source: str
    tasks: list[ProviderTask] = []
    lines: list[LedgerLine] = []
    packs: list[Pack] = []
    asked: list[str] = []
    next: str | int | None = None


_HEADER: Final = msgspec.json.Decoder(Terms)
_PAGE: Final = msgspec.json.Decoder(Page)
_encode: Final = msgspec.json.Encoder().encode


class Journal:
    """The journal of one run; a context manager that excludes other runs. `terms` and `pages` are what was left."""

    def __init__(self, state: Path, ops: FileOps = OPS) -> None:
        self.path = state / "reconcile" / "journal.jsonl"
        self.terms: Terms | None = None
        self.pages: list[Page] = []
        self._ops = ops
        self._fd = -1
        self._good = 0

    def __enter__(self) -> Self:
        """Take the journal and read what is there. Raises: UsageError: a run is at work; StorageError."""
        try:
            self._ops.make_folder(self.path.parent, 0o750)
            with NO_FORK:
                self._fd = self._ops.open(self.path, os.O_RDWR | os.O_CREAT, PRIVATE_MODE)
            self._lock()
            self._read(read_optional(self.path, limit=_MAX_BYTES) or b"")
        except OSError as exc:
            self._close()
            raise self._failed(exc) from exc
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def begin(self, terms: Terms) -> None:
        """Start anew. Raises: StorageError."""
        self.terms, self.pages, self._good = terms, [], 0
        self._write(_encode(terms))

    def add(self, page: Page) -> None:
        """Keep one answer; durable on return. Raises: StorageError."""
        self.pages.append(page)
        self._write(_encode(page))

    def resumable(self, now: dt.datetime) -> bool:
        """Tell whether there is a run to go on with."""
        return self.terms is not None and now - self.terms.as_of <= MAX_AGE

    def finish(self) -> None:
        """Remove the journal: the run is done."""
        with contextlib.suppress(OSError):
            self._ops.unlink(self.path)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise UsageError("Another reconciliation of this log is running.", do="Wait until it is done.") from exc

    def _read(self, data: bytes) -> None:
        """Take in whole lines up to the first that is none; a crash may have torn the last one."""
        lines = _whole_lines(data)
        try:
            header = next(lines, None)
            if header is None:
                return
            self.terms = _HEADER.decode(header)
            self._good = len(header) + 1
            for line in lines:
                self.pages.append(_PAGE.decode(line))
                self._good += len(line) + 1
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return

    def _write(self, line: bytes) -> None:
        data = line + b"\n"
        try:
            self._ops.truncate(self._fd, self._good)
            self._ops.write_all_at(self._fd, data, self._good)
            self._ops.sync(self._fd)
        except OSError as exc:
            raise self._failed(exc) from exc
        self._good += len(data)

    def _close(self) -> None:
        if self._fd >= 0:
            self._ops.close(self._fd)
            self._fd = -1

    def _failed(self, exc: OSError) -> StorageError:
        return StorageError(f"{self.path} cannot be used: {exc.strerror}.", do="Make the state folder writable.")


def _whole_lines(data: bytes) -> Iterator[bytes]:
    *lines, _ = data.split(b"\n")
    yield from lines
