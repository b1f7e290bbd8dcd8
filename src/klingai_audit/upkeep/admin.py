"""Administrative acts: users, budgets, policy, keys. Each is an entry first and then a line of the registry.

What is recorded are declarations: that a user was added does not yet keep anyone out. The entry is durable before
anything is changed; if the change then fails, a second entry with outcome `failure` says so. Who acts comes
from `acting(…)`. See docs/how-to/administer.md.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final, cast

from msgspec.structs import replace

from klingai_audit.capture.desk import Desk, Item
from klingai_audit.config import open_vault
from klingai_audit.durable import OPS, FileOps
from klingai_audit.errors import AuditUnavailable, KlingAuditError, StorageError, UsageError
from klingai_audit.event.record import Draft, EncodedEvent, Event, decode_event
from klingai_audit.event.types import EventType
from klingai_audit.ledger.options import OptionsMemory
from klingai_audit.ledger.receipt import Receipt
from klingai_audit.log import AuditLog
from klingai_audit.privacy import secrets
from klingai_audit.privacy.policy import Policy
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.upkeep.approvals import require_approval
from klingai_audit.upkeep.policy_text import Setting, change_setting, read_setting
from klingai_audit.upkeep.registry import DeclaredBudget, DeclaredKey, DeclaredUser, Registry, RegistryFile

__all__ = ["SCOPES", "Administration", "Declared"]

SCOPES: Final = ("account", "team", "project", "user")
"""What a budget can be for: the account, or `team:NAME`, `project:NAME`, `user:ID`."""

_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}").fullmatch
_MAX_AMOUNT: Final = Decimal(10) ** 15


@dataclass(frozen=True, slots=True)
class Declared:
    """What a declaration changed: the value before (None: there was none) and after.

    `receipt` is that of its entry, durable; None if everything was so already and nothing was written, or if `late`:
    policy `warn` let it happen although it could not be recorded yet.
    """

    old: str | None
    new: str | None
    receipt: Receipt | None
    late: bool = False


class Administration:
    """The administrative acts on one log that is open for writing.

    Every method raises UsageError if there is nothing to declare (nothing was written), AuditUnavailable if it cannot
    be recorded or policy `witness.require` asks for witnesses who did not come (nothing was changed), StorageError if
    it was recorded and the change failed (a second entry says so).
    Where the failure policy of its class (`credentials` for keys, `admin` for the rest) is `warn`, what cannot be
    recorded happens all the same, with an `UnrecordedWarning`; its entry is written before the next one, behind a
    `gap_closed` that counts it. Where it is `spool`, its entry waits in the spool. `approval` is a second person's, for
    users and table `access` where policy `access.two_person` has `govern`; without it these raise AccessDenied.
    """

    def __init__(self, audit: AuditLog, *, approval: Path | Sequence[Path] | None = None, ops: FileOps = OPS) -> None:
        self._audit = audit
        self._approval = approval
        self._ops = ops
        self._file = RegistryFile(Path(audit.places.keys), ops)
        self._desk: Desk | None = None

    # --- users ------------------------------------------------------------------------------------

    @property
    def registry(self) -> Registry:
        """What is declared now: users by pseudonym, budgets by scope, keys by name. Raises: StorageError."""
        return self._file.read()

    def add_user(
        self,
        user: str,
        *,
        role: str = "user",
        team: str | None = None,
        approver_key: str | None = None,
        reason: str | None = None,
    ) -> Declared:
        """Declare that someone may use Kling; an entry `user_added`.

        `approver_key` is the public key (a vkey) with which they approve acts of others under the two-person rule.
        Raises: Malformed if it is none; else as the class says.
        """
        _check_word(role, "role")
        if approver_key is not None:
            VerifierKey.parse(approver_key)
        draft = Draft(
            event_type=EventType.USER_ADDED,
            resource_type="user",
            resource_id=user,
            action="add",
            metadata=_given(role=role, team=team, approver_key=approver_key, reason=reason),
        )
        return self._declare(draft, self._added)

    def remove_user(self, user: str, *, reason: str | None = None) -> Declared:
        """Declare that someone may no longer use Kling; an entry `user_removed`."""
        draft = Draft(
            event_type=EventType.USER_REMOVED,
            resource_type="user",
            resource_id=user,
            action="remove",
            metadata=_given(reason=reason),
        )
        return self._declare(draft, self._removed)

    @staticmethod
    def _added(registry: Registry, event: Event) -> _Change:
        user, details = event.get("resource_id") or "", event.details
        if user in registry.users:
            raise UsageError("This user is declared already.", do="Remove the user first to change role or team.")
        key = details.get("approver_key")
        if key is not None and any(other.approver_key == key for other in registry.users.values()):
            raise UsageError("Somebody else has this key.", do="Each person makes their own: users approver-keygen")
        declared = DeclaredUser(role=details["role"], team=details.get("team"), approver_key=key, since=event.timestamp)
        return _Change(None, declared.role, replace(registry, users={**registry.users, user: declared}))

    @staticmethod
    def _removed(registry: Registry, event: Event) -> _Change:
        users = dict(registry.users)
        known = users.pop(event.get("resource_id") or "", None)
        if known is None:
            raise UsageError("No such user is declared.", do="See who is: klingai-audit users list")
        return _Change(known.role, None, replace(registry, users=users))

    # --- budgets ----------------------------------------------------------------------------------

    def set_budget(
        self,
        scope: str,
        amount: str | float | Decimal,
        *,
        unit: str = "units",
        period: str = "month",
        reason: str | None = None,
    ) -> Declared:
        """Declare a budget; an entry `budget_modified` with the old and the new one.

        `scope` is `account`, `team:NAME`, `project:NAME` or `user:ID`; `amount` is a decimal number of `unit` (free
        words such as `units` or `usd`) for each `period` (`day`, `week`, `month`, `total` …).
        """
        for word, what in ((unit, "unit"), (period, "period")):
            _check_word(word, what)
        kind, stored = self._scope(scope)
        known = self.registry.budgets.get(stored)
        draft = Draft(
            event_type=EventType.BUDGET_MODIFIED,
            resource_type="budget",
            resource_id=stored,
            action="set",
            metadata={
                "scope": kind,
                "old": None if known is None else known.amount,
                "new": _plain_amount(amount),
                "unit": unit,
                "period": period,
                **({} if known is None or known.unit == unit else {"old_unit": known.unit}),
                **({} if known is None or known.period == period else {"old_period": known.period}),
                **_given(reason=reason),
            },
        )
        return self._declare(draft, self._budgeted)

    @staticmethod
    def _budgeted(registry: Registry, event: Event) -> _Change:
        scope, details = event.get("resource_id") or "", event.details
        known = registry.budgets.get(scope)
        _check_unchanged(details["old"], None if known is None else known.amount)
        declared = DeclaredBudget(
            amount=details["new"], unit=details["unit"], period=details["period"], since=event.timestamp
        )
        old, new = _shown(known), _shown(declared)
        return _Change(old, new, replace(registry, budgets={**registry.budgets, scope: declared}))

    def _scope(self, scope: str) -> tuple[str, str]:
        """Return the kind of a scope and the scope as it is stored: people as pseudonyms, other names cleaned."""
        kind, colon, name = scope.partition(":")
        if kind not in SCOPES or (kind == "account") is bool(colon) or (colon and not name.strip()):
            raise UsageError(
                "This is nothing that a budget can be for.",
                do="Use account, team:NAME, project:NAME or user:ID.",
            )
        if not colon:
            return kind, kind
        # The door says how this name is stored; the event itself is not written.
        draft = Draft(event_type=EventType.BUDGET_MODIFIED, resource_type=kind, resource_id=name, action="set")
        return kind, f"{kind}:{decode_event(self._audit.admit(draft).body).get('resource_id')}"

    # --- policy -----------------------------------------------------------------------------------

    def set_policy(self, key: str, value: Setting, *, reason: str | None = None) -> Declared:
        """Change one setting of policy.toml, such as `privacy.reads`; an entry `policy_updated` with both digests.

        The new file is parsed before the old one is replaced, and comments stay. It is in force for whoever opens the
        log from then on; this process and others that have it open keep the policy that they read.
        Raises: InvalidPolicy: the policy would not hold (nothing was written), UsageError: it needs an unseal key and
        there is none; else as the class says.
        """
        path = self._audit.places.keys / "policy.toml"
        with self._file.locked():
            try:
                before = path.read_bytes()
            except OSError as exc:
                raise StorageError(f"{path} cannot be read: {exc.strerror}.") from exc
            policy = Policy.parse(before, str(path))
            old = read_setting(before.decode(), key)
            after = change_setting(before.decode(), key, value).encode()
            fresh = Policy.parse(after, str(path))
            if fresh.vault.seals:
                open_vault(self._audit.places, self._audit.origin, fresh)  # who sets it could not open the log again
            if fresh.digest == policy.digest or old == value:
                return Declared(_words(old), _words(old), None)
            draft = Draft(
                event_type=EventType.POLICY_UPDATED,
                resource_type="policy",
                resource_id="policy.toml",
                action="set",
                metadata={
                    "setting": key,
                    "old": _words(old),
                    "new": _words(value),
                    "digest_old": policy.digest,
                    "digest_new": fresh.digest,
                    **_given(reason=reason),
                },
            )
            if key.split(".", maxsplit=1)[0] == "access":
                self._govern(f"set {key} = {_words(value)}")
            receipt = self._record(self._audit.admit(draft), "admin")
            self._see_witnessed(receipt, draft, "admin")
            self._apply(draft, lambda: self._replace(path, after))
            OptionsMemory(self._audit.places.state, self._ops).remember({"policy": fresh.digest})
        return Declared(_words(old), _words(value), receipt, late=receipt is None)

    def _replace(self, path: Path, data: bytes) -> None:
        try:
            self._ops.replace(path, data)
        except OSError as exc:
            raise StorageError(f"{path} cannot be written: {exc.strerror}.") from exc

    # --- keys -------------------------------------------------------------------------------------

    def rotate_api_key(
        self, key: str, *, name: str = "default", replaced: str | None = None, reason: str | None = None
    ) -> Declared:
        """Declare that `key` is the credential `name` from now on; an entry `api_key_rotated` with fingerprints.

        The key itself is kept nowhere. `replaced` is the key before it, where the registry does not know of one.
        """
        _check_word(name, "name")
        if not key.strip():
            raise UsageError("The key is empty.", do="Give the new key on standard input or in a variable.")
        secrets.learn(key)
        fingerprint = self._audit.fingerprint(key)
        known = self.registry.api_keys.get(name)
        old = (
            known.fingerprint if known is not None else None if replaced is None else self._audit.fingerprint(replaced)
        )
        if old == fingerprint:
            raise UsageError("This is the key that is declared already.", do="Give the new key.")
        draft = Draft(
            event_type=EventType.API_KEY_ROTATED,
            resource_type="api_key",
            resource_id=fingerprint,
            action="rotate",
            metadata={"name": name, "old": old, "new": fingerprint, **_given(reason=reason)},
        )
        return self._declare(draft, self._rotated, "credentials")

    @staticmethod
    def _rotated(registry: Registry, event: Event) -> _Change:
        details = event.details
        known = registry.api_keys.get(details["name"])
        _check_unchanged(details["old"] if known else None, known.fingerprint if known else None)
        declared = DeclaredKey(fingerprint=details["new"], since=event.timestamp)
        keys = {**registry.api_keys, details["name"]: declared}
        return _Change(details["old"], details["new"], replace(registry, api_keys=keys))

    # --- what all share ---------------------------------------------------------------------------

    def _declare(self, draft: Draft, change: Callable[[Registry, Event], _Change], cls: str = "admin") -> Declared:
        with self._file.locked():
            registry = self._file.read()
            admitted = self._audit.admit(draft)
            made = change(registry, decode_event(admitted.body))
            if made.old == made.new:
                return Declared(made.old, made.new, None)
            if draft.resource_type == "user":
                event = decode_event(admitted.body)
                told = [f"{name} {event.details[name]}" for name in ("role", "approver_key") if name in event.details]
                self._govern(" ".join((f"{draft.action} user {event.get('resource_id')}", *told)))
            receipt = self._record(admitted, cls)
            self._see_witnessed(receipt, draft, cls)
            self._apply(draft, lambda: self._file.write(made.registry))
        return Declared(made.old, made.new, receipt, late=receipt is None)

    def _govern(self, target: str) -> None:
        require_approval(self._audit, "govern", target, self._approval)

    def _record(self, event: EncodedEvent, cls: str) -> Receipt | None:
        """Append an entry, durable on return; None if it is late, or waits in the spool, as policy allows."""
        failure = self._audit.policy.failure.for_class(cls)
        if failure == "spool":
            return cast("Receipt | None", self._audit.recorder.announce(event, cls))
        try:
            if self._desk is not None:
                self._desk.catch_up()
            receipt = self._audit.append(event).wait()
        except AuditUnavailable as exc:
            if failure != "warn":
                raise
            self._desk = self._audit.recorder.desk
            self._desk.missed(Item(event, None, kind=cls), exc)
            return None
        return receipt

    def _see_witnessed(self, receipt: Receipt | None, draft: Draft, cls: str) -> None:
        """Wait for witnesses, as policy asks; record that nothing was changed where they do not come."""
        if receipt is None or cls not in self._audit.policy.witness.require:
            return
        try:
            receipt.wait("witnessed")
        except AuditUnavailable as exc:
            self._record_failure(draft, exc)
            raise AuditUnavailable(f"Nothing was changed. {exc.message}", do=exc.do) from exc

    def _record_failure(self, draft: Draft, exc: KlingAuditError) -> None:
        with contextlib.suppress(KlingAuditError):
            self._audit.record(draft.replace(outcome="failure").with_metadata(error=type(exc).__name__)).wait()

    def _apply(self, draft: Draft, change: Callable[[], None]) -> None:
        """Do what was recorded; record if it fails."""
        try:
            change()
        except StorageError as exc:
            self._record_failure(draft, exc)
            raise


@dataclass(frozen=True, slots=True)
class _Change:
    old: str | None
    new: str | None
    registry: Registry


def _given(**facts: str | None) -> Mapping[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}


def _check_unchanged(seen: str | None, there: str | None) -> None:
    if seen != there:
        raise UsageError("Somebody else has just declared another value.", do="Look at it and try again.")


def _check_word(text: str, what: str) -> None:
    if _WORD(text) is None:
        raise UsageError(f"{what} is not one word.", do="Use letters, digits, dot, hyphen and underscore, at most 64.")


def _plain_amount(amount: str | float | Decimal) -> str:
    """Return an amount as decimal text without exponent or trailing zeros. Raises: UsageError."""
    try:
        number = Decimal(str(amount))
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite() or not 0 <= number <= _MAX_AMOUNT:
        raise UsageError("The amount is no number from 0 to 10¹⁵.", do="Use digits and at most one point: 250 or 99.50")
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") or "0" if "." in text else text


def _shown(budget: DeclaredBudget | None) -> str | None:
    return None if budget is None else f"{budget.amount} {budget.unit} per {budget.period}"


def _words(value: Any) -> str | None:
    """Return a setting as one text: a list of names is no header, and a name in it no label of what follows."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(value) if isinstance(value, list) else str(value)
