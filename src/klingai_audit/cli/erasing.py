"""`erase` and `subject export`: a person's rights over what the log holds of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from klingai_audit.cli.approving import Approvals
from klingai_audit.cli.files import write_file
from klingai_audit.cli.recording import reader_id
from klingai_audit.cli.session import Session, SessionArgument, escaped, open_log
from klingai_audit.errors import UsageError
from klingai_audit.views.inert import inert

if TYPE_CHECKING:
    from klingai_audit.bundle.person import PersonExport
    from klingai_audit.upkeep.erasure import Certificate

_Subject = Annotated[str, Parameter(name="SUBJECT", help="The person: a pseudonym, or the id itself.")]
_By = Annotated[str | None, Parameter(help="Who does it. Default: KLINGAI_AUDIT_ACTOR, else the login name")]


def erase(
    subject: _Subject,
    /,
    *,
    basis: Annotated[str, Parameter(help="On what ground, such as an article and a case number; names nobody.")],
    approval: Approvals = None,
    by: _By = None,
    session: SessionArgument,
) -> int:
    """Erase a person for good: destroy what could make their entries readable. Asks nothing; cannot be undone.

    The certificate is an entry subject_erased; the log still verifies. A legal hold stands against it.
    """
    from klingai_audit.event.context import acting
    from klingai_audit.upkeep.erasure import erase_subject

    with open_log(session) as audit, acting(by or reader_id(), actor_type="admin"):
        made = erase_subject(audit, subject, basis=basis, approval=approval)
    if session.as_json:
        session.emit(made.to_json())
    else:
        _draw(session, made)
    return 0 if made.verified else 4


def subject_export(
    subject: _Subject,
    /,
    *,
    output: Annotated[
        Path, Parameter(name=("--output", "-o"), help="File to write (.zip), or a folder that is new or empty.")
    ],
    by: _By = None,
    session: SessionArgument,
) -> None:
    """Write everything that the log holds about a person, with proofs; other people stay pseudonyms."""
    from klingai_audit.bundle.person import export_subject
    from klingai_audit.event.context import acting

    zipped = output.suffix.lower() == ".zip"
    if not zipped and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(
            f"{escaped(str(output))!r} is there already.", do="Name a new folder, or a file that ends .zip"
        )
    with open_log(session) as audit, acting(by or reader_id(), actor_type="admin"):
        made = export_subject(audit, subject)
    if zipped:
        write_file(output, made.zipped())
    else:
        _write_folder(output, made)
    if session.as_json:
        session.emit(
            {
                "pseudonym": made.pseudonym,
                "entries": made.entries,
                "sealed_contents": made.sealed,
                "seq": made.recorded,
                "file": escaped(str(output)),
                "members": sorted(made.files),
            }
        )
        return
    name = inert(escaped(str(output)))
    session.say(
        f"{made.entries:,} entries about {made.pseudonym} written to ", (name, "bold"), ", each with its proof."
    )
    session.say((f"Recorded as entry {made.recorded}. It names the person: hand it to nobody else.", "dim"))


def _write_folder(folder: Path, made: PersonExport) -> None:
    from klingai_audit.durable import OPS

    try:
        OPS.make_folder(folder, 0o700)
    except OSError as exc:
        raise UsageError(f"{escaped(str(folder))!r} cannot be made: {exc.strerror}.") from exc
    for name, data in made.files.items():
        write_file(folder / name, data)


def _draw(session: Session, made: Certificate) -> None:
    if made.again:
        session.say(("Erased already", "bold"), f": entry {made.seq}, on {made.at[:10]}. Nothing is left to destroy.")
    else:
        session.say(("Erased", "bold green"), f": {made.pseudonym} leads to nobody any more.")
    span = "none" if made.first is None else f"{made.entries:,}, from entry {made.first:,} to {made.last:,}"
    rows = {
        "certificate": f"entry {made.seq}, {made.at}",
        "basis": made.basis,
        "entries": span,
        "types": ", ".join(f"{name} {count:,}" for name, count in made.types.items()) or "none",
        "before": f"{made.checkpoint['size']:,} entries, root {made.checkpoint['root']}",
        "destroyed": f"table row, key, {made.vault_files:,} sealed contents",
        "still shown": ", ".join(made.remains),
    }
    for name, value in rows.items():
        session.say((f"  {name:<12}", "dim"), inert(value))
    if made.verified:
        session.say(("The log verifies, and so does every proof handed out before.", "green"))
    else:
        session.say(("The log does not verify: klingai-audit verify", "bold red"))
    session.say(("Backups of the keys folder and the vault still hold this person until they expire.", "dim"))
