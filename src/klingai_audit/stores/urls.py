"""Addresses of logs and tables that lie on a server: kept whole for the driver, shown without what is secret."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from klingai_audit.errors import UsageError
from klingai_audit.stores.postgres_schema import DEFAULT_SCHEMA

__all__ = ["OBJECT_SCHEMES", "POSTGRES_SCHEMES", "RemoteUrl"]

POSTGRES_SCHEMES: Final = frozenset({"postgresql", "postgres"})
"""Schemes of a PostgreSQL database, in the spelling of libpq."""

OBJECT_SCHEMES: Final = frozenset({"s3", "gs", "az"})
"""Schemes of buckets: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage."""

_SECRET: Final = re.compile(r"pass|secret|token|credential|signature|sig\b|key", re.IGNORECASE)
_PLACE: Final = ("dbname", "host", "hostaddr", "port", "service")
_NO_STEPS: Final = frozenset({"", ".", ".."})
_ODD: Final = re.compile(r"[^A-Za-z0-9.]+")
_HOST: Final = re.compile(r"(\[[^]]*\]|[^][:]*)(:[0-9]*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class RemoteUrl:
    """A URL that may hold a password. Its text and its repr never show one; `reveal` is for drivers alone."""

    _whole: str = field(repr=False)
    shown: str = field(init=False)

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "shown", _without_secrets(self._whole))
        except ValueError:  # what the parser complains of may hold the password
            raise UsageError(
                "The URL of the log or table is not one.",
                do="Check its brackets and port; in user and password write / as %2F, ? as %3F, # as %23, @ as %40.",
            ) from None

    def __str__(self) -> str:
        return self.shown

    @property
    def scheme(self) -> str:
        """The scheme in lower case; `postgres` is `postgresql`."""
        scheme = self._whole.partition("://")[0].lower()
        return "postgresql" if scheme in POSTGRES_SCHEMES else scheme

    def reveal(self) -> str:
        """Return the URL as it was given, password included."""
        return self._whole

    @property
    def schema(self) -> str | None:
        """The schema that a PostgreSQL URL names, None if it names none or the usual one."""
        schema = dict(parse_qsl(urlsplit(self._whole).query)).get("schema")
        return None if schema == DEFAULT_SCHEMA else schema

    @property
    def bucket(self) -> tuple[str, str] | None:
        """Bucket and prefix; None unless the URL names just these, in a form that all clients read alike."""
        parts = urlsplit(self._whole)
        prefix = parts.path.strip("/")
        steps = prefix.split("/") if prefix else ()
        if self.scheme not in OBJECT_SCHEMES or not parts.netloc or "@" in parts.netloc or parts.query:
            return None
        return None if any(step in _NO_STEPS or "\\" in step for step in steps) else (parts.netloc, prefix)

    @property
    def place(self) -> str:
        """The URL without user and options, as an entry of a log may hold it: `scheme://host/path?schema=name`."""
        parts = urlsplit(self._whole)
        schema = "" if self.schema is None else f"?schema={self.schema}"
        return f"{self.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{schema}"

    @property
    def name(self) -> str:
        """A file name for what lies there: the same whoever asks, with whichever password and options.

        Made of scheme, host and path for people, and 12 hex digits of a SHA-256 that tell them apart.
        """
        parts = urlsplit(self._whole)
        hosts = parts.netloc.rpartition("@")[2]
        if self.scheme == "postgresql":
            hosts = hosts.lower()
        asked = parse_qsl(parts.query, keep_blank_values=True)
        place = sorted((name, value) for name, value in asked if name in _PLACE)
        place += [] if self.schema is None else [("schema", self.schema)]
        path = parts.path.rstrip("/")
        digest = hashlib.sha256("\n".join([self.scheme, hosts, path, urlencode(place)]).encode()).hexdigest()[:12]
        words = _ODD.sub("-", f"{self.scheme}-{hosts}{path}").strip("-.")[:80].rstrip("-.")
        return f"{words}-{digest}"


def _without_secrets(url: str) -> str:
    """Return what may be shown. Raises: ValueError, also where a password that was not escaped ends the host early."""
    parts = urlsplit(url)
    user, at, netloc = parts.netloc.rpartition("@")
    if parts.fragment:
        raise ValueError
    if parts.scheme.lower() in POSTGRES_SCHEMES:  # elsewhere a user is one half of a credential
        odd = [one for one in parts.query.split("&") if one and "=" not in one]
        if odd or "@" in parts.path or not all(map(_HOST.fullmatch, netloc.split(","))):
            raise ValueError
        netloc = user.partition(":")[0] + at + netloc
    elif ":" in netloc:
        raise ValueError
    asked = parse_qsl(parts.query, keep_blank_values=True)
    query = urlencode([(name, value) for name, value in asked if not _SECRET.search(name)], safe="/:,")
    return f"{parts.scheme}://{netloc}{parts.path}" + (f"?{query}" if query else "")
