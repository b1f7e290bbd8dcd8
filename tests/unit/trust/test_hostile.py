"""Bytes and files made to break the verifier: always a verdict, soon, and never an exception."""

from __future__ import annotations

import base64
import errno
import os
import tracemalloc
from pathlib import Path

import pytest

from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.trust.judge import Judge
from klingai_audit.trust.verdict import Verdict
from klingai_audit.trust.verify import verify
from tests.support.logsmith import leaf_hash, sign_note, write_files
from tests.unit.trust.attacks import DAYS, GOOD, KEY, SMITH, broken, check

FIRST, SECOND, THIRD = DAYS


def linked_lines(times: list[str]) -> bytes:
    """Lines that link to the log and to each other, logged at `times`."""
    previous, data = SMITH.entries[-1], b""
    for number, time in enumerate(times, len(SMITH.entries)):
        body = SMITH.event("x_note", {})
        link = leaf_hash(previous).hex()
        previous = body[:-1] + f',"seq":{number},"logged_at":"{time}","prev_hash":"{link}"}}'.encode()
        data += previous + b"\n"
    return data


@pytest.mark.parametrize(
    "times",
    [
        ["2099-01-01T00:99:00.000000Z", "2099-01-01T02:00:00.000000Z", "2099-01-01T02:00:00.000000Z"],
        ["2099-01-01T00:00:00.000000Z", "2099-01-01T00:99:00.000000Z", "2099-01-01T02:00:00.000000Z"],
        ["9999-12-31T23:30:00.000000Z"] * 3,
        ["0001-01-01T00:00:00.000000Z"] * 3,
        ["0000-00-00T00:00:00.000000Z"] * 3,
    ],
)
@pytest.mark.parametrize("proofs_only", [False, True])
def test_added_day_with_strange_times_is_a_finding(tmp_path, times, proofs_only):
    """Times that do not exist, or after which there is no time, are damage and no crash."""
    files = GOOD | {f"audit-{times[0][:10]}.jsonl": linked_lines(times)}
    verdict = check(tmp_path / "audit", files, proofs_only=proofs_only)
    assert verdict.exit_code == 4
    assert "unexplained" not in {finding.kind for finding in verdict.findings}


def test_file_of_a_day_that_does_not_exist_is_stray(tmp_path):
    """The name of a day file alone makes none."""
    verdict = check(tmp_path / "audit", GOOD | {"audit-0000-00-00.jsonl": b"x\n"})
    assert broken(verdict) == [("file_unexpected", None, None, "audit-0000-00-00.jsonl", None)]


def spoil(folder: Path, name: str, how: str) -> None:
    """Put a pipe, a link to a device, or a folder in place of a file."""
    (folder / name).unlink(missing_ok=True)
    if how == "pipe":
        os.mkfifo(folder / name)
    elif how == "device":
        (folder / name).symlink_to("/dev/zero")
    else:
        (folder / name).mkdir()


def verdict_on(folder: Path, **options: object) -> Verdict:
    store = DirectoryStore(folder, folder.parent / "mark")
    return verify(store, key=KEY, now=SMITH.now, patience=0.0, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["pipe", "device", "folder"])
@pytest.mark.parametrize("name", ["checkpoint", "checkpoints/00000000000000004096", "tree/0", "tree/1", SECOND])
def test_what_is_no_regular_file_is_never_opened(tmp_path, name, how):
    """Pipes, devices and folders are named as no part of the log, and what they replace is missing."""
    spoil(write_files(tmp_path / "audit", GOOD), name, how)
    found = {finding.kind for finding in verdict_on(tmp_path / "audit").broken}
    missing = {"checkpoint": "checkpoint_missing", SECOND: "file_missing"}
    assert {missing.get(name, "tree_short" if name.startswith("tree") else "kept_missing"), "file_unexpected"} == found


@pytest.mark.parametrize("name", ["checkpoint", "checkpoints/00000000000000004096", "tree/0", "tree/1", SECOND])
def test_unreadable_file_is_a_finding_and_nothing_else(tmp_path, name, monkeypatch):
    """A file without permission is named as such; its entries do not count as gone."""
    folder, opened = write_files(tmp_path / "audit", GOOD), os.open

    def refuse(path, *options, **more):
        if os.fspath(path) == str(folder / name):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *options, **more)

    monkeypatch.setattr(os, "open", refuse)
    verdict = verdict_on(folder, processes=1)
    assert ("file_unreadable", None, None, name, None) in broken(verdict)
    assert {"file_unreadable"} | ({"kept_missing"} & {kind for kind, *_ in broken(verdict)}) == {
        kind for kind, *_ in broken(verdict)
    }
    assert "detected" not in {threat.state for threat in verdict.threats}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["checkpoint", "checkpoints/00000000000000004096", FIRST, THIRD, "notes", "tree/0"])
def test_huge_files_are_not_read_into_memory(tmp_path, name):
    """64 MB of nothing (a sparse file could be of any size) are passed over in small pieces."""
    folder = write_files(tmp_path / "audit", GOOD)
    with (folder / name).open("ab") as file:
        file.truncate(1 << 26)
    with (folder / name).open("ab") as file:
        file.write(b"\n" if name == FIRST else b"x")
    tracemalloc.start()
    try:
        verdict = verdict_on(folder, processes=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (verdict.exit_code, peak < 1 << 25) == (4, True)


def test_size_out_of_thin_air_costs_nothing(tmp_path):
    """Whoever holds a key can sign any size; the entries decide how much is looked at."""
    text = f"{SMITH.origin}\n{1 << 50}\n{base64.b64encode(bytes(32)).decode()}\n"
    note = sign_note(text, SMITH.log_key, SMITH.epoch_key(1))
    kinds = {finding.kind for finding in check(tmp_path / "audit", GOOD | {"checkpoint": note}).broken}
    assert "tail_cut" in kinds or "history_rewritten" in kinds


def test_failure_of_the_verifier_is_a_finding(tmp_path, monkeypatch):
    """What nobody foresaw breaks the log's verdict, with nothing ruled out."""
    monkeypatch.setattr(Judge, "judge", lambda *_: 1 // 0)
    verdict = check(tmp_path / "audit", GOOD)
    assert [found.kind for found in verdict.findings] == ["unexplained"]
    assert {name: verdict.threat(name).state for name in ("edit", "insert", "rollback")} == {
        "edit": "detected",
        "insert": "not_ruled_out",
        "rollback": "not_ruled_out",
    }
