"""`users`, `budget`, `policy`, `api-key`: administrative acts, each an entry of the log."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from klingai_audit.cli.approving import Approvals
from klingai_audit.cli.files import read_file
from klingai_audit.cli.options import Resolve
from klingai_audit.cli.recording import reader_id
from klingai_audit.cli.session import Session, SessionArgument, open_log
from klingai_audit.errors import UsageError

if TYPE_CHECKING:
    from klingai_audit.upkeep.admin import Administration, Declared
    from klingai_audit.upkeep.registry import Registry
    from klingai_audit.views.entry import ActorStyle

_MAX_VKEY: Final = 1024

_Actor = Annotated[str | None, Parameter(help="Who does it. Default: KLINGAI_AUDIT_ACTOR, else the login name")]
_Reason = Annotated[str | None, Parameter(help="Why; kept in the entry.")]
_User = Annotated[str, Parameter(name="USER", help="Id of the user, such as an e-mail address; enters as pseudonym.")]


def users_add(
    user: _User,
    /,
    *,
    role: Annotated[
        str, Parameter(help="What the user may be: viewer, auditor, privacy_officer, admin, or another word")
    ] = "user",
    team: Annotated[str | None, Parameter(help="Team of the user.")] = None,
    approver_key: Annotated[
        str | None, Parameter(help="Their public key for approvals, or a file with it: users approver-keygen")
    ] = None,
    reason: _Reason = None,
    approval: Approvals = None,
    actor: _Actor = None,
    session: SessionArgument,
) -> None:
    """Declare that someone may use Kling: an entry user_added."""
    if approver_key is not None and Path(approver_key).is_file():
        approver_key = read_file(Path(approver_key), _MAX_VKEY, "public key").decode("utf-8", "replace").strip()
    with _administration(session, actor, approval) as admin:
        made = admin.add_user(user, role=role, team=team, approver_key=approver_key, reason=reason)
        _told(session, made, "user", "The user is declared")


def users_remove(
    user: _User,
    /,
    *,
    reason: _Reason = None,
    approval: Approvals = None,
    actor: _Actor = None,
    session: SessionArgument,
) -> None:
    """Declare that someone may no longer use Kling: an entry user_removed."""
    with _administration(session, actor, approval) as admin:
        _told(session, admin.remove_user(user, reason=reason), "user", "The user is no longer declared")


def users_list(*, resolve: Resolve = False, session: SessionArgument) -> None:
    """List the users that are declared. Reads the registry and writes nothing."""
    from klingai_audit.config import open_subjects
    from klingai_audit.views.entry import People

    people = People(open_subjects(session.places))
    style: ActorStyle = "id" if resolve else "mask"
    rows = [
        {
            "user": stored,
            "shown": people.show(stored, style),
            "role": user.role,
            "team": user.team,
            "approves": user.approver_key is not None,
            "since": user.since,
        }
        for stored, user in _registry(session).users.items()
    ]
    _list(session, "users", rows, "No user is declared.")


def budget_set(
    scope: Annotated[str, Parameter(name="SCOPE", help="account, team:NAME, project:NAME or user:ID")],
    amount: Annotated[str, Parameter(name="AMOUNT", help="A decimal number.")],
    /,
    *,
    unit: Annotated[str, Parameter(help="Of what (one word).")] = "units",
    period: Annotated[str, Parameter(help="For how long: day, week, month, total, … (one word)")] = "month",
    reason: _Reason = None,
    actor: _Actor = None,
    session: SessionArgument,
) -> None:
    """Declare a budget: an entry budget_modified with the old and the new one."""
    with _administration(session, actor) as admin:
        made = admin.set_budget(scope, amount, unit=unit, period=period, reason=reason)
        _told(session, made, "budget", "The budget is declared")


def budget_list(*, session: SessionArgument) -> None:
    """List the budgets that are declared. Reads the registry and writes nothing."""
    rows = [
        {"scope": scope, "amount": budget.amount, "unit": budget.unit, "period": budget.period, "since": budget.since}
        for scope, budget in _registry(session).budgets.items()
    ]
    _list(session, "budgets", rows, "No budget is declared.")


def policy_set(
    key: Annotated[str, Parameter(name="KEY", help="Table and name: privacy.reads, failure.download, …")],
    value: Annotated[
        str, Parameter(name="VALUE", allow_leading_hyphen=True, help="The new value: a word, true, false, or TOML.")
    ],
    /,
    *,
    reason: _Reason = None,
    approval: Approvals = None,
    actor: _Actor = None,
    session: SessionArgument,
) -> None:
    """Change one setting of policy.toml: an entry policy_updated with the old and the new digest.

    The new file is checked before it replaces the old one; comments stay. It is in force for whoever opens the log from
    then on.
    """
    from klingai_audit.upkeep.policy_text import parse_value

    with _administration(session, actor, approval) as admin:
        _told(session, admin.set_policy(key, parse_value(value), reason=reason), key, "The policy is changed")


def api_key_rotate(
    *,
    name: Annotated[str, Parameter(help="Which credential (one word).")] = "default",
    from_env: Annotated[str | None, Parameter(help="Variable that holds the new key.")] = None,
    reason: _Reason = None,
    actor: _Actor = None,
    session: SessionArgument,
) -> None:
    """Declare that a credential was replaced: an entry api_key_rotated with fingerprints.

    The new key is read from the variable, from standard input, or asked for; it is never an argument and kept nowhere.
    """
    key = _secret(from_env)
    with _administration(session, actor) as admin:
        _told(session, admin.rotate_api_key(key, name=name, reason=reason), "key", "The key is declared")


# --- what all share ----------------------------------------------------------------------------------------


@contextmanager
def _administration(
    session: Session, actor: str | None, approval: list[Path] | None = None
) -> Iterator[Administration]:
    from klingai_audit.event.context import acting
    from klingai_audit.upkeep.admin import Administration

    with open_log(session) as audit, acting(actor or reader_id(), actor_type="admin"):
        yield Administration(audit, approval=approval)


def _told(session: Session, made: Declared, what: str, words: str) -> None:
    if made.receipt is not None:
        made.receipt.wait("published")
    seq = None if made.receipt is None else made.receipt.seq
    if session.as_json:
        changed = seq is not None or made.late
        session.emit({"changed": changed, "seq": seq, "old": made.old, "new": made.new})
    elif made.late:
        session.say((f"{words}, and it is not recorded yet.", "yellow"))
    elif seq is None:
        session.say("It is so already; nothing was written.")
    else:
        session.say(f"{words}: entry ", (str(seq), "bold"), " is in the log and under a signed checkpoint.")
        session.say((f"  {what}: {made.old or 'none'} → {made.new or 'none'}", "dim"))


def _registry(session: Session) -> Registry:
    from klingai_audit.upkeep.registry import RegistryFile

    return RegistryFile(session.places.keys).read()


def _list(session: Session, name: str, rows: list[dict[str, Any]], nothing: str) -> None:
    if session.as_json:
        session.emit({name: rows})
        return
    if not rows:
        session.say(nothing)
        return
    from rich.table import Table

    from klingai_audit.views.inert import inert

    heads = [head for head in rows[0] if head != "user"]
    table = Table(*heads, box=None, header_style="dim")
    for row in rows:
        table.add_row(*(inert(_cell(row[head])) for head in heads))
    session.show(table)


def _cell(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value or "-")


def _secret(variable: str | None, ask: Callable[[str], str] = getpass.getpass) -> str:
    """Read a secret: from a variable, else one line of standard input, else by asking. Raises: UsageError."""
    if variable is not None:
        key = os.environ.get(variable, "")
    elif sys.stdin is None or not sys.stdin.isatty():
        key = sys.stdin.readline() if sys.stdin is not None else ""
    else:
        key = ask("New key: ")
    if not key.strip():
        raise UsageError(
            "There is no key to read.", do="Name a variable with --from-env, or pipe the key to standard input."
        )
    return key.strip()
