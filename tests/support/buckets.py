"""A bucket in memory whose client dies, or gets a wrong answer, at a chosen request; and what a bucket has to hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any, Literal

from klingai_audit.stores.objects import ObjectStore
from klingai_audit.stores.objects_driver import Driver, driver
from klingai_audit.stores.objects_format import kind_of, note_size
from klingai_audit.testing.batches import BatchMaker
from klingai_audit.tlog.tile import TILE_WIDTH, decode_bundle, encode_bundle, tile_path, tiles_of
from tests.reference.merkle import root

How = Literal["before", "after"]
"""Whether the request is lost, or done and its answer lost."""


class Died(BaseException):
    """The process is gone, as far as the log is concerned."""


class Requests:
    """obstore's functions over one store in memory; `at` is the request that fails, with `error`, or dies.

    `made` are (function, path) of all requests.
    """

    def __init__(self) -> None:
        self._functions = driver().functions
        self.made: list[tuple[str, str]] = []
        self.at: int | None = None
        self.how: How = "before"
        self.error: Callable[[], BaseException] = Died
        self.careless = False

    def get(self, store: Any, path: str) -> Any:
        return self._do("get", path, lambda: self._functions.get(store, path))

    def put(self, store: Any, path: str, data: bytes, *, mode: Any, use_multipart: bool) -> Any:
        how = "overwrite" if self.careless else mode
        return self._do("put", path, lambda: self._functions.put(store, path, data, mode=how))

    def list(self, store: Any, prefix: str | None, *, chunk_size: int) -> Any:
        return self._do("list", prefix or "", lambda: self._functions.list(store, prefix, chunk_size=chunk_size))

    def delete(self, store: Any, paths: list[str]) -> None:
        return self._do("delete", ",".join(paths), lambda: self._functions.delete(store, paths))

    def _do(self, what: str, path: str, act: Callable[[], Any]) -> Any:
        number = len(self.made)
        self.made.append((what, path))
        if number == self.at and self.how == "before":
            raise self.error()
        try:
            return act()
        finally:
            if number == self.at:
                raise self.error()


class _Now(Executor):
    """Does at once what is asked for."""

    def submit(self, act: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(act(*arguments, **options))
        return future


def memory_bucket() -> Any:
    """Return an empty bucket in memory."""
    return driver().stores.MemoryStore()


def open_memory(bucket: Any, requests: Requests | None = None) -> ObjectStore:
    """Open a log in a bucket in memory; with `requests`, through them, one after the other."""
    store = ObjectStore("s3://bucket/log", lambda _driver: bucket)
    if requests is not None:
        original = driver()
        client = (Driver(requests, original.stores, original.exceptions), bucket)
        store.bucket._client = lambda: client  # type: ignore[method-assign]
        store.bucket.each = lambda act, things: [act(thing) for thing in things]  # type: ignore[method-assign]
        store.bucket.threads = _Now  # type: ignore[method-assign,assignment]
    return store


def contents(bucket: Any) -> dict[str, bytes]:
    """Return every object of a bucket in memory."""
    functions = driver().functions
    paths = [meta["path"] for part in functions.list(bucket) for meta in part]
    return {path: bytes(functions.get(bucket, path).bytes()) for path in paths}


@contextmanager
def dying(requests: Requests, at: int, how: How) -> Iterator[None]:
    """Let the process die at request number `at` from here on, if there are so many."""
    requests.made.clear()
    requests.at, requests.how = at, how
    try:
        yield
    except Died:
        pass
    finally:
        requests.at = None


def check_published(found: dict[str, bytes], lines: list[bytes]) -> int:
    """Check that a stranger can read everything under the public checkpoint; returns its size."""
    size = note_size(found["checkpoint"]) if "checkpoint" in found else 0
    for path, data in tree_files(lines[:size]).items():
        whole = path.partition(".p/")[0]
        there = found.get(path)
        if there is None:
            there = found[whole][: len(data)]
        assert data == there, path
    return size


def tree_files(lines: list[bytes]) -> dict[str, bytes]:
    """Return tiles and bundles of a log, obvious and slow."""
    files: dict[str, bytes] = {}
    below = [BatchMaker.leaves([line]) for line in lines]
    for level, n, width in tiles_of(len(lines)):
        if n == 0 and level:
            below = [root(below[at : at + TILE_WIDTH]) for at in range(0, len(below) - TILE_WIDTH + 1, TILE_WIDTH)]
        files[tile_path(level, n, width)] = b"".join(below[n * TILE_WIDTH : n * TILE_WIDTH + width])
    for at in range(0, len(lines), TILE_WIDTH):
        part = lines[at : at + TILE_WIDTH]
        files[tile_path("entries", at // TILE_WIDTH, len(part))] = encode_bundle(part)
    return files


def check_tidy(found: dict[str, bytes], lines: list[bytes]) -> None:
    """Check that besides the tree of all `lines` nothing is there but what the format names."""
    tree = tree_files(lines)
    for path, data in found.items():
        kind = kind_of(path)
        assert kind != "stray", path
        if kind == "tile" and path in tree:
            assert data == tree[path], path
        elif kind == "tile":  # a partial one of an older checkpoint
            whole, partial, _width = path.partition(".p/")
            assert partial, path
            assert whole not in tree, f"{path} is not needed any more"
            full = [line for name, held in tree.items() if name.startswith(whole) for line in _parts(name, held)]
            assert _parts(path, data) == full[: len(_parts(path, data))], path


def _parts(path: str, data: bytes) -> list[bytes]:
    if path.startswith("tile/entries/"):
        return decode_bundle(data)
    return [data[at : at + 32] for at in range(0, len(data), 32)]
