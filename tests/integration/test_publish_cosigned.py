"""Tiles under the newest cosigned checkpoint: for C2SP clients that demand witnesses."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from klingai_audit.cli.run import run
from klingai_audit.config import Places, open_reader
from klingai_audit.errors import InconsistentCheckpoints, UsageError
from klingai_audit.event.own import own_event
from klingai_audit.log import AuditLog
from klingai_audit.publish.cosigned import CosignedHead
from klingai_audit.publish.server import log_app
from klingai_audit.publish.tiles import Published, publish_tiles
from klingai_audit.tlog.checkpoint import parse_checkpoint
from klingai_audit.tlog.cosignature import cosign, verify_cosignature
from klingai_audit.tlog.keys import COSIGNATURE, SignerKey, VerifierKey
from klingai_audit.tlog.note import Note, format_note, parse_note, sign_note
from klingai_audit.tlog.policy import WitnessPolicy
from klingai_audit.trust.witnessed import witnessed_metadata
from tests.support.integers import Hasty

pytestmark = pytest.mark.slow

WITNESSES = [SignerKey(f"w{number}.example", bytes([number]) * 32, COSIGNATURE) for number in (1, 2)]
POLICY = "".join(f"witness w{n} {key.verifier.format()}\n" for n, key in enumerate(WITNESSES))


def policy(needed: int = 1) -> WitnessPolicy:
    return WitnessPolicy.parse(f"{POLICY}group g {needed} w0 w1\nquorum g\n".encode())


def witness(audit: AuditLog, *keys: SignerKey, change: Callable[[Note], Note] = lambda note: note) -> bytes:
    """Have the newest checkpoint cosigned, as the witness client does; returns it as it was before."""
    audit.flush("published")
    plain = audit.reader.checkpoint_note()
    note = parse_note(plain)
    lines = [cosign(note.text, key, int(time.time())) for key in keys]
    data = format_note(change(Note(note.text, (*note.signatures, *lines))))
    audit.append(own_event("checkpoint_witnessed", witnessed_metadata(data), time.time_ns())).wait("published")
    return plain


@pytest.fixture
def audit(tmp_path: Path):
    with AuditLog.open(tmp_path / "audit") as made:
        made.log("x_note", "user@example.com")
        yield made


def head_of(audit: AuditLog, needed: int = 1) -> CosignedHead:
    return CosignedHead(audit.reader, VerifierKey.parse(audit.vkey), policy(needed))


def test_the_newest_that_enough_signed(audit: AuditLog) -> None:
    """The log's own lines are untouched, and those of witnesses follow; a later one of too few changes nothing."""
    head = head_of(audit, 2)
    with pytest.raises(UsageError, match="No checkpoint of this log is cosigned by"):
        head()
    plain = witness(audit, *WITNESSES)
    note = parse_note(head())
    assert plain == format_note(Note(note.text, note.signatures[: len(parse_note(plain).signatures)]))
    assert 2 == sum(verify_cosignature(note.text, note.signatures[-n], WITNESSES[-n].verifier) > 0 for n in (1, 2))
    seen = head()
    witness(audit, WITNESSES[0])
    assert seen == head() == head_of(audit, 2)()
    assert parse_checkpoint(note.text).size < parse_checkpoint(parse_note(head_of(audit, 1)()).text).size


def test_what_is_not_good_is_passed_over(audit: AuditLog) -> None:
    """A line that does not verify, a checkpoint that this log does not have, a witness that nobody named."""
    witness(audit, WITNESSES[0])
    good = head_of(audit)()
    other = SignerKey("w0.example", bytes(32), COSIGNATURE)
    witness(audit, other)
    witness(audit, WITNESSES[0], change=lambda note: Note(note.text, (*note.signatures[:-1], note.signatures[0])))
    text = f"{audit.origin}\n1\n{'A' * 43}=\n"
    note = parse_note(sign_note(text, SignerKey.generate(audit.origin)))
    forged = format_note(Note(text, (*note.signatures, *note.signatures, cosign(text, WITNESSES[0], 1))))
    audit.append(own_event("checkpoint_witnessed", witnessed_metadata(forged), time.time_ns())).wait("published")
    assert good == head_of(audit)()


def test_a_folder_never_goes_back(audit: AuditLog, tmp_path: Path) -> None:
    """It follows the cosigned ones, keeps a newer one that it holds, and keeps cosignatures on the same one."""
    witness(audit, WITNESSES[0])
    first = head_of(audit)()
    size = parse_checkpoint(parse_note(first).text).size
    assert Published(0, size, 2, 0) == publish_tiles(audit.reader, tmp_path, head=lambda: first, ops=Hasty())
    assert first == (tmp_path / "checkpoint").read_bytes()
    publish_tiles(audit.reader, tmp_path, ops=Hasty())
    newest = audit.reader.checkpoint_note()
    assert newest == (tmp_path / "checkpoint").read_bytes()
    has = parse_checkpoint(parse_note(newest).text).size
    assert Published(has, has, 0, 0) == publish_tiles(audit.reader, tmp_path, head=lambda: first, ops=Hasty())
    assert newest == (tmp_path / "checkpoint").read_bytes()
    witness(audit, WITNESSES[0])
    second = head_of(audit)()
    publish_tiles(audit.reader, tmp_path, head=lambda: second, ops=Hasty())
    assert second == (tmp_path / "checkpoint").read_bytes()
    note = parse_note(second)
    plain = format_note(Note(note.text, note.signatures[:-1]))
    assert 0 == publish_tiles(audit.reader, tmp_path, head=lambda: plain, ops=Hasty()).written
    assert second == (tmp_path / "checkpoint").read_bytes()


def test_a_newer_state_of_another_history_is_refused(audit: AuditLog, tmp_path: Path) -> None:
    """A folder that is ahead of the cosigned checkpoint has still to be of this log."""
    witness(audit, WITNESSES[0])
    head = head_of(audit)
    size = parse_checkpoint(parse_note(head()).text).size
    key = SignerKey.generate(audit.origin)
    (tmp_path / "checkpoint").write_bytes(sign_note(f"{audit.origin}\n{size + 1}\n{'A' * 43}=\n", key))
    with pytest.raises(InconsistentCheckpoints):
        publish_tiles(audit.reader, tmp_path, head=head, ops=Hasty())


def test_the_server_gives_no_more_than_the_cosigned_tree(audit: AuditLog, tmp_path: Path) -> None:
    """Its checkpoint has the lines; beyond its size there is nothing; the log's own file stays as it was."""
    witness(audit, WITNESSES[0])
    stored = (tmp_path / "audit" / "checkpoint").read_bytes()
    head = head_of(audit)
    size = parse_checkpoint(parse_note(head()).text).size
    client = TestClient(log_app(open_reader(Places.resolve(tmp_path / "audit")), public=True, head=head))
    assert head() == client.get("/checkpoint").content
    assert [200, 404] == [client.get(f"/tile/0/000.p/{width}").status_code for width in (size, size + 1)]
    assert [200, 404] == [client.get(f"/tile/entries/000.p/{width}").status_code for width in (size, size + 1)]
    assert stored == (tmp_path / "audit" / "checkpoint").read_bytes()


def test_the_commands(audit: AuditLog, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without a policy, or a cosigned checkpoint, they say so; with both the folder has it."""
    log, folder = str(tmp_path / "audit"), str(tmp_path / "tiles")
    argv = ["export", "--format", "tiles", "-o", folder, "--log", log, "--cosigned", "--json"]
    assert 2 == run(argv)
    assert "witness.policy' cannot be read" in capfd.readouterr().err
    (tmp_path / "policy").write_text(f"{POLICY}group g 1 w0 w1\nquorum g\n")
    argv += ["--witnesses", str(tmp_path / "policy")]
    assert 2 == run(argv)
    assert "No checkpoint of this log is cosigned" in capfd.readouterr().err
    assert 2 == run(["serve-log", "--listen", "127.0.0.1:0", *argv[5:]])
    assert "No checkpoint of this log is cosigned" in capfd.readouterr().err
    witness(audit, WITNESSES[1])
    assert 0 == run(argv)
    told = json.loads(capfd.readouterr().out)
    assert head_of(audit)() == (tmp_path / "tiles" / "checkpoint").read_bytes()
    assert told["tree_size"] == parse_checkpoint(parse_note(head_of(audit)()).text).size
    shutil.copy(tmp_path / "policy", tmp_path / "audit.keys" / "witness.policy")
    assert 0 == run(argv[:-2])
    (tmp_path / "policy").write_text("quorum none\n")
    assert 2 == run(argv)
    assert 2 == run(["export", "--format", "jsonl", "--cosigned", "--log", log])


def test_a_proof_that_witnesses_stand_for(audit: AuditLog, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Checked with a policy it names who cosigned; with too few it is exit 4, and what came later has none yet."""
    log, file, key = str(tmp_path / "audit"), str(tmp_path / "proof"), audit.vkey
    (tmp_path / "one").write_text(f"{POLICY}group g 1 w0 w1\nquorum g\n")
    (tmp_path / "two").write_text(f"{POLICY}group g 2 w0 w1\nquorum g\n")
    witness(audit, WITNESSES[1])
    prove = ["prove", "2", "-o", file, "--log", log, "--json"]
    assert 0 == run([*prove, "--cosigned", "--witnesses", str(tmp_path / "one")])
    check = ["check", file, "--key", key, "--json", "--witnesses"]
    capfd.readouterr()
    assert 0 == run([*check, str(tmp_path / "one")])
    told = json.loads(capfd.readouterr().out)
    assert (2, ["w2.example"]) == (told["seq"], told["cosigned_by"])
    assert 0 == run(["check", file, "--key", key, "--witnesses", str(tmp_path / "one")])
    assert "Cosigned by w2.example." in capfd.readouterr().out
    assert 4 == run([*check, str(tmp_path / "two")])
    assert "not cosigned by" in capfd.readouterr().err
    assert 2 == run(["prove", "3", *prove[2:], "--cosigned", "--witnesses", str(tmp_path / "one")])
    assert 0 == run(prove)
    assert 0 == run(check[:-1])
    assert [] == json.loads(capfd.readouterr().out.splitlines()[-1])["cosigned_by"]
    assert 4 == run([*check, str(tmp_path / "one")])
    (tmp_path / "nobody").write_text("quorum none\n")
    assert 2 == run([*check, str(tmp_path / "nobody")])
