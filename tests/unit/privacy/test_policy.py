"""The policy file."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

import pytest

from klingai_audit.errors import InvalidPolicy, StorageError
from klingai_audit.privacy.policy import EVENT_CLASSES, Policy


def test_default_text_is_the_default() -> None:
    """Every setting of the default text is written out, and leaving it out gives the same."""
    written, empty = Policy.default(), Policy.parse(b"")
    names = ["privacy", "vault", "access", "failure", "spool", "verify", "timestamp", "witness", "watch", "retention"]
    assert [getattr(written, name) for name in names] == [getattr(empty, name) for name in names]
    tables = tomllib.loads(Policy.DEFAULT_TEXT)
    assert names == list(tables)
    for name, table in tables.items():
        assert list(getattr(written, name).__struct_fields__) == list(table), name


def test_each_setting_is_explained_in_the_default_text() -> None:
    """In every table but the list of classes, each setting follows a comment."""
    lines = Policy.DEFAULT_TEXT.split("\n")
    settings = [number for number, line in enumerate(lines) if " = " in line and not line.startswith(("#", " "))]
    alone = [lines[number] for number in settings if not lines[number - 1].startswith("#")]
    assert [f'{name} = "{Policy.default().failure.for_class(name)}"' for name in EVENT_CLASSES[1:]] == alone


def test_digest_is_of_the_files_bytes(tmp_path: Path) -> None:
    """The digest is SHA-256 of the bytes as they are, comments and all."""
    path = tmp_path / "policy.toml"
    data = b'# ours\n[privacy]\nactor_ids = "opaque"\n'
    path.write_bytes(data)
    policy = Policy.load(path)
    assert (hashlib.sha256(data).hexdigest(), "opaque") == (policy.digest, policy.privacy.actor_ids)
    assert hashlib.sha256(Policy.DEFAULT_TEXT.encode()).hexdigest() == Policy.load(None).digest


def test_failure_classes() -> None:
    """Paid calls and what is as grave are refused, reads warned about; an unknown class is refused."""
    failure = Policy.default().failure
    assert ["paid_create", "credentials", "admin", "export", "unseal", "download", "delete", "read", "log"] == list(
        EVENT_CLASSES
    )
    expected = {name: "warn" if name == "read" else "refuse" for name in EVENT_CLASSES}
    assert expected == {name: failure.for_class(name) for name in EVENT_CLASSES}
    assert "refuse" == failure.for_class("anything")
    assert "warn" == Policy.parse(b'[failure]\nlog = "warn"').failure.for_class("log")


@pytest.mark.parametrize(
    "text, named",
    [
        ("[privcy]", "privcy"),
        ("[privacy]\nactor_id = 'x'", "privacy"),
        ("[privacy]\nactor_ids = 'x'", "privacy.actor_ids"),
        ("[privacy]\ncommit = 'prompt'", "privacy.commit"),
        ("[privacy]\ncommit = ['Prompt']", "privacy.commit"),
        ("[privacy]\ncommit = ['*']", "privacy.commit"),
        ("[privacy]\nrecord_reads = true", "privacy.record_reads"),
        ("[failure]\nread = 'ignore'", "failure.read"),
        ("[failure]\nreads = 'warn'", "failure"),
        ("[verify]\nrequire_checkpoint = 'yes'", "verify.require_checkpoint"),
        ("[verify]\nepoch_rotation = 'weekly'", "verify.epoch_rotation"),
        ("[retention]\ndays = 5", "retention"),
        ("[witness]\nrequire = ['read']", "witness.require"),
        ("[witness]\ntimeout = 'off'", "witness.timeout"),
        ("[watch]\nquick = '5'", "watch.quick"),
        ("[watch]\nrecord = 'yes'", "watch.record"),
        ("privacy = 1", "privacy"),
        ("failure = 1", "failure"),
        ("[privacy", "not TOML"),
        ("[privacy]\nreads = 'off'\nreads = 'off'", "not TOML"),
        ("a = \xff", "not TOML"),
        ("# " + "x" * 70_000, "larger"),
    ],
)
def test_errors_name_file_and_key(text: str, named: str, tmp_path: Path) -> None:
    """What is unknown or of another kind is refused with the file's name and the key."""
    path = tmp_path / "policy.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidPolicy) as caught:
        Policy.load(path)
    assert str(path) in caught.value.message
    assert named in caught.value.message


def test_a_class_may_wait_in_the_spool() -> None:
    """Every class but `log` may have the policy spool, with limits of its own; none has it by default."""
    assert not Policy.default().failure.spools
    policy = Policy.parse(b"[failure]\nread = 'spool'\n[spool]\nafter = '2s'\nmax_records = 5")
    assert (policy.failure.spools, policy.failure.for_class("read"), policy.spool_after) == (True, "spool", 2.0)
    assert policy.spool.max_records == 5


@pytest.mark.parametrize(
    "text, named",
    [
        ("[failure]\nlog = 'spool'", "failure.log"),
        ("[spool]\nafter = 'soon'", "spool.after"),
        ("[spool]\nmax_bytes = 1000", "spool.max_bytes"),
        ("[spool]\nmax_records = 0", "spool.max_records"),
        ("[failure]\ndelete = 'spool'\n[witness]\nrequire = ['delete']", "failure.delete is spool, and witness"),
    ],
)
def test_a_spool_that_cannot_be(text: str, named: str) -> None:
    """Own events never wait, limits have limits, and what waits here no witness has seen."""
    with pytest.raises(InvalidPolicy) as caught:
        Policy.parse(text.encode())
    assert named in caught.value.message


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    """A missing file is an invalid policy, one that cannot be read a storage error, both with the path."""
    with pytest.raises(InvalidPolicy) as caught:
        Policy.load(tmp_path / "policy.toml")
    assert "init" in caught.value.do
    with pytest.raises(StorageError, match="policy"):
        (tmp_path / "policy").mkdir()
        Policy.load(tmp_path / "policy")


def test_own_list_of_names_replaces_the_default() -> None:
    """A list of one's own is taken as it is, the empty one too."""
    assert ("brief", "*_brief") == Policy.parse(b"[privacy]\ncommit = ['brief', '*_brief']").privacy.commit
    assert () == Policy.parse(b"[privacy]\ncommit = []").privacy.commit


def test_access() -> None:
    """Acts and roles are those that exist, and an approval's age is a span of time."""
    access = Policy.parse(b'[access]\ntwo_person = ["unseal", "purge"]\nsignatures = 2\nmax_age = "30m"').access
    assert (("unseal", "purge"), 2, "recorded") == (access.two_person, access.signatures, access.roles)
    for line in (b'two_person = ["read"]', b'approvers = ["boss"]', b"signatures = 3", b'max_age = "soon"'):
        with pytest.raises(InvalidPolicy, match=r"access\."):
            Policy.parse(b"[access]\n" + line)
