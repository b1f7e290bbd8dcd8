"""The single file as a command: alone in a folder, under the oldest Python, with its exit codes and its proofs."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from klingai_audit import AuditLog
from klingai_audit.cli.run import run
from klingai_audit.standalone import klingai_audit_verify as alone
from klingai_audit.trust.verdict import FINDING_KINDS, THREATS
from tests.support.both import three_days
from tests.support.logsmith import Smith, write_files

SOURCE = Path(alone.__file__)
SMITH = three_days()
GOOD = SMITH.files()
KEY = SMITH.log_key.vkey


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """The file alone in a folder, with a log beside it."""
    folder = tmp_path_factory.mktemp("alone")
    shutil.copyfile(SOURCE, folder / "klingai_audit_verify.py")
    write_files(folder / "audit", GOOD)
    (folder / "log.pub").write_text(KEY + "\n")
    (folder / "older").write_bytes(SMITH.checkpoint(150, 1))
    return folder


def command(place: Path, *words: str, python: str = sys.executable) -> tuple[int, str, str]:
    """Run it where nothing but the standard library can be imported."""
    argv = [python, "-I", "-S", "klingai_audit_verify.py", *words]
    done = subprocess.run(argv, cwd=place, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_good_log(place):
    """Exit code 0, the table, and what is not ruled out."""
    code, out, err = command(place, "audit", "--key", "log.pub", "--remembered", "older")
    assert (0, "") == (code, err)
    assert "Nothing is broken" in out
    assert [threat for threat in THREATS if f"  {threat}" not in out] == []
    assert out.count("not ruled out") == 5


def test_json_has_the_members_of_the_product(place):
    """Those of `verify --json`, so that a script reads either."""
    code, out, _ = command(place, "audit", "--key", KEY, "--json")
    told = json.loads(out)
    assert (0, True, len(SMITH.entries), "ruled_out") == (
        code,
        told["integrity_ok"],
        told["total"],
        {one["threat"]: one["state"] for one in told["threats"]}["edit"],
    )
    assert {"format", "log", "origin", "key", "size", "total", "invalid", "exit", "unsigned", "findings"} <= set(told)


@pytest.mark.slow
def test_broken_log(place):
    """Exit code 4, the finding with its place."""
    data = GOOD["audit-2026-11-21.jsonl"].replace(b'"outcome":"success"', b'"outcome":"failure"', 1)
    write_files(place / "bad", GOOD | {"audit-2026-11-21.jsonl": data})
    code, out, _ = command(place, "bad", "--key", "log.pub")
    assert (4, True, True) == (code, "BROKEN: 1 finding." in out, "entry_changed" in out)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["audit"], 2),
        ([], 2),
        (["audit", "--proof", "x", "--key", KEY], 2),
        (["audit", "--key", "nowhere"], 2),
        (["audit", "--key", "name+00000000+AAAA"], 2),
        (["audit", "--key", KEY, "--no-such-option"], 2),
        (["nowhere", "--key", KEY], 3),
        (["older", "--key", KEY], 3),
        (["nowhere", "--key", KEY, "--remembered", "older"], 3),
        (["--proof", "older", "--key", KEY], 4),
    ],
)
def test_other_exit_codes(place, words, code):
    """2 for the question, 3 for the place, 4 for the evidence; one sentence each, no traceback."""
    got, out, err = command(place, *words)
    assert (code, False) == (got, "Traceback" in out + err)


def test_failure_inside_is_exit_4(monkeypatch, tmp_path, capfd):
    """Nothing was verified, and that is said."""
    monkeypatch.setattr(alone, "verify_log", lambda *_, **__: 1 // 0)
    assert 4 == alone.main([str(tmp_path), "--key", KEY])
    assert "nothing was verified" in capfd.readouterr().err


def test_it_is_python_3_9_and_imports_only_the_standard_library():
    """Its syntax is of 3.9, its imports are standard and do not reach the network; one function asks openssl."""
    tree = ast.parse(SOURCE.read_text("utf-8"), feature_version=(3, 9))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= set(sys.stdlib_module_names)
    assert not names & {"socket", "urllib", "http", "ctypes", "pickle"}
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    runs = [node.name for node in functions if "subprocess.run(" in ast.unparse(node)]
    assert ["openssl_ts"] == runs


@pytest.mark.slow
def test_other_interpreters(place):
    """Every Python from 3.9 on that is at hand says the same."""
    found = [shutil.which(name) for name in ("python3", *(f"python3.{minor}" for minor in range(9, 15)))]
    fit = [sys.executable]
    for python in filter(None, found):
        script = "import sys; sys.exit(sys.version_info < (3, 9))"
        done = subprocess.run([python, "-c", script], check=False, capture_output=True)
        fit += [python] if done.returncode == 0 else []
    answers = [command(place, "audit", "--key", "log.pub", "--json", python=python) for python in dict.fromkeys(fit)]
    assert [(0, answers[0][1], "")] * len(answers) == answers


def test_kinds_and_threats_are_the_product_s():
    """Each kind that the file can say is one of the product's, broken where that is, and shows the same threats."""
    for kind, threats in alone.BROKEN.items():
        shown = set(FINDING_KINDS[kind].threats)
        assert ("broken", shown) == (FINDING_KINDS[kind].severity, set(threats)), kind
    assert tuple(THREATS) == alone.THREATS


@pytest.mark.slow
def test_nothing_printed_reaches_the_terminal(place):
    """A file name with control characters is shown as what it is."""
    write_files(place / "odd", GOOD)
    try:
        (place / "odd" / "\x1b[31mred").write_bytes(b"")
        (place / "odd" / os.fsdecode(b"\xff\xfe")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    code, out, _ = command(place, "odd", "--key", "log.pub")
    assert (4, False, True) == (code, "\x1b" in out, "\\x1b[31mred" in out)
    assert 4 == command(place, "odd", "--key", "log.pub", "--json")[0]


# --- proofs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proven(tmp_path_factory) -> tuple[Path, str]:
    """A proof that the product wrote, and the log's key."""
    folder = tmp_path_factory.mktemp("proof")
    with AuditLog.open(folder / "audit") as audit:
        for number in range(20):
            audit.log("x_note", "user@example.com", metadata={"number": number})
        key = audit.vkey
    assert 0 == run(["prove", "7", "-o", str(folder / "entry.tlog-proof"), "--log", str(folder / "audit")])
    return folder / "entry.tlog-proof", key


def test_proof_of_the_product(proven, place):
    """Proven with the key alone; the entry is shown."""
    code, out, _ = command(place, "--proof", str(proven[0]), "--key", proven[1])
    assert (0, True) == (code, out.startswith("Proven: entry 7 is in the tree of "))
    code, out, _ = command(place, "--proof", str(proven[0]), "--key", proven[1], "--json")
    assert 7 == json.loads(json.loads(out)["entry"])["seq"]


def test_no_changed_byte_of_a_proof_passes(proven):
    """Every byte of it in turn, but for lines that are by others than the log key."""
    data = proven[0].read_bytes()
    begin = data.rindex("—".encode())
    passed = []
    for at in range(0, begin, 7):
        try:
            alone.check_proof(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], proven[1])
            passed.append(at)
        except (alone.Malformed, alone.Unusable):
            continue
    assert [] == passed


@pytest.mark.parametrize("size", [1, 2, 64, 150, 256, 308])
def test_proof_of_consistency_of_the_product(place, tmp_path, size):
    """From older checkpoints to the newest; none passes with another one, or with a byte changed."""
    made, old, key = tmp_path / "proof", tmp_path / "old", str(place / "log.pub")
    old.write_bytes(SMITH.checkpoint(size, 0))
    assert 0 == run(["consistency", str(old), "-o", str(made), "--log", str(place / "audit"), "--key", key])
    code, out, _ = command(place, "--proof", str(made), "--old", str(old), "--key", key, "--json")
    assert (0, size, len(SMITH.entries)) == (code, json.loads(out)["old"], json.loads(out)["new"])
    data, note = made.read_bytes(), old.read_bytes()
    for at in range(0, data.index("\u2014".encode()), 5):
        with pytest.raises(alone.Malformed):
            alone.check_consistency(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], note, KEY)
    old.write_bytes(SMITH.checkpoint(5, 0))
    assert 4 == command(place, "--proof", str(made), "--old", str(old), "--key", key)[0]


def test_proof_of_consistency_of_one_size():
    """Nothing to climb; another root under the same key's signature is a second history."""
    size, note = SMITH.tree.size, SMITH.checkpoint()
    proof = b"old %d\n\n" % size + note
    before, after = alone.check_consistency(proof, note, KEY)
    assert (size, before.root) == (after.size, after.root)
    with pytest.raises(alone.Malformed, match="two histories"):
        alone.check_consistency(proof, Smith().create().work(size).checkpoint(size, 0), KEY)


def test_proof_without_its_entry(proven, place, tmp_path):
    """The entry may be given beside; without it nothing can be said."""
    lines = proven[0].read_bytes().split(b"\n")
    bare = tmp_path / "bare"
    bare.write_bytes(b"\n".join([lines[0], *lines[2:]]))
    assert 2 == command(place, "--proof", str(bare), "--key", proven[1])[0]
    entry = tmp_path / "entry"
    entry.write_bytes(alone.check_proof(proven[0].read_bytes(), proven[1])[2] + b"\n")
    assert 0 == command(place, "--proof", str(bare), "--key", proven[1], "--entry", str(entry))[0]
    entry.write_bytes(b"{}")
    assert 4 == command(place, "--proof", str(bare), "--key", proven[1], "--entry", str(entry))[0]


# --- size and patience ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hundred_thousand_entries_take_seconds_and_little_memory(tmp_path):
    """100,000 entries: under half a minute on a slow machine, and memory does not grow with them."""
    smith = Smith().create().work(50_000).rotate().work(50_000).closed()
    write_files(tmp_path / "audit", smith.files())
    begin = time.process_time()
    verdict = alone.verify_log(str(tmp_path / "audit"), smith.log_key.vkey, now=smith.now)
    took = time.process_time() - begin
    assert (0, 100_004, True) == (verdict.exit_code, verdict.total, took < 30)
    tracemalloc.start()
    alone.verify_log(str(tmp_path / "audit"), smith.log_key.vkey, now=smith.now)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20


def test_a_writer_at_work_is_waited_for(tmp_path):
    """A log that is written to all the time is verified without a finding."""
    with AuditLog.open(tmp_path / "audit") as audit:
        for number in range(50):
            audit.log("x_note", "user@example.com", metadata={"number": number})
            if number % 10 == 0:
                verdict = alone.verify_log(str(tmp_path / "audit"), audit.vkey, patience=60.0)
                assert [] == [finding.kind for finding in verdict.broken]
