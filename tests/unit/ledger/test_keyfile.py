"""A signing key alone in a file: made once, read by its owner, and a clear word for every other place."""

from __future__ import annotations

from pathlib import Path

import pytest

from klingai_audit.errors import StorageError, UnsafePermissions, UsageError
from klingai_audit.ledger.keyfile import make_key_file, read_key_file

NAME = "signer.example.com/test"


def test_a_key_is_made_once_and_read(tmp_path: Path) -> None:
    """What is read is what was made; a second one does not take its place; only the owner may read it."""
    path = tmp_path / "folder" / "signer.key"
    made = make_key_file(path, NAME, taken="Name another.")
    assert made == read_key_file(path, make="Make one.")
    with pytest.raises(UsageError, match="there already"):
        make_key_file(path, NAME, taken="Name another.")
    assert made == read_key_file(path, make="Make one.")
    path.chmod(0o644)
    with pytest.raises(UnsafePermissions, match="chmod 600"):
        read_key_file(path, make="Make one.")


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    """The system's refusal is a `StorageError`, whoever meets it first."""
    path = tmp_path / ("a" * 300)
    with pytest.raises(StorageError, match="too long"):
        make_key_file(path, NAME, taken="Name another.")
    with pytest.raises(StorageError, match="too long"):
        read_key_file(path, make="Make one.")
