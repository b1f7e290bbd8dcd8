"""`backup`, and `recover --restored`: copies that verify, and what comes after one was put back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from klingai_audit.cli.progress import progress_bar
from klingai_audit.cli.session import Session, SessionArgument, escaped
from klingai_audit.errors import UsageError
from klingai_audit.views.inert import inert


def backup(
    folder: Annotated[Path, Parameter(name="FOLDER", help="A new folder.")],
    /,
    *,
    keys: Annotated[
        bool, Parameter(help="Also keys, people and the remembered head: a copy that a thief would like to have.")
    ] = False,
    with_vault: Annotated[bool, Parameter(help="Also what is sealed beside the log.")] = False,
    session: SessionArgument,
) -> None:
    """Copy the log up to its checkpoint, while writers run, and verify the copy."""
    from klingai_audit.upkeep.backup import back_up

    with progress_bar(session, "copying", "bytes") as progress:
        done = back_up(session.places, folder, keys=keys, vault=with_vault, progress=progress)
    name = escaped(str(done.folder))
    if session.as_json:
        session.emit({"folder": name, "tree_size": done.size, "bytes": done.bytes, "keys": done.keys, "verified": True})
        return
    what = "log, keys and people" if keys else "log"
    session.say((inert(name), "bold"), f": {what}, {done.size:,} entries, {done.bytes:,} bytes; the copy verifies.")
    if not keys:
        session.say(("Without the keys nobody can go on with it, name people or open commitments: --keys", "dim"))


def succeed(session: Session, into: Path | None, known: Sequence[Path], reason: str | None) -> None:
    """Begin a log that follows the session's restored one. Raises: UsageError without a place for it."""
    from klingai_audit.cli.files import read_file
    from klingai_audit.config import Places
    from klingai_audit.upkeep.backup import succeed as begin

    if into is None:
        raise UsageError("A successor needs a place of its own.", do="Name it: recover --restored --into FOLDER")
    shared = None if session.places.subjects_file else session.places.subjects
    places = Places.resolve(into, subjects=shared, environ={})
    done = begin(session.places, places, [read_file(path) for path in known], reason)
    if session.as_json:
        session.emit({**asdict(done), "log": escaped(str(places.log))})
        return
    lost = done.known - done.restored
    session.say("The log goes on at ", (inert(escaped(str(places.log))), "bold"), f" as {inert(done.origin)}.")
    gone = (
        f"entries {done.restored} to {done.known - 1} are known to be lost" if lost else "how many are lost is unknown"
    )
    session.say(f"Its first entries name the restored one, {done.restored:,} entries, as its past; {gone}.")
    session.say(("Keep the restored log as it is, read-only. Keep the new log's public key elsewhere.", "dim"))
