"""Where a log's parts are, and which driver serves them: the only module that names a store's driver."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from klingai_audit.durable import OPS, FileOps
from klingai_audit.errors import (
    LogDamaged,
    LogMigrated,
    LogNotFound,
    Malformed,
    NoTrustedKey,
    StorageError,
    UnsafePermissions,
    UsageError,
)
from klingai_audit.ledger.keys import KeyFolder, read_public_key
from klingai_audit.ledger.moved import moved_to
from klingai_audit.ledger.reader import LogReader
from klingai_audit.ledger.state import FAILED_SYNC, OriginMemory, StateFolder, state_home
from klingai_audit.ledger.store import Store
from klingai_audit.privacy.policy import Policy
from klingai_audit.privacy.subjects import SqliteSubjects, SubjectTable
from klingai_audit.privacy.unseal_key import read_unseal_public
from klingai_audit.privacy.vault import Vault
from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.stores.memory import MemoryStore
from klingai_audit.stores.urls import OBJECT_SCHEMES, POSTGRES_SCHEMES, RemoteUrl
from klingai_audit.tlog.keys import VerifierKey

__all__ = [
    "DEFAULT_LOG",
    "KeySource",
    "Places",
    "TrustedKey",
    "check_modes",
    "known_mldsa_key",
    "left_for",
    "must_create",
    "open_reader",
    "open_store",
    "open_subjects",
    "open_vault",
    "state_folder",
    "subject_table",
    "trusted_key",
]

DEFAULT_LOG: Final = "audit"
"""The log's folder when neither an option nor `KLINGAI_AUDIT_LOG` names one."""

KeySource = Literal["option", "remembered", "keys folder", "first use"]


@dataclass(frozen=True, slots=True)
class Places:
    """The five places of a log (docs/format.md, "Places").

    `log` is a path, `memory:`, or a URL as it may be shown; `remote` is that URL as a driver needs it, None for the
    others. `subjects` may be a PostgreSQL table instead of a file.
    """

    log: str
    keys: Path
    state: Path
    subjects: Path | RemoteUrl
    vault: Path
    remote: RemoteUrl | None = None

    @classmethod
    def resolve(
        cls,
        log: str | os.PathLike[str] | RemoteUrl | None = None,
        keys: str | os.PathLike[str] | None = None,
        state: str | os.PathLike[str] | None = None,
        subjects: str | os.PathLike[str] | RemoteUrl | None = None,
        vault: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> Places:
        """Take each place from its option, else from the environment, else beside the log.

        Beside a log on a server is a folder of this log in the user's state directory. Environment:
        `KLINGAI_AUDIT_LOG`, `_KEYS`, `_STATE`, `_SUBJECTS`, `_VAULT`. Raises: UsageError for a URL scheme that
        this version does not serve, and where there is no state directory.
        """
        where = log or environ.get("KLINGAI_AUDIT_LOG") or DEFAULT_LOG
        where = where if isinstance(where, RemoteUrl) else os.fspath(where)
        remote = where if isinstance(where, RemoteUrl) else _remote(where, POSTGRES_SCHEMES | OBJECT_SCHEMES)
        shown = (str(where).rstrip("/") or "/") if remote is None else remote.shown
        beside = _Beside(shown, remote)
        keys_path = Path(keys or environ.get("KLINGAI_AUDIT_KEYS") or beside("keys"))
        state_path = Path(state or environ.get("KLINGAI_AUDIT_STATE") or beside("state"))
        table = subjects or environ.get("KLINGAI_AUDIT_SUBJECTS") or keys_path / "subjects.sqlite"
        if not isinstance(table, RemoteUrl):
            table = _remote(os.fspath(table), POSTGRES_SCHEMES) or Path(table)
        vault_path = Path(vault or environ.get("KLINGAI_AUDIT_VAULT") or beside("vault"))
        return cls(shown, keys_path, state_path, table, vault_path, remote)

    @property
    def address(self) -> str | RemoteUrl:
        """The log as `resolve` and `AuditLog.open` take it."""
        return self.remote or self.log

    @property
    def folder(self) -> Path | None:
        """The folder that the log lies in; None for one in memory or on a server."""
        return None if self.remote is not None or self.log == "memory:" else Path(self.log)

    @property
    def subjects_file(self) -> Path | None:
        """The file that holds the table of people; None for one in a database."""
        return None if isinstance(self.subjects, RemoteUrl) else self.subjects

    @property
    def home(self) -> Path:
        """The folder that the places are told relative to: the one that holds the log, or all that is beside it."""
        return Path(self.log).absolute().parent if self.remote is None else _remote_home(self.remote)

    def need_folder(self, act: str) -> Path:
        """Return the log's folder for an act (`"drill"`) that only logs in folders can have. Raises: UsageError."""
        if self.folder is None:
            raise UsageError(
                f"{act} needs a log in a folder; this one is at {self.log}.",
                do="Copy it into a folder first: klingai-audit backup FOLDER",
            )
        return self.folder

    def as_json(self) -> dict[str, str]:
        """Return the places as `places` in JSON output."""
        return {
            "log": self.log,
            "keys": str(self.keys),
            "subjects": str(self.subjects),
            "state": str(self.state),
            "vault": str(self.vault),
        }


class _Beside:
    """Where a place lies that nobody named; a temporary folder or a home is looked for only if it is asked."""

    def __init__(self, log: str, remote: RemoteUrl | None) -> None:
        self._log = log
        self._remote = remote

    def __call__(self, name: str) -> str:
        if self._remote is not None:
            return str(_remote_home(self._remote) / name)
        if self._log == "memory:":
            self._log = f"{tempfile.mkdtemp(prefix='klingai-audit-')}/audit"
        return f"{self._log}.{name}"


def _remote(where: str, served: frozenset[str]) -> RemoteUrl | None:
    """Return the URL that a place names, None for a path. Raises: UsageError for a scheme that is not served."""
    scheme, separator, _rest = where.partition("://")
    if not separator or "/" in scheme:
        return None
    if scheme.lower() not in served:
        raise UsageError(
            f"{scheme}:// URLs are not served here.", do=f"Give a path or one of: {', '.join(sorted(served))}."
        )
    return RemoteUrl(where)


def _remote_home(remote: RemoteUrl) -> Path:
    try:
        return state_home() / "logs" / remote.name
    except RuntimeError as exc:
        raise UsageError(
            "This user has no home, so there is no place for the keys and state of a log on a server.",
            do="Set XDG_STATE_HOME, or give --keys, --state and --vault.",
        ) from exc


def open_store(places: Places, ops: FileOps = OPS) -> Store:
    """Return the store of a log; nothing is created or locked. Raises: MissingExtra, UsageError."""
    if places.remote is not None:
        if places.remote.scheme == "postgresql":
            from klingai_audit.stores.postgres import PostgresStore

            return PostgresStore(places.remote)
        from klingai_audit.stores.objects import ObjectStore

        return ObjectStore(places.remote.reveal())
    if places.log == "memory:":
        return MemoryStore()
    return DirectoryStore(Path(places.log), places.state / FAILED_SYNC, ops)


def open_reader(places: Places) -> LogReader:
    """Return a reader of an existing log; writes nothing. Raises: LogNotFound."""
    store = open_store(places)
    if not store.exists():
        raise LogNotFound(
            f"There is no log at {places.log}.", do="Name one with --log, or create it: klingai-audit init"
        )
    return LogReader(store)


def subject_table(places: Places, lookup_key: bytes, *, read_only: bool = False) -> SubjectTable:
    """Open the table of people; a missing one is created, unless `read_only`. Raises: as `SqliteSubjects`."""
    if isinstance(places.subjects, RemoteUrl):
        from klingai_audit.stores.subjects_postgres import PostgresSubjects

        return PostgresSubjects(places.subjects, lookup_key, read_only=read_only)
    return SqliteSubjects(places.subjects, lookup_key, read_only=read_only)


def left_for(places: Places) -> str | None:
    """Return where the log went on if it was migrated; None if it goes on here, or nobody can tell."""
    with contextlib.suppress(StorageError, Malformed, OSError):
        reader = open_reader(places)
        return next(map(moved_to, reader.lines(reader.size - 1, reader.size)), None)
    return None


def open_subjects(places: Places) -> SubjectTable | None:
    """Return the subject table read-only, or None where it cannot be read: views then show pseudonyms."""
    try:
        return subject_table(places, KeyFolder(places.keys).lookup_key, read_only=True)
    except (OSError, UsageError, StorageError, Malformed):
        return None


def open_vault(places: Places, origin: str, policy: Policy, ops: FileOps = OPS) -> Vault:
    """Return the vault of a log; it can seal if `policy` wants that. Nothing is created.

    Raises: UsageError: policy has content sealed, and the keys folder has no unseal key. Malformed, StorageError.
    """
    if not policy.vault.seals:
        return Vault(places.vault, origin, ops=ops)
    try:
        return Vault(places.vault, origin, read_unseal_public(places.keys), ops=ops)
    except LogNotFound as exc:
        raise UsageError(
            f"The policy wants content sealed (vault.seal), but there is no unseal key in {places.keys}.",
            do="Run: klingai-audit keys unseal-init",
        ) from exc


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """The log key that verification starts from, and where it came from."""

    vkey: str
    source: KeySource


def trusted_key(places: Places, option: str | None = None, *, first_use: bool = False) -> TrustedKey:
    """Find the public key to verify with: `option` (a vkey or a file), else this machine's memory of the
    origin, else the keys folder, else (`first_use`) the one that the log's own first entry names. A memory or a
    folder that cannot be read counts as none.

    Raises: NoTrustedKey if there is none; Malformed if the option is no vkey.
    """
    if option is not None:
        if Path(option).is_file():
            return TrustedKey(read_public_key(Path(option)).format(), "option")
        return TrustedKey(VerifierKey.parse(option).format(), "option")
    reader = open_reader(places)
    try:
        remembered = OriginMemory().recall(reader.origin)
    except (Malformed, StorageError, OSError):
        remembered = None
    if remembered is not None:
        return TrustedKey(remembered, "remembered")
    with contextlib.suppress(StorageError, OSError):
        return TrustedKey(read_public_key(places.keys / "log.pub").format(), "keys folder")
    if first_use:
        return TrustedKey(_claimed_key(reader), "first use")
    raise NoTrustedKey(
        f"No public key is known for the log at {places.log}.",
        do="Give the key you were handed with --key VKEY|FILE, or trust the log's own claim: --trust-first-key",
    )


def known_mldsa_key(places: Places) -> TrustedKey | None:
    """Return the log's ML-DSA-44 key that this machine remembers, else the keys folder's; None if neither has one."""
    with contextlib.suppress(Malformed, StorageError, OSError):
        remembered = OriginMemory().recall_mldsa(open_reader(places).origin)
        if remembered is not None:
            return TrustedKey(VerifierKey.parse(remembered).format(), "remembered")
    with contextlib.suppress(Malformed, StorageError, OSError):
        return TrustedKey(read_public_key(places.keys / "mldsa.pub").format(), "keys folder")
    return None


def _claimed_key(reader: LogReader) -> str:
    from klingai_audit.event.record import decode_event

    claimed = decode_event(reader.entry(0)).details.get("log_key")
    if not isinstance(claimed, str):
        raise Malformed("The first entry names no log key.")
    return VerifierKey.parse(claimed).format()


def state_folder(places: Places, ops: FileOps = OPS) -> StateFolder:
    """Return the writers' memory of a log."""
    return StateFolder(places.state, ops)


def check_modes(places: Places) -> None:
    """Refuse to write where others may write, too, or where they may enter the vault. Private files check themselves.

    Who comes in neither as owner nor by the group is "others"; what the group may do is its owner's decision.
    Raises: UnsafePermissions, with the command that mends it.
    """
    log = [] if places.folder is None else [("log folder", places.folder)]
    for what, path in (*log, ("keys folder", places.keys), ("state folder", places.state)):
        if _lets_others(path, 0o002):
            raise UnsafePermissions(f"The {what} {path} may be written by others.", do=f"Run: chmod o-w {path}")
    if _lets_others(places.vault, 0o007):
        raise UnsafePermissions(f"The vault {places.vault} may be entered by others.",
                                do=f"Run: chmod o-rwx {places.vault}")  # fmt: skip


def _lets_others(folder: Path, bits: int) -> bool:
    """Tell whether a folder has one of these bits; what is not there or out of reach fails where it is used."""
    try:
        mode = folder.stat().st_mode
    except OSError:
        return False
    return stat.S_ISDIR(mode) and bool(mode & bits)


def must_create(
    places: Places, keys: KeyFolder, state: StateFolder, *, exists: Callable[[], bool], create: bool
) -> bool:
    """Decide whether a writer makes a new log; another process may be about to make it.

    Raises: LogNotFound: a log without its keys, or none where `create` is false. LogDamaged: keys without their log.
    UnsafePermissions: a place is open to others.
    """
    check_modes(places)
    if _is_pending(keys):
        return True
    found = exists()
    if not found and keys.exists():
        if _is_pending(keys):  # begun since the first look
            return True
        found = exists()  # and perhaps finished
    if found and not keys.exists():
        if (target := left_for(places)) is not None:
            raise LogMigrated(f"The log at {places.log} was migrated: it goes on at {target}.", do="Name that: --log")
        how = "restore it from your backup" if places.remote is None else "join: klingai-audit keys import-writer FILE"
        raise LogNotFound(
            f"There is a log at {places.log}, but no keys at {places.keys}.",
            do=f"Name its keys folder with --keys, or {how}. Reading and verifying need no keys.",
        )
    if not found and (keys.exists() or state.remembers):
        raise LogDamaged(
            f"The keys or the remembered head of a log are there, but the log at {places.log} is gone.",
            kind_of_damage="log_missing",
            do="Find out what removed it and restore it; a new log needs other places for keys and state.",
        )
    if not found and not create:
        raise LogNotFound(f"There is no log at {places.log}.", do="Create it: klingai-audit init")
    return not found


def _is_pending(keys: KeyFolder) -> bool:
    return keys.pending
