"""`migrate`: a log into another store."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from klingai_audit.cli.approving import Approvals
from klingai_audit.cli.progress import progress_bar
from klingai_audit.cli.session import SessionArgument, escaped
from klingai_audit.views.inert import inert

__all__ = ["migrate"]


def migrate(
    source: Annotated[str, Parameter(name="FROM", help="The log as it is: a folder or a URL.")],
    target: Annotated[str, Parameter(name="TO", help="Where it is to be: a new folder or a URL.")],
    /,
    *,
    to_keys: Annotated[
        str | None, Parameter(help="Keys folder of the new place. Default: as for any log there")
    ] = None,
    to_state: Annotated[str | None, Parameter(help="State folder of the new place, likewise.")] = None,
    to_subjects: Annotated[
        str | None, Parameter(help="Table of people of the new place, likewise; one in a database stays where it is.")
    ] = None,
    to_vault: Annotated[str | None, Parameter(help="Sealed content of the new place, likewise.")] = None,
    actor: Annotated[
        str | None, Parameter(help="Who does it. Default: KLINGAI_AUDIT_ACTOR, else the login name")
    ] = None,
    approval: Approvals = None,
    session: SessionArgument,
) -> None:
    """Move the log into another store: same entries, same keys, and every old proof holds.

    The old place stays readable and takes no more entries. Stopped anywhere, the same command completes it. --keys,
    --state, --subjects and --vault are about the old place.
    """
    from klingai_audit.cli.recording import reader_id
    from klingai_audit.config import Places
    from klingai_audit.upkeep.migrate import migrate as move

    old = Places.resolve(source, session.keys, session.state, session.subjects, session.vault)
    people = to_subjects or (None if old.subjects_file else old.subjects)
    new = Places.resolve(target, to_keys, to_state, people, to_vault)
    with progress_bar(session, "copying", "entries") as progress:
        done = move(old, new, actor=actor or reader_id(), approval=approval, progress=progress)
    if session.as_json:
        session.emit(
            {
                "origin": done.origin,
                "from": escaped(done.source),
                "to": escaped(done.target),
                "size": done.size,
                "root": done.root.hex(),
                "places": new.as_json(),
            }
        )
        return
    session.say("The log goes on at ", (inert(escaped(done.target)), "bold"), f": {done.size:,} entries, same root.")
    session.say(f"  keys    {new.keys}")
    session.say(f"  people  {new.subjects}")
    session.say(f"  state   {new.state}")
    session.say(
        (f"The old place, {inert(escaped(done.source))}, can be read and verified and takes no entries.", "dim")
    )
