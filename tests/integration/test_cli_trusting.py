"""`verify` through the command line: its object, its exit codes, where its key comes from."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from klingai_audit.cli.run import run
from klingai_audit.config import Places, open_subjects
from klingai_audit.log import AuditLog

MEMBERS = (
    "format", "log", "origin", "key", "custody", "size", "total", "valid", "invalid", "integrity_ok", "exit",
    "quick_from", "purged", "unsigned", "threats", "findings", "recorded",
)  # fmt: skip
THREATS = (
    "edit", "insert", "delete", "reorder", "head_cut", "tail_cut", "rollback", "fork", "back_dating", "foreign_key",
    "key_holder", "key_theft", "quantum",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A small log that nobody writes any more."""
    folder = tmp_path_factory.mktemp("cli-trusting")
    with AuditLog.open(folder / "audit") as audit:
        for number in range(5):
            audit.log("x_note", "user@example.com", metadata={"number": number})
        audit.rotate_keys()
        audit.log("x_note", "boss@example.org")
    return folder


@pytest.fixture(autouse=True)
def temporary(monkeypatch, tmp_path) -> None:
    """Keep what verifiers remember in temporary folders to this test."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))


@pytest.fixture
def place(whole, tmp_path) -> Path:
    """A copy of it to spoil."""
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


def day_of(place: Path) -> Path:
    """Return the day file with the numbers; midnight may have passed since."""
    return next(day for day in (place / "audit").glob("*.jsonl") if b'"number":2' in day.read_bytes())


@pytest.fixture
def verify(capfdbinary):
    """Run `verify --json` on a folder's log; returns (exit code, the object or the error)."""

    def call(place: Path, *argv: str):
        code = run(["verify", "--json", "--log", str(place / "audit"), *argv])
        out, err = capfdbinary.readouterr()
        return code, json.loads(out or err)

    return call


def test_the_object_of_a_whole_log(whole, verify):
    """All promised members in order, every threat once, nothing broken, exit 0."""
    code, told = verify(whole)
    assert (0, MEMBERS, THREATS) == (code, tuple(told), tuple(threat["threat"] for threat in told["threats"]))
    assert (0, True, 0, []) == (told["exit"], told["integrity_ok"], told["invalid"], told["findings"])
    assert told["size"] == told["total"] == told["valid"]
    assert {"vkey": (whole / "audit.keys" / "log.pub").read_text().strip(), "source": "remembered"} == told["key"]
    assert {"entries": 0, "oldest": None} == told["unsigned"]
    assert {"ruled_out", "not_ruled_out"} == {threat["state"] for threat in told["threats"]}


def test_a_changed_bit_is_found_wherever_it_is(whole, place, verify):
    """One flipped bit in any file of the log: exit 4, with a place."""
    chosen = random.Random(7)
    for path in sorted(path for path in (place / "audit").rglob("*") if path.is_file()):
        data = path.read_bytes()
        at, bit = chosen.randrange(len(data)), 1 << chosen.randrange(8)
        path.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
        code, told = verify(place)
        assert (4, 4, False) == (code, told["exit"], told["integrity_ok"]), (path, at, bit)
        assert [] != [found for found in told["findings"] if found["file"] or found["seq"] is not None], (path, at, bit)
        path.write_bytes(data)
    assert 0 == verify(place)[0]


def test_people_get_the_result_first_and_never_bare(whole, place, capfdbinary):
    """The first line says what holds and what stays open; a broken log says so, with findings."""
    assert 0 == run(["verify", "--log", str(whole / "audit")])
    first = capfdbinary.readouterr().out.decode().splitlines()[0]
    assert (True, True) == (first.startswith("No change found in the log of "), "Not ruled out: " in first)
    day = day_of(place)
    day.write_bytes(day.read_bytes().replace(b'"number":2', b'"number":7'))
    assert 4 == run(["verify", "--log", str(place / "audit")])
    told = capfdbinary.readouterr().out.decode()
    assert told.startswith("BROKEN: ")
    assert "entry_changed" in told
    assert "DETECTED" in told


def test_the_key_comes_from_option_memory_or_keys_folder(whole, place, verify, monkeypatch, tmp_path):
    """In this order; without any of them exit 2, unless the log's own claim shall be believed."""
    vkey = (whole / "audit.keys" / "log.pub").read_text().strip()
    assert "option" == verify(whole, "--key", vkey)[1]["key"]["source"]
    assert "option" == verify(whole, "--key", str(whole / "audit.keys" / "log.pub"))[1]["key"]["source"]
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    assert "keys folder" == verify(place)[1]["key"]["source"]
    shutil.rmtree(place / "audit.keys")
    code, told = verify(place)
    assert (2, "NoTrustedKey") == (code, told["error"]["kind"])
    code, told = verify(place, "--trust-first-key")
    assert (0, "first use", vkey) == (code, told["key"]["source"], told["key"]["vkey"])
    assert [] == list((tmp_path / "elsewhere").glob("**/*"))


def test_another_key_is_not_this_logs(whole, place, verify, tmp_path):
    """A given key that is not the log's breaks it, and so does a keys folder that names another."""
    with AuditLog.open(tmp_path / "other") as other:
        vkey = other.vkey
    code, told = verify(whole, "--key", vkey)
    assert (4, "detected") == (code, next(t["state"] for t in told["threats"] if t["threat"] == "foreign_key"))
    (place / "audit.keys" / "log.pub").write_text(vkey + "\n")
    code, told = verify(place)
    assert (4, True) == (code, "key_disagreement" in [found["kind"] for found in told["findings"]])


@pytest.mark.parametrize("option", ["--key", "--epoch-key"])
def test_a_key_that_is_none_is_refused(whole, verify, option):
    """What is neither a vkey nor a file with one is one sentence and exit 2, not a verdict on the log."""
    code, told = verify(whole, option, "nonsense")
    assert (2, "UsageError") == (code, told["error"]["kind"])


def test_one_day_file_by_itself(whole, place, verify):
    """Links and form of one file, in the same object with its scope; the rest is not checked."""
    day = day_of(place)
    code, told = verify(place, str(day))
    assert (0, "file", ("format", "scope", *MEMBERS[1:])) == (code, told["scope"], tuple(told))
    day.write_bytes(day.read_bytes().replace(b'"number":2', b'"number":7'))
    assert 4 == verify(place, str(day))[0]
    assert 3 == verify(place, str(place / "none.jsonl"))[0]


def test_quick_says_where_it_began(place, verify):
    """After a whole verification `--quick` names the size that was not read again; new entries are."""
    size = verify(place)[1]["size"]
    with AuditLog.open(place / "audit"):
        pass
    lines = [line for day in (place / "audit").glob("*.jsonl") for line in day.read_bytes().splitlines()]
    told = verify(place, "--quick")[1]
    assert (size, len(lines)) == (told["quick_from"], told["size"])
    assert len(lines) >= size + 2
    assert None is verify(place)[1]["quick_from"]


def test_a_read_only_copy_without_home_is_verified(whole, place, verify, monkeypatch, tmp_path):
    """Public key and log are enough; nothing is written beside either."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "nowhere"))
    shutil.rmtree(place / "audit.state")
    key = (place / "audit.keys" / "log.pub").read_text().strip()
    shutil.rmtree(place / "audit.keys")
    before = sorted(place.rglob("*"))
    assert 0 == verify(place, "--key", key, "--quick")[0]
    assert before == sorted(place.rglob("*"))


def test_proofs_only_still_sees_an_edit(place, verify):
    """Without decoding, links and tree still tell."""
    assert 0 == verify(place, "--proofs-only")[0]
    day = day_of(place)
    day.write_bytes(day.read_bytes().replace(b'"number":2', b'"number":7'))
    assert 4 == verify(place, "--proofs-only")[0]


def test_record_writes_what_was_found(place, verify):
    """`--record` appends `log_verified`, and the object says so."""
    code, told = verify(place, "--record")
    assert (0, True) == (code, told["recorded"])
    last = max((place / "audit").glob("*.jsonl")).read_bytes().splitlines()[-2]
    assert ("log_verified", told["size"]) == (json.loads(last)["event_type"], json.loads(last)["metadata"]["tree_size"])


def test_a_log_that_is_gone_is_broken_and_not_merely_absent(place, tmp_path, verify):
    """Where a signed head is remembered, a missing log is a finding; where nothing is, exit 3."""
    shutil.rmtree(place / "audit")
    code, told = verify(place)
    assert (4, ["log_missing"]) == (code, [found["kind"] for found in told["findings"]])
    assert 3 == verify(tmp_path / "nothing")[0]


@pytest.fixture
def private(place, monkeypatch, tmp_path) -> Path:
    """The copy as another user sees it: state and keys cannot be read."""
    opened = os.open

    def refuse(path, *options, **more):
        if str(path).startswith((str(place / "audit.state"), str(place / "audit.keys"))):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *options, **more)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "nowhere"))
    return place


def test_unreadable_state_is_nothing_remembered(whole, private, verify):
    """Whoever may read the log alone verifies it with the public key, and is told what was not there to compare."""
    code, told = verify(private, "--key", str(whole / "audit.keys" / "log.pub"))
    rollback = next(threat for threat in told["threats"] if threat["threat"] == "rollback")
    assert (0, "option", "not_ruled_out") == (code, told["key"]["source"], rollback["state"])
    assert "cannot be read" in rollback["by"]
    day = day_of(private)
    day.write_bytes(day.read_bytes().replace(b'"number":2', b'"number":7'))
    assert 4 == verify(private, "--key", str(whole / "audit.keys" / "log.pub"))[0]


def test_unreadable_keys_folder_is_no_key(private, verify):
    """The log's own claim can still be believed on demand; without that there is no key."""
    assert (0, "first use") == ((told := verify(private, "--trust-first-key"))[0], told[1]["key"]["source"])
    code, told = verify(private)
    assert (2, "NoTrustedKey") == (code, told["error"]["kind"])


def test_unreadable_subjects_are_pseudonyms(private):
    """Views go on without the table of people."""
    assert open_subjects(Places.resolve(private / "audit")) is None


def test_a_policy_that_cannot_be_used_is_told(place, capfdbinary):
    """The log is judged without it, and says so beside the verdict."""
    (place / "audit.keys" / "policy.toml").write_text("[retention]\nminimum = 'long'\n")
    assert 0 == run(["verify", "--json", "--log", str(place / "audit")])
    out, err = capfdbinary.readouterr()
    assert (True, {"policy": "not usable"}) == (json.loads(out)["integrity_ok"], json.loads(err))
