"""Reads that become entries: when asked to (`--record`), or where the log's policy records reads."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from klingai_audit.cli.session import Session, open_log
from klingai_audit.errors import AuditUnavailable, KlingAuditError
from klingai_audit.event.record import Draft
from klingai_audit.privacy.subjects import RESERVED, SubjectTable, is_pseudonym, mask_id
from klingai_audit.views.entry import People

if TYPE_CHECKING:
    from klingai_audit.log import AuditLog
    from klingai_audit.privacy.policy import Policy

ACTOR_ENV: Final = "KLINGAI_AUDIT_ACTOR"
"""Who is named as the reader; by default the login name of this process."""


def record_read(
    session: Session,
    command: str,
    asked_for: Mapping[str, Any],
    size: int,
    subjects: SubjectTable | None,
    *,
    asked: bool,
) -> bool:
    """Append `log_queried` before anything is shown, if that is asked for or policy; tell whether it was.

    `asked_for` are the filters: people in them become pseudonyms here, texts commitments at the door. `size` is the
    number of entries that were looked at.
    Raises: AuditUnavailable and LogNotFound, if it cannot be recorded: then nothing is shown.
    """
    if not asked and not _policy_records_reads(session):
        return False
    people = People(subjects)
    told = {name: _told(name, value, people) for name, value in asked_for.items()}
    metadata = {"command": command, "tree_size": size, "filter": told}
    append(session, "log_queried", metadata)
    return True


def record_act(session: Session, event_type: str, metadata: Mapping[str, Any], *, asked: bool) -> bool:
    """Append an entry about an act of reading other than a query, such as an export, if asked for or policy; tell so.

    Where the failure policy of class `export` is `warn`, one that cannot be written is a remark, and nothing stops; so
    is one that waits in the spool, where it is `spool`.
    Raises: as `record_read`.
    """
    if not asked and not _policy_records_reads(session):
        return False
    policy = _policy(session)
    try:
        if policy is not None and policy.failure.export == "spool":
            return _announce(session, event_type, metadata)
        append(session, event_type, metadata)
    except AuditUnavailable as exc:
        if policy is None or policy.failure.export != "warn":
            raise
        session.remark(f"It could not be recorded: {exc.message}", recorded=False, problem=exc.message)
        return False
    return True


def tell_recorded(session: Session, recorded: bool, cursor: str | None = None) -> None:
    """Say on stderr whether what was done stands in the log; `cursor` is where the next page begins."""
    words = "This was recorded in the log." if recorded else "Not recorded in the log (--record does)."
    if cursor is None:
        session.remark(words, recorded=recorded)
    else:
        session.remark(f"More: the same again with --cursor {cursor}\n{words}", recorded=recorded, cursor=cursor)


def append(session: Session, event_type: str, metadata: Mapping[str, Any], *, outcome: str = "success") -> None:
    """Append one entry about the log itself in the name of whoever runs this command; published on return."""
    with open_log(session) as audit:
        audit.record(_draft(audit, event_type, metadata, outcome)).wait("published")


def _draft(audit: AuditLog, event_type: str, metadata: Mapping[str, Any], outcome: str = "success") -> Draft:
    return Draft(
        event_type=event_type,
        actor_id=reader_id(),
        resource_type="log",
        resource_id=audit.origin,
        action=str(metadata.get("command", event_type)),
        outcome=outcome,
        metadata=dict(metadata),
    )


def _announce(session: Session, event_type: str, metadata: Mapping[str, Any]) -> bool:
    """Append an entry, or put it into the spool; tell whether the log has it. Raises: AuditUnavailable."""
    stored = False
    try:
        with open_log(session) as audit:
            event = audit.admit(_draft(audit, event_type, metadata))
            receipt = audit.recorder.announce(event, "export")
            stored = True
            if receipt is not None:
                return True
    except AuditUnavailable:
        if not stored:
            raise
    session.remark("The log cannot be reached: this waits in the spool.", recorded=False)
    return False


def reader_id() -> str:
    """Return the id of whoever runs this command."""
    named = os.environ.get(ACTOR_ENV)
    if named:
        return named
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def _policy_records_reads(session: Session) -> bool:
    """Tell whether the log's policy wants every read recorded; a reader who cannot see the policy cannot know."""
    policy = _policy(session)
    return policy is not None and policy.privacy.reads == "record"


def _policy(session: Session) -> Policy | None:
    """The log's policy, as far as this reader can see it."""
    from klingai_audit.privacy.policy import Policy as Loaded

    try:
        return Loaded.load(session.places.keys / "policy.toml")
    except (OSError, KlingAuditError):
        return None


def _told(name: str, value: Any, people: People) -> Any:
    """Return a filter as an entry may hold it: nobody's raw id."""
    if name == "actor" and not is_pseudonym(value) and value not in RESERVED and "***" not in value:
        return people.pseudonym(value) or mask_id(value)
    if name in ("resource", "what"):
        return people.pseudonym(value) or value
    return list(value) if isinstance(value, tuple) else value
