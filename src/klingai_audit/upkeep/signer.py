"""The reference signer: signs checkpoints of one log with its log key, and never one that takes another back.

It belongs on another host than the log's writers (docs/signer.md). It signs nothing but checkpoints of its own log,
none smaller than the largest one that it signed, and no two of one size: whoever takes over a writer's host gets no
second history of what is signed already. Whether a larger tree contains the smaller one it cannot see; witnesses do.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from klingai_audit.durable import OPS, PRIVATE_MODE
from klingai_audit.errors import (
    InconsistentCheckpoints,
    Malformed,
    StorageError,
    UsageError,
)
from klingai_audit.ledger.keyfile import make_key_file, read_key_file
from klingai_audit.tlog.checkpoint import Checkpoint, parse_checkpoint
from klingai_audit.tlog.keys import ED25519, SignerKey, VerifierKey
from klingai_audit.tlog.note import sign_note

__all__ = ["MAX_REQUEST_BYTES", "REMEMBERED", "LogSigner", "make_key", "memory_beside"]

MAX_REQUEST_BYTES: Final = 65_536
"""A longer text is refused: it is no checkpoint."""

REMEMBERED: Final = 100_000
"""How many signed checkpoints the memory keeps; the largest is among them."""

_BUSY_S: Final = 5.0
_CREATE: Final = os.O_WRONLY | os.O_CREAT
_TABLE: Final = "CREATE TABLE IF NOT EXISTS signed (size INTEGER PRIMARY KEY, root BLOB NOT NULL) STRICT"


def make_key(path: Path, origin: str) -> VerifierKey:
    """Make the log key of a new log in a file that only its owner can read.

    Raises: UsageError, StorageError, Malformed.
    """
    return make_key_file(path, origin, taken="Name a new file: a log keeps its key for life.").verifier


def memory_beside(key: Path) -> Path:
    """Return where the memory of the signer with this key file lies unless another place is named."""
    return key.with_name(key.name + ".signed")


@dataclass(frozen=True, slots=True)
class LogSigner:
    """One log key in a file and the memory of what it signed; made anew for each signature."""

    key: Path
    memory: Path

    def sign(self, request: bytes) -> str:
        """Return the signature line over a checkpoint's text; that it was signed is durable before.

        Raises: Malformed: it is no checkpoint of this log; InconsistentCheckpoints: it takes one back that was
        signed; UsageError, UnsafePermissions, StorageError.
        """
        signer = self._read_key()
        try:
            text = request.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise Malformed("What is to be signed is not UTF-8.") from exc
        checkpoint = parse_checkpoint(text)
        if checkpoint.origin != signer.name or checkpoint.extensions:
            raise Malformed(f"What is to be signed is no checkpoint of {signer.name}, without extensions.")
        self._remember(signer, checkpoint)
        return sign_note(text, signer).decode().removeprefix(f"{text}\n")

    def newest(self) -> Checkpoint | None:
        """Return the largest checkpoint that was signed, None if none was. Raises: as `sign`."""
        name = self._read_key().name
        with self._open() as database:
            found = database.execute("SELECT size, root FROM signed ORDER BY size DESC LIMIT 1").fetchone()
        return None if found is None else Checkpoint(name, *found)

    def _read_key(self) -> SignerKey:
        signer = read_key_file(self.key, make="Make one: klingai-audit keys signer-keygen")
        if signer.algorithm != ED25519:
            raise UsageError(f"{self.key} is not a log key: it is of another type than Ed25519.")
        return signer

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            if not self.memory.exists():
                OPS.close(OPS.open(self.memory, _CREATE, PRIVATE_MODE))
                OPS.sync_folder(self.memory.parent)
            with contextlib.closing(sqlite3.connect(self.memory, timeout=_BUSY_S, isolation_level=None)) as database:
                database.execute("PRAGMA synchronous = EXTRA")
                database.execute("BEGIN IMMEDIATE")
                database.execute(_TABLE)
                yield database
                database.execute("COMMIT")
        except OSError as exc:
            raise StorageError(f"The signer's memory {self.memory} cannot be opened: {exc.strerror}.") from exc
        except sqlite3.Error as exc:
            raise StorageError(f"The signer's memory {self.memory} failed: {exc}.") from exc

    def _remember(self, signer: SignerKey, wanted: Checkpoint) -> None:
        with self._open() as database:
            largest = database.execute("SELECT size, root FROM signed ORDER BY size DESC LIMIT 1").fetchone()
            known = database.execute("SELECT root FROM signed WHERE size = ?", (wanted.size,)).fetchone()
            if known is not None and known[0] == wanted.root:
                return
            if largest is not None and wanted.size <= largest[0]:
                before = Checkpoint(signer.name, *(largest if known is None else (wanted.size, known[0])))
                raise InconsistentCheckpoints(
                    f"A tree of {before.size} entries is signed; this one has {wanted.size} and is not one of those "
                    f"signed on the way.",
                    older=before.text().encode(),
                    newer=wanted.text().encode(),
                    do="If nobody restored a backup, somebody is rewriting the log: docs/signer.md, “A refusal”.",
                )
            database.execute("INSERT INTO signed VALUES (?, ?)", (wanted.size, wanted.root))
            database.execute(
                "DELETE FROM signed WHERE size < "
                "(SELECT min(size) FROM (SELECT size FROM signed ORDER BY size DESC LIMIT ?))",
                (REMEMBERED,),
            )
