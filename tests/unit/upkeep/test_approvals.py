"""Two people for dangerous acts: what is signed is what happens, once, and every refusal is an entry."""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from klingai_audit import AuditLog, acting
from klingai_audit.durable import FileOps
from klingai_audit.errors import AccessDenied, AuditUnavailable, Malformed, UnsafePermissions, UsageError
from klingai_audit.testing import HandClock
from klingai_audit.tlog.keys import SignerKey
from klingai_audit.tlog.note import sign_note
from klingai_audit.upkeep.admin import Administration
from klingai_audit.upkeep.approval_file import (
    MAX_REASON,
    Approval,
    current_epoch,
    erase_target,
    make_approver_key,
    parse_approval,
    purge_target,
    sign_approval,
)
from klingai_audit.upkeep.approvals import require_approval
from klingai_audit.upkeep.erasure import erase_subject
from klingai_audit.upkeep.retention import apply_retention, plan_retention
from tests.support.faulty import QuickOps

BOSS, OTHER, THIRD, LAYMAN = (f"{name}@example.com" for name in ("boss", "other", "third", "layman"))
ROLES = {BOSS: "admin", OTHER: "privacy_officer", THIRD: "admin", LAYMAN: "viewer"}
POLICY = """
[access]
two_person = ["rotate", "purge", "erase"]
{more}
"""


class World:
    """A log with four people, each with a key, under the two-person rule."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.folder = folder
        with AuditLog.open(folder / "audit") as audit, acting("root@example.com", actor_type="admin"):
            for user, role in ROLES.items():
                key = make_approver_key(self.key(user))
                Administration(audit).add_user(user, role=role, approver_key=key.format())
        (folder / "audit.keys" / "policy.toml").write_text(POLICY.format(more=more))
        self.audit = AuditLog.open(folder / "audit")

    def key(self, user: str) -> Path:
        """The file with somebody's key."""
        return self.folder / f"{user}.key"

    def approve(self, user: str, *, target: str = "epoch 0", act: str = "rotate", **more: Any) -> Path:
        """Somebody's approval."""
        where = {"log": self.audit.origin, "reason": "the yearly rotation", **more}
        approval, data = sign_approval(self.key(user), act=act, target=target, **where)
        path = self.folder / f"{approval.nonce}.approval"
        path.write_bytes(data)
        return path

    def require(self, *approvals: Path, actor: str = BOSS, target: str = "epoch 0", **more: Any) -> dict[str, Any]:
        """The boss wants to rotate."""
        return require_approval(self.audit, "rotate", target, approvals, actor, **more)

    def refused(self, *approvals: Path, **more: Any) -> str:
        """Why it is refused; the newest entry says the same."""
        with pytest.raises(AccessDenied):
            self.require(*approvals, **more)
        return self.entries("access_denied")[-1]["metadata"]["why"]

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """The entries of one type."""
        self.audit.flush()
        return [entry for line in self.audit.entries() if (entry := json.loads(line))["event_type"] == kind]

    def pseudonym(self, user: str) -> str:
        return self.audit.subjects.resolve(user).pseudonym


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """As `World` says, with the policy's defaults."""
    made = World(tmp_path)
    yield made
    made.audit.close()


def test_somebody_else_approves(world: World) -> None:
    """The entry names act, target, both people and the digest; the act gets the same to hold."""
    path = world.approve(OTHER)
    approval = parse_approval(path.read_bytes())
    granted = world.require(path)
    assert {"approvers": [world.pseudonym(OTHER)], "approvals": [approval.digest]} == granted
    (entry,) = world.entries("approval_used")
    assert (world.pseudonym(BOSS), "rotate", approval.digest) == (
        entry["actor_id"],
        entry["action"],
        entry["resource_id"],
    )
    told = entry["metadata"]
    assert ("epoch 0", granted["approvers"], "the yearly rotation") == (
        told["target"],
        told["approvers"],
        told["reason"],
    )
    assert [] == world.entries("access_denied")


def test_the_entry_lets_anybody_check_the_signature(world: World) -> None:
    """What was signed can be put together again from the entry, byte for byte."""
    path = world.approve(OTHER)
    world.require(path)
    (entry,) = world.entries("approval_used")
    told = entry["metadata"]
    again = Approval(
        act=entry["action"], log=world.audit.origin, **{n: told[n] for n in ("target", "reason", "made", "nonce")}
    )
    assert path.read_text() == f"{again.text}\n{told['signatures'][0]}\n"


def test_nothing_is_needed_by_default(tmp_path: Path) -> None:
    """Without the rule nothing is asked and nothing written."""
    with AuditLog.open(tmp_path / "audit") as audit:
        before = audit.verify().size
        assert {} == require_approval(audit, "erase", "person p_x", None, "anybody")
        assert before == audit.verify().size


def test_an_approval_that_is_not_needed_is_checked_all_the_same(world: World) -> None:
    """Whoever gives one wants it to count."""
    bad = world.approve(OTHER, act="unseal", target="entry 1 /metadata/prompt")
    with pytest.raises(AccessDenied):
        require_approval(world.audit, "unseal", "entry 2 /metadata/prompt", bad, BOSS)


def test_missing(world: World) -> None:
    """Nobody approved: refused, with act and target in an entry."""
    assert "missing" == world.refused()
    entry = world.entries("access_denied")[-1]
    assert ("rotate", "blocked", "epoch 0") == (entry["action"], entry["outcome"], entry["metadata"]["target"])
    assert world.pseudonym(BOSS) == entry["actor_id"]


def test_own(world: World) -> None:
    """Who acts is no second person."""
    assert "own" == world.refused(world.approve(BOSS))


def test_used_once(world: World) -> None:
    """A second time it is used up, also as a copy with another signature line added."""
    path = world.approve(OTHER)
    world.require(path)
    assert "reused" == world.refused(path)
    extra = sign_note(parse_approval(path.read_bytes()).text, SignerKey.generate("approver-stranger"))
    path.write_bytes(path.read_bytes() + extra.rpartition(b"\n\n")[2])
    assert "reused" == world.refused(path)


def test_used_once_by_many_at_a_time(world: World) -> None:
    """Of eight that come at the same moment with one approval one gets through."""
    path, outcomes = world.approve(OTHER), []

    def run() -> None:
        try:
            outcomes.append(bool(world.require(path)))
        except AccessDenied:
            outcomes.append(False)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [False] * 7 + [True] == sorted(outcomes)
    assert 1 == len(world.entries("approval_used"))


def test_expired_and_future(world: World) -> None:
    """Older than the policy allows, or from a clock that is ahead; a moment before that it is good."""
    path = world.approve(OTHER)
    made = dt.datetime.fromisoformat(parse_approval(path.read_bytes()).made)
    assert "expired" == world.refused(path, now=made + dt.timedelta(hours=24, seconds=1))
    assert "future" == world.refused(path, now=made - dt.timedelta(minutes=6))
    assert world.require(path, now=made + dt.timedelta(hours=24))


def test_a_relative_time_is_none(world: World) -> None:
    """An approval that says `now` would never grow old."""
    approval = parse_approval(world.approve(OTHER).read_bytes())
    signer = SignerKey.parse(world.key(OTHER).read_text().strip())
    data = approval.text.replace(approval.made, "now")
    path = world.folder / "timeless"
    path.write_bytes(sign_note(data, signer))
    assert "malformed" == world.refused(path)


def test_another_act_target_or_log(world: World) -> None:
    """What was approved is what may be done."""
    assert "other_act" == world.refused(world.approve(OTHER, act="purge"))
    assert "other_target" == world.refused(world.approve(OTHER, target="epoch 1"))
    assert "other_log" == world.refused(world.approve(OTHER, log="log.example.com"))


def test_changed_or_signed_by_a_stranger(world: World) -> None:
    """Neither is an approval; nor is what is no file of that kind."""
    path = world.approve(OTHER)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"yearly", b"weekly"))
    assert "forged" == world.refused(path)
    make_approver_key(world.key("stranger"))
    assert "forged" == world.refused(world.approve("stranger"))
    path.write_bytes(b"yes")
    assert "malformed" == world.refused(path)
    path.write_bytes(data.replace(b'"act":', b'"act": '))
    assert "malformed" == world.refused(path)


def test_a_role_that_may_not_approve(world: World) -> None:
    """A viewer has a key, but not the role."""
    assert "approver_role" == world.refused(world.approve(LAYMAN))


def test_who_acts_must_be_declared(world: World) -> None:
    """Else the same person could act under another name."""
    assert "undeclared" == world.refused(world.approve(OTHER), actor="other-name")


def test_a_key_that_only_the_registry_names(world: World) -> None:
    """Whoever edits registry.json alone declares nobody: the entry has to say the same."""
    path = world.folder / "audit.keys" / "registry.json"
    make_approver_key(world.key("forged"))
    key = SignerKey.parse(world.key("forged").read_text().strip()).verifier.format()
    registry = json.loads(path.read_text())
    registry["users"][world.pseudonym(OTHER)]["approver_key"] = key
    path.write_text(json.dumps(registry))
    assert "undeclared" == world.refused(world.approve("forged"))


def test_removed_people_approve_nothing(world: World) -> None:
    """Their key is not declared any more."""
    path = world.approve(OTHER)
    with acting(THIRD, actor_type="admin"):
        Administration(world.audit).remove_user(OTHER)
    assert "forged" == world.refused(path)


def test_two_signatures(tmp_path: Path) -> None:
    """Then two people sign, and who acts may be one of them."""
    world = World(tmp_path, "signatures = 2")
    assert "missing" == world.refused(world.approve(OTHER))
    assert "missing" == world.refused(world.approve(OTHER), world.approve(OTHER))
    one = world.approve(OTHER)
    assert "reused" == world.refused(one, one, world.approve(BOSS))
    granted = world.require(world.approve(OTHER), world.approve(BOSS))
    assert sorted(map(world.pseudonym, (OTHER, BOSS))) == granted["approvers"]
    assert 2 == len(granted["approvals"]) == len(world.entries("approval_used"))
    world.audit.close()


def test_roles_enforced(tmp_path: Path) -> None:
    """Only an admin rotates and purges, only a privacy officer unseals and erases."""
    world = World(tmp_path, 'roles = "enforced"')
    assert "role" == world.refused(world.approve(THIRD), actor=OTHER)
    assert world.require(world.approve(OTHER))
    assert {} == require_approval(world.audit, "unseal", "entry 1 /metadata/prompt", None, OTHER)
    with pytest.raises(AccessDenied, match="privacy_officer"):
        require_approval(world.audit, "unseal", "entry 1 /metadata/prompt", None, BOSS)
    world.audit.close()


def test_a_use_that_cannot_be_recorded_opens_nothing(tmp_path: Path) -> None:
    """The disk is full: the act must not happen, and the approval is not used up."""
    world = World(tmp_path)
    path = world.approve(OTHER)
    world.audit.close()

    class Full(FileOps):
        full = False

        def write_at(self, fd: int, data: bytes, offset: int) -> int:
            if self.full:
                raise OSError(28, os.strerror(28))
            return super().write_at(fd, data, offset)

        def write(self, fd: int, data: bytes) -> int:
            if self.full:
                raise OSError(28, os.strerror(28))
            return super().write(fd, data)

    ops = Full()
    world.audit = AuditLog.open(tmp_path / "audit", ops=ops)
    ops.full = True
    with pytest.raises(AuditUnavailable):
        world.require(path)
    ops.full = False
    assert world.require(path)
    world.audit.close()


def test_an_erasure_by_two(world: World) -> None:
    """Refused before anything is destroyed; then the certificate names who approved it."""
    with acting("user@example.com"):
        world.audit.log("x_any").wait()
    user = world.pseudonym("user@example.com")
    with acting(BOSS, actor_type="admin"):
        with pytest.raises(AccessDenied):
            erase_subject(world.audit, user, basis="GDPR Art. 17(1)(b)")
        assert [] == world.entries("subject_erased")
        assert "user@example.com" == world.audit.subjects.reveal(user)
        path = world.approve(OTHER, act="erase", target=erase_target(user))
        done = erase_subject(world.audit, user, basis="GDPR Art. 17(1)(b)", approval=path)
        assert done.seq == erase_subject(world.audit, user, basis="GDPR Art. 17(1)(b)").seq
    (entry,) = world.entries("subject_erased")
    assert [world.pseudonym(OTHER)] == entry["metadata"]["approvers"]
    assert done.verified


def test_a_purge_by_two(tmp_path: Path) -> None:
    """Exactly what was approved is purged: a day later more is due, and the approval does not cover it."""
    clock = HandClock(dt.datetime(2026, 1, 5, 12, tzinfo=dt.UTC))
    policy = '[retention]\nminimum = "1d"\nmaximum = "30d"\n[retention.classes]\nx_brief = { minimum = "1d", '
    world = World(tmp_path, policy + 'maximum = "3d" }')
    world.audit.close()
    world.audit = audit = AuditLog.open(tmp_path / "late", clock=clock, ops=QuickOps())
    (tmp_path / "late.keys" / "registry.json").unlink(missing_ok=True)
    with acting("root@example.com", actor_type="admin"):
        for user, role in ROLES.items():
            key = SignerKey.parse(world.key(user).read_text().strip()).verifier.format()
            Administration(audit).add_user(user, role=role, approver_key=key)
    text = (tmp_path / "audit.keys" / "policy.toml").read_bytes()
    audit.close()
    (tmp_path / "late.keys" / "policy.toml").write_bytes(text)
    world.audit = audit = AuditLog.open(tmp_path / "late", clock=clock, ops=QuickOps())
    with acting(BOSS, actor_type="admin"):
        for _ in range(3):
            audit.log("x_brief").wait()
            clock.advance(24 * 3600)
        audit.log("x_brief").wait()
        day = dt.date(2026, 1, 9)
        plan = plan_retention(audit.reader, audit.policy, day)
        assert plan.target == purge_target([seq for one in plan.days for seq in one.due])
        path = world.approve(OTHER, act="purge", target=plan.target)
        with pytest.raises(AccessDenied, match="Something else"):
            apply_retention(audit, today=day + dt.timedelta(days=1), approval=path)
        with pytest.raises(AccessDenied, match="second person"):
            apply_retention(audit, today=day)
        assert 1 == plan.due == apply_retention(audit, today=day, approval=path).purged
        assert 0 == apply_retention(audit, today=day).purged
    (entry,) = [one for one in world.entries("retention_applied") if one["action"] == "purge"]
    assert [world.pseudonym(OTHER)] == entry["metadata"]["approvers"]
    assert audit.verify(now=clock.now).integrity_ok
    audit.close()


def test_who_may_change_the_rule(tmp_path: Path) -> None:
    """With `govern` nobody alone ends the rule, nor declares a second self; other settings are as before."""
    world = World(tmp_path)
    path = world.audit.places.keys / "policy.toml"
    path.write_text(path.read_text().replace('"erase"', '"erase", "govern"'))
    world.audit.close()
    world.audit = AuditLog.open(tmp_path / "audit")
    with acting(BOSS, actor_type="admin"):
        alone = Administration(world.audit)
        with pytest.raises(AccessDenied):
            alone.set_policy("access.two_person", [])
        with pytest.raises(AccessDenied):
            alone.add_user("second-self@example.com", role="admin", approver_key=None)
        with pytest.raises(AccessDenied):
            alone.remove_user(OTHER)
        assert 3 == len(world.entries("access_denied"))
        assert "govern" in path.read_text()
        alone.set_policy("privacy.reads", "record")
        target = world.entries("access_denied")[0]["metadata"]["target"]
        approval = world.approve(OTHER, act="govern", target=target)
        Administration(world.audit, approval=approval).set_policy("access.two_person", [])
    assert "govern" not in path.read_text()
    (used,) = world.entries("approval_used")
    assert used["seq"] < world.entries("policy_updated")[-1]["seq"]
    world.audit.close()


# --- files ---------------------------------------------------------------------------------------------


def test_keys_of_approvers(tmp_path: Path) -> None:
    """Private, never overwritten, and no other key signs an approval."""
    path = tmp_path / "own" / "approver.key"
    make_approver_key(path)
    assert 0o600 == path.stat().st_mode & 0o777
    with pytest.raises(UsageError, match="there already"):
        make_approver_key(path)
    path.chmod(0o644)
    given = {"log": "log.example.com", "act": "rotate", "target": "epoch 0", "reason": "why"}
    with pytest.raises(UnsafePermissions, match="chmod 600"):
        sign_approval(path, **given)
    other = tmp_path / "log.key"
    other.write_text(f"{SignerKey.generate('log.example.com').format()}\n")
    other.chmod(0o600)
    with pytest.raises(Malformed, match="no approver's key"):
        sign_approval(other, **given)
    with pytest.raises(UsageError, match="no key"):
        sign_approval(tmp_path / "none", **given)


@pytest.mark.parametrize(
    "change", [{"act": "read"}, {"reason": " "}, {"reason": "a\nb"}, {"reason": "x" * (MAX_REASON + 1)}]
)
def test_what_is_no_approval_is_not_signed(tmp_path: Path, change: dict[str, str]) -> None:
    """Only acts under the rule, and always with a reason in one line."""
    make_approver_key(tmp_path / "key")
    given = {"log": "log.example.com", "act": "rotate", "target": "epoch 0", "reason": "why"} | change
    with pytest.raises(UsageError):
        sign_approval(tmp_path / "key", **given)


def test_targets_tell_lists_apart() -> None:
    """Another list of entries is another target."""
    lists = [[], [1], [11], [1, 1], [1, 2], [12], range(3)]
    assert len(lists) == len({purge_target(one) for one in lists})


def test_current_epoch(world: World) -> None:
    """It is the newest that an entry began, without looking into the keys folder."""
    assert 0 == current_epoch(world.audit.reader)
    world.audit.rotate_keys()
    assert 1 == current_epoch(world.audit.reader)


def test_a_key_belongs_to_one_person(world: World) -> None:
    """Two names with one key would be one person twice."""
    key = SignerKey.parse(world.key(OTHER).read_text().strip()).verifier.format()
    with acting(BOSS, actor_type="admin"), pytest.raises(UsageError, match="has this key"):
        Administration(world.audit).add_user("double@example.com", approver_key=key)
    with acting(BOSS, actor_type="admin"), pytest.raises(Malformed):
        Administration(world.audit).add_user("double@example.com", approver_key="key")
