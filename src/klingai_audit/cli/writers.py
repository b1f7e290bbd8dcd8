"""`keys export-writer|import-writer`: a further host writes to the same log."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from klingai_audit.cli.approving import Approvals
from klingai_audit.cli.files import read_file
from klingai_audit.cli.session import SessionArgument, escaped, open_log
from klingai_audit.errors import UsageError
from klingai_audit.views.inert import inert

if TYPE_CHECKING:
    from klingai_audit.log import AuditLog

__all__ = ["export_writer", "import_writer"]

_Passphrase = Annotated[
    str | None,
    Parameter(help="Variable that holds the passphrase. Default: one line of standard input, or you are asked."),
]
_Actor = Annotated[str | None, Parameter(help="Who does it. Default: KLINGAI_AUDIT_ACTOR, else the login name")]


def export_writer(
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"), help="New file to write; only you can read it.")],
    passphrase_env: _Passphrase = None,
    approval: Approvals = None,
    actor: _Actor = None,
    session: SessionArgument,
) -> None:
    """Write what another host needs to write to this log, under a passphrase. The act is an entry."""
    from klingai_audit.cli.recording import reader_id
    from klingai_audit.durable import OPS, PRIVATE_MODE
    from klingai_audit.event.context import acting
    from klingai_audit.upkeep.writers import export_writer as export

    if output.exists():
        raise UsageError(f"{escaped(str(output))} is there already.", do="Name a new file.")
    passphrase = read_passphrase(passphrase_env, twice=True)
    with open_log(session) as audit, acting(actor or reader_id(), actor_type="admin"):
        handed = export(audit, passphrase, approval=approval)
    try:
        OPS.replace(output, handed.data, mode=PRIVATE_MODE)
    except OSError as exc:
        raise UsageError(f"The file {escaped(str(output))!r} cannot be written: {exc.strerror}.") from exc
    if session.as_json:
        session.emit(
            {"origin": handed.origin, "epoch": handed.epoch, "writer_file": handed.id, "file": escaped(str(output))}
        )
        return
    session.say("Written to ", (inert(escaped(str(output))), "bold"), f": the keys of epoch {handed.epoch}.")
    session.say("On the other host, with the same --log: klingai-audit keys import-writer FILE")
    session.say("Whoever has this file and the passphrase can sign in the log's name. Send them by two ways, and")
    session.say("destroy the file when it was taken over.")


def import_writer(
    file: Annotated[Path, Parameter(name="FILE", help="What keys export-writer wrote.")],
    /,
    *,
    passphrase_env: _Passphrase = None,
    actor: _Actor = None,
    session: SessionArgument,
) -> None:
    """Become a writer of a log on a server; keys of another log are never overwritten. The act is an entry."""
    from klingai_audit.cli.keys import describe_keys
    from klingai_audit.cli.recording import reader_id
    from klingai_audit.event.context import acting
    from klingai_audit.upkeep.writers import MAX_FILE_BYTES
    from klingai_audit.upkeep.writers import import_writer as take_over

    places = session.places
    data = read_file(file, MAX_FILE_BYTES, "writer's file")
    handed = take_over(data, read_passphrase(passphrase_env), places)
    with open_log(session) as audit, acting(actor or reader_id(), actor_type="admin"):
        if handed.joined or not _is_recorded(audit, handed.id):  # an earlier run may have been stopped in between
            audit.log(
                "settings_changed",
                resource_type="keys",
                action="import-writer",
                metadata={"writer_file": handed.id},
            ).wait("published")
    epoch = describe_keys(places.keys).number
    if session.as_json:
        session.emit(
            {
                "origin": handed.origin,
                "epoch": epoch,
                "writer_file": handed.id,
                "joined": handed.joined,
                "places": places.as_json(),
            }
        )
        return
    done = "This host writes to " if handed.joined else "This host has these keys already: "
    session.say(done, (inert(handed.origin), "bold"), f", epoch {epoch}.")
    session.say(f"  keys    {places.keys}")
    session.say(f"  people  {places.subjects}")
    session.say(f"  state   {places.state}")
    if places.subjects_file is not None:
        session.say("This table of people is this host's own: one person has another pseudonym on each host.")
        session.say("To share one: --subjects postgresql://…, or KLINGAI_AUDIT_SUBJECTS, on every host.")
    session.say(("Destroy the file now, here and where it was made.", "dim"))


def _is_recorded(audit: AuditLog, name: str) -> bool:
    found = audit.query(event_type="settings_changed", text=name)
    return any(one.action == "import-writer" and one.metadata.get("writer_file") == name for one in found)


def read_passphrase(variable: str | None, ask: Callable[[str], str] = getpass.getpass, *, twice: bool = False) -> str:
    """Read a passphrase: from a variable, else one line of standard input, else by asking. Raises: UsageError."""
    if variable is not None:
        found = os.environ.get(variable, "")
    elif sys.stdin is None or not sys.stdin.isatty():
        found = sys.stdin.readline().removesuffix("\n") if sys.stdin is not None else ""
    else:
        found = ask("Passphrase: ")
        if twice and found != ask("Again: "):
            raise UsageError("The two are different.", do="Try again.")
    if not found:
        raise UsageError(
            "There is no passphrase to read.",
            do="Name a variable with --passphrase-env, or pipe it to standard input.",
        )
    return found
