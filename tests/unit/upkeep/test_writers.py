"""The file by which a further host becomes a writer: whole, under its passphrase, or refused."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path

import msgspec
import pytest

from klingai_audit.cli.writers import read_passphrase
from klingai_audit.config import Places
from klingai_audit.errors import Malformed, UsageError
from klingai_audit.log import AuditLog
from klingai_audit.tlog.note import SignerKey
from klingai_audit.upkeep.writers import _Content, _open, _seal, export_writer, import_writer

PASSPHRASE = "correct horse battery"
CHEAP = 10


def made(**files: bytes) -> bytes:
    """A file of a log that is nowhere."""
    key = SignerKey.generate("log.example.com/writers").verifier
    content = _Content(key.name, 3, b"head", {"log.pub": f"{key.format()}\n".encode(), **files})
    return _seal(msgspec.json.encode(content), PASSPHRASE, secrets.token_bytes(16), CHEAP)


@pytest.fixture
def nowhere(tmp_path: Path) -> Places:
    return Places.resolve(tmp_path / "audit", environ={})


def test_what_is_sealed_is_opened() -> None:
    """With the passphrase, and nothing of it is readable without."""
    data = made(**{"epoch-3.key": b"a private key"})
    content, name = _open(data, PASSPHRASE)
    assert ("log.example.com/writers", 3, b"a private key") == (
        content.origin,
        content.epoch,
        content.files["epoch-3.key"],
    )
    assert 16 == len(bytes.fromhex(name)) * 2
    assert b"klingai-audit/writer/v1\nscrypt 10 8 1 " == data[:38]
    assert b"private" not in base64.b64decode(data.split(b"\n", 2)[2])
    assert max(map(len, data.splitlines())) <= 76


@pytest.mark.parametrize("wrong", ["", "correct horse batterz", "Correct horse battery"])
def test_another_passphrase(nowhere: Places, wrong: str) -> None:
    """It opens nothing and writes nothing."""
    with pytest.raises(UsageError, match="passphrase"):
        import_writer(made(), wrong, nowhere)
    assert not nowhere.keys.exists()


def test_every_changed_byte_is_refused(nowhere: Places) -> None:
    """In both lines of the head and in what is sealed."""
    data = made()
    for position in [*range(60), *range(60, len(data), 37)]:
        changed = bytearray(data)
        changed[position] ^= 1
        if bytes(changed).replace(b"\n", b"") != data.replace(b"\n", b""):
            with pytest.raises((Malformed, UsageError)):
                import_writer(bytes(changed), PASSPHRASE, nowhere)
    assert not nowhere.keys.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"klingai-audit/writer/v1",
        b"klingai-audit/writer/v1\nscrypt 10 8 1 AAAAAAAAAAAAAAAAAAAAAA\n",
        b"klingai-audit/writer/v1\nscrypt 30 8 1 AAAAAAAAAAAAAAAAAAAAAA\nAAAA\n",
        b"klingai-audit/writer/v2\nscrypt 10 8 1 AAAAAAAAAAAAAAAAAAAAAA\nAAAA\n",
        "klingai-audit/writer/v1\nscrypt 10 8 1 AAAAAAAAAAAAAAAAAAAAAA\nÄÄÄÄ\n".encode(),
    ],
)
def test_what_is_no_such_file(nowhere: Places, data: bytes) -> None:
    """It is said, whatever it is; a file cannot ask for more work than is allowed."""
    with pytest.raises((Malformed, UsageError)):
        import_writer(data, PASSPHRASE, nowhere)


@pytest.mark.parametrize("name", ["../log.key", "a/b", ".hidden", "subjects.sqlite", "unseal.key", "init.pending", ""])
def test_names_that_no_writers_file_holds(nowhere: Places, name: str) -> None:
    """Nothing is written beside the keys folder, nor over people or the unseal key."""
    with pytest.raises(Malformed):
        import_writer(made(**{name: b"x"}), PASSPHRASE, nowhere)
    assert not nowhere.keys.exists()


def test_a_log_in_a_folder_has_one_host(tmp_path: Path) -> None:
    """Its processes share the keys folder; nothing is exported."""
    with AuditLog.open(tmp_path / "audit") as audit:
        with pytest.raises(UsageError, match="folder"):
            export_writer(audit, PASSPHRASE)
        assert "settings_changed" not in str(list(audit.reader.entries()))


def test_passphrases_are_asked_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slip of the finger would lock everybody out; a variable or a pipe is asked once."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    answers = iter(["one", "one", "one", "two", ""])
    assert "one" == read_passphrase(None, lambda _prompt: next(answers), twice=True)
    with pytest.raises(UsageError, match="different"):
        read_passphrase(None, lambda _prompt: next(answers), twice=True)
    with pytest.raises(UsageError, match="no passphrase"):
        read_passphrase(None, lambda _prompt: next(answers))
    monkeypatch.setenv("SECRET_OF_THE_TEST", PASSPHRASE)
    assert PASSPHRASE == read_passphrase("SECRET_OF_THE_TEST")
    with pytest.raises(UsageError, match="no passphrase"):
        read_passphrase("NOT_THERE")
