"""The keys folder: creation, rotation, what a crash in between leaves, and files that are not right."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from klingai_audit.errors import LogNotFound, Malformed, UnsafePermissions
from klingai_audit.ledger.derived import derive_next
from klingai_audit.ledger.keys import KeyFolder, epoch_name, read_public_key
from tests.support.ledgers import ORIGIN


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    """A complete keys folder in epoch 0."""
    folder = KeyFolder(tmp_path / "audit.keys")
    with folder.locked():
        folder.create(ORIGIN)
    folder.created()
    return folder


def names(keys: KeyFolder) -> set[str]:
    return {path.relative_to(keys.path).as_posix() for path in keys.path.rglob("*") if path.is_file()}


def test_what_a_new_folder_holds(keys: KeyFolder) -> None:
    """Exactly the files of the format page; private ones closed to others."""
    assert {"log.key", "log.pub", "epoch-0.key", "epoch-0.pub", "tail-0.key", "lookup.key"} == names(keys)
    for name in ("log.key", "epoch-0.key", "tail-0.key", "lookup.key"):
        assert 0o600 == (keys.path / name).stat().st_mode & 0o777
    assert ORIGIN == keys.origin
    assert epoch_name(ORIGIN, 0) == keys.current.signer.name
    assert keys.log_signer.verifier == read_public_key(keys.path / "log.pub")


def test_creating_again_keeps_what_is_there(keys: KeyFolder) -> None:
    """A second `create`, even for another origin, completes and replaces nothing."""
    before = {name: (keys.path / name).read_bytes() for name in names(keys)}
    (keys.path / "init.pending").write_text(f"{ORIGIN}\n")
    (keys.path / "tail-0.key").unlink()
    with keys.locked():
        keys.create("log.example.com/other")
    keys.created()
    after = {name: (keys.path / name).read_bytes() for name in names(keys)}
    assert before.keys() == after.keys()
    assert {name: data for name, data in before.items() if name != "tail-0.key"} == {
        name: data for name, data in after.items() if name != "tail-0.key"
    }


def test_rotation_destroys_the_old_private_keys(keys: KeyFolder) -> None:
    """The successor takes over; only public halves of epoch 0 remain."""
    successor = keys.prepare_next()
    assert 0 == keys.current.epoch
    assert successor.signer.verifier == (keys.next_keys() or successor).signer.verifier
    keys.promote()
    assert 1 == keys.current.epoch
    assert successor.signer.verifier == keys.current.signer.verifier
    assert {"log.key", "log.pub", "lookup.key", "epoch-0.pub", "epoch-1.key", "epoch-1.pub", "tail-1.key"} == names(
        keys
    )


def test_preparing_twice_gives_the_same_successor(keys: KeyFolder) -> None:
    """A crash after preparing does not make another key: it may be in the log already."""
    first = keys.prepare_next()
    second = KeyFolder(keys.path).prepare_next()
    assert first.signer.verifier == second.signer.verifier
    assert first.tail == second.tail


def test_a_cut_off_promotion_is_finished(keys: KeyFolder) -> None:
    """With the successor's private key in place the rest follows on the next open."""
    keys.prepare_next()
    (keys.path / "next" / "epoch-1.key").rename(keys.path / "epoch-1.key")
    again = KeyFolder(keys.path)
    again.resume()
    assert 1 == again.current.epoch
    assert not (keys.path / "next").exists()
    assert not (keys.path / "epoch-0.key").exists()
    assert not (keys.path / "tail-0.key").exists()


def test_processes_of_one_host_promote_at_the_same_time(keys: KeyFolder) -> None:
    """One that lags behind takes away what another has prepared: it is derived again, and no key is lost."""
    fast, slow = KeyFolder(keys.path), KeyFolder(keys.path)
    slow.resume()
    first = derive_next(fast.current, ORIGIN)
    fast.prepare_next(first)
    fast.promote(first)
    second = derive_next(first, ORIGIN)
    fast.prepare_next(second)
    slow.prepare_next(first)
    slow.promote(first)
    assert slow.current == first
    fast.promote(second)
    assert fast.current == second
    slow.promote(derive_next(slow.current, ORIGIN))
    assert slow.current == second
    assert {name for name in names(keys) if name.startswith(("epoch", "tail", "next"))} == {
        *(f"epoch-{epoch}.pub" for epoch in range(3)), "epoch-2.key", "tail-2.key"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["log.key", "epoch-0.key", "tail-0.key", "lookup.key"])
def test_an_open_private_file_is_refused(keys: KeyFolder, name: str) -> None:
    """The message has the command that closes it."""
    (keys.path / name).chmod(0o644)
    with pytest.raises(UnsafePermissions, match=f"chmod 600 .*{name}"):
        _ = keys.log_signer, KeyFolder(keys.path).current, keys.lookup_key


def test_group_may_read(keys: KeyFolder) -> None:
    """A group of writers is no danger."""
    for name in ("log.key", "epoch-0.key", "tail-0.key", "lookup.key"):
        (keys.path / name).chmod(0o640)
    assert 0 == KeyFolder(keys.path).current.epoch


@pytest.mark.parametrize("name", ["log.key", "tail-0.key", "lookup.key"])
def test_a_missing_file_is_named(keys: KeyFolder, name: str) -> None:
    """What is missing, and that a backup helps."""
    (keys.path / name).unlink()
    with pytest.raises(LogNotFound, match=name):
        _ = keys.log_signer, KeyFolder(keys.path).current, keys.lookup_key


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        base64.urlsafe_b64encode(bytes(31)) + b"\n",
        base64.urlsafe_b64encode(bytes(32))[:43],
        b"+" * 43 + b"\n",
    ],
)
def test_a_secret_has_one_form(keys: KeyFolder, data: bytes) -> None:
    """43 base64url characters and LF, canonical; the message holds nothing of the file."""
    (keys.path / "lookup.key").write_bytes(data)
    with pytest.raises(Malformed) as caught:
        _ = keys.lookup_key
    assert "32-byte secret" in str(caught.value)


def test_an_epoch_key_of_another_log_is_refused(keys: KeyFolder, tmp_path: Path) -> None:
    """Keys that were mixed up are noticed before anything is signed."""
    other = KeyFolder(tmp_path / "other.keys")
    with other.locked():
        other.create("log.example.com/other")
    (keys.path / "epoch-0.key").write_bytes((other.path / "epoch-0.key").read_bytes())
    with pytest.raises(Malformed, match="another log or epoch"):
        _ = KeyFolder(keys.path).current


def test_private_keys_are_in_no_repr(keys: KeyFolder) -> None:
    """Neither seeds nor tail keys appear when somebody prints an object."""
    secret = (keys.path / "tail-0.key").read_text().strip()
    seed = (keys.path / "epoch-0.key").read_text().strip().split("+", 4)[4]
    for text in (repr(keys), repr(keys.current), repr(keys.log_signer)):
        assert secret not in text
        assert seed not in text
        assert repr(keys.current.tail) not in text
