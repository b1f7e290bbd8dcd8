"""A log key elsewhere through the command line, with the reference signer as a process of its own."""

from __future__ import annotations

import io
import json
import shlex
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from klingai_audit.cli.run import run
from klingai_audit.errors import SignerUnavailable
from klingai_audit.log import AuditLog
from klingai_audit.tlog.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from klingai_audit.tlog.keys import SignerKey, VerifierKey
from klingai_audit.tlog.merkle import EMPTY_ROOT
from klingai_audit.tlog.note import SignatureLine, parse_note, verify_line
from tests.support.signers import Signer

pytestmark = pytest.mark.slow

ORIGIN = "log.example.com/videos"


@pytest.fixture
def cli(tmp_path, capfdbinary, monkeypatch):
    """Run a command line on `tmp_path/audit` and return (code, what stdout said as JSON, stderr)."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "machine"))

    def call(*argv: str):
        code = run([*argv, "--json", "--log", str(tmp_path / "audit")])
        out, err = capfdbinary.readouterr()
        return code, [json.loads(line) for line in out.splitlines() if line.startswith(b"{")], err

    return call


def command_for(key: Path) -> str:
    """The reference signer as a command line of its own."""
    words = [sys.executable, "-c", "from klingai_audit.cli import main; main()", "keys", "signer", "--key", str(key)]
    return shlex.join(words)


@pytest.fixture
def elsewhere(cli, tmp_path) -> tuple[str, str]:
    """A log key on the signer's host: the command that signs with it, and its public half."""
    key = tmp_path / "signer" / "log.key"
    _, (told,), _ = cli("keys", "signer-keygen", ORIGIN, "--key", str(key))
    return command_for(key), told["vkey"]


@pytest.fixture
def ask(tmp_path, monkeypatch, capfdbinary):
    """Hand a text to the reference signer as its standard input; return (code, stdout, stderr)."""

    def call(text: str | bytes, key: Path):
        data = text.encode() if isinstance(text, str) else text
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        code = run(["keys", "signer", "--key", str(key)])
        out, err = capfdbinary.readouterr()
        return code, out, err

    return call


# --- the reference signer -----------------------------------------------------------------------------


@pytest.fixture
def key(cli, tmp_path) -> Path:
    path = tmp_path / "signer" / "log.key"
    cli("keys", "signer-keygen", ORIGIN, "--key", str(path))
    return path


def text(size: int, fill: int = 1) -> str:
    return Checkpoint(ORIGIN, size, bytes([fill]) * 32 if size else EMPTY_ROOT).text()


def test_it_signs_what_grows(ask, key):
    """Each answer is one signature line that verifies; the same checkpoint again is the same line."""
    verifier = SignerKey.parse(key.read_text().strip()).verifier
    lines = {}
    for size in (0, 1, 5, 4096, 5, 0):
        code, out, _ = ask(text(size), key)
        assert 0 == code
        verify_line(text(size), SignatureLine.parse(out.decode()), verifier)
        assert lines.setdefault(size, out) == out


@pytest.mark.parametrize(
    "wanted",
    [text(4), text(5, 2), text(0)],
    ids=["smaller", "same size, another root", "empty"],
)
def test_it_never_goes_back(ask, key, wanted):
    """A smaller tree or another root is refused with exit code 4, and nothing is forgotten by it."""
    assert 0 == ask(text(5), key)[0]
    code, out, err = ask(wanted, key)
    assert (4, b"") == (code, out)
    assert b"A tree of 5 entries is signed" in err
    assert 0 == ask(text(6), key)[0]


@pytest.mark.parametrize(
    "wanted",
    [
        "",
        "hello\n",
        Checkpoint("log.example.com/other", 1, bytes(32)).text(),
        Checkpoint(ORIGIN, 1, bytes(32), ("more",)).text(),
        text(1) + "\n",
        b"\xff\n1\n",
        b"x" * 70_000,
    ],
    ids=["nothing", "words", "another log", "extension", "empty line", "no text", "too much"],
)
def test_it_signs_nothing_else(ask, key, wanted):
    """Only a checkpoint of its own log, as the format has it."""
    code, out, _ = ask(wanted, key)
    assert (4, b"") == (code, out)


def test_its_key_is_private(ask, key):
    """A key file that others may read is refused, with the command that mends it."""
    key.chmod(0o644)
    code, out, err = ask(text(1), key)
    assert (2, b"") == (code, out)
    assert b"chmod 600" in err


def test_its_memory_cannot_be_lost_quietly(ask, key):
    """A memory that is no database stops it: it does not sign without one."""
    assert 0 == ask(text(5), key)[0]
    memory = key.with_name("log.key.signed")
    assert 0o600 == memory.stat().st_mode & 0o777
    memory.write_bytes(b"not a database at all, but long enough to be looked at")
    code, out, _ = ask(text(6), key)
    assert (3, b"") == (code, out)


def test_it_forgets_the_oldest_only(ask, key, monkeypatch):
    """Beyond what the memory keeps, a smaller tree is refused even if it was signed once; the largest is never lost."""
    monkeypatch.setattr("klingai_audit.upkeep.signer.REMEMBERED", 3)
    assert [0] * 5 == [ask(text(size), key)[0] for size in range(1, 6)]
    assert [4, 4, 0, 0, 0] == [ask(text(size), key)[0] for size in range(1, 6)]
    assert 4 == ask(text(5, 2), key)[0]


def test_what_it_signed_last(cli, ask, key):
    """`--newest` prints the largest checkpoint that was signed."""
    assert None is cli("keys", "signer", "--key", str(key), "--newest")[1][0]["checkpoint"]
    ask(text(5), key)
    assert text(5) == cli("keys", "signer", "--key", str(key), "--newest")[1][0]["checkpoint"]


def test_a_key_is_made_once(cli, key):
    """A file that is there is not written over."""
    before = key.read_bytes()
    assert 2 == cli("keys", "signer-keygen", ORIGIN, "--key", str(key))[0]
    assert before == key.read_bytes()


# --- a log that uses it -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_log_from_its_first_entry_on(cli, tmp_path, elsewhere):
    """Written, rotated, verified, attacked, backed up: the log key is nowhere but with the signer."""
    command, vkey = elsewhere
    code, (made,), _ = cli("init", "--signer", command, "--signer-timeout", "120", "--signer-key", vkey)
    assert (0, ORIGIN, True) == (code, made["origin"], made["created"])
    assert 0 == cli("log", "x_made", "--actor", "user@example.com")[0]
    assert 0 == cli("keys", "rotate")[0]
    assert 0 == cli("log", "x_made", "--actor", "user@example.com")[0]
    code, (verdict,), _ = cli("verify")
    assert (0, {"log_key": "external", "epoch_key": "file"}) == (code, verdict["custody"])
    told = {threat["threat"]: threat["by"] for threat in verdict["threats"]}
    assert "the log key is kept elsewhere" in told["key_holder"]
    assert "can have its signer sign" in told["key_theft"]
    checkpoint = parse_note((tmp_path / "audit" / "checkpoint").read_bytes()).text
    _, (drilled,), _ = cli("drill")
    assert [] == drilled["missed"]
    assert "thief_rewrites_present" in {skipped["attack"] for skipped in drilled["skipped"]}
    newest = cli("keys", "signer", "--key", str(tmp_path / "signer" / "log.key"), "--newest")[1][0]["checkpoint"]
    assert checkpoint == newest
    assert 0 == cli("backup", str(tmp_path / "copy"), "--keys")[0]
    assert (tmp_path / "copy" / "audit.keys" / "log.signer").stat().st_mode & 0o777 == 0o600
    assert [] == [*tmp_path.glob("audit*/log.key"), *tmp_path.glob("copy/*/log.key")]


@pytest.mark.slow
def test_a_checkpoint_that_was_lost_comes_back(cli, tmp_path, elsewhere):
    """`recover` puts the remembered head back and has what it lacks signed by the signer."""
    command, vkey = elsewhere
    cli("init", "--signer", command, "--signer-timeout", "120", "--signer-key", vkey)
    assert 0 == cli("log", "x_made", "--actor", "user@example.com")[0]
    kept = sorted((tmp_path / "audit" / "checkpoints").iterdir())
    kept[-1].unlink()
    (tmp_path / "audit" / "checkpoint").unlink()
    assert 0 == cli("recover")[0]
    assert 0 == cli("verify")[0]
    note = kept[-1].read_bytes()
    assert int(kept[-1].name) == open_checkpoint(note, ORIGIN, [VerifierKey.parse(vkey)])[0].size


@pytest.mark.slow
def test_a_signer_that_fails_at_the_beginning_leaves_nothing(cli, tmp_path, elsewhere):
    """A wrong command is found out before anything is written; the right one creates the log."""
    command, vkey = elsewhere
    assert 3 == cli("init", "--signer", "false", "--signer-key", vkey)[0]
    assert not (tmp_path / "audit.keys").exists()
    assert 2 == cli("init", "--signer", command)[0]
    assert 2 == cli("init", "--signer", command, "--signer-key", "rubbish")[0]
    assert 2 == cli("init", "--signer", command, "--signer-key", vkey, "--origin", "log.example.com/other")[0]
    (tmp_path / "log.pub").write_text(vkey + "\n")
    assert (
        0 == cli("init", "--signer", command, "--signer-timeout", "120", "--signer-key", str(tmp_path / "log.pub"))[0]
    )
    assert 2 == cli("init", "--signer", command, "--signer-timeout", "120", "--signer-key", vkey)[0]


@pytest.mark.slow
def test_moving_the_key_of_a_log(cli, tmp_path, ask):
    """The command is tried first; then the key is gone from the keys folder, and an entry says so."""
    cli("init", "--origin", ORIGIN)
    assert 2 == cli("keys", "try-signer")[0]
    own, there = tmp_path / "audit.keys" / "log.key", tmp_path / "signer" / "log.key"
    cli("keys", "signer-keygen", ORIGIN, "--key", str(there))
    code, _, err = cli("keys", "use-signer", command_for(there), "--timeout", "120")
    assert (3, True) == (code, own.exists())
    assert b"of another key" in err
    there.write_bytes(own.read_bytes())
    code, (told,), _ = cli("keys", "use-signer", command_for(there), "--timeout", "120")
    assert (0, "external", False) == (code, told["custody"]["log_key"], own.exists())
    assert 0 == cli("keys", "try-signer")[0]
    assert 0 == cli("log", "x_made", "--actor", "user@example.com")[0]
    changed = cli("query", "--type", "settings_changed")[1]
    assert {"old": "file", "new": "external"} == changed[0]["metadata"]["changed"]["log_key"]
    assert 0 == cli("verify")[0]
    there.rename(there.with_suffix(".away"))
    code, _, err = cli("keys", "try-signer")
    assert 3 == code
    assert b"There is no key at" in err
    assert parse_checkpoint(parse_note((tmp_path / "audit" / "checkpoint").read_bytes()).text).size > 3


@pytest.mark.slow
def test_a_log_in_a_program_whose_signer_fails(tmp_path, monkeypatch):
    """Entries are durable, waiting says why there is no checkpoint, `verify` tells the tail, `close` what is left."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "machine"))
    signer = Signer(tmp_path / "signer")
    signer.plan(tmp_path)
    audit = AuditLog.open(tmp_path / "audit")
    assert audit.verify().integrity_ok
    signer.mode = "exit"
    receipt = audit.log("x_made", "user@example.com").wait()
    with pytest.raises(SignerUnavailable, match="exit code 1"):
        receipt.wait("published")
    with pytest.raises(SignerUnavailable, match="exit code 1"):
        audit.flush("published", timeout=30)
    verdict = audit.verify(patience=0)
    assert ["unsigned_tail"] == [finding.kind for finding in verdict.findings]
    assert ("external", 1) == (verdict.custody.log_key, verdict.unsigned.entries)
    with pytest.raises(SignerUnavailable, match="its last 2 entries are durable"):
        audit.close()
    with AuditLog.open(tmp_path / "audit") as again:
        signer.mode = "sign"
        assert (receipt.event_id,) == tuple(event.event_id for event in again.query(event_type="x_made"))
        again.log("x_made", "user@example.com").wait()
        assert until_signed(again).integrity_ok


def until_signed(audit: AuditLog):
    """Wait for a checkpoint, through attempts that fail."""
    deadline = time.monotonic() + 60
    while True:
        try:
            audit.flush("published", timeout=60)
            return audit.verify()
        except SignerUnavailable:
            assert time.monotonic() < deadline


def test_a_public_key_of_a_card_as_a_vkey(cli, tmp_path):
    """PEM and DER give the vkey; other keys and other files are refused."""
    own = ed25519.Ed25519PrivateKey.generate().public_key()
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "pem").write_bytes(own.public_bytes(serialization.Encoding.PEM, info))
    (tmp_path / "der").write_bytes(own.public_bytes(serialization.Encoding.DER, info))
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "other").write_bytes(other.public_bytes(serialization.Encoding.PEM, info))
    (tmp_path / "rubbish").write_bytes(b"-----BEGIN PUBLIC KEY-----\nAAAA\n")
    for name in ("pem", "der"):
        key = VerifierKey.parse(cli("keys", "signer-vkey", ORIGIN, str(tmp_path / name))[1][0]["vkey"])
        assert (ORIGIN, own.public_bytes_raw()) == (key.name, key.key_bytes)
    assert [2, 2, 2] == [
        cli("keys", "signer-vkey", ORIGIN, str(tmp_path / name))[0] for name in ("other", "rubbish", "none")
    ]
