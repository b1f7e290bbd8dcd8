"""A command that signs with the log key: what is believed of its answer, and what becomes of it if it fails."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from klingai_audit.errors import Malformed, SignerUnavailable, UnsafePermissions, UsageError
from klingai_audit.ledger.external import ExternalSigner, SignerSettings
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.tlog.keys import COSIGNATURE, SignerKey
from tests.support.ledgers import ORIGIN
from tests.support.signers import Signer

TEXT = f"{ORIGIN}\n3\n{'A' * 43}=\n".encode()


@pytest.fixture
def program(tmp_path: Path) -> Signer:
    return Signer(tmp_path / "signer")


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # the latter if it went between opening and reading
        return False


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_alive(pid)


@pytest.mark.parametrize("mode", ["sign", "line"])
def test_base64_and_a_signature_line_are_answers(program: Signer, mode: str) -> None:
    """Both forms give the signature that the key itself gives."""
    program.mode = mode
    assert program.key.sign(TEXT) == ExternalSigner(program.key.verifier, program.settings).sign(TEXT)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("exit", "ended with exit code 1 instead of signing"),
        ("killed", "was ended by signal 9 instead of signing"),
        ("garbage", "answered with something that is no signature"),
        ("nothing", "answered with something that is no"),
        ("short", "no Ed25519 signature of 64 bytes"),
        ("oversize", "answered with more than 4096 bytes"),
        ("wrong key", "does not verify under the log's public key"),
        ("other text", "does not verify under the log's public key"),
        ("other line", "the signature line of another key"),
    ],
)
def test_a_bad_answer(program: Signer, mode: str, words: str) -> None:
    """Nothing but a signature that verifies is taken; the message names the fault and quotes nothing."""
    program.mode = mode
    with pytest.raises(SignerUnavailable, match=words) as failed:
        ExternalSigner(program.key.verifier, program.settings).sign(TEXT)
    assert "slot" not in str(failed.value)
    assert "keys try-signer" in failed.value.do


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["hang", "leave"])
def test_a_signer_that_hangs_is_killed_with_its_children(program: Signer, mode: str) -> None:
    """After the time-out neither the program nor what it started is left."""
    program.mode = mode
    settings = SignerSettings(program.settings.command, 5)
    with pytest.raises(SignerUnavailable, match=r"no answer within 5 s"):
        ExternalSigner(program.key.verifier, settings).sign(TEXT)
    assert wait_until_gone(program.child)


@pytest.mark.parametrize("command", ["/no/such/program", "/etc/passwd"])
def test_a_program_that_cannot_be_started(program: Signer, command: str) -> None:
    """The message names the program and why."""
    with pytest.raises(SignerUnavailable, match=rf"\({command}\) cannot be started: (No such|Permission)"):
        ExternalSigner(program.key.verifier, SignerSettings([command])).sign(TEXT)


def test_a_signer_that_reads_nothing(program: Signer) -> None:
    """That it does not read what it is to sign is no error of writing."""
    with pytest.raises(SignerUnavailable, match="exit code 7"):
        ExternalSigner(program.key.verifier, SignerSettings(["/bin/sh", "-c", "exit 7"])).sign(TEXT)


@pytest.mark.slow
def test_a_fork_meanwhile_does_not_keep_the_signer_waiting(program: Signer) -> None:
    """The signer sees the end of its input although children are forked all the time, which inherit what is open."""
    done = threading.Event()
    children: list[int] = []

    def fork() -> None:
        while not done.is_set() and len(children) < 100:
            pid = os.fork()
            if pid == 0:
                time.sleep(30)
                os._exit(0)
            children.append(pid)

    forker = threading.Thread(target=fork)
    forker.start()
    try:
        signer = ExternalSigner(program.key.verifier, SignerSettings(program.settings.command, 20))
        assert all(signer.sign(TEXT) == program.key.sign(TEXT) for _ in range(3))
    finally:
        done.set()
        forker.join()
        for pid in children:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


@pytest.mark.parametrize(
    "command", [["signer"], ["a b", 'say "x"', "back\\slash", "tab\there", "é\u202e\U0001f511", "", "\x7f"]]
)
def test_settings_survive_the_file(command: list[str], tmp_path: Path) -> None:
    """Whatever the arguments are, they are read as they were written."""
    settings = SignerSettings.parse(SignerSettings(command, 2.5).format(), tmp_path)
    assert (tuple(command), 2.5) == (settings.command, settings.timeout_s)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"command = 'x'",
        b"command = []",
        b"command = [1]",
        b"command = ['']",
        b"command = ['x']\ntimeout_s = 0",
        b"command = ['x']\ntimeout_s = nan",
        b"command = ['x']\ntimeout_s = true",
        b"command = ['x']\ntimeout_s = 301",
        b"command = ['x']\nmore = 1",
        b'command = ["x\\u0000"]',
    ],
)
def test_settings_that_are_none(text: bytes, tmp_path: Path) -> None:
    """A file that is not exactly a command and a time-out is refused."""
    with pytest.raises(Malformed):
        SignerSettings.parse(text, tmp_path / "log.signer")


@pytest.mark.parametrize("words", ["", "'unclosed", "a\0b", "b\udcff"])
def test_words_that_are_no_command(words: str) -> None:
    """What a shell could not split, or no program could get, is refused before anything is written."""
    with pytest.raises(UsageError):
        SignerSettings.from_words(words)


def test_a_cosigners_key_is_no_log_key(program: Signer) -> None:
    """Only Ed25519 over the text itself is a log key."""
    with pytest.raises(UsageError):
        ExternalSigner(SignerKey.generate("example", COSIGNATURE).verifier, program.settings)


def test_settings_that_others_may_write_are_refused(program: Signer, tmp_path: Path) -> None:
    """Who may write the settings may run a program as the writer: the file is private like a key."""
    program.plan(tmp_path)
    keys = KeyFolder(tmp_path / "audit.keys")
    assert program.key.verifier == keys.log_signer.verifier
    (tmp_path / "audit.keys" / "log.signer").chmod(0o666)
    with pytest.raises(UnsafePermissions):
        _ = KeyFolder(keys.path).log_signer


def test_a_creation_that_was_cut_off_makes_no_key_of_its_own(program: Signer, tmp_path: Path) -> None:
    """If the settings are not there yet, `create` waits for them instead of making a log key here."""
    program.plan(tmp_path)
    keys = KeyFolder(tmp_path / "audit.keys")
    (keys.path / "log.signer").unlink()
    with keys.locked(), pytest.raises(Exception, match="cut off"):
        keys.create("log.example.com/other")
    program.plan(tmp_path)
    with keys.locked():
        keys.create("log.example.com/other")
    assert not (keys.path / "log.key").exists()
    assert ORIGIN == keys.origin


def test_planning_over_another_key_is_refused(program: Signer, tmp_path: Path) -> None:
    """A keys folder that holds a log key keeps it."""
    keys = KeyFolder(tmp_path / "audit.keys")
    with keys.locked():
        keys.create(ORIGIN)
    keys.created()
    with pytest.raises(UsageError, match="another log key"):
        program.plan(tmp_path)
