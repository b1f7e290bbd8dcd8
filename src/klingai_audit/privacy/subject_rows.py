"""Rows of a subject table, wherever it lies: how an id becomes a look-up value, a pseudonym, a key and a sealed id.

Source: docs/format.md, "Pseudonyms and commitments".
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import os
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from klingai_audit.errors import InvalidEvent, StorageError
from klingai_audit.event.context import OWN_ACTOR, UNKNOWN_ACTOR, normalise_id

__all__ = ["MAX_ID_CHARACTERS", "RESERVED", "Subject", "SubjectRow", "SubjectRows", "checked_id", "remember"]

RESERVED: Final = (UNKNOWN_ACTOR, OWN_ACTOR)
"""Ids that are their own pseudonym."""

MAX_ID_CHARACTERS: Final = 512
"""Longest id of a subject."""

_CACHE_ENTRIES: Final = 100_000
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_SEAL_DOMAIN: Final = b"klingai-audit/subject/v1\0"


@dataclass(frozen=True, slots=True)
class Subject:
    """One row: the pseudonym, the 32-byte subject key (never shown), and whether the row is a reserved one."""

    pseudonym: str
    key: bytes = field(repr=False)
    reserved: bool = False


class SubjectRow(NamedTuple):
    """What a table holds of one subject: `lookup` and `key` have 32 bytes, `sealed` is nonce and encrypted id."""

    lookup: bytes
    pseudonym: str
    kind: str
    key: bytes
    sealed: bytes
    reserved: bool

    def __repr__(self) -> str:
        return f"SubjectRow({self.pseudonym!r})"

    @property
    def subject(self) -> Subject:
        """What others see of the row."""
        return Subject(self.pseudonym, self.key, self.reserved)


class SubjectRows:
    """Makes and opens rows under one look-up key of 32 bytes; `where` is the table in errors. Raises: StorageError."""

    def __init__(self, lookup_key: bytes, where: str) -> None:
        if len(lookup_key) != _KEY_BYTES:
            raise StorageError(f"the look-up key of {where} has {len(lookup_key)} bytes, expected {_KEY_BYTES}")
        self._lookup_key = lookup_key
        self._where = where

    def lookup(self, normal: str) -> bytes:
        """Return the 32-byte look-up value of a normalised id."""
        return hmac.digest(self._lookup_key, normal.encode("utf-8", "surrogatepass"), "sha256")

    def new(self, normal: str, kind: str) -> SubjectRow:
        """Return a fresh row of a normalised id: random pseudonym and key, the id sealed under it."""
        reserved = normal in RESERVED
        pseudonym = normal if reserved else "p_" + base64.urlsafe_b64encode(os.urandom(16))[:22].decode("ascii")
        key, nonce = os.urandom(_KEY_BYTES), os.urandom(_NONCE_BYTES)
        text = normal.encode("utf-8", "surrogatepass")
        sealed = nonce + AESGCM(key).encrypt(nonce, text, _SEAL_DOMAIN + pseudonym.encode("ascii"))
        return SubjectRow(self.lookup(normal), pseudonym, kind, key, sealed, reserved)

    def unseal(self, pseudonym: str, key: bytes, sealed: bytes) -> str:
        """Return the id that a row holds. Raises: StorageError: it does not open under its own key."""
        additional = _SEAL_DOMAIN + pseudonym.encode("utf-8")
        try:
            text = AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], additional)
            return text.decode("utf-8", "surrogatepass")
        except (InvalidTag, ValueError) as exc:
            raise StorageError(
                f"{self._where}: the sealed id of {pseudonym} does not open under its own key",
                do="The subject table was changed from outside: preserve it, and restore a backup.",
            ) from exc

    def check_key(self, lookup_of_unknown: bytes | None) -> None:
        """Compare with the look-up value of the reserved row `unknown`. Raises: StorageError: of another key."""
        if lookup_of_unknown != self.lookup(UNKNOWN_ACTOR):
            raise StorageError(
                f"{self._where}: the look-up key is not the one that this subject table was made with",
                do="Use the keys folder that belongs to this table.",
            )


def remember(cache: dict[str, Subject], id: str, subject: Subject) -> None:
    """Add to a cache of bounded size; the oldest goes. Several threads may do so at the same time."""
    if len(cache) >= _CACHE_ENTRIES:
        with contextlib.suppress(KeyError, RuntimeError):  # another thread took it away
            del cache[next(iter(cache))]
    cache[id] = subject


def checked_id(text: str) -> str:
    """Return the normalised id. Raises: InvalidEvent: empty or too long."""
    normal = normalise_id(text)
    if not normal or len(normal) > MAX_ID_CHARACTERS:
        raise InvalidEvent(f"an id is empty or longer than {MAX_ID_CHARACTERS} characters")
    return normal
