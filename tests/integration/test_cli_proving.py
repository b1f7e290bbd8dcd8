"""`prove`, `consistency`, `check`: what an auditor does with one entry, one key and no log."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from klingai_audit.cli.run import run
from klingai_audit.log import AuditLog
from klingai_audit.tlog.keys import SignerKey

ASK = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of some entries, its older checkpoint kept aside, and a copy that ends there."""
    folder = tmp_path_factory.mktemp("proving")
    with AuditLog.open(folder / "audit") as audit:
        for number in range(5):
            audit.log("x_note", "user@example.com", metadata={"number": number})
        audit.flush("published")
        (folder / "old.checkpoint").write_bytes((folder / "audit" / "checkpoint").read_bytes())
        audit.log("x_note", "user@example.com", metadata={"number": 5})
        (folder / "key").write_text(audit.vkey + "\n")
    return folder


@pytest.fixture
def ask(place: Path, capfd: pytest.CaptureFixture[str]) -> ASK:
    def call(*argv: str) -> tuple[int, str, str]:
        code = run([*argv, "--log", str(place / "audit")])
        return code, *capfd.readouterr()

    return call


def stored(place: Path) -> list[bytes]:
    return [line for day in sorted(place.glob("audit/*.jsonl")) for line in day.read_bytes().splitlines()]


def test_an_entry_is_proven_with_a_key_and_no_log(
    place: Path, ask: ASK, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The proof holds the entry byte for byte; checking it opens no log."""
    file = tmp_path / "entry.tlog-proof"
    assert 0 == ask("prove", "4", "-o", str(file))[0]
    code = run(["check", str(file), "--key", str(place / "key"), "--log", str(tmp_path / "none"), "--json"])
    told = json.loads(capfd.readouterr().out)
    assert (0, True, 4, stored(place)[4].decode()) == (code, told["valid"], told["seq"], told["entry"])


def test_an_event_id_names_the_same_entry(place: Path, ask: ASK, tmp_path: Path) -> None:
    """In either case of its letters."""
    event_id = json.loads(stored(place)[3])["event_id"]
    for name, what in (("a", "3"), ("b", event_id.upper())):
        assert 0 == ask("prove", what, "-o", str(tmp_path / name))[0]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def with_extra(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    lines = data.split(b"\n")
    lines[1] = b"extra " + base64.b64encode(change(base64.b64decode(lines[1].removeprefix(b"extra "))))
    return b"\n".join(lines)


def with_other_signature(data: bytes) -> bytes:
    """Change one character in the log key's line, the first of the two."""
    *head, log_line, epoch_line, _ = data.split(b"\n")
    at = log_line.rindex(b" ") + 12
    changed = log_line[:at] + (b"B" if log_line[at : at + 1] == b"A" else b"A") + log_line[at + 1 :]
    return b"\n".join((*head, changed, epoch_line, b""))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: with_extra(data, lambda entry: entry.replace(b'"number":2', b'"number":9')),
        lambda data: data.replace(b"\nindex 4\n", b"\nindex 5\n"),
        with_other_signature,
        lambda data: data + b"x",
        lambda data: b"old 3\n\n" + data.partition(b"\n\n")[2],
    ],
    ids=["entry", "index", "signature", "tail", "kind"],
)
def test_a_changed_proof_is_refused(place: Path, ask: ASK, tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    """Whatever was changed, the exit code is 4 (2 where it became a proof of something else)."""
    file = tmp_path / "proof"
    ask("prove", "4", "-o", str(file))
    file.write_bytes(change(file.read_bytes()))
    code, out, err = ask("check", str(file), "--key", str(place / "key"))
    assert code == (2 if file.read_bytes().startswith(b"old") else 4), (out, err)
    assert "Proven" not in out


def test_the_key_of_another_log_proves_nothing(place: Path, ask: ASK, tmp_path: Path) -> None:
    """Even one that carries the right name."""
    file = tmp_path / "proof"
    ask("prove", "0", "-o", str(file))
    origin = (place / "key").read_text().split("+")[0]
    assert 4 == ask("check", str(file), "--key", SignerKey.generate(origin).verifier.format())[0]
    assert 4 == ask("check", str(file), "--key", SignerKey.generate("other.example").verifier.format())[0]


def test_the_log_extends_a_checkpoint_that_was_kept(place: Path, ask: ASK, tmp_path: Path) -> None:
    """The proof can be checked elsewhere with both checkpoints and the key."""
    old, file = str(place / "old.checkpoint"), tmp_path / "consistency"
    code, out, _ = ask("consistency", old, "-o", str(file), "--json")
    told = json.loads(out)
    assert (0, True, 7, 9) == (code, told["checked"], told["old"], told["new"])
    assert 0 == ask("check", str(file), "--old", old, "--key", str(place / "key"))[0]
    assert 4 == ask("check", str(file), "--old", str(place / "audit" / "checkpoint"), "--key", str(place / "key"))[0]
    assert 2 == ask("check", str(file), "--old", old, "--key", str(place / "key"), "--witnesses", old)[0]


def test_a_log_that_was_put_back_does_not_extend_it(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A newer checkpoint that was kept shows the rollback; both are named as the exhibit."""
    back = tmp_path / "audit"
    shutil.copytree(place / "audit", back)
    (back / "checkpoint").write_bytes((place / "old.checkpoint").read_bytes())
    newer = str(place / "audit" / "checkpoint")
    assert 4 == run(["consistency", newer, "--log", str(back), "--key", str(place / "key")])
    assert "covers 9 entries, the log has 7." in capfd.readouterr().err


def test_a_size_alone_is_not_called_checked(ask: ASK) -> None:
    """Nothing signed stands at the old end."""
    code, out, _ = ask("consistency", "3", "--json")
    assert (0, False) == (code, json.loads(out)["checked"])


@pytest.mark.parametrize(
    "argv",
    [
        ["prove", "999", "-o", "{tmp}/x"],
        ["prove", "no-such-id", "-o", "{tmp}/x"],
        ["prove", "0", "-o", "{tmp}/none/x"],
        ["check", "{tmp}/none"],
        ["consistency", "999"],
    ],
)
def test_wrong_input_is_exit_2(ask: ASK, tmp_path: Path, argv: list[str]) -> None:
    """One sentence says what is wrong."""
    code, _, err = ask(*(word.replace("{tmp}", str(tmp_path)) for word in argv))
    assert (2, True) == (code, err.startswith("klingai-audit: "))


def test_record_writes_who_took_the_proof(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Evidence that leaves is an entry, if asked for."""
    log = str(tmp_path / "audit")
    AuditLog.open(log).close()
    assert 0 == run(["prove", "0", "-o", str(tmp_path / "proof"), "--record", "--log", log])
    capfd.readouterr()
    assert 0 == run(["query", "--type", "log_queried", "--json", "--log", log])
    (entry,) = map(json.loads, capfd.readouterr().out.splitlines())
    assert ("prove", {"what": "0"}) == (entry["metadata"]["command"], entry["metadata"]["filter"])
