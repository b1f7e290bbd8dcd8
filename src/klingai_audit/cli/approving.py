"""`approve` and `users approver-keygen`: the second person's side of the two-person rule."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from klingai_audit.cli.files import write_file
from klingai_audit.cli.session import Session, SessionArgument, escaped
from klingai_audit.errors import UsageError
from klingai_audit.privacy.access_policy import Act
from klingai_audit.views.inert import inert

if TYPE_CHECKING:
    from klingai_audit.ledger.reader import LogReader

__all__ = ["Approvals", "approve", "approver_keygen"]

Approvals = Annotated[
    list[Path] | None,
    Parameter(
        name="--approval", negative=(), help="A second person's approval (klingai-audit approve); may be repeated."
    ),
]
"""The option of acts under the two-person rule."""

_Out = Annotated[Path, Parameter(name=("--output", "-o"), help="File to write.")]


def approver_keygen(*, output: _Out, session: SessionArgument) -> None:
    """Make your key for approving what others do. It stays with you; what is printed is declared in the log."""
    from klingai_audit.upkeep.approval_file import make_approver_key

    vkey = make_approver_key(output).format()
    if session.as_json:
        session.emit({"vkey": vkey, "file": escaped(str(output))})
        return
    session.remark("Public key, for whoever declares you (users add --approver-key):")
    session.say(vkey)


def approve(
    act: Annotated[Act, Parameter(name="ACT", help="unseal, erase, purge, rotate or govern")],
    /,
    *,
    key: Annotated[Path, Parameter(help="Your own key: users approver-keygen")],
    reason: Annotated[str, Parameter(help="Why you approve it; part of what you sign, and kept in the log.")],
    output: _Out,
    seq: Annotated[int | None, Parameter(help="For unseal: the entry.")] = None,
    field: Annotated[str | None, Parameter(help="For unseal: a name such as prompt, or a JSON pointer.")] = None,
    subject: Annotated[str | None, Parameter(help="For erase: the person, by id or pseudonym.")] = None,
    plan: Annotated[
        str | None, Parameter(help="For purge: the digest that retention plan shows. Default: plan it here")
    ] = None,
    on: Annotated[str | None, Parameter(help="For purge: what is due on this day (UTC) instead of today.")] = None,
    what: Annotated[
        str | None, Parameter(name="--target", help="For govern: the declaration, as its refusal names it.")
    ] = None,
    session: SessionArgument,
) -> None:
    """Approve one act that somebody else is about to do. Reads the log and writes nothing into it.

    The file that it makes is good for exactly this act, once, and as long as the log's policy says.
    """
    from klingai_audit.config import open_reader
    from klingai_audit.upkeep.approval_file import sign_approval

    given = {"--seq": seq, "--field": field, "--subject": subject, "--plan": plan, "--on": on, "--target": what}
    _check_given(act, [name for name, value in given.items() if value is not None])
    reader = open_reader(session.places)
    target = _target(session, reader, act, seq=seq, field=field, subject=subject, plan=plan, on=on, what=what)
    approval, data = sign_approval(key, log=reader.origin, act=act, target=target, reason=reason)
    write_file(output, data)
    if session.as_json:
        session.emit({"act": act, "target": target, "digest": approval.digest, "file": escaped(str(output))})
        return
    session.say("You approve: ", (f"{act} {inert(target)}", "bold"), f" in {inert(reader.origin)}")
    session.say("Written to ", (inert(escaped(str(output))), "bold"), ". It is good once: --approval FILE")
    session.say((f"Its name in the log: {approval.digest}", "dim"))


_NEEDS = {"unseal": ("--seq", "--field"), "erase": ("--subject",), "purge": (), "rotate": (), "govern": ("--target",)}
_TAKES = {**_NEEDS, "purge": ("--plan", "--on")}


def _check_given(act: Act, given: Sequence[str]) -> None:
    missing = [name for name in _NEEDS[act] if name not in given]
    strange = [name for name in given if name not in _TAKES[act]]
    if missing:
        raise UsageError(f"What is approved? For {act}: {' and '.join(missing)}.", do="Give it.")
    if strange:
        raise UsageError(f"{', '.join(strange)}: that is nothing for {act}.", do="Leave it out.")
    if "--plan" in given and "--on" in given:
        raise UsageError("--plan and --on exclude each other.", do="Leave one out.")


def _target(
    session: Session,
    reader: LogReader,
    act: Act,
    *,
    seq: int | None,
    field: str | None,
    subject: str | None,
    plan: str | None,
    on: str | None,
    what: str | None,
) -> str:
    from klingai_audit.upkeep import approval_file as targets

    if act == "unseal":
        from klingai_audit.upkeep.unseal import content_of
        from klingai_audit.views.entry import EntryView

        number = seq or 0
        return targets.unseal_target(number, content_of(EntryView(reader.entry(number)), field or "")[0])
    if act == "erase":
        return targets.erase_target(_pseudonym(session, subject or ""))
    if act == "govern":
        return what or ""
    if act == "rotate":
        return targets.rotate_target(targets.current_epoch(reader))
    if plan is not None:
        return targets.purge_target_of(plan)
    return _due(session, reader, on)


def _due(session: Session, reader: LogReader, on: str | None) -> str:
    from klingai_audit.cli.keeping import day_of
    from klingai_audit.cli.progress import progress_bar
    from klingai_audit.privacy.policy import Policy
    from klingai_audit.upkeep.retention import plan_retention

    policy = Policy.load(session.places.keys / "policy.toml")
    today = dt.datetime.now(dt.UTC).date() if on is None else day_of(on)
    with progress_bar(session, "reading", "entries") as progress:
        made = plan_retention(reader, policy, today, progress=progress)
    if not made.due:
        raise UsageError(f"Nothing is due on {today}, so there is nothing to approve.")
    session.remark(f"{made.due:,} entries are due on {today}.", due=made.due, on=today.isoformat())
    return made.target


def _pseudonym(session: Session, subject: str) -> str:
    from klingai_audit.config import open_subjects
    from klingai_audit.privacy.subjects import is_pseudonym
    from klingai_audit.views.entry import People

    found = subject if is_pseudonym(subject) else People(open_subjects(session.places)).pseudonym(subject)
    if found is None:
        raise UsageError("Nobody by that id is known here.", do="Name the person by pseudonym, as query shows it.")
    return found
