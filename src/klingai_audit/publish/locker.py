"""A bucket whose server lets nobody delete what is put there before its date: S3 Object Lock, in compliance mode.

Through boto3: obstore cannot say until when an object is to be kept. Every object is put once. The server is asked
whether the bucket locks, and told back what it says of an object.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from klingai_audit.errors import AuditUnavailable, HeadConflict, MissingExtra, StorageError, UsageError
from klingai_audit.stores.objects_driver import is_local, s3_endpoint
from klingai_audit.stores.urls import RemoteUrl

__all__ = ["Kept", "LockedBucket", "Locker", "open_locker"]

_MODE: Final = "COMPLIANCE"
_ABSENT: Final = ("NoSuchKey", "NoSuchVersion", "404", "NotFound")
_UNLOCKED: Final = ("ObjectLockConfigurationNotFoundError", "InvalidRequest", "NoSuchObjectLockConfiguration")
_DENIED: Final = ("AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch")
_MAKE: Final = "Make the bucket with Object Lock: it can be switched on at creation (docs/how-to/archive.md)."


@dataclass(frozen=True, slots=True)
class Kept:
    """One object as it was read: its bytes, the tag of that version, and until when the server keeps it."""

    data: bytes
    tag: str
    until: dt.datetime | None


class Locker(Protocol):
    """A prefix under lock; paths are below it. Safe to use from several threads."""

    url: str

    def get(self, path: str) -> Kept | None:
        """Return an object, None if there is none. Raises: AuditUnavailable."""
        ...

    def put_new(self, path: str, data: bytes, until: dt.datetime) -> bool:
        """Create an object that is kept until then; False if there is one. Raises: AuditUnavailable, StorageError."""
        ...

    def replace(self, path: str, data: bytes, tag: str | None, until: dt.datetime) -> None:
        """Put another version over the one of `tag` (None: over nothing); the old one stays, under its own lock.

        Raises: HeadConflict (there is another), AuditUnavailable.
        """
        ...

    def extend(self, path: str, until: dt.datetime) -> None:
        """Keep the newest version of an object longer. Raises: AuditUnavailable."""
        ...

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the paths of the objects in a folder. Raises: AuditUnavailable."""
        ...


class LockedBucket:
    """See `Locker`."""

    def __init__(self, client: Any, faults: Any, bucket: str, prefix: str) -> None:
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._client = client
        self._faults = faults
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._keeps = False

    def check(self) -> None:
        """Raises: UsageError if the bucket does not lock; whoever may not ask that finds out at the first object."""
        try:
            with self._asking("asking for its Object Lock"):
                found = self._client.get_object_lock_configuration(Bucket=self._bucket)
        except _Refusal as exc:
            if exc.code in _UNLOCKED:
                raise UsageError(f"The bucket {self._bucket} has no Object Lock.", do=_MAKE) from exc
            if exc.code in _DENIED:
                return
            raise self._unavailable("asking for its Object Lock", exc.code) from exc
        if found.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") != "Enabled":
            raise UsageError(f"The bucket {self._bucket} has no Object Lock.", do=_MAKE)

    def get(self, path: str) -> Kept | None:
        try:
            with self._asking(f"reading {path}"):
                found = self._client.get_object(Bucket=self._bucket, Key=self._prefix + path)
                return Kept(found["Body"].read(), found["ETag"], found.get("ObjectLockRetainUntilDate"))
        except _Refusal as exc:
            if exc.code in _ABSENT:
                return None
            raise self._unavailable(f"reading {path}", exc.code) from exc

    def put_new(self, path: str, data: bytes, until: dt.datetime) -> bool:
        try:
            self._put(path, data, until, IfNoneMatch="*")
        except HeadConflict:
            return False
        if not self._keeps:
            self._check_kept(path, until)
            self._keeps = True
        return True

    def replace(self, path: str, data: bytes, tag: str | None, until: dt.datetime) -> None:
        if tag is None:
            self._put(path, data, until, IfNoneMatch="*")
        else:
            self._put(path, data, until, IfMatch=tag)
        self._check_kept(path, until)

    def extend(self, path: str, until: dt.datetime) -> None:
        retention = {"Mode": _MODE, "RetainUntilDate": until}
        try:
            with self._asking(f"keeping {path} longer"):
                self._client.put_object_retention(Bucket=self._bucket, Key=self._prefix + path, Retention=retention)
        except _Refusal as exc:
            raise self._unavailable(f"keeping {path} longer", exc.code) from exc

    def names(self, prefix: str) -> Iterator[str]:
        pages = self._client.get_paginator("list_objects_v2")
        try:
            with self._asking(f"listing {prefix}"):
                for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                    for found in page.get("Contents", ()):
                        yield found["Key"].removeprefix(self._prefix)
        except _Refusal as exc:
            raise self._unavailable(f"listing {prefix}", exc.code) from exc

    def _put(self, path: str, data: bytes, until: dt.datetime, **condition: str) -> None:
        lock = {"ObjectLockMode": _MODE, "ObjectLockRetainUntilDate": until}
        try:
            with self._asking(f"writing {path}"):
                self._client.put_object(Bucket=self._bucket, Key=self._prefix + path, Body=data, **lock, **condition)
        except _Refusal as exc:
            if exc.code in ("PreconditionFailed", "412", "ConditionalRequestConflict"):
                raise HeadConflict(f"{self.url} holds another {path} already.") from exc
            if exc.code in _UNLOCKED:
                raise UsageError(f"The bucket {self._bucket} takes no object under lock.", do=_MAKE) from exc
            raise self._unavailable(f"writing {path}", exc.code) from exc

    def _check_kept(self, path: str, until: dt.datetime) -> None:
        """Raises: StorageError unless the server says itself that it keeps an object until then."""
        try:
            with self._asking(f"looking at {path}"):
                found = self._client.head_object(Bucket=self._bucket, Key=self._prefix + path)
        except _Refusal as exc:
            raise self._unavailable(f"looking at {path}", exc.code) from exc
        kept = found.get("ObjectLockRetainUntilDate")
        if found.get("ObjectLockMode") != _MODE or kept is None or kept < until:
            raise StorageError(
                f"{self.url} took {path}, but does not say that it keeps it until {until:%Y-%m-%d}.",
                do="Look at the object's retention, and allow s3:GetObjectRetention to these credentials.",
            )

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._faults.ClientError as exc:
            raise _Refusal(str(exc.response.get("Error", {}).get("Code", ""))) from exc
        except (self._faults.BotoCoreError, self._faults.HTTPClientError, OSError) as exc:
            raise self._unavailable(what, type(exc).__name__) from exc

    def _unavailable(self, what: str, code: str) -> AuditUnavailable:
        do = "Check that the server can be reached from here (endpoint, region, network)."
        if code in _DENIED or "Credential" in code:
            do = "Check the credentials: they need to read, list and put with retention (docs/how-to/archive.md)."
        return AuditUnavailable(f"{self.url}: {what} failed: {code or 'the server refused'}.", do=do)


class _Refusal(Exception):
    """The server answered with an error; `code` is its name for it."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def open_locker(url: str) -> LockedBucket:
    """Open `s3://bucket/prefix`, whose server must lock objects; credentials, region and endpoint as for the AWS CLI.

    Raises: MissingExtra, UsageError, AuditUnavailable.
    """
    place = RemoteUrl(url)
    if place.scheme != "s3" or place.bucket is None:
        raise UsageError(
            f"{place} is no place for an archive.",
            do="Name a bucket: --to s3://bucket/prefix; credentials come from the environment.",
        )
    try:
        import boto3
        import botocore.exceptions
        from botocore.config import Config
    except ImportError as exc:
        raise MissingExtra("Archives need boto3.", do="pip install 'klingai-audit[archive]'") from exc
    endpoint = s3_endpoint() or None
    if endpoint is not None and not _is_private(endpoint):
        raise UsageError(
            "The endpoint in the environment is plain http to another machine: anybody could read and change it.",
            do="Use https, or set AWS_ALLOW_HTTP=true for a network that you trust.",
        )
    own = {"s3": {"addressing_style": "path"}} if endpoint is not None else {}
    config = Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 4}, **own)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    try:
        client = boto3.client("s3", region_name=region, endpoint_url=endpoint, config=config)
    except (botocore.exceptions.BotoCoreError, ValueError) as exc:
        raise UsageError(
            f"{place} cannot be opened with the settings in the environment: {type(exc).__name__}."
        ) from exc
    made = LockedBucket(client, botocore.exceptions, *place.bucket)
    made.check()
    return made


def _is_private(endpoint: str) -> bool:
    """Tell whether an endpoint is https, or this very machine, or http on the user's word."""
    allowed = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")
    return allowed or urlsplit(endpoint).scheme == "https" or is_local(endpoint)
