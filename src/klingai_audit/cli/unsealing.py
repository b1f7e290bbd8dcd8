"""`unseal`, `keys unseal-init` and `check --opening`: content kept sealed, opened one at a time and on the record."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from klingai_audit.cli.approving import Approvals
from klingai_audit.cli.files import read_file, write_file
from klingai_audit.cli.session import Session, SessionArgument, escaped, open_log
from klingai_audit.errors import UsageError
from klingai_audit.views.inert import inert

if TYPE_CHECKING:
    from klingai_audit.upkeep.unseal import Unsealed


def unseal_init(
    *,
    unseal_key: Annotated[
        Path | None, Parameter(help="Write the private half to this file. Default: unseal.key in the keys folder")
    ] = None,
    session: SessionArgument,
) -> None:
    """Make the key that opens sealed content. Writers need only its public half, unseal.pub in the keys folder."""
    from klingai_audit.cli.recording import reader_id
    from klingai_audit.privacy.unseal_key import PRIVATE_FILE
    from klingai_audit.upkeep.unseal import make_unseal_key

    keys = session.places.keys
    public = make_unseal_key(keys, unseal_key)
    with open_log(session) as audit:
        audit.log(
            "settings_changed",
            reader_id(),
            resource_type="keys",
            action="unseal-init",
            metadata={"unseal_key": public.id.hex()},
        ).wait("published")
    private = escaped(str(unseal_key or keys / PRIVATE_FILE))
    if session.as_json:
        session.emit({"unseal_key": public.id.hex(), "public": public.format(), "private_file": private})
        return
    session.say("Unseal key ", (public.id.hex(), "bold"), " is made; writers seal with unseal.pub in the keys folder.")
    session.say("The private half is in ", (inert(private), "bold"), ". Keep it elsewhere than the writers' host:")
    session.say("whoever has it, the vault and the table of people reads what is sealed. Lost, nobody does.")
    session.say(("What is sealed is policy: klingai-audit policy set vault.seal '[\"prompt\"]'", "dim"))


def unseal(
    seq: Annotated[int, Parameter(name="SEQ", help="The entry.")],
    /,
    *,
    field: Annotated[str, Parameter(help="What to open: a name such as prompt, or a JSON pointer.")],
    reason: Annotated[str, Parameter(help="Why; it stands in the log.")],
    unseal_key: Annotated[
        Path | None, Parameter(help="The private half. Default: unseal.key in the keys folder")
    ] = None,
    opening: Annotated[
        Path | None, Parameter(help="Also write the content to a file that proves it to others: check --opening")
    ] = None,
    raw: Annotated[bool, Parameter(help="Print the content's bytes and nothing else.")] = False,
    approval: Approvals = None,
    session: SessionArgument,
) -> None:
    """Open one sealed content. An entry says who opened it and why before it is shown; it is kept nowhere."""
    from klingai_audit.cli.recording import reader_id
    from klingai_audit.upkeep.unseal import unseal as open_sealed

    if raw and session.as_json:
        raise UsageError("--raw and --json exclude each other.", do="Leave one out.")
    with open_log(session) as audit:
        done = open_sealed(
            audit, seq, field, reason=reason, actor=reader_id(), unseal_key=unseal_key, approval=approval
        )
    if opening is not None:
        write_file(opening, done.opening)
    if raw:
        sys.stdout.buffer.write(done.value)
        sys.stdout.buffer.flush()
        return
    name = None if opening is None else escaped(str(opening))
    if session.as_json:
        session.emit(
            {
                "seq": done.seq,
                "event_id": done.event_id,
                "field": done.pointer,
                "bytes": len(done.value),
                **({} if done.type is None else {"type": done.type}),
                **_content(done.value),
                "opening": name,
                "recorded": done.recorded,
            }
        )
        return
    _show(session, done, name)


def check_opening_file(session: Session, file: Path, key: str | None) -> None:
    """Check an opening with a public key, and print what it proves. Raises: VerificationError."""
    from klingai_audit.cli.proving import trusted_log_key
    from klingai_audit.trust import openings

    data = read_file(file, openings.MAX_OPENING_BYTES, "opening")
    trusted = trusted_log_key(session, openings.origin_of_opening(data), key)
    opened = openings.check_opening_file(data, [trusted])
    proven = opened.proven
    if session.as_json:
        session.emit(
            {
                "kind": "opening",
                "seq": proven.index,
                "tree_size": proven.checkpoint.size,
                "field": opened.pointer,
                "bytes": len(opened.value),
                **_content(opened.value),
                "origin": trusted.name,
                "key": trusted.format(),
                "key_id": trusted.key_id.hex(),
                "valid": True,
                "entry": proven.entry.decode(),
            }
        )
        return
    words = f"entry {proven.index} is in the tree of {proven.checkpoint.size:,} entries, and commits to this content."
    session.say(("Proven: ", "green"), words)
    session.say(f"Log {inert(trusted.name)}, signed by its key {trusted.key_id.hex()}.")
    session.say(f"{inert(opened.pointer)}, {len(opened.value):,} bytes:")
    _show_content(session, opened.value)


def _show(session: Session, done: Unsealed, opening: str | None) -> None:
    kind = "" if done.type is None else f", {inert(done.type)}"
    session.say(f"Entry {done.seq}, ", (inert(done.pointer), "bold"), f", {len(done.value):,} bytes{kind}:")
    _show_content(session, done.value)
    if done.recorded is None:
        session.remark("This could not be recorded yet; policy failure.unseal lets it happen.", recorded=False)
    else:
        session.say((f"That it was opened stands in entry {done.recorded}.", "dim"))
    if opening is not None:
        session.say("Written to ", (inert(opening), "bold"), ", for who checks it: klingai-audit check --opening FILE")


def _show_content(session: Session, value: bytes) -> None:
    """Print content line by line, made harmless; of what is no text only say so."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        session.say(("  It is no text; --raw prints its bytes.", "dim"))
        return
    for line in text.split("\n"):
        session.say("  ", inert(line))


def _content(value: bytes) -> dict[str, Any]:
    try:
        return {"value": value.decode()}
    except UnicodeDecodeError:
        return {"value_base64": base64.b64encode(value).decode("ascii")}
