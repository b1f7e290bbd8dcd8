"""`erase` and `subject export` on the command line."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from klingai_audit import AuditLog, acting
from klingai_audit.bundle import check_bundle
from klingai_audit.cli.run import run
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.upkeep.holds import set_hold

USER, OTHER = "user@example.com", "boss@example.com"
BASIS = "GDPR Art. 17(1)(b)"
Run = Callable[..., tuple[int, bytes, bytes]]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log with two people in it."""
    with AuditLog.open(tmp_path / "audit") as audit:
        for who, other in ((USER, OTHER), (OTHER, USER)):
            with acting(who):
                audit.log("prompt_submitted", action="text_to_video", prompt="A lake", on_behalf_of=other)
                audit.log("video_downloaded", resource_type="video")
    return tmp_path / "audit"


@pytest.fixture
def cli(log: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line on the log; returns code, stdout, stderr."""
    monkeypatch.setenv("KLINGAI_AUDIT_ACTOR", "officer@example.com")
    monkeypatch.setenv("COLUMNS", "200")

    def call(*argv: str) -> tuple[int, bytes, bytes]:
        code = run([*argv, "--log", str(log)])
        out, err = capfdbinary.readouterr()
        return code, out, err

    return call


def as_json(answer: tuple[int, bytes, bytes]) -> dict[str, Any]:
    """Return what a command said as JSON; it must have gone well."""
    assert (0, b"") == (answer[0], answer[2])
    found: dict[str, Any] = json.loads(answer[1])
    return found


def test_erase_prints_the_certificate(cli: Run, log: Path) -> None:
    """For people and for programs the same; the second time, by pseudonym, it says that it is done."""
    made = as_json(cli("erase", USER, "--basis", BASIS, "--json"))
    assert (BASIS, 3, True, False) == (made["basis"], made["entries"], made["verified"], made["again"])
    code, out, _ = cli("erase", made["pseudonym"], "--basis", BASIS)
    assert 0 == code
    assert out.startswith(f"Erased already: entry {made['seq']}, on {made['at'][:10]}. Nothing is left".encode())
    for words in (BASIS, "from entry 2 to 4", "prompt_submitted 2, video_downloaded 1", made["checkpoint"]["root"]):
        assert words.encode() in out
    code, _, err = cli("erase", USER, "--basis", BASIS)
    assert (2, True) == (code, b"Nobody by this id" in err)
    with AuditLog.open(log) as audit:
        assert "officer@example.com" == next(audit.query(event_type="subject_erased")).actor("id")


def test_erase_is_told_by_other_commands(cli: Run) -> None:
    """show, activity and query --resolve say when and under what."""
    made = as_json(cli("erase", USER, "--basis", BASIS, "--json"))
    words = f"erased on {made['at'][:10]} under {BASIS}".encode()
    for argv in (("show", "2"), ("show", str(made["seq"])), ("activity", made["pseudonym"])):
        assert words in cli(*argv)[1]
    assert b" erased on " + made["at"][:10].encode() in cli("query", "--resolve", "--type", "video_downloaded")[1]
    line = cli("query", "--resolve", "--json", "--type", "video_downloaded", "--actor", made["pseudonym"])[1]
    assert {"seq": made["seq"], "at": made["at"], "basis": BASIS} == json.loads(line)["_erased"]


def test_verify_names_erasures(cli: Run) -> None:
    """The verdict says how many were erased and by which entries; before, it says nothing of it."""
    code, before, _ = cli("verify", "--json")
    assert (0, False) == (code, "erased" in json.loads(before))
    made = [as_json(cli("erase", who, "--basis", BASIS, "--json")) for who in (USER, OTHER)]
    told = as_json(cli("verify", "--json"))["erased"]
    assert [(one["pseudonym"], one["seq"], BASIS) for one in made] == [
        (one["pseudonym"], one["seq"], one["basis"]) for one in told
    ]
    words = f"2 subjects erased (entries {made[0]['seq']}, {made[1]['seq']})"
    assert words.encode() in cli("verify")[1]


def test_a_hold_beats_it(cli: Run, log: Path) -> None:
    """Exit 1, the hold by name, and nothing changed."""
    with AuditLog.open(log) as audit, acting(OTHER):
        set_hold(audit, "case-7", range=(2, 2))
    code, out, err = cli("erase", USER, "--basis", BASIS)
    assert (1, b"") == (code, out)
    assert b"legal hold case-7" in err
    with AuditLog.open(log) as audit:
        assert audit.subjects.find(USER) is not None
        assert [] == list(audit.query(event_type="subject_erased"))


def members(data: bytes) -> dict[str, bytes]:
    """Return what is in a zip file."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_export_holds_the_person_and_proofs(cli: Run, log: Path, tmp_path: Path) -> None:
    """All entries in all three roles, each proven; the person's own id, nobody else's; recorded as log_exported."""
    told = as_json(cli("subject", "export", USER, "-o", str(tmp_path / "me.zip"), "--json"))
    files = members((tmp_path / "me.zip").read_bytes())
    assert ["README.txt", "evidence-001.zip", "person.json"] == sorted(files) == told["members"]
    person = json.loads(files["person.json"])
    assert (USER, told["pseudonym"], None) == tuple(person["person"][name] for name in ("id", "pseudonym", "erased"))
    assert [(2, ["actor"]), (3, ["actor"]), (4, ["on_behalf_of"])] == [
        (entry["seq"], entry["roles"]) for entry in person["entries"]
    ]
    checked = check_bundle(files["evidence-001.zip"], VerifierKey.parse(person["key"]))
    assert [2, 3, 4] == list(checked.entries)
    assert OTHER.encode() not in b"".join(files.values())
    summary = files["README.txt"].decode()
    assert USER in summary
    assert "2  prompt_submitted: " in summary
    with AuditLog.open(log) as audit:
        entry = next(audit.query(event_type="log_exported"))
    assert (told["seq"], "user", told["pseudonym"]) == (entry.seq, entry.resource_type, entry.resource_id)


def test_export_into_a_folder(cli: Run, tmp_path: Path) -> None:
    """A new folder is private and holds the same files; one with something in it is left alone."""
    target = tmp_path / "me"
    code, out, _ = cli("subject", "export", USER, "-o", str(target))
    assert (0, True) == (code, out.startswith(b"3 entries about p_"))
    assert ["README.txt", "evidence-001.zip", "person.json"] == sorted(path.name for path in target.iterdir())
    assert 0o700 == target.stat().st_mode & 0o777
    code, _, err = cli("subject", "export", USER, "-o", str(target))
    assert (2, True) == (code, b"is there already" in err)


def test_export_of_somebody_erased_or_unknown(cli: Run, tmp_path: Path) -> None:
    """By pseudonym there is still what entries hold, without an id; an id that nobody has is refused."""
    made = as_json(cli("erase", USER, "--basis", BASIS, "--json"))
    as_json(cli("subject", "export", made["pseudonym"], "-o", str(tmp_path / "gone.zip"), "--json"))
    person = json.loads(members((tmp_path / "gone.zip").read_bytes())["person.json"])
    assert (None, made["seq"]) == (person["person"]["id"], person["person"]["erased"]["seq"])
    for nobody in (USER, "nobody@example.com", "klingai-audit"):
        code, _, err = cli("subject", "export", nobody, "-o", str(tmp_path / "nobody.zip"))
        assert (2, True) == (code, b"Nobody by this id" in err)
    assert not (tmp_path / "nobody.zip").exists()
