"""The keys folder of one log: log key, epoch keys, tail keys, and their rotation.

Files (docs/format.md): `log.key`/`log.pub` (the log's identity), `epoch-<k>.key`/`.pub` (forward security),
optional `mldsa.key`/`.pub` (against quantum forgers), `tail-<k>.key` (seals), `lookup.key`, `next/` (a rotation under
way), `init.pending` (an init under way). `log.signer` stands in the place of `log.key` if a program elsewhere holds
the log key. Readers need `log.pub` only. Rotation, every step durable before the next, all under the writer lock:
prepare `next/` → append `signing_key_rotated` → publish the handover checkpoint → promote (rename `next/*`
into place, destroy the outgoing private keys, remove `next/`). `resume` finishes a promotion that a crash cut.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from klingai_audit.durable import NO_FORK, OPS, PRIVATE_MODE, FileOps, read_optional
from klingai_audit.errors import AuditUnavailable, LogNotFound, Malformed, UsageError
from klingai_audit.ledger.external import SIGNER_FILE, SIGNING_INTERVAL_S, ExternalSigner, SignerSettings
from klingai_audit.ledger.keyfile import read_private
from klingai_audit.tlog.keys import ED25519, ML_DSA_44
from klingai_audit.tlog.note import NoteSigner, SignerKey, VerifierKey

__all__ = ["EpochKeys", "KeyFolder", "epoch_name", "read_public_key"]

_EPOCH_FILE: Final = re.compile(r"epoch-(0|[1-9][0-9]*)\.key")
_FOLDER_MODE: Final = 0o750
_REPEAT: Final = "Repeat it: klingai-audit init --signer COMMAND --signer-key VKEY"


def epoch_name(origin: str, epoch: int) -> str:
    """Return the key name of epoch `epoch`'s checkpoint line."""
    return f"{origin}/epoch-{epoch}"


@dataclass(frozen=True, slots=True)
class EpochKeys:
    """What signs and seals during one epoch; neither key appears in a repr."""

    epoch: int
    signer: SignerKey
    tail: bytes = field(repr=False)


def read_public_key(path: Path) -> VerifierKey:
    """Read a `.pub` file: one vkey and LF. Raises: LogNotFound, Malformed."""
    data = read_optional(path)
    if data is None:
        raise LogNotFound(f"There is no public key at {path}.", do="Give the log's keys folder with --keys.")
    return VerifierKey.parse(data.decode("utf-8", "replace").removesuffix("\n"))


class KeyFolder:
    """The private side of one log's keys. Not thread-safe: used under the writer lock."""

    def __init__(self, path: Path, ops: FileOps = OPS) -> None:
        self.path = path
        self._ops = ops
        self._log_signer: NoteSigner | None = None
        self._current: EpochKeys | None = None
        self._mldsa_signer: SignerKey | None = None

    # --- creation ---------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Tell whether this folder holds, or began to hold, a log's keys."""
        return self._has("log.key") or self._has(SIGNER_FILE) or self.pending

    @property
    def pending(self) -> bool:
        """Tell whether an `init` began here and was not finished. Raises: AuditUnavailable."""
        return self._has("init.pending")

    def _has(self, name: str) -> bool:
        try:
            return (self.path / name).exists()
        except OSError as exc:
            raise AuditUnavailable(f"The keys folder {self.path} cannot be read: {exc.strerror}.") from exc

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude other processes that create or move keys here; creates the folder."""
        try:
            self._ops.make_folder(self.path, _FOLDER_MODE)
            with NO_FORK:
                fd = self._ops.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as exc:
            raise AuditUnavailable(
                f"The keys folder {self.path} cannot be created or opened: {exc.strerror}.",
                do="Give a writable folder with --keys or KLINGAI_AUDIT_KEYS.",
            ) from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def create(self, origin: str, *, post_quantum: bool = False) -> None:
        """Create the keys of a new log, completing what a cut-off `create` began; durable on return.

        Requires `locked()`. `init.pending` stays until `created()`; the origin of a half-finished init wins. Does
        nothing if another process finished an init since the caller looked. With `post_quantum` an ML-DSA-44 key is
        among them. Raises: AuditUnavailable; MissingExtra if there is no ML-DSA here.
        """
        if not self.pending and self.exists():
            return
        try:
            self._create(origin, post_quantum=post_quantum)
        except OSError as exc:
            raise AuditUnavailable(f"Keys cannot be written to {self.path}: {exc.strerror}.") from exc

    def _create(self, origin: str, *, post_quantum: bool) -> None:
        if post_quantum:
            SignerKey.generate(origin, ML_DSA_44)  # whether it is possible here is seen before anything is written
        pending = read_optional(self.path / "init.pending")
        if pending is None:
            self._write("init.pending", f"{origin}\n".encode())
        else:
            origin, _, elsewhere = pending.decode().removesuffix("\n").partition("\n")
            if elsewhere and not self.external:
                raise LogNotFound(f"Creating {self.path} was cut off before its signer was noted.", do=_REPEAT)
        wanted = [(origin, ED25519, "log"), (epoch_name(origin, 0), ED25519, "epoch-0")]
        wanted += [(origin, ML_DSA_44, "mldsa")] if post_quantum else []
        for name, algorithm, file in wanted:
            public, private = f"{file}.pub", f"{file}.key"
            if not (self.path / private).exists() and not (private == "log.key" and self._has(SIGNER_FILE)):
                signer = SignerKey.generate(name, algorithm)
                self._write(public, f"{signer.verifier.format()}\n".encode(), mode=0o644)
                self._write(private, f"{signer.format()}\n".encode())
        for secret in ("tail-0.key", "lookup.key"):
            if not (self.path / secret).exists():
                self._write(secret, _encode_secret(secrets.token_bytes(32)))

    def plan_external(self, verifier: VerifierKey, settings: SignerSettings) -> None:
        """Begin the keys of a new log whose log key is elsewhere; `create` completes them. Requires `locked()`.

        May be repeated with other settings until then. Raises: UsageError if another log key is here; AuditUnavailable.
        """
        public = f"{verifier.format()}\n".encode()
        try:
            if self._has("log.key") or read_optional(self.path / "log.pub") not in (None, public):
                raise UsageError(f"The keys folder {self.path} holds another log key.", do="Name another: --keys")
            self._write("init.pending", f"{verifier.name}\nexternal\n".encode())
            self._write("log.pub", public, mode=0o644)
            self._write(SIGNER_FILE, settings.format())
        except OSError as exc:
            raise AuditUnavailable(f"Keys cannot be written to {self.path}: {exc.strerror}.") from exc

    def move_out(self, settings: SignerSettings) -> None:
        """From now on `settings` sign with the log key; the private key here, if there is one, is destroyed.

        Durable on return; a crash inside leaves a folder that signs in one way or the other. Raises: AuditUnavailable.
        """
        with self.locked():
            try:
                self._write(SIGNER_FILE, settings.format())
                self._ops.destroy(self.path / "log.key")
            except OSError as exc:
                raise AuditUnavailable(f"Keys cannot be written to {self.path}: {exc.strerror}.") from exc
            self._log_signer = None

    def write_policy(self, name: str, text: bytes) -> None:
        """Put a policy file beside the keys unless there is one; durable on return. Raises: AuditUnavailable."""
        try:
            if not (self.path / name).exists():
                self._write(name, text, mode=0o644)
        except OSError as exc:
            raise AuditUnavailable(f"The policy cannot be written to {self.path}: {exc.strerror}.") from exc

    def created(self) -> None:
        """Note that the log is published and `init` complete; durable on return."""
        if self.pending:
            try:
                self._ops.unlink(self.path / "init.pending")
                self._ops.sync_folder(self.path)
            except OSError as exc:
                raise AuditUnavailable(f"{self.path / 'init.pending'} cannot be removed: {exc.strerror}.") from exc

    # --- use --------------------------------------------------------------------------------------

    @property
    def external(self) -> bool:
        """Tell whether the log key is elsewhere. Raises: AuditUnavailable."""
        return self._has(SIGNER_FILE)

    @property
    def log_signer(self) -> NoteSigner:
        """The log key, or the way to it. Raises: LogNotFound, UnsafePermissions, Malformed, AuditUnavailable."""
        if self._log_signer is None:
            self._log_signer = self.external_signer() if self.external else self._read_signer("log.key")
        return self._log_signer

    def external_signer(self, settings: SignerSettings | None = None) -> ExternalSigner:
        """The program that holds the log key, as `log.signer` (or `settings`) names it. Raises: as `log_signer`."""
        where = self.path / SIGNER_FILE
        found = SignerSettings.parse(self._read_private(where), where) if settings is None else settings
        return ExternalSigner(read_public_key(self.path / "log.pub"), found)

    @property
    def signing_interval(self) -> float:
        """The shortest time between two checkpoints that the place of the log key asks for, in seconds."""
        return SIGNING_INTERVAL_S if isinstance(self._log_signer, ExternalSigner) else 0.0

    @property
    def origin(self) -> str:
        return self.log_signer.name

    @property
    def mldsa_signer(self) -> SignerKey | None:
        """The ML-DSA-44 key, None if this folder has none. Raises: UnsafePermissions, Malformed, MissingExtra."""
        if self._mldsa_signer is None and self._has("mldsa.key"):
            self._mldsa_signer = self._read_signer("mldsa.key")
        return self._mldsa_signer

    @property
    def mldsa_vkey(self) -> str | None:
        """The ML-DSA-44 key's public half, None if this folder has none. Raises: as `mldsa_signer`."""
        signer = self.mldsa_signer
        return None if signer is None else signer.verifier.format()

    @property
    def current(self) -> EpochKeys:
        """The epoch in force, as last read from the folder."""
        if self._current is None:
            self._current = self._read_epoch(self.path, max(self._epochs()))
        return self._current

    @property
    def lookup_key(self) -> bytes:
        """The 32-byte key under which subjects are found and credentials fingerprinted."""
        return self._read_secret(self.path / "lookup.key")

    def reload(self) -> EpochKeys:
        """Read the epoch in force again: another process may have rotated."""
        current = self._current = self._read_epoch(self.path, max(self._epochs()))
        return current

    def forget(self) -> None:
        """Drop every private key from this process's memory (after a fork, on close)."""
        self._log_signer = None
        self._current = None
        self._mldsa_signer = None

    # --- rotation ---------------------------------------------------------------------------------

    def next_keys(self) -> EpochKeys | None:
        """Return the prepared successor in `next/`, or None if there is none or it is incomplete."""
        epoch = self.current.epoch + 1
        folder = self.path / "next"
        if not all((folder / name).exists() for name in _names(epoch)):
            return None
        return self._read_epoch(folder, epoch)

    def prepare_next(self, successor: EpochKeys | None = None) -> EpochKeys:
        """Make sure that `next/` holds `successor`, or any complete one; durable on return."""
        epoch, folder = self.current.epoch + 1, self.path / "next"
        prepared = self.next_keys()
        if successor is not None and prepared is not None and prepared.signer != successor.signer:
            prepared = None
        signer = SignerKey.generate(epoch_name(self.origin, epoch)) if successor is None else successor.signer
        secret = secrets.token_bytes(32) if successor is None else successor.tail
        try:
            self._ops.make_folder(folder, _FOLDER_MODE)
            if prepared is not None:  # by a process that may have died before the names were durable
                self._ops.sync_folder(folder)
                return prepared
            key, tail, pub = _names(epoch)
            self._write(f"next/{pub}", f"{signer.verifier.format()}\n".encode(), mode=0o644)
            self._write(f"next/{tail}", _encode_secret(secret))
            self._write(f"next/{key}", f"{signer.format()}\n".encode())
        except OSError as exc:
            raise AuditUnavailable(f"The next epoch's keys cannot be written to {folder}: {exc.strerror}.") from exc
        return self._read_epoch(folder, epoch)

    def promote(self, successor: EpochKeys | None = None) -> None:
        """Make `next/` current and destroy the outgoing private keys; the handover is published before.

        Where no lock of the log excludes other processes, one of them may have come this far, or emptied `next/`: then
        `successor` is put there again. Durable on return; a crash anywhere inside is completed by `resume`.
        """
        epoch = self.current.epoch + 1
        with self.locked():
            newest = max(self._epochs())
            if successor is not None and newest < epoch:
                self.prepare_next(successor)
            self._promote(max(epoch, newest))
            self.reload()

    def resume(self) -> None:
        """Finish a promotion that a crash cut short, then read the epoch in force.

        Raises: LogNotFound, UnsafePermissions, Malformed; AuditUnavailable if the promotion cannot be finished.
        """
        self._epochs()  # a folder without keys is not a place to lock
        with self.locked():
            epochs = self._epochs()
            if len(epochs) > 1:
                self._promote(max(epochs))
            self.reload()

    def _promote(self, epoch: int) -> None:
        try:
            self._move_in(epoch)
            for old in self._epochs()[:-1]:
                self._ops.destroy(self.path / f"tail-{old}.key")
                self._ops.destroy(self.path / f"epoch-{old}.key")
            self._remove_next()
        except OSError as exc:
            raise AuditUnavailable(
                f"The epoch keys in {self.path} cannot be replaced: {exc.strerror}.",
                do="Make the keys folder writable and open the log again; the rotation then completes itself.",
            ) from exc

    def _move_in(self, epoch: int) -> None:
        # The private epoch key moves first: two of them in the folder mean that a promotion is under way. Whoever
        # moved it may have died before its new name was durable, so the folder is synced before anything else goes.
        key, tail, pub = _names(epoch)
        for names in ((key,), (tail, pub)):
            for name in names:
                if (self.path / "next" / name).exists():
                    self._ops.rename(self.path / "next" / name, self.path / name)
            self._ops.sync_folder(self.path)

    def _remove_next(self) -> None:
        # After power loss a name may still stand here for a file that also has its new name: unlink, do not overwrite.
        folder = self.path / "next"
        if folder.is_dir():
            for left in sorted(folder.iterdir()):
                self._ops.unlink(left)
            self._ops.rmdir(folder)
            self._ops.sync_folder(self.path)

    # --- files ------------------------------------------------------------------------------------

    def _epochs(self) -> list[int]:
        try:
            names = [path.name for path in self.path.iterdir()]
        except OSError as exc:
            raise LogNotFound(
                f"The keys folder {self.path} cannot be read: {exc.strerror}.", do="Name it with --keys."
            ) from exc
        epochs = sorted(int(match[1]) for name in names if (match := _EPOCH_FILE.fullmatch(name)))
        if not epochs:
            raise LogNotFound(
                f"The keys folder {self.path} holds no epoch key.",
                do="Name the log's keys folder with --keys, or restore it from your backup.",
            )
        return epochs

    def _read_epoch(self, folder: Path, epoch: int) -> EpochKeys:
        where = folder.relative_to(self.path)
        signer = self._read_signer(str(where / f"epoch-{epoch}.key"))
        if signer.name != epoch_name(self.origin, epoch):
            raise Malformed(f"{folder / f'epoch-{epoch}.key'} is a key of another log or epoch.")
        return EpochKeys(epoch, signer, self._read_secret(folder / f"tail-{epoch}.key"))

    def _read_signer(self, name: str) -> SignerKey:
        text = self._read_private(self.path / name).decode("ascii", "replace").removesuffix("\n")
        try:
            return SignerKey.parse(text)
        except Malformed as exc:
            raise Malformed(f"{self.path / name} is not a signer key.") from exc

    def _read_secret(self, path: Path) -> bytes:
        data = self._read_private(path)
        try:
            secret = base64.urlsafe_b64decode(data.removesuffix(b"\n") + b"=")
        except binascii.Error:
            secret = b""
        if len(secret) != 32 or _encode_secret(secret) != data:
            raise Malformed(f"{path} is not a 32-byte secret (43 base64url characters and LF).")
        return secret

    def _read_private(self, path: Path) -> bytes:
        try:
            data = read_private(path)
        except OSError as exc:
            raise AuditUnavailable(f"The private file {path} cannot be read: {exc.strerror}.") from exc
        if data is None:
            raise LogNotFound(f"The private file {path} is missing.", do="Restore the keys folder from your backup.")
        return data

    def _write(self, name: str, data: bytes, *, mode: int = PRIVATE_MODE) -> None:
        self._ops.replace(self.path / name, data, mode=mode)


def _names(epoch: int) -> tuple[str, str, str]:
    return f"epoch-{epoch}.key", f"tail-{epoch}.key", f"epoch-{epoch}.pub"


def _encode_secret(secret: bytes) -> bytes:
    return base64.urlsafe_b64encode(secret)[:43] + b"\n"
