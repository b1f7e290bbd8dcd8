"""Copies of logs in buckets: the single file says of them what the package says of the bucket, and of the folder."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from klingai_audit.standalone import klingai_audit_verify as alone
from klingai_audit.tlog.tile import encode_bundle, new_tiles, tile_path
from klingai_audit.trust.verify import verify
from tests.support.both import Answer, differences, three_days
from tests.support.logsmith import Smith
from tests.support.retained import keeper

SMITH = three_days()
SMITH.work(700).closed()
KEY = SMITH.log_key.vkey
Files = dict[str, bytes]


def bucket(smith: Smith, lines: list[bytes] | None = None, sizes: tuple[int, ...] = ()) -> Files:
    """The objects of a log in a bucket that was published at some sizes, the whole one last."""
    lines, files = smith.entries if lines is None else lines, {}
    tree = {name: data for name, data in smith.files().items() if not name.startswith("audit")}
    old = 0
    for size in (*sizes, len(lines)):
        for level, n, width in new_tiles(old, size):
            begin, end = 256 * n, 256 * n + width
            if level == "entries":
                files[tile_path(level, n, width)] = encode_bundle(lines[begin:end])
            else:
                files[tile_path(level, n, width)] = tree[f"tree/{level}"][32 * begin : 32 * end]
        old = size
    files |= {name: data for name, data in tree.items() if name.startswith("checkpoint")}
    for day in sorted(set(smith.days)):
        files[f"days/{day}/{smith.days.index(day):020}"] = b""
    return files


def put(folder: Path, files: Files) -> Path:
    """Write objects below a folder; return it."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


GOOD = bucket(SMITH, sizes=(1, 300, 700))


def ask_single(folder: Path, key: str = KEY, now: dt.datetime = SMITH.now) -> Answer:
    found = alone.verify_log(str(folder), key, now=now)
    assert str(folder) == found.log
    return Answer(
        frozenset(f.kind for f in found.findings), {name: state for name, (state, *_) in found.threats.items()}
    )


def ask_package(folder: Path, scratch: Path, key: str = KEY, now: dt.datetime = SMITH.now) -> Answer:
    """What the package says of a bucket whose objects are files of a folder."""
    pytest.importorskip("obstore", reason="logs in buckets need obstore")
    from klingai_audit.stores.objects import ObjectStore

    def make(api: Any) -> Any:
        return api.stores.LocalStore(folder)

    store = ObjectStore("s3://bucket/prefix", make)
    found = verify(store, key=key, now=now, patience=0.0, processes=1, scratch=scratch)
    store.close()
    return Answer(frozenset(f.kind for f in found.findings), {t.threat: t.state for t in found.threats})


def test_a_copy_of_a_bucket(tmp_path: Path):
    """Whole, and everything ruled out that is ruled out of the same log in a folder."""
    there = ask_single(put(tmp_path / "bucket", GOOD))
    assert frozenset() == there.kinds
    assert [] == differences(ask_single(put(tmp_path / "audit", SMITH.files())), there)
    assert [] == differences(ask_package(tmp_path / "bucket", tmp_path / "scratch"), there)


def test_purged_entries(tmp_path: Path):
    """Purged lines stand in bundles as they stand in day files."""
    made = keeper()
    made.purge((40, 41), (50, 50))
    made.done()
    lines = [made.lines.get(seq, entry) for seq, entry in enumerate(made.smith.entries)]
    folder = put(tmp_path / "bucket", bucket(made.smith, lines))
    found = alone.verify_log(str(folder), made.smith.log_key.vkey, now=made.smith.now)
    assert ([], [40, 50]) == ([f.kind for f in found.broken], [begin for begin, _end, _by in found.purged])


ATTACKS: dict[str, tuple[Callable[[Files], object], set[str]]] = {
    "an entry": (lambda f: f.update({"tile/entries/001": f["tile/entries/001"].replace(b"studio", b"studia", 1)}),
                 {"entry_changed"}),
    "a hash": (lambda f: f.update({"tile/0/001": f["tile/0/001"][:-1] + b"x"}), {"tree_changed"}),
    "a bundle gone": (lambda f: f.pop("tile/entries/001"), {"entry_missing"}),
    "kept gone": (lambda f: f.pop(max(name for name in f if name.startswith("checkpoints/"))), {"kept_missing"}),
    "checkpoint gone": (lambda f: f.pop("checkpoint"), {"checkpoint_missing"}),
    "something else": (lambda f: f.update({"notes/x.txt": b"x"}), {"file_unexpected"}),
    "cosigned": (lambda f: f.update({"checkpoint.cosigned": b"x"}), {"file_unexpected"}),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks(tmp_path: Path, attack: str):
    """Each is called by its name."""
    act, kinds = ATTACKS[attack]
    files = dict(GOOD)
    act(files)
    folder = put(tmp_path / "bucket", files)
    assert kinds <= ask_single(folder).kinds


@pytest.mark.slow
@pytest.mark.parametrize("attack", [name for name in ATTACKS if name not in ("a bundle gone", "checkpoint gone")])
def test_both_agree(tmp_path: Path, attack: str):
    """The package says the same of the bucket itself."""
    files = dict(GOOD)
    ATTACKS[attack][0](files)
    folder = put(tmp_path / "bucket", files)
    assert [] == differences(ask_package(folder, tmp_path / "scratch"), ask_single(folder))


@pytest.mark.slow
def test_nothing_ends_it(tmp_path: Path):
    """Whatever is done to its objects, there is an answer, and it is never that all is well."""
    luck = random.Random(7)
    read = ("tile/entries/00", "tile/0/00", "checkpoint")
    names = sorted(name for name in GOOD if name.startswith(read) and ".p/" not in name)
    for number in range(12):
        files, name = dict(GOOD), luck.choice(names)
        at = luck.randrange(len(files[name]))
        files[name] = files[name][:at] + luck.randbytes(3) + files[name][at:]
        assert ask_single(put(tmp_path / str(number), files)).kinds, name
