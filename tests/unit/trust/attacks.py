"""A good log made by logsmith, and everything that can be done to it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.trust.verdict import Verdict
from klingai_audit.trust.verify import verify
from tests.support.logsmith import Key, Smith, Tree, canonical, leaf_hash, mth, sign_note, write_files

Files = dict[str, bytes]
Attack = Callable[[Files], None]

FIRST_DAY = 4500
ROTATION = FIRST_DAY + 2
DAYS = ("audit-2026-11-20.jsonl", "audit-2026-11-21.jsonl", "audit-2026-11-22.jsonl")


def build(seed: str = "smith") -> Smith:
    """Three days, two epochs, a kept multiple, a handover and two closings: 4,704 entries."""
    smith = Smith(seed=seed).create().work(FIRST_DAY)
    smith.next_day().rotate().work(100).closed()
    return smith.next_day().opened().work(98).closed()


SMITH = build()
GOOD = SMITH.files()
SIZE = len(SMITH.entries)
KEY = SMITH.log_key.vkey


def check(folder: Path, files: Files, **options: object) -> Verdict:
    """Write the files and verify them with the true key."""
    write_files(folder, files)
    options = {"key": KEY, "now": SMITH.now, "patience": 0.0} | options
    return verify(DirectoryStore(folder, folder.parent / "mark"), **options)  # type: ignore[arg-type]


def broken(verdict: Verdict) -> list[tuple[str, int | None, int | None, str | None, int | None]]:
    """The places of all broken findings."""
    return [(f.kind, f.seq, f.seq_end, f.file, f.line) for f in verdict.broken]


def detected(verdict: Verdict) -> set[str]:
    return {threat.threat for threat in verdict.threats if threat.state == "detected"}


def split(data: bytes) -> list[bytes]:
    return data.split(b"\n")[:-1]


def join(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def on_lines(name: str, change: Callable[[list[bytes]], None]) -> Attack:
    """Attack the lines of one day file."""

    def attack(files: Files) -> None:
        lines = split(files[name])
        change(lines)
        files[name] = join(lines)

    return attack


def on_bytes(name: str, change: Callable[[bytes], bytes]) -> Attack:
    def attack(files: Files) -> None:
        files[name] = change(files[name])

    return attack


def flip(name: str, at: int, bit: int = 0) -> Attack:
    return on_bytes(name, lambda data: data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])


def put(name: str, data: bytes) -> Attack:
    def attack(files: Files) -> None:
        files[name] = data

    return attack


def drop(name: str) -> Attack:
    def attack(files: Files) -> None:
        del files[name]

    return attack


def rename(old: str, new: str) -> Attack:
    def attack(files: Files) -> None:
        files[new] = files.pop(old)

    return attack


def both(*attacks: Attack) -> Attack:
    def attack(files: Files) -> None:
        for one in attacks:
            one(files)

    return attack


def edited(entry: bytes) -> bytes:
    """The entry with one letter changed, still of the form."""
    return entry.replace(b'"actor_id":"p_', b'"actor_id":"q_').replace(b'"klingai-audit"', b'"klingai-audiT"')


def rechained(entries: list[bytes], start: int) -> list[bytes]:
    """All links after entry `start` computed anew."""
    entries = list(entries)
    previous = leaf_hash(entries[start])
    for number in range(start + 1, len(entries)):
        at = entries[number].rindex(b'"prev_hash":"') + 13
        entries[number] = entries[number][:at] + previous.hex().encode() + entries[number][at + 64 :]
        previous = leaf_hash(entries[number])
    return entries


def lay_out(files: Files, entries: list[bytes], *, tree: bool) -> None:
    """Put `entries` in place of the log's, with tree files to match if `tree`."""
    by_day: dict[str, list[bytes]] = {}
    for day, entry in zip(SMITH.days, entries, strict=True):
        by_day.setdefault(day, []).append(entry)
    files |= {f"audit-{day}.jsonl": join(lines) for day, lines in by_day.items()}
    if tree:
        grown = grow(entries)
        for level in range(0, len(grown.levels), 8):
            if grown.levels[level]:
                files[f"tree/{level // 8}"] = b"".join(grown.levels[level])


def grow(entries: list[bytes]) -> Tree:
    tree = Tree()
    for entry in entries:
        tree.append(leaf_hash(entry))
    return tree


def rewritten(seq: int) -> list[bytes]:
    """Entry `seq` edited, everything after it linked anew."""
    entries = list(SMITH.entries)
    entries[seq] = edited(entries[seq])
    return rechained(entries, seq)


def rewrite(seq: int, *, tree: bool) -> Attack:
    return lambda files: lay_out(files, rewritten(seq), tree=tree)


def theft(*, keep_kept: bool = False, as_epoch: str = "epoch-1") -> Attack:
    """A thief of today's keys (log key, epoch 1) edits entry 50 of epoch 0 and signs everything anew.

    `as_epoch` is the name the thief signs the sizes of epoch 0 under.
    """

    def attack(files: Files) -> None:
        entries = rewritten(50)
        lay_out(files, entries, tree=True)
        tree = grow(entries)
        for size in SMITH.kept:
            if not (keep_kept and size <= ROTATION + 1):
                name = as_epoch if size <= ROTATION + 1 else "epoch-1"
                files[f"checkpoints/{size:020}"] = _signed(tree, size, name)
        files["checkpoint"] = _signed(tree, SIZE, "epoch-1")

    return attack


def _signed(tree: Tree, size: int, name: str) -> bytes:
    thief = Key(f"{SMITH.origin}/{name}", SMITH.secret("epoch-1"))
    text = f"{SMITH.origin}\n{size}\n{base64.b64encode(tree.root(size)).decode()}\n"
    return sign_note(text, SMITH.log_key, thief)


def new_first_epoch(files: Files) -> None:
    """A thief of the log key replaces epoch 0's key, too, and signs the whole log anew in a new chain."""
    own = Key(f"{SMITH.origin}/epoch-0", b"\x07" * 32)
    entries = list(SMITH.entries)
    entries[0] = entries[0].replace(SMITH.epoch_key(0).vkey.encode(), own.vkey.encode())
    entries = rechained(entries, 0)
    old = json.loads(entries[ROTATION])["metadata"]["handover"]
    items = old.split("\n\n")[0].split("\n")
    items[4] = base64.b64encode(mth([leaf_hash(entry) for entry in entries[:ROTATION]])).decode()
    note = sign_note("\n".join(items) + "\n", own).decode()
    entries[ROTATION] = entries[ROTATION].replace(canonical(old), canonical(note))
    entries = rechained(entries, ROTATION)
    lay_out(files, entries, tree=True)
    tree = grow(entries)
    for name, size in [("checkpoint", SIZE), *((f"checkpoints/{size:020}", size) for size in SMITH.kept)]:
        text = f"{SMITH.origin}\n{size}\n{base64.b64encode(tree.root(size)).decode()}\n"
        files[name] = sign_note(text, SMITH.log_key, own if size <= ROTATION + 1 else SMITH.epoch_key(1))
