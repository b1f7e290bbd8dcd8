"""Administrative acts: the entry first, then the registry; nothing personal and no key in either."""

from __future__ import annotations

import errno
import json
import os
from decimal import Decimal
from pathlib import Path

import pytest

from klingai_audit import AuditLog, acting
from klingai_audit.capture.desk import UnrecordedWarning
from klingai_audit.durable import FileOps
from klingai_audit.errors import AuditUnavailable, InvalidPolicy, StorageError, UnsafePermissions, UsageError
from klingai_audit.privacy.policy import Policy
from klingai_audit.upkeep.admin import Administration
from klingai_audit.upkeep.registry import Registry
from tests.support.faulty import QuickOps

BOSS = "boss@example.com"


@pytest.fixture
def audit(tmp_path):
    """An open log; the boss acts."""
    with AuditLog.open(tmp_path / "audit") as log, acting(BOSS, actor_type="admin"):
        yield log


@pytest.fixture
def admin(audit):
    """What an administrator may do on it."""
    return Administration(audit)


def told(audit: AuditLog) -> list[dict]:
    """The declarations in the log, as stored."""
    audit.flush()
    entries = [json.loads(line) for line in audit.entries()]
    return [entry for entry in entries if not entry["event_type"].startswith("log_")]


def member(entry: dict, *names: str) -> tuple:
    """Some members of an entry."""
    return tuple(entry.get(name) for name in names)


class Refusing(FileOps):
    """Operations that do not replace files of one name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def rename(self, source: Path, target: Path) -> None:
        if target.name == self.name:
            raise OSError(28, os.strerror(28))
        super().rename(source, target)


# --- users ---------------------------------------------------------------------------------------------


def test_user_comes_and_goes(audit, admin):
    """Both acts are entries that name the same pseudonym, and the registry holds who is there."""
    added = admin.add_user("user@example.com", role="editor", team="studio-a", reason="new here")
    user = audit.subjects.resolve("user@example.com").pseudonym
    assert {user} == set(admin.registry.users)
    assert ("editor", "studio-a") == (admin.registry.users[user].role, admin.registry.users[user].team)
    removed = admin.remove_user("USER@example.com ")
    assert Registry() == admin.registry
    first, second = told(audit)
    shape = ("event_type", "actor_type", "resource_type", "resource_id", "action", "outcome", "seq")
    assert ("user_added", "admin", "user", user, "add", "success", added.receipt.seq) == member(first, *shape)
    assert ("user_removed", "admin", "user", user, "remove", "success", removed.receipt.seq) == member(second, *shape)
    assert {"role": "editor", "team": "studio-a", "reason": "new here"} == first["metadata"]
    assert ((None, "editor"), ("editor", None)) == ((added.old, added.new), (removed.old, removed.new))
    assert audit.subjects.resolve(BOSS).pseudonym == first["actor_id"]


def test_nothing_personal_is_in_the_registry(audit, admin):
    """Users and budgets of users stand there as pseudonyms, keys as fingerprints."""
    admin.add_user("user@example.com")
    admin.set_budget("user:user@example.com", 5)
    admin.rotate_api_key("key-of-some-length-0001")
    text = (audit.places.keys / "registry.json").read_text()
    assert [] == [word for word in ("user@", "example.com", "key-of") if word in text]


@pytest.mark.parametrize(
    "act",
    [
        lambda admin: admin.remove_user("a@example.com"),
        lambda admin: admin.add_user("a@example.com", role="two words"),
        lambda admin: admin.set_budget("planet:x", 1),
        lambda admin: admin.set_budget("account:x", 1),
        lambda admin: admin.set_budget("team", 1),
        lambda admin: admin.set_budget("team: ", 1),
        lambda admin: admin.set_budget("team:a", "-1"),
        lambda admin: admin.set_budget("team:a", "many"),
        lambda admin: admin.set_budget("team:a", float("inf")),
        lambda admin: admin.set_budget("team:a", "1e16"),
        lambda admin: admin.set_budget("team:a", 1, unit=""),
        lambda admin: admin.rotate_api_key("  "),
        lambda admin: admin.rotate_api_key("key-of-some-length-0002", name="a b"),
        lambda admin: admin.set_policy("reads", "record"),
        lambda admin: admin.set_policy("privacy.raeds", "record"),
        lambda admin: admin.set_policy("privacy.reads", "sometimes"),
        lambda admin: admin.set_policy("failure.log", "spool"),
    ],
)
def test_what_cannot_be_declared_is_refused(audit, admin, act):
    """Nothing is written for a wrong argument, and the policy file stays as it is."""
    with pytest.raises(UsageError):
        act(admin)
    assert [] == told(audit)
    assert Policy.DEFAULT_TEXT.encode() == (audit.places.keys / "policy.toml").read_bytes()


def test_user_is_declared_once(audit, admin):
    """Another spelling of the same id is the same user."""
    admin.add_user("user@example.com")
    with pytest.raises(UsageError):
        admin.add_user("User@Example.com", role="admin")
    assert 1 == len(told(audit))


# --- budgets -------------------------------------------------------------------------------------------


def test_budget_names_old_and_new(audit, admin):
    """The first budget has no old value; another unit or period is named, too."""
    admin.set_budget("team:studio-a", Decimal("250.00"))
    admin.set_budget("team:studio-a", "99.50", unit="usd", period="week")
    first, second = told(audit)
    assert ("budget_modified", "budget", "team:studio-a") == member(first, "event_type", "resource_type", "resource_id")
    assert {"scope": "team", "old": None, "new": "250", "unit": "units", "period": "month"} == first["metadata"]
    assert {
        "scope": "team", "old": "250", "new": "99.5", "unit": "usd", "period": "week",
        "old_unit": "units", "old_period": "month",
    } == second["metadata"]  # fmt: skip


def test_what_is_so_already_is_not_written(audit, admin):
    """The same budget or setting again is no entry; the receipt says so."""
    admin.set_budget("account", 1)
    assert admin.set_budget("account", "1.000").receipt is None
    assert admin.set_policy("privacy.reads", "off").receipt is None
    assert 1 == len(told(audit))


@pytest.mark.parametrize("amount,text", [("0", "0"), ("0.0", "0"), (1000, "1000"), ("1e3", "1000"), (0.1, "0.1")])
def test_amounts_are_plain_decimals(admin, amount, text):
    """However a number is written, it is kept in one way."""
    admin.set_budget("account", amount)
    assert text == admin.registry.budgets["account"].amount


# --- policy --------------------------------------------------------------------------------------------


def test_policy_is_replaced_after_its_entry(audit, admin, tmp_path):
    """The entry names setting and digests, the file has the new one, and the next opening has nothing to add."""
    before = audit.policy.digest
    admin.set_policy("privacy.unknown_actor", "refuse", reason="audit finding 7")
    (entry,) = told(audit)
    after = Policy.load(audit.places.keys / "policy.toml")
    assert ("refuse", before != after.digest) == (after.privacy.unknown_actor, True)
    assert {
        "setting": "privacy.unknown_actor", "old": "warn", "new": "refuse", "digest_old": before,
        "digest_new": after.digest, "reason": "audit finding 7",
    } == entry["metadata"]  # fmt: skip
    audit.close()
    with AuditLog.open(tmp_path / "audit") as again:
        assert [] == [entry for entry in told(again) if entry["event_type"] == "settings_changed"]
        assert after.digest == again.policy.digest


def test_list_in_the_policy_is_told_as_one_text(audit, admin):
    """A list of names is neither taken for a header nor withheld as content."""
    admin.set_policy("privacy.commit", ["prompt", "text"])
    assert "prompt, text" == told(audit)[0]["metadata"]["new"]


# --- keys ----------------------------------------------------------------------------------------------


def test_keys_are_told_by_fingerprint(audit, admin):
    """Old and new key are the fingerprints that api_key_used has; the keys are nowhere."""
    first, second = "key-of-some-length-0003", "key-of-some-length-0004"
    admin.rotate_api_key(second, replaced=first)
    admin.rotate_api_key(first, name="other")
    old, new = audit.fingerprint(first), audit.fingerprint(second)
    entries = told(audit)
    assert [(new, old), (old, None)] == [(entry["metadata"]["new"], entry["metadata"]["old"]) for entry in entries]
    assert {"default", "other"} == set(admin.registry.api_keys)
    with pytest.raises(UsageError):
        admin.rotate_api_key(second)
    text = b"\n".join(audit.entries()) + (audit.places.keys / "registry.json").read_bytes()
    assert [] == [key for key in (first, second) if key.encode() in text]


# --- when something fails ------------------------------------------------------------------------------


def test_change_that_fails_is_recorded_as_failure(audit):
    """The declaration stands in the log, and after it that the registry could not be changed."""
    admin = Administration(audit, ops=Refusing("registry.json"))
    with pytest.raises(StorageError):
        admin.add_user("user@example.com")
    assert [("user_added", "success"), ("user_added", "failure")] == [
        member(entry, "event_type", "outcome") for entry in told(audit)
    ]
    assert Registry() == admin.registry


def test_policy_that_cannot_be_replaced_is_recorded_as_failure(audit):
    """The old policy stays in force and the log says why."""
    with pytest.raises(StorageError):
        Administration(audit, ops=Refusing("policy.toml")).set_policy("privacy.reads", "record")
    assert ["success", "failure"] == [entry["outcome"] for entry in told(audit)]
    assert Policy.DEFAULT_TEXT.encode() == (audit.places.keys / "policy.toml").read_bytes()


def test_what_cannot_be_recorded_does_not_happen(audit, admin):
    """A closed log takes no declaration, and the registry stays as it was."""
    audit.close()
    with pytest.raises(AuditUnavailable):
        admin.add_user("user@example.com")
    assert Registry() == admin.registry


@pytest.mark.parametrize("damage", [b"{}x", b'{"version":2}', b'{"users":{"a":{}}}', b"\xff"])
def test_registry_that_is_none_is_refused(audit, admin, damage):
    """Nothing is declared on top of a file that cannot be read."""
    path = audit.places.keys / "registry.json"
    path.write_bytes(damage)
    path.chmod(0o600)
    with pytest.raises(StorageError):
        admin.add_user("user@example.com")
    assert (damage, []) == (path.read_bytes(), told(audit))


def test_registry_open_to_others_is_refused(audit, admin):
    """It says who works here."""
    admin.add_user("user@example.com")
    assert 0o600 == (audit.places.keys / "registry.json").stat().st_mode & 0o777
    (audit.places.keys / "registry.json").chmod(0o644)
    with pytest.raises(UnsafePermissions):
        admin.registry  # noqa: B018


def test_policy_beyond_editing_is_refused(audit, admin):
    """A file that says it in another way is left to its owner."""
    path = audit.places.keys / "policy.toml"
    path.write_text('privacy = { reads = "off" }\n')
    with pytest.raises(InvalidPolicy):
        admin.set_policy("privacy.reads", "record")
    assert ('privacy = { reads = "off" }\n', []) == (path.read_text(), told(audit))


class Breakable(QuickOps):
    """Operations whose writes into day files fail while `full`."""

    full = False

    def write(self, fd: int, data: bytes) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "no space left")
        return super().write(fd, data)


ACTS = {
    "admin": (
        lambda admin: admin.add_user("user@example.com"),
        lambda admin: admin.set_budget("team:a", 250),
        lambda admin: admin.set_policy("privacy.reads", "record"),
    ),
    "credentials": (lambda admin: admin.rotate_api_key("api-key-kling-new"),),
}
CASES = [pytest.param(cls, act, id=f"{cls}-{number}") for cls, acts in ACTS.items() for number, act in enumerate(acts)]


def policy_with(tmp_path, cls, value):
    """Create a log whose policy of one class is `value`; returns its place."""
    AuditLog.open(tmp_path / "audit").close()
    path = tmp_path / "audit.keys" / "policy.toml"
    path.write_text(path.read_text().replace(f'{cls} = "refuse"', f'{cls} = "{value}"'))
    return tmp_path / "audit"


@pytest.mark.parametrize("cls,act", CASES)
def test_an_act_of_a_class_that_refuses(tmp_path, cls, act):
    """Only the act's own class counts: with `refuse` nothing happens, whatever the other class says."""
    (other,) = set(ACTS) - {cls}
    ops = Breakable()
    with AuditLog.open(policy_with(tmp_path, other, "warn"), ops=ops) as audit, acting(BOSS, actor_type="admin"):
        admin = Administration(audit)
        before, policy = admin.registry, (audit.places.keys / "policy.toml").read_bytes()
        ops.full = True
        with pytest.raises(AuditUnavailable):
            act(admin)
        ops.full = False
        assert (before, policy) == (admin.registry, (audit.places.keys / "policy.toml").read_bytes())
        assert act(admin).receipt is not None


@pytest.mark.parametrize("cls,act", CASES)
def test_an_act_of_a_class_that_warns(tmp_path, cls, act):
    """With `warn` it happens, is told, and its entry follows behind the count of what was late."""
    ops = Breakable()
    with AuditLog.open(policy_with(tmp_path, cls, "warn"), ops=ops) as audit, acting(BOSS, actor_type="admin"):
        admin = Administration(audit)
        ops.full = True
        with pytest.warns(UnrecordedWarning):
            made = act(admin)
        assert (made.receipt, made.late, made.old == made.new) == (None, True, False)
        ops.full = False
        admin.set_budget("account", 9)
        entries = [entry for entry in audit.query() if not entry.event_type.startswith("log_")]
        kinds = [entry.event_type for entry in entries]
        gap = kinds.index("gap_closed")
        assert len(kinds[gap:]) == 3
        assert kinds[-1] == "budget_modified"
        assert entries[gap].metadata["classes"] == {cls: 1}
        assert entries[gap + 1].timestamp < entries[gap + 1].logged_at
        assert entries[gap + 1].actor("id") == BOSS


def test_a_late_act_that_is_never_recorded_is_told_at_the_end(tmp_path, caplog):
    """A log that stays out of order cannot be closed in silence; the error log names the kind of act."""
    ops = Breakable()
    audit = AuditLog.open(policy_with(tmp_path, "admin", "warn"), ops=ops)
    ops.full = True
    with acting(BOSS), pytest.warns(UnrecordedWarning):
        Administration(audit).add_user("user@example.com")
    with pytest.raises(AuditUnavailable):
        audit.close()
    assert "user_added happened and could not be recorded" in caplog.text
