"""Every attack on a log is found, told apart and located (issue 2, item 5)."""

from __future__ import annotations

import pytest

from tests.unit.trust.attacks import (
    DAYS,
    GOOD,
    KEY,
    ROTATION,
    SIZE,
    SMITH,
    Attack,
    both,
    broken,
    build,
    check,
    detected,
    drop,
    edited,
    flip,
    join,
    new_first_epoch,
    on_bytes,
    on_lines,
    put,
    rename,
    rewrite,
    split,
    theft,
)

FIRST, SECOND, THIRD = DAYS
KEPT = "checkpoints/{:020}".format


def edit(lines: list[bytes]) -> None:
    lines[500] = edited(lines[500])


def insert(lines: list[bytes]) -> None:
    lines.insert(600, edited(lines[600]))


def delete(lines: list[bytes]) -> None:
    del lines[700:703]


def swap(lines: list[bytes]) -> None:
    lines[20], lines[400] = lines[400], lines[20]


def swap_neighbours(lines: list[bytes]) -> None:
    lines[10], lines[11] = lines[11], lines[10]


def duplicate(lines: list[bytes]) -> None:
    lines.insert(800, lines[300])


def duplicate_beside(lines: list[bytes]) -> None:
    lines.insert(301, lines[300])


def cut_tail(lines: list[bytes]) -> None:
    del lines[50:]


def cut_head(lines: list[bytes]) -> None:
    del lines[:5]


def forge_tail(lines: list[bytes]) -> None:
    lines.append(edited(lines[-1]).replace(f'"seq":{SIZE - 1}'.encode(), f'"seq":{SIZE}'.encode()))


def smuggle(lines: list[bytes]) -> None:
    lines[30] = lines[30].replace(b'"metadata":{', b'"metadata":{"seq":30,"prev_hash":"x",')


def blank(lines: list[bytes]) -> None:
    lines.insert(5, b"")


def oversized(lines: list[bytes]) -> None:
    lines[100] += b" " * 200_000


def join_two(lines: list[bytes]) -> None:
    lines[60:62] = [lines[60] + b"K" + lines[61]]


DAY_TWO, DAY_THREE = ROTATION, ROTATION + 102
FORGED_DAY = join([edited(SMITH.entries[9])] * 3)

ATTACKS: dict[str, tuple[Attack, list[tuple[str, int | None, int | None, str, int | None]], set[str]]] = {
    "edit": (on_lines(FIRST, edit), [("entry_changed", 500, 501, FIRST, 501)], {"edit"}),
    "edit, links anew": (rewrite(4000, tree=False), [("entry_changed", 4000, SIZE, FIRST, 4001)], {"edit"}),
    "edit, links and tree anew": (
        rewrite(4300, tree=True),
        [("history_rewritten", 4096, ROTATION + 1, FIRST, 4097)],
        {"edit"},
    ),
    "edit with a tree hash to match": (
        both(on_lines(FIRST, edit), on_bytes("tree/0", lambda b: b[: 500 * 32] + bytes(32) + b[501 * 32 :])),
        [("entry_changed", 500, 501, FIRST, 501), ("tree_changed", 500, 501, "tree/0", None)],
        {"edit"},
    ),
    "insert": (on_lines(FIRST, insert), [("entry_inserted", None, None, FIRST, 601)], {"insert"}),
    "delete": (on_lines(FIRST, delete), [("entry_missing", 700, 703, FIRST, 701)], {"delete"}),
    "swap": (
        on_lines(FIRST, swap),
        [("entry_moved", 400, 401, FIRST, 21), ("entry_moved", 20, 21, FIRST, 401)],
        {"reorder"},
    ),
    "swap neighbours": (on_lines(FIRST, swap_neighbours), [("entry_moved", 10, 11, FIRST, 12)], {"reorder"}),
    "duplicate": (on_lines(FIRST, duplicate), [("entry_duplicated", 300, 301, FIRST, 801)], {"insert"}),
    "duplicate beside": (on_lines(FIRST, duplicate_beside), [("entry_duplicated", 300, 301, FIRST, 302)], {"insert"}),
    "tail cut": (on_lines(THIRD, cut_tail), [("tail_cut", DAY_THREE + 50, SIZE, THIRD, 51)], {"tail_cut"}),
    "last file deleted": (drop(THIRD), [("tail_cut", DAY_THREE, SIZE, SECOND, 103)], {"tail_cut"}),
    "head cut": (on_lines(FIRST, cut_head), [("head_cut", 0, 5, FIRST, 1)], {"head_cut"}),
    "first file deleted": (drop(FIRST), [("head_cut", 0, DAY_TWO, SECOND, 1)], {"head_cut"}),
    "file deleted": (drop(SECOND), [("file_missing", DAY_TWO, DAY_THREE, THIRD, 1)], {"delete"}),
    "file renamed, order kept": (
        rename(THIRD, "audit-2026-11-25.jsonl"),
        [("file_renamed", DAY_THREE, SIZE, "audit-2026-11-25.jsonl", 1)],
        {"reorder"},
    ),
    "file renamed, order lost": (
        rename(FIRST, "audit-2026-11-25.jsonl"),
        [("file_renamed", 0, DAY_TWO, "audit-2026-11-25.jsonl", 1)],
        {"reorder"},
    ),
    "file renamed, no day file": (
        rename(SECOND, SECOND + ".bak"),
        [("file_renamed", DAY_TWO, DAY_THREE, SECOND + ".bak", 1)],
        {"reorder"},
    ),
    "file renamed, no such day": (
        rename(THIRD, "audit-2026-13-45.jsonl"),
        [("file_renamed", DAY_THREE, SIZE, "audit-2026-13-45.jsonl", 1)],
        {"reorder"},
    ),
    "file added before": (
        put("audit-2026-11-19.jsonl", FORGED_DAY),
        [("file_added", None, None, "audit-2026-11-19.jsonl", 1)],
        {"insert"},
    ),
    "file added after": (
        put("audit-2026-11-30.jsonl", FORGED_DAY),
        [("unsigned_tail", SIZE, SIZE + 3, "audit-2026-11-30.jsonl", 1)],
        {"insert"},
    ),
    "file copied": (
        put("audit-2026-11-30.jsonl", GOOD[SECOND]),
        [("entry_duplicated", DAY_TWO, DAY_THREE, "audit-2026-11-30.jsonl", 1)],
        {"insert"},
    ),
    "stray file": (put("notes.txt", b"x"), [("file_unexpected", None, None, "notes.txt", None)], {"insert"}),
    "stray in the tree": (put("tree/0.bak", b"x"), [("file_unexpected", None, None, "tree/0.bak", None)], {"insert"}),
    "temporary file left": (
        put("checkpoint.tmp", b"x"),
        [("file_unexpected", None, None, "checkpoint.tmp", None)],
        {"insert"},
    ),
    "second file of a day": (
        put(FIRST + ".gz", b"x"),
        [("file_unexpected", None, None, FIRST + ".gz", None)],
        {"insert"},
    ),
    "cosignatures, not of this version": (
        put("checkpoint.cosigned", GOOD["checkpoint"]),
        [("file_unexpected", None, None, "checkpoint.cosigned", None)],
        {"insert"},
    ),
    "empty day file": (
        put("audit-2026-11-30.jsonl", b""),
        [("file_empty", None, None, "audit-2026-11-30.jsonl", None)],
        {"delete"},
    ),
    "lines forged at the end": (
        on_lines(THIRD, forge_tail),
        [("unsigned_tail", SIZE, SIZE + 1, THIRD, 101)],
        {"insert"},
    ),
    "torn last line": (
        on_bytes(THIRD, lambda data: data + b'{"schema":1,"ev'),
        [("torn_tail", None, None, THIRD, 101)],
        set(),
    ),
    "last line feed gone": (
        on_bytes(THIRD, lambda data: data[:-1]),
        [("torn_tail", SIZE - 1, SIZE, THIRD, 100)],
        set(),
    ),
    "ledger members smuggled": (on_lines(FIRST, smuggle), [("entry_changed", 30, 31, FIRST, 31)], {"edit"}),
    "carriage returns": (
        on_bytes(SECOND, lambda data: data.replace(b"\n", b"\r\n")),
        [("entry_changed", DAY_TWO, DAY_THREE, SECOND, 1)],
        {"edit"},
    ),
    "empty line": (on_lines(SECOND, blank), [("entry_inserted", None, None, SECOND, 6)], {"insert"}),
    "byte order mark": (
        on_bytes(FIRST, lambda data: b"\xef\xbb\xbf" + data),
        [("entry_changed", 0, 1, FIRST, 1)],
        {"edit"},
    ),
    "a line over the limit": (on_lines(FIRST, oversized), [("entry_changed", 100, 101, FIRST, 101)], {"edit"}),
    "two lines joined": (
        on_lines(FIRST, join_two),
        [("entry_changed", 60, 61, FIRST, 61), ("entry_missing", 61, 62, FIRST, 62)],
        {"edit", "delete"},
    ),
    "tree hash changed": (flip("tree/0", 3000 * 32), [("tree_changed", 3000, 3001, "tree/0", None)], set()),
    "upper tree hash changed": (flip("tree/1", 3 * 32), [("tree_changed", 768, 1024, "tree/1", None)], set()),
    "tree hashes cut": (on_bytes("tree/0", lambda b: b[:-33]), [("tree_short", None, None, "tree/0", None)], set()),
    "tree file deleted": (drop("tree/1"), [("tree_short", None, None, "tree/1", None)], set()),
    "tree hash added": (
        on_bytes("tree/0", lambda data: data + bytes(32)),
        [("tree_long", None, None, "tree/0", None)],
        set(),
    ),
    "tree file added": (put("tree/2", b""), [("tree_long", None, None, "tree/2", None)], set()),
    "kept checkpoint deleted": (drop(KEPT(4096)), [("kept_missing", None, None, KEPT(4096), None)], set()),
    "handover deleted": (drop(KEPT(ROTATION + 1)), [("kept_missing", None, None, KEPT(ROTATION + 1), None)], set()),
    "closing deleted": (drop(KEPT(SIZE)), [("kept_missing", None, None, KEPT(SIZE), None)], set()),
    "kept checkpoint changed": (
        flip(KEPT(4096), 30),
        [("checkpoint_signature", None, None, KEPT(4096), 5)],
        set(),
    ),
    "kept checkpoint added": (
        put(KEPT(100), SMITH.checkpoint(100, 0)),
        [("kept_unexpected", None, None, KEPT(100), None)],
        set(),
    ),
    "checkpoint deleted": (drop("checkpoint"), [("checkpoint_missing", None, None, "checkpoint", None)], set()),
    "checkpoint changed": (flip("checkpoint", 25), [("checkpoint_signature", None, None, "checkpoint", 5)], set()),
    "checkpoint with a third line": (
        on_bytes("checkpoint", lambda data: data + data[data.rindex("—".encode()) :]),
        [("checkpoint_malformed", None, None, "checkpoint", None)],
        set(),
    ),
    "checkpoint signed by the log key alone": (
        put("checkpoint", GOOD["checkpoint"][: GOOD["checkpoint"].rindex("—".encode())]),
        [("checkpoint_malformed", None, None, "checkpoint", None)],
        set(),
    ),
    "checkpoint set back": (
        put("checkpoint", SMITH.checkpoint(SIZE - 10)),
        [
            ("unsigned_tail", SIZE - 10, SIZE, THIRD, 91),
            ("checkpoint_behind", SIZE - 10, SIZE, KEPT(SIZE), None),
        ],
        {"insert"},
    ),
    "yesterday rewritten with today's keys": (
        theft(),
        [
            ("handover_invalid", ROTATION, ROTATION + 1, SECOND, 1),
            ("epoch_misused", 0, ROTATION + 1, KEPT(4096), 6),
            ("epoch_misused", 0, ROTATION + 1, KEPT(ROTATION + 1), 6),
        ],
        {"key_theft"},
    ),
    "yesterday rewritten with today's keys, in yesterday's name": (
        theft(as_epoch="epoch-0"),
        [
            ("handover_invalid", ROTATION, ROTATION + 1, SECOND, 1),
            ("epoch_misused", 0, ROTATION + 1, KEPT(4096), 6),
            ("epoch_misused", 0, ROTATION + 1, KEPT(ROTATION + 1), 6),
        ],
        {"key_theft"},
    ),
    "yesterday rewritten, yesterday's checkpoints left": (
        theft(keep_kept=True),
        [
            ("handover_invalid", ROTATION, ROTATION + 1, SECOND, 1),
            ("checkpoint_root", 0, 4096, KEPT(4096), None),
            ("checkpoint_root", 0, ROTATION + 1, KEPT(ROTATION + 1), None),
        ],
        {"key_theft", "fork"},
    ),
}


def test_good_log_has_nothing_broken(tmp_path):
    """The log that all attacks start from verifies with exit code 0."""
    verdict = check(tmp_path / "audit", GOOD)
    assert (broken(verdict), verdict.exit_code, verdict.total, verdict.valid) == ([], 0, SIZE, SIZE)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_named_and_located(tmp_path, name):
    """Each attack gives its own findings at its place, shows its threats, and exit code 4."""
    attack, findings, threats = ATTACKS[name]
    files = dict(GOOD)
    attack(files)
    verdict = check(tmp_path / "audit", files)
    assert (broken(verdict), detected(verdict), verdict.exit_code) == (findings, threats, 4)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_found_without_decoding_entries(tmp_path, name):
    """`proofs_only` leaves no attack unseen."""
    files = dict(GOOD)
    ATTACKS[name][0](files)
    assert check(tmp_path / "audit", files, proofs_only=True).exit_code == 4


def test_rollback_needs_memory_and_is_refused_with_both(tmp_path):
    """An older valid state passes by itself and is broken against the remembered checkpoint."""
    old = SMITH.__class__().create().work(4500)
    verdict = check(tmp_path / "a", old.files())
    assert (verdict.exit_code, verdict.threat("rollback").state) == (0, "not_ruled_out")
    verdict = check(tmp_path / "a", old.files(), remembered=GOOD["checkpoint"])
    assert broken(verdict) == [("rollback", 4502, SIZE, "checkpoint", None)]
    message = verdict.findings[0].message
    assert (SMITH.tree.root().hex() in message, old.tree.root().hex() in message) == (True, True)


def test_remembered_checkpoint_rules_rollback_out(tmp_path):
    """A remembered checkpoint that the log extends is what rules a rollback out."""
    verdict = check(tmp_path / "a", GOOD, remembered=SMITH.checkpoint(3000, 0))
    assert (verdict.exit_code, verdict.threat("rollback").state) == (0, "ruled_out")


def test_another_history_of_the_remembered_size_is_a_fork(tmp_path):
    """The same size with another root, both signed, is a fork."""
    files = dict(GOOD)
    new_first_epoch(files)
    assert check(tmp_path / "a", files).exit_code == 0
    verdict = check(tmp_path / "b", files, remembered=GOOD["checkpoint"])
    assert (broken(verdict), detected(verdict)) == ([("fork", 0, SIZE, "checkpoint", None)], {"fork"})


def test_first_epoch_replaced_is_seen_with_the_kept_epoch_key(tmp_path):
    """Whoever stole the log key and rewrote all epochs is caught by epoch 0's public key."""
    files = dict(GOOD)
    new_first_epoch(files)
    verdict = check(tmp_path / "a", files, epoch_key=SMITH.epoch_key(0).vkey)
    assert (broken(verdict), detected(verdict)) == ([("epoch_replaced", 0, 1, FIRST, 1)], {"key_theft"})


def test_whole_log_under_another_key_needs_a_pinned_key(tmp_path):
    """Without a trusted key a rewritten log passes and says what is open; with one it is a foreign key."""
    other = build("other").files()
    verdict = check(tmp_path / "a", other, key=None)
    assert (verdict.exit_code, verdict.threat("foreign_key").state) == (0, "not_ruled_out")
    verdict = check(tmp_path / "a", other)
    assert broken(verdict) == [
        ("foreign_key", None, None, "checkpoint", 5),
        ("foreign_key", 0, 1, FIRST, 1),
    ]
    assert detected(verdict) == {"foreign_key"}


def test_checkpoint_by_another_key_is_foreign(tmp_path):
    """Only the checkpoint is replaced: its line names a key that is not trusted."""
    other = build("other")
    files = GOOD | {"checkpoint": other.checkpoint()}
    verdict = check(tmp_path / "a", files)
    assert broken(verdict) == [("foreign_key", None, None, "checkpoint", 5)]


def test_disagreeing_sources_of_the_key_are_broken(tmp_path):
    """Two places that know different keys for the log are a finding, whatever the log says."""
    other = build("other").log_key.vkey
    verdict = check(tmp_path / "a", GOOD, also=[(KEY, "the keys folder"), (other, "this machine's memory")])
    assert broken(verdict) == [("key_disagreement", None, None, None, None)]


@pytest.mark.parametrize(
    "note", [b"", b"rubbish", GOOD["checkpoint"].replace(b"4704", b"4705"), build("x").checkpoint()]
)
def test_useless_memory_is_said(tmp_path, note):
    """A remembered checkpoint that proves nothing is broken, never silently ignored."""
    verdict = check(tmp_path / "a", GOOD, remembered=note)
    assert [finding[0] for finding in broken(verdict)] == ["memory_invalid"]


def test_lost_log_with_a_memory_is_a_finding(tmp_path):
    """Where a log is remembered, an empty folder is broken."""
    verdict = check(tmp_path / "a", {}, remembered=GOOD["checkpoint"])
    assert (broken(verdict), verdict.exit_code) == ([("log_missing", None, None, None, None)], 4)


def test_damage_in_several_places_is_told_place_by_place(tmp_path):
    """Independent damages each keep their own finding."""
    files = dict(GOOD)
    both(on_lines(FIRST, edit), on_lines(THIRD, cut_tail), flip("tree/0", 4000 * 32), drop(KEPT(4096)))(files)
    assert broken(check(tmp_path / "a", files)) == [
        ("entry_changed", 500, 501, FIRST, 501),
        ("tail_cut", DAY_THREE + 50, SIZE, THIRD, 51),
        ("tree_changed", 4000, 4001, "tree/0", None),
        ("kept_missing", None, None, KEPT(4096), None),
    ]


def test_every_line_count_adds_up(tmp_path):
    """`total` counts lines, `invalid` distinct entries in findings, `valid` lines outside them."""
    files = dict(GOOD)
    both(on_lines(FIRST, delete), on_lines(THIRD, forge_tail))(files)
    verdict = check(tmp_path / "a", files)
    assert (verdict.total, verdict.valid, verdict.invalid) == (SIZE - 2, SIZE - 3, 4)
    assert verdict.unsigned.entries == 1
    assert len(split(files[FIRST])) + len(split(files[SECOND])) + len(split(files[THIRD])) == verdict.total
