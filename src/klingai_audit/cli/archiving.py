"""`archive`: the log in a bucket where nobody can delete it before a date."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from klingai_audit.cli.progress import progress_bar
from klingai_audit.cli.session import Session, SessionArgument
from klingai_audit.errors import UsageError
from klingai_audit.views.inert import inert

if TYPE_CHECKING:
    from klingai_audit.publish.archive import Archived


def archive(
    *,
    to: Annotated[str, Parameter(help="s3://bucket/prefix; the bucket has Object Lock.")],
    retain_until: Annotated[
        str | None, Parameter(help="New objects are kept until the end of this day (UTC, 2036-11-21).")
    ] = None,
    days: Annotated[int | None, Parameter(help="The same, counted from today.")] = None,
    key: Annotated[str | None, Parameter(help="The log's public key: a vkey, or a file that holds one.")] = None,
    session: SessionArgument,
) -> None:
    """Copy what is new of the log into a bucket under S3 Object Lock (compliance mode), up to its checkpoint.

    Nobody can delete it there before the date, whoever has the credentials, and nobody can take the date back. The
    act is an entry of the log where its keys are here. Read it with: klingai-audit verify --log s3://bucket/prefix
    """
    from klingai_audit.config import open_reader, trusted_key
    from klingai_audit.publish.archive import archive as run
    from klingai_audit.publish.locker import open_locker
    from klingai_audit.tlog.keys import VerifierKey

    until = _until(retain_until, days)
    reader = open_reader(session.places)
    trusted = VerifierKey.parse(trusted_key(session.places, key).vkey)
    locker = open_locker(to)
    _warn(session, until)
    recorded: list[bool] = []

    def begin(size: int) -> None:
        recorded.append(_record(session, locker.url, size, until))

    with progress_bar(session, "archiving", "objects") as progress:
        done = run(reader, locker, until, trusted, begin=begin, progress=progress)
    _tell(session, done, recorded=any(recorded))


def _warn(session: Session, until: dt.datetime) -> None:
    """Say if entries are to be purged from the log before the lock ends, as far as its policy is here."""
    from klingai_audit.errors import KlingAuditError
    from klingai_audit.privacy.policy import Policy
    from klingai_audit.privacy.retention import parse_days

    try:
        kept = Policy.load(session.places.keys / "policy.toml").retention
        spans = [
            parse_days(text, "maximum") for text in (kept.maximum, *(c.maximum for c in kept.classes.values())) if text
        ]
    except (KlingAuditError, OSError):
        return
    shortest = min((span for span in spans if span is not None), default=None)
    locked = (until - dt.datetime.now(dt.UTC)).days
    if shortest is not None and shortest < locked:
        session.remark(
            f"The policy has entries purged after {shortest:,} days; under this lock they stay for {locked:,}.",
            shortest_maximum_days=shortest,
            locked_days=locked,
        )


def _until(day: str | None, days: int | None) -> dt.datetime:
    """Return the moment at which the lock ends. Raises: UsageError."""
    if (day is None) is (days is None):
        raise UsageError("Until when is it to be kept?", do="Give --retain-until DAY or --days N, one of them.")
    now = dt.datetime.now(dt.UTC)
    try:
        last = dt.date.fromisoformat(day) if day is not None else now.date() + dt.timedelta(days=days or 0)
        until = dt.datetime.combine(last + dt.timedelta(days=1), dt.time(), dt.UTC)
    except (ValueError, OverflowError) as exc:
        raise UsageError("That is no day to come.", do="Write it like 2036-11-21, or give --days N.") from exc
    if until <= now or (days is not None and days < 1):
        raise UsageError("That day is over.", do="Give --retain-until a day to come, or --days 1 or more.")
    return until


def _record(session: Session, to: str, size: int, until: dt.datetime) -> bool:
    """Say in the log what is about to leave it, where its keys are; tell whether that was done."""
    from klingai_audit.cli.recording import record_act
    from klingai_audit.ledger.keys import KeyFolder

    told = {"command": "archive", "to": to, "tree_size": size, "retain_until": f"{until:%Y-%m-%dT%H:%M:%SZ}"}
    return record_act(session, "log_exported", told, asked=KeyFolder(session.places.keys).exists())


def _tell(session: Session, done: Archived, *, recorded: bool) -> None:
    if session.as_json:
        session.emit(
            {
                "to": done.to,
                "old_size": done.old_size,
                "tree_size": done.size,
                "objects": done.objects,
                "bytes": done.bytes,
                "retain_until": f"{done.until:%Y-%m-%dT%H:%M:%SZ}",
                "recorded": recorded,
            }
        )
        return
    last = done.until - dt.timedelta(days=1)
    session.say((inert(done.to), "bold"), f": {done.size:,} entries, {done.size - done.old_size:,} of them new.")
    session.say(f"{done.objects:,} new objects, {done.bytes:,} bytes; nobody can delete them before the end of {last}.")
    session.say((f"See it: klingai-audit verify --log {inert(done.to)} --key VKEY", "dim"))
    if not recorded:
        session.say(("The log does not say so: its keys are not here.", "dim"))
