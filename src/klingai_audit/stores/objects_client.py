"""The requests that a log in a bucket needs: create-only and compare-and-swap puts, reads, listings. Through obstore.

The client itself repeats nothing: a put that landed and is repeated would come back as refused. What may be repeated
is repeated here, for a few seconds. Every request is counted.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Final, TypeVar

from klingai_audit.errors import AuditUnavailable, VerificationError
from klingai_audit.stores.objects_driver import Driver, driver, keep_for_ever

__all__ = ["PATIENCE_S", "Bucket", "Found", "Listed", "Refused", "Unsure"]

PATIENCE_S: Final = 5.0
"""How long a request that may be repeated is repeated, in seconds."""

_FIRST_PAUSE_S: Final = 0.05
_MAX_PAUSE_S: Final = 1.0
_THREADS: Final = 8
_LISTED: Final = 1000
_SIGNED: Final = timedelta(minutes=5)
_DENIED: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_STATUS: Final = re.compile(r"status code: ([0-9]{3})")
_MD5: Final = re.compile(r'"([0-9a-f]{32})"', re.ASCII)
_T = TypeVar("_T")
_U = TypeVar("_U")

_Tag = Mapping[str, str]
"""What names one version of an object for a compare-and-swap."""


class Refused(Exception):
    """The precondition of a put did not hold, or so the server says; the put may have landed a moment before."""


class Unsure(Exception):
    """A put got no answer to rely on. `denied` if the server refused it for lack of rights."""

    def __init__(self, reason: str, *, denied: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.denied = denied


@dataclass(frozen=True, slots=True)
class Found:
    """One object as it was read, with the tag of that version and the time of its change in seconds."""

    data: bytes
    tag: _Tag
    changed: float


@dataclass(frozen=True, slots=True)
class Listed:
    """One object as it was listed: size in bytes, time of the last change in seconds, `tag` of its content."""

    path: str
    size: int
    changed: float
    tag: str


class Bucket:
    """One prefix of a bucket. `make` opens it with a driver; paths are below the prefix.

    `keeps_versions` tells whether the last put left an older version behind it, where the server says so.
    """

    def __init__(self, make: Callable[[Driver], Any], url: str) -> None:
        self.url = url
        self.requests: Counter[str] = Counter()
        self._make = make
        self._opened: tuple[Driver, Any] | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._mutex = threading.Lock()
        self._odd_tags = False
        self.keeps_versions = False
        _BUCKETS.add(self)

    def after_fork(self) -> None:
        """In a forked child: leave the inherited client alone for ever; the next request opens another."""
        self._mutex = threading.Lock()
        if self._opened is not None:
            keep_for_ever(self._opened[1])
        self._opened = self._pool = None

    def close(self) -> None:
        """End the threads; the next request begins them again."""
        with self._mutex:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    # --- reading ----------------------------------------------------------------------------------

    def get(self, path: str, *, patience: float = PATIENCE_S) -> Found | None:
        """Return an object, None if there is none. Raises: AuditUnavailable."""
        api, store = self._client()

        def ask() -> Found | None:
            self._count("get")
            try:
                result = api.functions.get(store, path)
                meta = result.meta
                return Found(bytes(result.bytes()), _tag(meta), meta["last_modified"].timestamp())
            except FileNotFoundError:
                return None

        return self._insist(ask, f"reading {path}", patience)

    def read(self, path: str, parse: Callable[[Found], _T], *, patience: float = PATIENCE_S) -> _T | None:
        """Return what `parse` makes of an object; what is malformed is asked for once more, by another connection.

        Raises: what `parse` raises, AuditUnavailable.
        """
        found = self.get(path, patience=patience)
        if found is None:
            return None
        try:
            return parse(found)
        except VerificationError:
            self._renew()
            found = self.get(path, patience=patience)
            return None if found is None else parse(found)

    def listed(self, prefix: str = "") -> Iterator[Listed]:
        """Yield every object below `prefix`, a folder; order as the server gives. Raises: AuditUnavailable."""
        api, store = self._client()

        def ask() -> list[Listed]:
            self._count("list")
            stream = api.functions.list(store, prefix or None, chunk_size=_LISTED)
            found = [
                Listed(m["path"], m["size"], m["last_modified"].timestamp(), str(m["e_tag"] or ""))
                for part in stream
                for m in part
            ]
            self._count("list", len(found) // _LISTED)
            return found

        yield from self._insist(ask, f"listing {prefix or 'the log'}", PATIENCE_S)

    def lock_headers(self, path: str) -> Mapping[str, str]:
        """Return the headers by which the server describes an object, names in lower case.

        Empty if there is no such object, or if the store knows no such headers. Raises: AuditUnavailable.
        """
        import httpx2

        api, store = self._client()
        if not hasattr(store, "config"):
            return {}

        def ask() -> Mapping[str, str]:
            self._count("head")
            signed = httpx2.URL(str(api.functions.sign(store, "HEAD", path, _SIGNED)))
            try:
                with httpx2.Client(timeout=20) as client:  # which logs the address, but not the target
                    plain, target = signed.copy_with(query=None), {"target": signed.raw_path}
                    answer = client.request("HEAD", plain, extensions=target)
            except httpx2.HTTPError as exc:
                raise OSError(type(exc).__name__) from None  # its text may hold the signed address
            if answer.status_code == HTTPStatus.NOT_FOUND:
                return {}
            if not answer.is_success:  # not told is not free
                kind = PermissionError if answer.status_code in _DENIED else OSError
                raise kind(f"status code: {answer.status_code}")
            return {name.lower(): value for name, value in answer.headers.items()}

        return self._insist(ask, f"describing {path}", PATIENCE_S)

    # --- writing ----------------------------------------------------------------------------------

    def put_new(self, path: str, data: bytes) -> bool:
        """Create an object; False if there is one, which may be the very same. Raises: AuditUnavailable."""

        def ask() -> bool:
            try:
                self._put(path, data, "create")
            except Refused:
                return False
            except Unsure:
                found = self.get(path)
                if found is None:
                    raise OSError from None
                self._odd_tags = found.data == data  # the server encrypts, and has tags of its own
                return found.data == data
            return True

        return self._insist(ask, f"writing {path}", PATIENCE_S)

    def put(self, path: str, data: bytes) -> None:
        """Put an object, whatever was there, once. Raises: Unsure."""
        try:
            self._put(path, data, "overwrite")
        except (Refused, Unsure):
            raise Unsure("the server answered strangely") from None
        except Exception as exc:
            if not self._is_drivers(exc):
                raise
            raise Unsure(_reason(exc), denied=self._is_denial(exc)) from None

    def swap(self, path: str, data: bytes, tag: _Tag | None) -> _Tag:
        """Put `data` in the place of the version `tag` (None: of nothing), once. Raises: Refused, Unsure."""
        try:
            return _tag(self._put(path, data, "create" if tag is None else dict(tag)))
        except (Refused, Unsure):
            raise
        except Exception as exc:
            if not self._is_drivers(exc):
                raise
            raise Unsure(_reason(exc), denied=self._is_denial(exc)) from None

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects that may be gone already. Raises: AuditUnavailable."""
        api, store = self._client()

        def ask() -> None:
            self._count("delete")
            try:
                api.functions.delete(store, list(paths))
            except FileNotFoundError:
                for path in paths if len(paths) > 1 else ():
                    self.delete([path])

        if paths:
            self._insist(ask, f"removing {len(paths)} objects", PATIENCE_S)

    def _put(self, path: str, data: bytes, mode: Any) -> Any:
        api, store = self._client()
        self._count("put")
        try:
            put = api.functions.put(store, path, data, mode=mode, use_multipart=False)
        except (api.exceptions.AlreadyExistsError, api.exceptions.PreconditionError):
            raise Refused from None
        except FileNotFoundError:  # nothing is there to be swapped
            raise Refused from None
        if self._is_other(put["e_tag"], data):  # an answer to something else, perhaps
            self._renew()
            raise Unsure("the server answered strangely")
        self.keeps_versions = put["version"] is not None and not self.url.startswith("gs:")
        return put

    def _is_other(self, tag: str | None, data: bytes) -> bool:
        """Tell whether an entity tag in the form of an MD5 is not that of `data`, where tags are such at all."""
        found = None if self._odd_tags else _MD5.fullmatch(tag or "")
        return found is not None and found[1] != hashlib.md5(data, usedforsecurity=False).hexdigest()

    # --- many at once -----------------------------------------------------------------------------

    def each(self, act: Callable[[_T], _U], things: Iterable[_T]) -> list[_U]:
        """Do `act` to all, several at a time; results in order, or the first error."""
        todo = list(things)
        if len(todo) < 2:
            return [act(thing) for thing in todo]
        return list(self.threads().map(act, todo))

    def threads(self) -> ThreadPoolExecutor:
        """Return the threads that ask for several things at once."""
        with self._mutex:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="klingai-audit-objects")
            return self._pool

    # --- asking -----------------------------------------------------------------------------------

    def _client(self) -> tuple[Driver, Any]:
        opened = self._opened
        if opened is None:
            with self._mutex:
                if self._opened is None:
                    api = driver()
                    self._opened = (api, self._make(api))
                opened = self._opened
        return opened

    def _renew(self) -> None:
        """Use other connections from now on."""
        with self._mutex:
            self._opened = None

    def _insist(self, ask: Callable[[], _T], what: str, patience: float) -> _T:
        deadline, pause = time.monotonic() + patience, _FIRST_PAUSE_S
        while True:
            try:
                return ask()
            except Exception as exc:
                if not self._is_drivers(exc):
                    raise
                denied = self._is_denial(exc)
                if denied or time.monotonic() + pause > deadline:
                    raise self.unavailable(what, _reason(exc), denied=denied) from None
            time.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE_S)

    def unavailable(self, what: str, reason: str, *, denied: bool = False) -> AuditUnavailable:
        """Return the error for a request that was given up."""
        do = (
            "Check the credentials, and that they may read, write, list and delete there."
            if denied
            else "Check that the server can be reached from here (endpoint, region, network)."
        )
        return AuditUnavailable(f"{self.url}: {what} failed: {reason}.", do=do)

    def _is_drivers(self, exc: Exception) -> bool:
        return isinstance(exc, (OSError, self._client()[0].exceptions.BaseError))

    def _is_denial(self, exc: Exception) -> bool:
        names = self._client()[0].exceptions
        return isinstance(exc, (PermissionError, names.PermissionDeniedError, names.UnauthenticatedError))

    def _count(self, what: str, by: int = 1) -> None:
        with self._mutex:
            self.requests[what] += by


def _tag(meta: Any) -> _Tag:
    return {name: meta[name] for name in ("e_tag", "version") if meta[name] is not None}


def _reason(exc: Exception) -> str:
    """Say in own words what went wrong: the driver's may quote the server at length."""
    text = str(exc)
    if (status := _STATUS.search(text)) is not None:
        return f"the server answered {status[1]}"
    if "timed out" in text:
        return "the server did not answer in time"
    if "connect" in text or "tcp" in text:
        return "the server cannot be reached"
    return f"{type(exc).__name__}, and no word from the server"


_BUCKETS: Final[weakref.WeakSet[Bucket]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for bucket in list(_BUCKETS):
        bucket.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
