"""`bundle` and `check` of what it wrote, as operator and auditor use them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from klingai_audit.bundle import empty_page
from klingai_audit.cli.run import run
from tests.support.bundles import BAD, STRANGER, WITNESS, Made, changed, make

ASK = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def ask(made: Made, capfd: pytest.CaptureFixture[str]) -> ASK:
    def call(*argv: str) -> tuple[int, str, str]:
        code = run([*argv, "--log", str(made.folder / "audit")])
        return code, *capfd.readouterr()

    return call


def test_what_was_chosen_is_handed_out_and_checked(made: Made, ask: ASK, tmp_path: Path) -> None:
    """By query or by number it is the same file; it names the key to tell the reader by another way."""
    seqs = [option for seq in made.evidence.chosen for option in ("--seq", str(seq))]
    code, out, _ = ask("bundle", "--type", "x_note", "-o", str(tmp_path / "a.zip"), "--json")
    told = json.loads(out)
    assert 0 == code == ask("bundle", *seqs, "-o", str(tmp_path / "b.zip"))[0]
    data = (tmp_path / "a.zip").read_bytes()
    assert (made.data, data, made.vkey, hashlib.sha256(made.vkey.encode()).hexdigest()) == (
        data, (tmp_path / "b.zip").read_bytes(), told["key"], told["fingerprint"],
    )  # fmt: skip
    code, out, _ = ask("check", str(tmp_path / "a.zip"), "--key", made.vkey, "--json")
    told = json.loads(out)
    assert (0, True, list(made.evidence.chosen)) == (code, told["valid"], told["seqs"])


def test_witnesses_that_the_auditor_names_are_told(made: Made, ask: ASK, tmp_path: Path) -> None:
    """`--witnesses` takes the auditor's own policy."""
    (tmp_path / "e.zip").write_bytes(made.data)
    lines = [f"witness {name} {key.verifier.format()}" for name, key in (("a", WITNESS), ("b", STRANGER))]
    (tmp_path / "policy").write_text("\n".join((*lines, "group g all a b", "quorum g", "")))
    code, out, _ = ask("check", str(tmp_path / "e.zip"), "--key", made.vkey, "--witnesses", str(tmp_path / "policy"))
    assert (0, True) == (code, "by witness.example/one, witness.example/two" in out)
    assert "Not checked: cosignatures" in ask("check", str(tmp_path / "e.zip"), "--key", made.vkey)[1]


@pytest.mark.parametrize("name", [*BAD, "cut short"])
def test_bad_evidence_is_exit_4(made: Made, ask: ASK, tmp_path: Path, name: str) -> None:
    """Whatever was changed."""
    (tmp_path / "e.zip").write_bytes(made.data[:-40] if name == "cut short" else changed(made, BAD[name]))
    assert 4 == ask("check", str(tmp_path / "e.zip"), "--key", made.vkey)[0]


@pytest.mark.parametrize(
    "argv", [[], ["--seq", "999"], ["--type", "log_heartbeat"], ["--empty-page", "--seq", "1"], ["--task", "none"]]
)
def test_a_choice_of_nothing_is_refused(ask: ASK, tmp_path: Path, argv: list[str]) -> None:
    """Nothing named, nothing there, nothing found: exit 2, and no file."""
    assert 2 == ask("bundle", *argv, "-o", str(tmp_path / "e.zip"))[0]
    assert not (tmp_path / "e.zip").exists()


def test_the_empty_page_is_written_with_its_digest(ask: ASK, tmp_path: Path) -> None:
    """The digest printed is that of the file, which needs no log."""
    code, out, _ = ask("bundle", "--empty-page", "-o", str(tmp_path / "verify.html"), "--json")
    page = (tmp_path / "verify.html").read_bytes()
    assert (0, empty_page(), hashlib.sha256(page).hexdigest()) == (code, page, json.loads(out)["sha256"])


def test_handing_out_can_be_recorded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`--record` leaves an entry in the log, which is not in the bundle."""
    own = make(tmp_path)
    size = len(b"".join(day.read_bytes() for day in sorted((tmp_path / "audit").glob("*.jsonl"))).splitlines())
    log = str(tmp_path / "audit")
    assert 0 == run(["bundle", "--type", "x_note", "-o", str(tmp_path / "e.zip"), "--record", "--log", log])
    lines = b"".join(day.read_bytes() for day in sorted((tmp_path / "audit").glob("*.jsonl"))).splitlines()
    added = [json.loads(line) for line in lines[size:] if b'"event_type":"log_exported"' in line]
    assert [("bundle", 5)] == [(one["metadata"]["command"], one["metadata"]["entries"]) for one in added]
    assert own.data == (tmp_path / "e.zip").read_bytes()
    capfd.readouterr()
