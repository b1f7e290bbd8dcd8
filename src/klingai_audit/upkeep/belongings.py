"""What lies beside a log and goes where it goes: keys, the table of people, sealed content, the remembered head.

Carried in two steps: copied to the new place while the old one stays whole, then destroyed in the old one. In between
there are two of each, and a run that was stopped is done again.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final

from klingai_audit.config import Places
from klingai_audit.durable import OPS, PRIVATE_MODE, FileOps
from klingai_audit.errors import StorageError, UsageError
from klingai_audit.ledger.external import SIGNER_FILE
from klingai_audit.ledger.keys import read_public_key
from klingai_audit.ledger.spool import spool_files
from klingai_audit.ledger.state import StateFolder
from klingai_audit.privacy.erasures import COUNT_SUFFIX
from klingai_audit.privacy.vault import SEALED_SUFFIX
from klingai_audit.stores.urls import RemoteUrl
from klingai_audit.upkeep.people import copy_people

__all__ = ["Belongings", "same_place"]

_PRIVATE_FOLDER: Final = 0o700
_IDENTITY: Final = ("log.key", SIGNER_FILE)
"""Copied last: a keys folder without them is none yet."""

_PUBLIC: Final = (".pub", ".policy", ".toml")
_TABLE: Final = ("", "-journal", COUNT_SUFFIX)


class Belongings:
    """What goes from the places of one log to those of another; what both share stays where it is."""

    def __init__(self, source: Places, target: Places, ops: FileOps = OPS) -> None:
        self._source = source
        self._target = target
        self._ops = ops

    def check(self) -> None:
        """See that nothing of another log is at the new places, and that people can be carried there.

        Raises: UsageError, Malformed, AuditUnavailable.
        """
        source, target = self._source, self._target
        there = target.keys / "log.pub"
        if there.exists() and read_public_key(there) != read_public_key(source.keys / "log.pub"):
            raise UsageError(f"The keys folder {target.keys} holds another log's keys.", do="Name another: --to-keys")
        if _same(source.state, target.state):
            raise UsageError(
                f"Both places would remember their heads in {source.state}.", do="Name another one: --to-state DIR"
            )
        if source.subjects_file is None and not self._people_stay:
            raise UsageError(
                f"The table of people stays in the database: {source.subjects}.", do="Name the same for the new place."
            )

    def check_spool(self) -> None:
        """See that nothing waits to be written into the log. Raises: UsageError."""
        if waiting := list(spool_files(self._source.state / "spool")):
            raise UsageError(
                f"Entries that belong into the log still wait in {waiting[0].parent}.",
                do="Stop the programs that write, open the log where it is, and migrate again.",
            )

    @property
    def _people_stay(self) -> bool:
        one, other = self._source.subjects, self._target.subjects
        if isinstance(one, RemoteUrl) or isinstance(other, RemoteUrl):
            return isinstance(one, RemoteUrl) and isinstance(other, RemoteUrl) and one.name == other.name
        return _same(one, other)

    # --- there ------------------------------------------------------------------------------------

    def carry(self, head: bytes) -> None:
        """Copy to the new places; `head` is the signed checkpoint to remember there. Durable on return.

        Raises: StorageError, AuditUnavailable.
        """
        try:
            if self._source.subjects_file is not None and not self._people_stay:
                copy_people(self._source.subjects_file, self._target.subjects, self._ops)
            if not _same(self._source.vault, self._target.vault):
                self._copy_vault()
            if not _same(self._source.keys, self._target.keys):
                self._copy_keys()
        except (OSError, sqlite3.Error) as exc:
            reason = getattr(exc, "strerror", None) or str(exc)
            raise StorageError(f"What belongs to the log cannot be copied to its new place: {reason}.") from exc
        state = StateFolder(self._target.state, self._ops)
        state.create()
        state.write_head(head)

    def _copy_keys(self) -> None:
        files = [path for path in self._source.keys.iterdir() if path.is_file() and not self._is_people(path)]
        self._ops.make_folder(self._target.keys, _PRIVATE_FOLDER)
        for path in sorted(files, key=lambda path: (path.name in _IDENTITY, path.name)):
            mode = 0o644 if path.suffix in _PUBLIC else PRIVATE_MODE
            self._ops.replace(self._target.keys / path.name, path.read_bytes(), mode=mode)

    def _is_people(self, path: Path) -> bool:
        table = self._source.subjects_file
        return table is not None and any(_same(path, table.with_name(table.name + end)) for end in _TABLE)

    def _copy_vault(self) -> None:
        source, target = self._source.vault, self._target.vault
        for path in sorted(source.glob(f"*/*/*{SEALED_SUFFIX}")):
            place = target / path.relative_to(source)
            for folder in (target, place.parent.parent, place.parent):
                self._ops.make_folder(folder, _PRIVATE_FOLDER)
            self._ops.replace(place, path.read_bytes(), mode=PRIVATE_MODE)

    # --- and away ---------------------------------------------------------------------------------

    def leave(self) -> None:
        """Destroy what is private in the old places and was carried away; public keys and policy stay for readers.

        Best effort on the disk, as with every key (docs/threat-model.md). Raises: StorageError.
        """
        source, target = self._source, self._target
        doomed: list[Path] = []
        if not _same(source.keys, target.keys) and source.keys.is_dir():
            doomed += [path for path in source.keys.iterdir() if path.is_file() and path.suffix not in _PUBLIC]
        table = source.subjects_file
        if table is not None and not self._people_stay:
            doomed += [table.with_name(table.name + end) for end in _TABLE]
        if not _same(source.vault, target.vault):
            doomed += sorted(source.vault.glob(f"*/*/*{SEALED_SUFFIX}"))
        people = {path for path in doomed if self._is_people(path)} if self._people_stay else set()
        try:
            for path in sorted(set(doomed) - people, key=lambda path: (path.name in _IDENTITY, path)):
                self._ops.destroy(path)
        except OSError as exc:
            raise StorageError(
                f"The log goes on at {target.log}, but a private file of the old place stays: {exc.strerror}.",
                do=f"Make {source.keys} writable and migrate again, or destroy what is private there yourself.",
            ) from exc


def same_place(one: Places, other: Places) -> bool:
    """Tell whether two logs lie in one place."""
    if one.remote is None or other.remote is None:
        return one.remote is other.remote and _same(Path(one.log), Path(other.log))
    return one.remote.name == other.remote.name


def _same(one: Path | RemoteUrl, other: Path | RemoteUrl) -> bool:
    """Tell whether two names mean one place, there or not yet."""
    return os.path.realpath(str(one)) == os.path.realpath(str(other))
