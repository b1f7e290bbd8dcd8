"""Two people for dangerous acts: approvals that one person signs and another one's act uses up.

An approval is a small file, a C2SP signed note by the approver's own key, which `users add --approver-key` declared. It
names the act, exactly what it is done to, and the log; it is good once and for as long as the policy says. An act that
uses one writes `approval_used` first; an act that is refused leaves `access_denied`. See docs/how-to/two-people.md.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from klingai_audit.durable import NO_FORK, OPS, PRIVATE_MODE, read_optional
from klingai_audit.errors import (
    AccessDenied,
    AuditUnavailable,
    InvalidSignature,
    KlingAuditError,
    Malformed,
    StorageError,
    UsageError,
)
from klingai_audit.event.context import UNKNOWN_ACTOR
from klingai_audit.event.record import Draft, decode_event, parse_time
from klingai_audit.event.types import EventType
from klingai_audit.log import AuditLog
from klingai_audit.privacy.access_policy import ROLE_OF, Act
from klingai_audit.privacy.policy import parse_span
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.note import open_note
from klingai_audit.upkeep.approval_file import MAX_BYTES, Approval, parse_approval
from klingai_audit.upkeep.registry import Registry, RegistryFile

__all__ = ["require_approval"]

_SKEW: Final = dt.timedelta(minutes=5)
_DO: Final = "Another person makes one: klingai-audit approve {act} -o FILE; give it with --approval FILE."


# --- the actor's side ----------------------------------------------------------------------------------


def require_approval(
    audit: AuditLog,
    act: Act,
    target: str,
    approval: Path | Sequence[Path] | None,
    actor: str | None = None,
    *,
    now: dt.datetime | None = None,
) -> dict[str, Any]:
    """Let an act on `target` happen, or refuse it as policy table `access` says; call it right before the act.

    Roles are looked at first, then `approval`, one file or several, where the act needs a second person or one was
    given. Each is used up here: by an entry `approval_used`, published on return. `actor` is who acts, unless bound
    by `acting`. Returns what the act's own entry should hold: empty, or `approvers` (pseudonyms) and `approvals`
    (digests). Raises: AccessDenied, after an entry `access_denied`; StorageError for a file that cannot be read;
    AuditUnavailable if the use cannot be recorded: then the act must not happen.
    """
    files = [approval] if isinstance(approval, Path) else list(approval or ())
    return _Gate(audit, act, target, actor, now or dt.datetime.now(dt.UTC)).pass_through(files)


@dataclass(frozen=True, slots=True)
class _Signed:
    """One approval with the people who signed it (as the log names them), and its signature lines."""

    approval: Approval
    people: frozenset[str]
    lines: tuple[str, ...]


class _Gate:
    """One act that wants to happen."""

    def __init__(self, audit: AuditLog, act: Act, target: str, actor: str | None, now: dt.datetime) -> None:
        self._audit = audit
        self._act = act
        self._target = target
        self._given = actor
        self._now = now
        self._rules = audit.policy.access
        self._digests: list[str] = []
        self._registry = Registry()
        self._actor = UNKNOWN_ACTOR

    def pass_through(self, files: Sequence[Path]) -> dict[str, Any]:
        needed = self._act in self._rules.two_person
        if not needed and not files and self._rules.roles == "recorded":
            return {}
        self._registry = RegistryFile(Path(self._audit.places.keys)).read()
        self._actor = self._stored_actor()
        self._check_actor()
        if not needed and not files:
            return {}
        if not files:
            raise self._refusal("missing", "It needs the approval of a second person.", self._how)
        signed = [self._read(path) for path in files]
        people = frozenset[str]().union(*(one.people for one in signed))
        self._check_people(people)
        with self._alone():
            for one in signed:
                self._check_unused(one.approval)
            if len(set(self._digests)) != len(signed):
                raise self._refusal("reused", "One approval was given twice.", self._how)
            for one in signed:
                self._use(one)
        return {"approvers": sorted(people), "approvals": list(self._digests)}

    @property
    def _how(self) -> str:
        """What to do to get an approval."""
        what = f"--target {shlex.quote(self._target)}" if self._act == "govern" else "…"
        return _DO.format(act=f"{self._act} {what}")

    # --- who ------------------------------------------------------------------------------------------

    def _stored_actor(self) -> str:
        """The actor as the log names them; the draft is admitted for that and not written."""
        draft = self._draft(EventType.ACCESS_DENIED, "blocked", {})
        return decode_event(self._audit.admit(draft, warn=False).body).get("actor_id") or UNKNOWN_ACTOR

    def _check_actor(self) -> None:
        user = self._registry.users.get(self._actor)
        if user is None or not self._is_declared(self._actor, user.role, user.approver_key):
            raise self._refusal(
                "undeclared",
                "Who acts is no declared user, so nobody can tell whether they are a second person.",
                "Declare them: klingai-audit users add USER --role ROLE; then name them: --actor",
            )
        wanted = ROLE_OF[self._act]
        if self._rules.roles == "enforced" and user.role != wanted:
            raise self._refusal("role", f"It is for the role {wanted}.", "Roles: klingai-audit users list")

    def _check_people(self, people: frozenset[str]) -> None:
        for person in people:
            user = self._registry.users[person]
            if user.role not in self._rules.approvers:
                allowed = ", ".join(self._rules.approvers)
                raise self._refusal("approver_role", "Who approved it is in no role for that.", f"Roles: {allowed}.")
            if not self._is_declared(person, user.role, user.approver_key):
                raise self._refusal(
                    "undeclared",
                    "The registry names a key for who approved it, and the newest entry about them does not.",
                    "Find out who changed registry.json; then users remove, and users add --approver-key.",
                )
        if self._rules.signatures == 1 and not people - {self._actor}:
            raise self._refusal("own", "Who acts approved it.", "It needs an approval by somebody else.")
        if len(people) < self._rules.signatures:
            raise self._refusal("missing", "It needs the approvals of two people.", self._how)

    def _is_declared(self, person: str, role: str, key: str | None) -> bool:
        """Tell whether the newest entry about a user declares this role and key: the registry is only a file."""
        kinds = (EventType.USER_ADDED, EventType.USER_REMOVED)
        entries = [
            entry
            for entry in self._audit.query(event_type=kinds)
            if entry.resource_id == person and entry.outcome == "success"
        ]
        if not entries or entries[-1].event_type != EventType.USER_ADDED:
            return False
        told = entries[-1].metadata
        return (told.get("role"), told.get("approver_key")) == (role, key)

    # --- what -----------------------------------------------------------------------------------------

    def _read(self, path: Path) -> _Signed:
        try:
            data = read_optional(path, limit=MAX_BYTES)
        except OSError as exc:
            raise StorageError(f"The approval {path} cannot be read: {exc.strerror}.") from exc
        if data is None:
            raise UsageError(f"There is no approval at {path}.", do=self._how)
        keys = {VerifierKey.parse(user.approver_key): name for name, user in self._registry.users.items()
                if user.approver_key is not None}  # fmt: skip
        try:
            approval = parse_approval(data)
            self._digests.append(approval.digest)
            note, signers = open_note(data, list(keys))
        except InvalidSignature as exc:
            raise self._refusal(
                "forged",
                "The approval was changed, or nobody who is declared signed it.",
                "Declared: klingai-audit users list. A key is declared with users add --approver-key.",
            ) from exc
        except Malformed as exc:
            raise self._refusal("malformed", "The file is no approval.", self._how) from exc
        self._check_content(approval)
        known = {(key.name, key.key_id) for key in signers}
        lines = tuple(line.format().strip() for line in note.signatures if (line.name, line.key_id) in known)
        return _Signed(approval, frozenset(keys[key] for key in signers), lines)

    def _check_content(self, approval: Approval) -> None:
        again = self._how
        if approval.log != self._audit.origin:
            raise self._refusal("other_log", "The approval is for another log.", again)
        if approval.act != self._act:
            raise self._refusal("other_act", f"The approval is for another act than {self._act}.", again)
        if approval.target != self._target:
            do = f"What is to be approved: {self._target}"
            raise self._refusal("other_target", "Something else was approved than what would be done.", do)
        age = self._now - parse_time(approval.made)
        if age < -_SKEW:
            raise self._refusal("future", "The approval was made in the future.", "Compare the clocks, then " + again)
        if age > parse_span(self._rules.max_age, "access.max_age"):
            raise self._refusal("expired", f"The approval is older than {self._rules.max_age}.", again)

    # --- once -----------------------------------------------------------------------------------------

    def _check_unused(self, approval: Approval) -> None:
        self._audit.flush("published")
        for entry in self._audit.query(event_type=EventType.APPROVAL_USED):
            if entry.resource_id == approval.digest:
                raise self._refusal("reused", f"Entry {entry.seq} has used this approval up.", self._how)

    def _use(self, one: _Signed) -> None:
        told = {
            "target": self._target,
            "approvers": sorted(one.people),
            "reason": one.approval.reason,
            "made": one.approval.made,
            "nonce": one.approval.nonce,
            "signatures": list(one.lines),
        }
        draft = self._draft(EventType.APPROVAL_USED, "success", told)
        self._audit.record(draft.replace(resource_type="approval", resource_id=one.approval.digest)).wait("published")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Exclude others who would use the same approval."""
        path = Path(self._audit.places.keys) / "approvals.lock"
        try:
            with NO_FORK:
                fd = OPS.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_MODE)
        except OSError as exc:
            raise AuditUnavailable(f"{path} cannot be opened for writing: {exc.strerror}.") from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            OPS.close(fd)

    # --- entries --------------------------------------------------------------------------------------

    def _draft(self, event_type: EventType, outcome: str, told: Mapping[str, Any]) -> Draft:
        return Draft(
            event_type=event_type,
            actor_id=self._given,
            resource_type="log",
            resource_id=self._audit.origin,
            action=self._act,
            outcome=outcome,
            metadata=told,
        )

    def _refusal(self, why: str, message: str, do: str) -> AccessDenied:
        """Record a refusal; return what is to be raised. What cannot be recorded is refused all the same."""
        told = {"why": why, "target": self._target, **({"approvals": self._digests} if self._digests else {})}
        with contextlib.suppress(KlingAuditError):
            self._audit.record(self._draft(EventType.ACCESS_DENIED, "blocked", told)).wait("published")
        return AccessDenied(f"This is refused: {self._act} {self._target}. {message}", do=do)
