"""Bytes and files made to break the single file: always an answer, soon, and never a traceback."""

from __future__ import annotations

import base64
import os
import random
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klingai_audit.standalone import klingai_audit_verify as alone
from tests.support.both import mutate, three_days
from tests.support.logsmith import Smith, sign_note, write_files

SMITH = three_days()
GOOD = SMITH.files()
KEY = SMITH.log_key.vkey
DAYS = [name for name in sorted(GOOD) if name.startswith("audit")]
NAMES = sorted(GOOD)


def verdict_on(folder: Path) -> alone.Verdict:
    return alone.verify_log(str(folder), KEY, now=SMITH.now)


def kinds(folder: Path) -> set[str]:
    return {finding.kind for finding in verdict_on(folder).broken}


@pytest.mark.parametrize("how", ["pipe", "device", "folder", "link", "dangling"])
@pytest.mark.parametrize("name", ["checkpoint", "checkpoints/00000000000000000103", "tree/0", DAYS[1]])
def test_what_is_no_regular_file_is_never_opened(tmp_path, name, how):
    """Pipes, devices, folders and links are named, and what they replace is missing."""
    path = write_files(tmp_path / "audit", GOOD) / name
    path.unlink()
    if how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "link": tmp_path / "elsewhere", "dangling": tmp_path / "none"}[how])
        (tmp_path / "elsewhere").write_bytes(GOOD[name])
    missing = {"checkpoint": "checkpoint_missing", DAYS[1]: "file_missing", "tree/0": "tree_short"}
    assert {missing.get(name, "kept_missing"), "file_unexpected"} == kinds(tmp_path / "audit")


@pytest.mark.parametrize("name", ["tree", "checkpoints"])
def test_a_file_where_a_folder_belongs(tmp_path, name):
    """And the other way round: no part of a log."""
    folder = write_files(tmp_path / "audit", {n: d for n, d in GOOD.items() if not n.startswith(name + "/")})
    (folder / name).rmdir()
    (folder / name).write_bytes(b"x")
    assert "file_unexpected" in kinds(folder)


BOMBS = {
    "deep": b'{"schema":1,"a":' + b"[" * 60_000 + b"]" * 60_000 + b"}",
    "deeper": b"[" * 3_000_000,
    "long number": b'{"schema":1,"a":' + b"9" * 60_000 + b"}",
    "long exponent": b'{"schema":1,"a":1e' + b"9" * 60_000 + b"}",
    "many names": b"{" + b",".join(b'"%d":1' % n for n in range(8000)) + b"}",
    "not UTF-8": bytes(range(128, 256)) * 100,
    "zeros": bytes(100_000),
    "line feeds": b"\n" * 50_000,
    "escapes": b'{"a":"' + b"\\u0000" * 10_000 + b'"}',
    "quotes": b'"' * 65_000,
    "backslashes": b'"' + b"\\" * 65_000,
    "huge seq": GOOD[DAYS[0]].split(b"\n")[5].replace(b'"seq":5', b'"seq":9999999999999999'),
    "seq of 4,000 digits": GOOD[DAYS[0]].split(b"\n")[5].replace(b'"seq":5', b'"seq":' + b"9" * 4000),
    "surrogates": b'{"schema":1,"event_id":"\\ud800"}',
}


@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("name", BOMBS)
def test_lines_made_to_break_it(tmp_path, name, where):
    """In the middle and at the end: a finding, within seconds."""
    day = DAYS[where * 2]
    lines = GOOD[day].split(b"\n")
    lines.insert(len(lines) // 2 if not where else len(lines) - 1, BOMBS[name])
    begin = time.process_time()
    found = kinds(write_files(tmp_path / "audit", GOOD | {day: b"\n".join(lines)}))
    assert ({"unsigned_tail"} if where else {"entry_inserted"}, True) == (found, time.process_time() - begin < 20)


@pytest.mark.parametrize(
    "name", ["checkpoint", "checkpoints/00000000000000000103", DAYS[0], DAYS[2], "notes", "tree/0"]
)
def test_huge_files_are_not_read_into_memory(tmp_path, name):
    """64 MB of nothing are passed over in small pieces."""
    folder = write_files(tmp_path / "audit", GOOD)
    with (folder / name).open("ab") as file:
        file.truncate(1 << 26)
    tracemalloc.start()
    try:
        code = verdict_on(folder).exit_code
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (4, True) == (code, peak < 48 << 20)


def test_size_out_of_thin_air_costs_nothing(tmp_path):
    """Whoever holds a key can sign any size; the entries decide how much is looked at."""
    text = f"{SMITH.origin}\n{1 << 50}\n{base64.b64encode(bytes(32)).decode()}\n"
    note = sign_note(text, SMITH.log_key, SMITH.epoch_key(2))
    begin = time.process_time()
    found = kinds(write_files(tmp_path / "audit", GOOD | {"checkpoint": note}))
    assert (True, True) == ("history_rewritten" in found, time.process_time() - begin < 20)


NOTES = [b"", b"\n", b"\n\n", "—".encode(), b"a\n\n\xe2\x80\x94 b c\n", b"x" * 70_000, b"\xff\n1\nx\n\n", bytes(200)]


@pytest.mark.parametrize("note", NOTES)
@pytest.mark.parametrize("name", ["checkpoint", "checkpoints/00000000000000000103"])
def test_notes_that_are_none(tmp_path, note, name):
    """Malformed, never a crash."""
    assert {"checkpoint_malformed"} == kinds(write_files(tmp_path / "audit", GOOD | {name: note}))


@pytest.mark.parametrize("note", NOTES)
def test_memories_that_are_none(tmp_path, note):
    """The same for a checkpoint that was kept."""
    folder = write_files(tmp_path / "audit", GOOD)
    verdict = alone.verify_log(str(folder), KEY, None, note, now=SMITH.now)
    assert ["memory_invalid"] == [finding.kind for finding in verdict.broken]


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=300))
def test_parsers_raise_only_what_they_say(data):
    """Entries, notes, checkpoints and proofs out of arbitrary bytes."""
    alone.decode_entry(data)
    for parse in (alone.Note, alone.Checkpoint, lambda one: alone.check_proof(one, KEY)):
        with pytest.raises((alone.Malformed, alone.Unusable)):
            parse(data)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=80))
def test_keys_out_of_arbitrary_text(text):
    """A key that is none is said to be none."""
    with pytest.raises(alone.Unusable):
        alone.parse_key(text, "the key")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_anything_may_happen_to_the_files(tmp_path, seed):
    """Five damages at once: an answer, and exit code 4."""
    luck, files = random.Random(seed), dict(GOOD)
    for _ in range(5):
        mutate(files, luck)
    assert 4 == verdict_on(write_files(tmp_path / "audit", files)).exit_code


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_flipped_bit_is_found(tmp_path, name):
    """A thousand bits of each file, all of small ones."""
    smith = Smith().create().work(3)
    files = smith.next_day().rotate().work(2).closed().files()
    name = {"tree/1": "tree/0"}.get(name, name)
    name = name if name in files else sorted(files)[NAMES.index(name) % len(files)]
    folder, data = write_files(tmp_path / "audit", files), files[name]
    bits = range(8 * len(data))
    missed = []
    for bit in random.Random(name).sample(bits, min(1000, len(bits))):
        (folder / name).write_bytes(data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :])
        if alone.verify_log(str(folder), smith.log_key.vkey, now=smith.now).exit_code != 4:
            missed.append(bit)
    assert [] == missed


def test_huge_numbers_in_own_entries(tmp_path):
    """What a writer with all keys could put into the metadata that verification reads."""
    for metadata in (
        {"epoch": 2**53, "epoch_key": "x", "handover": "y"},
        {"epoch": -1, "epoch_key": [], "handover": {}},
        {"epoch": "1", "epoch_key": "+" * 1000, "handover": "\U0001f600" * 99},
        {"size": 2**53, "checkpoint": 1, "token": None, "tsa": [], "gen_time": {}},
        {},
    ):
        smith = Smith().create()
        smith.batch(smith.event("signing_key_rotated", metadata), smith.event("checkpoint_timestamped", metadata))
        smith.batch(smith.event("log_opened", {"writer": {"a": [1]}}), smith.event("log_recovered", {"set_aside": 1}))
        smith.batch(smith.event("x_note", {"phase": "intent", "deadline_s": 1e9}), smith.event("x_note", {"intent": 1}))
        folder = write_files(tmp_path / str(len(str(metadata))), smith.closed().files())
        verdict = alone.verify_log(str(folder), smith.log_key.vkey, now=smith.now)
        assert {"handover_invalid", "stamp_malformed"} <= {finding.kind for finding in verdict.broken}
