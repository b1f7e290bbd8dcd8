"""`init`, `log`, `recover`: commands that write the log."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from klingai_audit.cli.session import SessionArgument, open_log
from klingai_audit.errors import Malformed, UsageError

if TYPE_CHECKING:
    from klingai_audit.cli.session import Session
    from klingai_audit.ledger.keys import KeyFolder


def init(
    *,
    origin: Annotated[
        str | None, Parameter(help="Name of the log, for ever. Default: log.klingai-audit.internal/<random>")
    ] = None,
    post_quantum: Annotated[
        bool, Parameter(negative="", help="Give the log an ML-DSA-44 key, too: kept checkpoints bear its signature.")
    ] = False,
    signer: Annotated[
        str | None, Parameter(help="A command that signs with the log key, which lies elsewhere: docs/signer.md")
    ] = None,
    signer_key: Annotated[str | None, Parameter(help="That key's public half: VKEY|FILE. It names the log.")] = None,
    signer_timeout: Annotated[float, Parameter(help="How long one signature may take, in seconds.")] = 10.0,
    sql: Annotated[
        bool, Parameter(negative="", help="Print the SQL with which a DBA makes or upgrades the schema; nothing else.")
    ] = False,
    session: SessionArgument,
) -> None:
    """Create a log and its keys, and print the public keys for safe keeping elsewhere.

    Where there is a log already, nothing is changed and the same is printed.
    """
    if sql:
        _print_sql(session)
        return
    from klingai_audit.cli.keys import describe_keys
    from klingai_audit.config import open_store
    from klingai_audit.ledger.keys import KeyFolder

    places = session.places
    folder = KeyFolder(places.keys)
    if signer is not None or signer_key is not None:
        origin = _plan_signer(session, folder, (origin, signer, signer_key), signer_timeout)
    created = folder.pending or not (open_store(places).exists() and folder.exists())
    if created:
        open_log(session, create=True, origin=origin, post_quantum=post_quantum).close()
    keys = describe_keys(places.keys)
    if origin is not None and keys.origin != origin:
        raise UsageError(
            f"There is a log at {places.log} already, with another origin.", do="Name another place with --log."
        )
    if post_quantum and keys.mldsa is None:
        raise UsageError(
            f"There is a log at {places.log} already, without an ML-DSA-44 key, which it would have had to begin with.",
            do="Name another place with --log.",
        )
    if session.as_json:
        session.emit({"created": created, **keys.to_json(), "places": places.as_json()})
        return
    session.say(("Created a log at " if created else "There is a log already at "), (places.log, "bold"))
    session.say(f"  keys    {places.keys}  (private: back them up, show them to nobody)")
    session.say(f"  people  {places.subjects}")
    session.say(f"  state   {places.state}")
    number = "two" if keys.mldsa is None else "three"
    session.say(
        f"\nKeep these {number} public keys somewhere else. Whoever holds them can check the log without you:\n"
    )
    session.say(f"  {keys.log.vkey}")
    session.say(f"  {keys.epoch.vkey}")
    if keys.mldsa is not None:
        session.say(f"  {places.keys / 'mldsa.pub'}  (ML-DSA-44, {keys.mldsa.key_id}: as a file, it is long)")


def _print_sql(session: Session) -> None:
    """Print what a DBA runs for the schema of log and people. Raises: UsageError if neither is in PostgreSQL."""
    from klingai_audit.stores.postgres_schema import DEFAULT_SCHEMA, dba_sql

    places = session.places
    log = places.remote if places.remote is not None and places.remote.scheme == "postgresql" else None
    people = None if isinstance(places.subjects, Path) else places.subjects
    if log is None and people is None:
        raise UsageError(
            "Neither the log nor its table of people is in PostgreSQL.", do="Name it: --log postgresql://…"
        )
    schemas = {url.schema or DEFAULT_SCHEMA for url in (log, people) if url is not None}
    scripts = {name: dba_sql(name) for name in sorted(schemas)}
    if session.as_json:
        session.emit({"sql": scripts})
        return
    for script in scripts.values():
        session.emit_line(script.rstrip("\n").encode())


def _plan_signer(
    session: Session, folder: KeyFolder, given: tuple[str | None, str | None, str | None], timeout: float
) -> str:
    """Prepare the keys folder of a log whose log key is elsewhere; return the log's name, which that key states."""
    from klingai_audit.cli.signers import plan
    from klingai_audit.ledger.keys import read_public_key
    from klingai_audit.tlog.keys import VerifierKey

    origin, command, key = given
    if command is None or key is None:
        raise UsageError("--signer and --signer-key go together: a command, and the public key it signs under.")
    try:
        verifier = read_public_key(Path(key)) if Path(key).is_file() else VerifierKey.parse(key)
    except Malformed as exc:
        raise UsageError(f"--signer-key: {exc.message}", do="Give <name>+<8 hex digits>+<base64>, or a file.") from exc
    if origin not in (None, verifier.name):
        raise UsageError(f"The signer's key is that of {verifier.name}, not of {origin}.", do="Leave --origin out.")
    plan(session.places, folder, command, verifier, timeout)
    return verifier.name


def log(
    type: Annotated[str, Parameter(name="TYPE", help="Event type: a registered one, or your own x_…")],
    /,
    *,
    actor: Annotated[str, Parameter(help="Who did it. People enter as pseudonyms.")],
    actor_type: Annotated[str | None, Parameter(help="user, admin, service or system. Default: user")] = None,
    team: Annotated[str | None, Parameter(help="Team.")] = None,
    project: Annotated[str | None, Parameter(help="Project.")] = None,
    on_behalf_of: Annotated[str | None, Parameter(help="For whom.")] = None,
    resource_type: Annotated[str | None, Parameter(help="Kind of thing acted on.")] = None,
    resource_id: Annotated[str | None, Parameter(help="Which one.")] = None,
    action: Annotated[str | None, Parameter(help="What was done.")] = None,
    outcome: Annotated[str, Parameter(help="success, failure, blocked or unknown.")] = "success",
    ip: Annotated[str | None, Parameter(help="Address of the actor; enters as a coarse mask.")] = None,
    user_agent: Annotated[str | None, Parameter(help="Program of the actor.")] = None,
    correlation: Annotated[str | None, Parameter(help="Joins the entries of one act.")] = None,
    request_id: Annotated[str | None, Parameter(help="The provider's id of the exchange.")] = None,
    event_id: Annotated[str | None, Parameter(help="UUID of the event; one is made if none is given.")] = None,
    timestamp: Annotated[
        str | None,
        Parameter(allow_leading_hyphen=True, help="When it happened: -5m, 2026-11-21T19:28:23Z. Default: now"),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        Parameter(
            consume_multiple=True,
            help="Further facts: name=value … or a JSON object. Values that are JSON are taken as such.",
        ),
    ] = None,
    session: SessionArgument,
) -> None:
    """Append one event; returns when it is under a signed checkpoint."""
    details = parse_metadata(metadata or ())
    moment = None if timestamp is None else _moment(timestamp)
    with open_log(session) as audit:
        receipt = audit.log(
            type,
            actor,
            resource_type,
            action,
            outcome,
            resource_id,
            actor_type,
            ip,
            user_agent,
            event_id=event_id,
            timestamp=moment,
            correlation_id=correlation,
            on_behalf_of=on_behalf_of,
            request_id=request_id,
            team=team,
            project=project,
            metadata=details,
        ).wait("published")
    digest = "" if receipt.leaf_hash is None else receipt.leaf_hash.hex()
    if session.as_json:
        session.emit({"seq": receipt.seq, "event_id": receipt.event_id, "leaf_hash": digest, "state": "published"})
    else:
        session.say("Entry ", (str(receipt.seq), "bold"), " is in the log and under a signed checkpoint.")
        session.say((f"  event_id {receipt.event_id}, leaf hash {digest}", "dim"))


def recover(
    *,
    restored: Annotated[
        bool, Parameter(help="The log came out of a backup: leave it as it is, begin a successor with --into.")
    ] = False,
    into: Annotated[Path | None, Parameter(help="Where the successor's log is to be.")] = None,
    known: Annotated[
        tuple[Path, ...], Parameter(help="A later checkpoint of the old log that somebody kept; may be repeated.")
    ] = (),
    reason: Annotated[str | None, Parameter(help="What happened, for the successor's entry.")] = None,
    session: SessionArgument,
) -> None:
    """Take the log up again after a crash or a failed sync; with --restored, after a backup was put back.

    What no writer acknowledged is put aside, never deleted; what contradicts a signature is damage and left as it is.
    """
    from klingai_audit.upkeep.recover import recover as take_up

    if restored:
        from klingai_audit.cli.backing import succeed

        succeed(session, into, known, reason)
        return
    if into is not None or known or reason is not None:
        raise UsageError("--into, --known and --reason belong to --restored.", do="Add it, or leave them out.")
    places = session.places
    done = take_up(places)
    if session.as_json:
        session.emit(asdict(done))
        return
    again = " again: the failed sync is dealt with" if done.failed_sync else ""
    session.say(f"The log can be written{again}; it has {done.entries:,} entries.")
    if done.checkpoint:
        session.say("  checkpoint was lost; the head that the state folder remembers is in its place again")
    for digest in done.set_aside:
        session.say(f"  bytes that no writer acknowledged: {places.state / 'aside' / digest}")
    for name in done.tree:
        session.say(f"  {name} did not fit the entries and was written anew; the entries lead to the signed root")


def parse_metadata(texts: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """Turn `name=value …` and JSON objects into one mapping; a value that is JSON is taken as such, else as text.

    Raises: UsageError for anything else, and for a name given twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        if text.lstrip().startswith("{"):
            members = _json_or(text, None)
            if not isinstance(members, dict):
                raise UsageError("--metadata holds something that is not a JSON object.", do="Check its quotes.")
        else:
            name, equals, value = text.partition("=")
            if not equals or not name:
                raise UsageError("--metadata holds something without a name.", do="Use name=value or a JSON object.")
            members = {name: _json_or(value, value)}
        for name, value in members.items():
            if name in found:
                raise UsageError(f"--metadata names {name!r} twice.", do="Give each name once.")
            found[name] = value
    return found


def _json_or(text: str, otherwise: Any) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return otherwise
    except RecursionError:
        pass
    raise UsageError("--metadata holds JSON that is nested too deep.", do="16 levels are kept.")


def _moment(text: str) -> Any:
    import datetime as dt

    from klingai_audit.views.times import parse_instant

    return parse_instant(text, edge="since", now=dt.datetime.now(dt.UTC))
