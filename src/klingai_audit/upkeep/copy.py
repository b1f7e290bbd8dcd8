"""A working copy of a log that attacks may change, and that is whole again after each of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from klingai_audit.durable import OPS
from klingai_audit.ledger.line import PURGED_PREFIX, parse_members
from klingai_audit.ledger.sealed import SEALED_SUFFIX, is_sealed, open_day, pack
from klingai_audit.stores.days import list_days
from klingai_audit.stores.directory import DirectoryStore

__all__ = ["Impossible", "LogCopy", "target_of"]

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


class Impossible(Exception):
    """The log offers nothing to attack in this way; the text says why."""


class LogCopy:
    """A log below `base`: `log` is attacked, `whole` is what it is restored from. Nothing is synced."""

    def __init__(self, source: Path, base: Path) -> None:
        self.log = base / "audit"
        self.whole = base / "whole"
        self._touched: set[str] = set()
        for target in (self.whole, self.log):
            shutil.copytree(source, target)
        self.days = [path.name for path in list_days(self.whole)]

    @property
    def store(self) -> DirectoryStore:
        """The attacked log as a store."""
        return DirectoryStore(self.log, self.log.parent / "no-mark")

    def restore(self) -> None:
        """Undo the attack."""
        for name in self._touched:
            now, before = self.log / name, self.whole / name
            if now.exists() or now.is_symlink():
                OPS.unlink(now)
            if before.exists():
                shutil.copyfile(before, now)
        self._touched.clear()

    # --- reading: always the whole log's ----------------------------------------------------------

    def read(self, name: str) -> bytes:
        """Return a file of the whole log."""
        return (self.whole / name).read_bytes()

    def lines(self, name: str) -> list[bytes]:
        """Return the lines of a day file of the whole log, without LF; of a sealed one what is packed in it."""
        with open_day(self.whole / name) as file:
            return file.readall().split(b"\n")[:-1]

    def all_lines(self) -> list[tuple[str, bytes]]:
        """Return (file name, line) of every entry in order."""
        return [(name, line) for name in self.days for line in self.lines(name)]

    def kept(self) -> list[int]:
        """Return the sizes of kept checkpoints, smallest first."""
        return sorted(int(path.name) for path in (self.whole / "checkpoints").iterdir() if path.suffix == "")

    def attacked(self, name: str) -> bytes:
        """Return a file of the attacked log."""
        return (self.log / name).read_bytes()

    # --- attacking --------------------------------------------------------------------------------

    def put(self, name: str, data: bytes) -> None:
        """Write a file of the attacked log."""
        self._touched.add(name)
        fd = OPS.open(self.log / name, _NEW)
        try:
            OPS.write_all(fd, data)
        finally:
            OPS.close(fd)

    def drop(self, name: str) -> None:
        """Remove a file of the attacked log if it is there."""
        self._touched.add(name)
        if (self.log / name).exists():
            OPS.unlink(self.log / name)

    def change(self, name: str, change: Callable[[bytes], bytes]) -> None:
        """Rewrite a file of the attacked log from the whole one."""
        self.put(name, change(self.read(name)))

    def change_lines(self, name: str, change: Callable[[list[bytes]], None]) -> None:
        """Rewrite a day file of the attacked log after `change` worked on its lines."""
        lines = self.lines(name)
        change(lines)
        self.put_lines(name, lines)

    def put_lines(self, name: str, lines: Sequence[bytes]) -> None:
        """Write a day file of the attacked log; in the place of a sealed one that changes, one that is not sealed.

        So nothing but the lines themselves can show what was done: a file that is not sealed has no digest.
        """
        if is_sealed(name):
            if lines == self.lines(name):
                self.put(name, self.read(name))
                return
            self.drop(name)
            name = name.removesuffix(SEALED_SUFFIX)
        self.put(name, b"".join(line + b"\n" for line in lines))

    def seal(self, name: str, lines: Sequence[bytes]) -> None:
        """Write a sealed file of the attacked log anew, packed as the log packs."""
        packed: list[bytes] = []
        pack(lines, packed.append)
        self.put(name, b"".join(packed))

    def longest_day(self) -> str:
        """Return the day file with most bytes of entries."""
        return max(
            self.days,
            key=lambda name: sum(len(line) for line in self.lines(name) if not line.startswith(PURGED_PREFIX)),
        )


def target_of(lines: list[bytes]) -> int:
    """Return the index of an entry in the middle that is not the log's own. Raises: Impossible."""
    middle = len(lines) // 2
    for index in sorted(range(len(lines)), key=lambda index: abs(index - middle)):
        if b'"actor_id":"klingai-audit"' not in lines[index] and parse_members(lines[index]) is not None:
            return index
    raise Impossible("the log holds only its own entries")
