"""Every exception of the package, and the exit code that the command line gives for it.

::

    KlingAuditError                 1  something failed; the base of all below
    ├── AccessDenied                1  policy wants another role, or a second person's approval
    ├── UsageError                  2  the caller's input is off; nothing was written
    │   ├── InvalidEvent            2  an event that the log cannot hold as given
    │   │   ├── UnknownEventType    2
    │   │   ├── ActorConflict       2  a call names another actor than `acting()` bound
    │   │   └── EventTooLarge       2
    │   ├── InvalidPolicy           2  policy.toml does not parse or contradicts itself
    │   ├── UnsafePermissions       2  a private file is readable by too many
    │   ├── NoTrustedKey            2  verification was asked for without a key to trust
    │   └── MissingExtra            2  an optional dependency is not installed
    ├── UnderHold                   1  a legal hold stands against an erasure
    ├── StorageError                3  disk, database or network
    │   ├── AuditUnavailable        3  the act cannot be recorded, so it must not happen
    │   │   ├── LogMigrated         3  the log goes on in another store, which the message names
    │   │   └── SignerUnavailable   3  entries are durable; the signer of the log key does not sign over them
    │   ├── LogNotFound             3  no log (or no keys) where one was expected
    │   ├── UnsupportedStorage      3  a file system that cannot keep the promises
    │   └── HeadConflict            3  another writer moved the head; reload and retry
    └── VerificationError           4  evidence does not hold
        ├── Malformed               4  bytes that are not of the claimed format
        ├── InvalidSignature        4
        ├── InvalidProof            4
        ├── InconsistentCheckpoints 4  two signed histories that exclude each other
        └── LogDamaged              4  the log contradicts what was signed or remembered

No message of these carries event content, credentials, raw e-mail or IP addresses.
"""

from __future__ import annotations

__all__ = [
    "AccessDenied",
    "ActorConflict",
    "AuditUnavailable",
    "EventTooLarge",
    "HeadConflict",
    "InconsistentCheckpoints",
    "InvalidEvent",
    "InvalidPolicy",
    "InvalidProof",
    "InvalidSignature",
    "KlingAuditError",
    "LogDamaged",
    "LogMigrated",
    "LogNotFound",
    "Malformed",
    "MissingExtra",
    "NoTrustedKey",
    "SignerUnavailable",
    "StorageError",
    "UnderHold",
    "UnknownEventType",
    "UnsafePermissions",
    "UnsupportedStorage",
    "UsageError",
    "VerificationError",
]


class KlingAuditError(Exception):
    """Base of all errors of this package.

    `message` says what is wrong and where; `do` says what to do next (may be empty).
    `exit_code` is what the command line exits with.
    """

    exit_code = 1

    def __init__(self, message: str, *, do: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.do = do

    @property
    def kind(self) -> str:
        """The class name, as `error.kind` in JSON output."""
        return type(self).__name__

    def __str__(self) -> str:
        return f"{self.message} {self.do}".rstrip()

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.__dict__.copy()))


def _rebuild(cls: type[KlingAuditError], state: dict[str, object]) -> KlingAuditError:
    error = cls.__new__(cls)
    error.__dict__.update(state)
    error.args = (state.get("message", ""),)
    return error


class AccessDenied(KlingAuditError):
    """The policy lets this person do this not at all, or not alone; an `access_denied` entry says so."""


class UsageError(KlingAuditError, ValueError):
    """The caller's input is wrong; nothing was written."""

    exit_code = 2


class InvalidEvent(UsageError):
    """The event cannot be encoded as given; nothing was written."""


class UnknownEventType(InvalidEvent):
    """The event type is neither registered nor an own `x_…` type."""


class ActorConflict(InvalidEvent):
    """The call names another actor than the one bound by `acting()`."""


class EventTooLarge(InvalidEvent):
    """The encoded event exceeds 65,338 bytes (docs/format.md)."""


class InvalidPolicy(UsageError):
    """policy.toml does not parse, or two of its settings exclude each other."""


class UnsafePermissions(UsageError):
    """A private file can be read by more than its owner and group."""


class NoTrustedKey(UsageError):
    """No public key was given and this machine remembers none for the origin."""


class MissingExtra(UsageError):
    """An optional dependency is missing; the message names the extra to install."""


class UnderHold(KlingAuditError):
    """A legal hold stands against an erasure; nothing was changed. The message names the hold."""


class StorageError(KlingAuditError):
    """A disk, database or network operation failed."""

    exit_code = 3


class AuditUnavailable(StorageError):
    """The act cannot be recorded, so it must not happen; nothing was acknowledged."""


class LogMigrated(AuditUnavailable):
    """The log goes on in another store: nothing was written here, and nothing will be."""


class SignerUnavailable(AuditUnavailable):
    """The command that signs with the log key gave no valid signature; entries are durable, and it is asked again."""


class LogNotFound(StorageError):
    """There is no log, or there are no keys, where one was expected."""


class UnsupportedStorage(StorageError):
    """The file system or platform cannot keep the promises of a log."""


class HeadConflict(StorageError):
    """Another writer moved the head first; the caller reloads and tries again."""


class VerificationError(KlingAuditError):
    """Evidence does not hold."""

    exit_code = 4


class Malformed(VerificationError, ValueError):
    """Bytes are not of the claimed format; parsers raise nothing else for bad input."""


class InvalidSignature(VerificationError):
    """A signature by a known key does not verify, or a demanded one is absent."""


class InvalidProof(VerificationError):
    """A Merkle proof does not lead to the root."""


class InconsistentCheckpoints(VerificationError):
    """Two checkpoints signed by one log exclude each other; both are the exhibit."""

    def __init__(self, message: str, *, older: bytes, newer: bytes, do: str = "") -> None:
        super().__init__(message, do=do)
        self.older = older
        self.newer = newer


class LogDamaged(VerificationError):
    """The log contradicts what was signed or remembered; it is never repaired over.

    `kind_of_damage` is a finding kind of `klingai_audit.trust.verdict`.
    """

    def __init__(self, message: str, *, kind_of_damage: str, do: str = "") -> None:
        super().__init__(message, do=do or "Preserve the files as they are and run: klingai-audit verify")
        self.kind_of_damage = kind_of_damage
