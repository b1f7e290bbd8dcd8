"""Verification needs the read side of the store contract only."""

from __future__ import annotations

import datetime as dt

from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.stores.memory import MemoryStore
from klingai_audit.trust.verify import verify
from tests.support.logsmith import Smith
from tests.unit.trust.attacks import GOOD, KEY, SMITH, broken, edited

SMALL = Smith().create().work(300)
SMALL.next_day().rotate().work(20).closed()


def in_memory() -> MemoryStore:
    files, store = SMALL.files(), MemoryStore()
    store.entries = list(SMALL.entries)
    store.days = [dt.date.fromisoformat(day) for day in SMALL.days]
    store.hashes = {level: bytearray(files[f"tree/{level}"]) for level in (0, 1)}
    store.kept = dict(SMALL.kept)
    store.checkpoint = files["checkpoint"]
    return store


def test_memory_store_is_verified_like_a_folder():
    """No file has a path; everything is read through `view`."""
    verdict = verify(in_memory(), key=KEY, now=SMALL.now, patience=0)
    assert (broken(verdict), verdict.total, verdict.log) == ([], 324, "memory:")


def test_damage_in_memory_is_located():
    """Same findings, same names."""
    store = in_memory()
    store.entries[310] = edited(store.entries[310])
    verdict = verify(store, key=KEY, now=SMALL.now, patience=0)
    assert broken(verdict) == [("entry_changed", 310, 311, "audit-2026-11-21.jsonl", 9)]


def test_verification_writes_nothing(tmp_path):
    """A log in folders that cannot be written verifies, and no byte or name of it changes."""
    folder = SMITH.write(tmp_path / "audit")
    for place in (folder / "tree", folder / "checkpoints", folder):
        place.chmod(0o555)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}
    verdict = verify(DirectoryStore(folder, tmp_path / "mark"), key=KEY, now=SMITH.now)
    after = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}
    assert (verdict.exit_code, after, sorted(p.name for p in tmp_path.iterdir())) == (0, before, ["audit"])


def test_progress_reaches_the_end(tmp_path):
    """`progress(done, total)` counts bytes of day files and ends at all of them."""
    folder = SMITH.write(tmp_path / "audit")
    seen: list[tuple[int, int]] = []
    store = DirectoryStore(folder, tmp_path / "mark")
    verify(store, key=KEY, now=SMITH.now, progress=lambda done, total: seen.append((done, total)))
    size = sum(len(data) for name, data in GOOD.items() if name.startswith("audit-"))
    assert (seen[-1], sorted(seen) == seen) == ((size, size), True)
