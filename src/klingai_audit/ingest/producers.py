"""Who may send events, and what each may claim: a TOML file, read again when it changes. Tokens are kept as digests.

```toml
[producers.render-farm]
tokens = ["<SHA-256 of a token, in hex>"]   # several while one is being replaced
actors = ["*@studio.example", "render-*"]   # exact, or with * and ?
event_types = ["video_generation_*", "x_render_*"]
on_behalf_of = ["*@studio.example"]         # default: actors
actor = "render-farm"                       # of events that name nobody
```
"""

from __future__ import annotations

import hashlib
import re
import secrets
import stat
import threading
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path
from typing import Annotated, Final

import msgspec

from klingai_audit.durable import read_optional
from klingai_audit.errors import KlingAuditError, UnsafePermissions, UsageError
from klingai_audit.event.context import normalise_id
from klingai_audit.event.record import Draft
from klingai_audit.event.types import ALIASES
from klingai_audit.ingest.wire import INGESTIBLE
from klingai_audit.privacy.masks import mask_text
from klingai_audit.privacy.secrets import scrub_text

__all__ = ["Producer", "ProducerFile", "Producers", "check_name", "new_token", "sample"]

TOKEN_PREFIX: Final = "kai_ingest_"  # noqa: S105  # what every token begins with
"""How tokens begin, so that people and scanners for secrets recognise them."""

LOOK_S: Final = 1.0
"""Seconds for which a look at the file holds."""

RETRY_S: Final = 10.0
"""Seconds after which a good file that could not be recorded is tried again."""

_TOKEN_BYTES: Final = 32
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII).fullmatch
_MAX_BYTES: Final = 1 << 20
_Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Patterns = Annotated[list[Annotated[str, msgspec.Meta(min_length=1)]], msgspec.Meta(min_length=1)]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tokens: Annotated[list[_Digest], msgspec.Meta(min_length=1)]
    actors: _Patterns
    event_types: _Patterns
    on_behalf_of: _Patterns | None = None
    actor: Annotated[str, msgspec.Meta(min_length=1)] | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    producers: Annotated[dict[str, _Table], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, slots=True)
class Producer:
    """One program that sends events: its name, the actor of events that name none, and what it may claim."""

    name: str
    actor: str | None
    _actors: re.Pattern[str] = field(repr=False)
    _behalf: re.Pattern[str] = field(repr=False)
    _types: re.Pattern[str] = field(repr=False)

    def fault(self, draft: Draft) -> str | None:
        """Return why this producer may not claim this event, as JSON pointer and reason, or None if it may."""
        name = draft.event_type
        if not self._types.fullmatch(ALIASES.get(name, name)):
            return "/event_type: this producer may not claim this type"
        if draft.actor_id and not self._actors.fullmatch(normalise_id(draft.actor_id)):
            return "/actor_id: this producer may not claim this actor"
        if draft.on_behalf_of and not self._behalf.fullmatch(normalise_id(draft.on_behalf_of)):
            return "/on_behalf_of: this producer may not act for this person"
        return None


@dataclass(frozen=True, slots=True)
class Producers:
    """All producers by the SHA-256 of their tokens; `digest` is the file's own SHA-256, both in hex."""

    digest: str
    by_token: Mapping[str, Producer] = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all producers, sorted."""
        return tuple(sorted({one.name for one in self.by_token.values()}))

    @classmethod
    def parse(cls, data: bytes, where: str) -> Producers:
        """Read a file of producers. Raises: UsageError, which names `where` and never a token."""
        try:
            tables = msgspec.convert(tomllib.loads(data.decode()), _File).producers
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
            raise UsageError(f"{where} is not TOML in UTF-8.", do=_SHOWN) from None
        except msgspec.ValidationError as exc:
            place = str(exc).rpartition(" - at `$.")[2].removesuffix("`") if " - at `$." in str(exc) else "producers"
            words = "is not of its form" if "matching regex" in str(exc) else str(exc).split(" - at `")[0].lower()
            raise UsageError(f"{where}: {place}: {words}.", do=_SHOWN) from None
        by_token: dict[str, Producer] = {}
        for name, table in tables.items():
            check_name(name)
            producer = _made(name, table, where)
            for digest in table.tokens:
                if digest in by_token:
                    raise UsageError(f"{where}: producers.{name}: the same token stands there twice.", do=_SHOWN)
                by_token[digest] = producer
        return cls(hashlib.sha256(data).hexdigest(), by_token)

    def of(self, token: str) -> Producer | None:
        """Return whose token this is, or None."""
        return self.by_token.get(hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest())


class ProducerFile:
    """The file of producers at `path`, looked at again each second; any thread may ask.

    A file that cannot be used any more leaves the last one that could in force, and `told` is called with the error;
    `changed` is called with each new one, and may raise to keep it out of force until it is tried again.
    """

    def __init__(
        self,
        path: Path,
        *,
        changed: Callable[[Producers], None] = lambda _producers: None,
        told: Callable[[KlingAuditError], None] = lambda _error: None,
    ) -> None:
        self.path = path
        self._changed = changed
        self._told = told
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self._refused: tuple[int, ...] | None = None
        self._again = 0.0
        self._looked = time.monotonic()
        self._current = self._read()
        changed(self._current)

    def current(self) -> Producers:
        """Return the producers in force."""
        if time.monotonic() - self._looked >= LOOK_S and self._lock.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._looked = time.monotonic()
                self._lock.release()
        return self._current

    def _look(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen or (stamp == self._refused and time.monotonic() < self._again):
            return
        try:
            new = self._read()
        except KlingAuditError as error:
            self._seen = stamp
            self._told(error)
            return
        if new.digest != self._current.digest:
            try:
                self._changed(new)
            except KlingAuditError as error:  # the file is good: whoever it shuts out must not stay in for ever
                self._again = time.monotonic() + RETRY_S
                if stamp != self._refused:
                    self._refused = stamp
                    self._told(error)
                return
            self._current = new
        self._seen = stamp

    def _stamp(self) -> tuple[int, ...]:
        try:
            info = self.path.stat()
        except OSError:
            return ()
        return (info.st_dev, info.st_ino, info.st_mtime_ns, info.st_size, info.st_mode)

    def _read(self) -> Producers:
        try:
            data = read_optional(self.path, limit=_MAX_BYTES)
            writable = data is not None and self.path.stat().st_mode & stat.S_IWOTH
        except OSError as exc:
            raise UsageError(f"{self.path} cannot be read: {exc.strerror}.") from exc
        if data is None:
            raise UsageError(f"There is no file {self.path}.", do="Make a token: klingai-audit ingest-token NAME")
        if writable:
            raise UnsafePermissions(f"{self.path} may be written by others.", do=f"Run: chmod o-w {self.path}")
        return Producers.parse(data, str(self.path))


_SHOWN: Final = "docs/how-to/ingest.md shows one; klingai-audit ingest-token NAME prints a table for it."


def check_name(name: str) -> None:
    """Check a producer's name, which entries will hold. Raises: UsageError."""
    if not _NAME(name) or mask_text(scrub_text(name)) != name:
        raise UsageError(
            "A producer's name is of lower-case letters, digits, - and _, at most 63, and looks like no secret.",
            do="Name the program: render-farm",
        )


def new_token() -> tuple[str, str]:
    """Return a new random token and its SHA-256 in hex."""
    token = TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)
    return token, hashlib.sha256(token.encode()).hexdigest()


def sample(name: str, digest: str) -> str:
    """Return a table for the file of producers, to be edited. Raises: UsageError."""
    check_name(name)
    return (
        f"[producers.{name}]\n"
        f'tokens = ["{digest}"]\n'
        f'actors = ["{name}"]          # whom it may name: exact, or with * and ?\n'
        f'event_types = ["x_*"]       # what it may record\n'
        f'actor = "{name}"             # who acted, where an event does not say\n'
    )


def _made(name: str, table: _Table, where: str) -> Producer:
    actors = _matcher([normalise_id(pattern) for pattern in table.actors])
    behalf = actors if table.on_behalf_of is None else _matcher([normalise_id(one) for one in table.on_behalf_of])
    types = [ALIASES.get(pattern, pattern) for pattern in table.event_types]
    for pattern in types:
        if not pattern.startswith(("x_", "*")) and not any(map(_matcher([pattern]).fullmatch, INGESTIBLE)):
            raise UsageError(
                f"{where}: producers.{name}.event_types: {pattern[:64]!r} names no type that can be claimed.",
                do="docs/events.md lists them; those of the category `log` are the log's own.",
            )
    if table.actor is not None and not actors.fullmatch(normalise_id(table.actor)):
        raise UsageError(f"{where}: producers.{name}.actor is not among its actors.", do="Add it to actors.")
    return Producer(name, table.actor, actors, behalf, _matcher(types))


def _matcher(patterns: Sequence[str]) -> re.Pattern[str]:
    """Return what matches any of the patterns, in which only `*` and `?` are special."""
    return re.compile("|".join(translate(pattern.replace("[", "[[]")) for pattern in patterns))
