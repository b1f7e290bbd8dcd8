"""`bundle`: entries handed out with all that is needed to check them; and the check of such a file."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from klingai_audit.cli.files import read_file, write_file
from klingai_audit.cli.options import Record, Selection
from klingai_audit.cli.session import Session, SessionArgument, escaped
from klingai_audit.errors import UsageError
from klingai_audit.views.inert import inert

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klingai_audit.ledger.reader import LogReader
    from klingai_audit.privacy.subjects import SubjectTable
    from klingai_audit.tlog.keys import VerifierKey


def bundle(
    *,
    selection: Selection = Selection(),  # noqa: B008  (frozen)
    seq: Annotated[tuple[int, ...], Parameter(help="An entry by its number; may be repeated.")] = (),
    output: Annotated[Path, Parameter(name=("--output", "-o"), help="File to write, such as evidence.zip.")],
    empty_page: Annotated[
        bool, Parameter(help="Write the page that checks bundles, without evidence, and print its SHA-256.")
    ] = False,
    record: Record = False,
    session: SessionArgument,
) -> None:
    """Hand out entries with proofs, key history and a page that checks them in any browser, as one zip file.

    Choose them as `query` does, or with --seq; --task alone takes the whole story of a generation.
    """
    from klingai_audit.bundle import build_bundle, gather
    from klingai_audit.bundle import empty_page as the_page
    from klingai_audit.cli.proving import size_of
    from klingai_audit.cli.recording import record_act, tell_recorded
    from klingai_audit.config import open_reader, open_subjects

    given = selection.given()
    if empty_page:
        if given or seq or record:
            raise UsageError("--empty-page goes with --output only.", do="Leave the choice of entries out.")
        _write_page(session, output, the_page())
        return
    if not given and not seq:
        raise UsageError(
            "Nothing was chosen.", do="Say which entries: --task ID, --seq N, or options of klingai-audit query"
        )
    reader, subjects = open_reader(session.places), open_subjects(session.places)
    chosen = sorted({*seq, *(_found(reader, selection, subjects) if given else ())})
    if not chosen:
        raise UsageError("No entry matches.", do="Look with klingai-audit query first.")
    evidence = gather(reader, chosen)
    size = size_of(evidence.checkpoint.encode())
    told = {"command": "bundle", "entries": len(chosen), "tree_size": size, "format": "bundle"}
    recorded = record_act(session, "log_exported", told, asked=record)
    data = build_bundle(evidence)
    write_file(output, data)
    key = _key_in(evidence.lines[0])
    members: dict[str, Any] = {
        "file": escaped(str(output)),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "entries": len(chosen),
        "history": len(evidence.entries) - len(chosen),
        "key": key,
        "fingerprint": _fingerprint(key),
        "recorded": recorded,
    }
    if session.as_json:
        session.emit(members)
        return
    noun = "entry" if len(chosen) == 1 else "entries"
    name = inert(escaped(str(output)))
    session.say(
        f"{len(chosen):,} {noun} written to ", (name, "bold"), f", {len(data):,} bytes, with everything to check."
    )
    session.say("Tell the reader by another way than this file, best from what was kept when the log was created:")
    session.say("  key          ", (inert(key), "bold"))
    session.say("  fingerprint  ", (members["fingerprint"], "bold"))
    session.say(
        ("They check with the empty verify.html of the release, or: klingai-audit check FILE --key VKEY", "dim")
    )
    tell_recorded(session, recorded)


def check_bundle_file(session: Session, path: Path, key: str | None, witnesses: Path | None) -> None:
    """Check a bundle with a public key, and witnesses that the reader trusts. Raises: VerificationError."""
    from klingai_audit.bundle import check_bundle, origin_of_bundle
    from klingai_audit.bundle.archive import MAX_BUNDLE_BYTES
    from klingai_audit.cli.proving import trusted_log_key
    from klingai_audit.tlog.policy import WitnessPolicy

    data = read_file(path, MAX_BUNDLE_BYTES, "bundle")
    trusted = trusted_log_key(session, origin_of_bundle(data), key)
    policy = None if witnesses is None else WitnessPolicy.parse(read_file(witnesses, MAX_BUNDLE_BYTES, "policy"))
    found = check_bundle(data, trusted, policy)
    if session.as_json:
        members: dict[str, Any] = {
            "kind": "bundle",
            "seqs": list(found.entries),
            "tree_size": found.checkpoint.size,
            "epochs": found.epochs,
            "witnessed": [{"size": size, "time": time, "names": names} for size, time, names in found.witnessed],
            "time_stamps": list(found.stamped),
            "not_checked": list(found.not_checked),
        }
        session.emit({**members, **_about(trusted), "valid": True})
        return
    count = len(found.entries)
    noun = "entry is" if count == 1 else "entries are"
    session.say(("Proven: ", "green"), f"{count:,} {noun} in the tree of {found.checkpoint.size:,} entries.")
    session.say(f"Log {inert(trusted.name)}, signed by its key {trusted.key_id.hex()}, {found.epochs} epoch(s).")
    for size, time, names in found.witnessed:
        moment = dt.datetime.fromtimestamp(time, dt.UTC)
        session.say(f"Witnessed up to size {size:,} by {inert(', '.join(names))}, {moment:%Y-%m-%d %H:%M:%S} UTC.")
    for words in found.not_checked:
        session.say((f"Not checked: {inert(words)}.", "dim"))


def _about(key: VerifierKey) -> dict[str, Any]:
    return {"origin": key.name, "key": key.format(), "key_id": key.key_id.hex()}


def _found(reader: LogReader, selection: Selection, subjects: SubjectTable | None) -> Iterable[int]:
    """Return the seqs of what was asked for, in order."""
    from klingai_audit.views.pages import with_fingerprints
    from klingai_audit.views.query import query
    from klingai_audit.views.story import tell_story

    size = reader.size
    if set(selection.given()) == {"task"}:
        story = tell_story(lambda: reader.entries(0, size), str(selection.task), subjects)
        return [] if story is None else [step.entry.seq for step in story.steps]
    wanted = selection.to_filter(duplicates=True)
    if selection.key:
        from dataclasses import replace

        wanted = replace(wanted, key=with_fingerprints(reader.entries(0, size), selection.key))
    return [entry.seq for entry in query(reader.entries(0, size), wanted, subjects)]


def _key_in(line: bytes) -> str:
    from klingai_audit.views.entry import EntryView

    return str(EntryView(line).metadata.get("log_key", ""))


def _fingerprint(vkey: str) -> str:
    return hashlib.sha256(vkey.encode()).hexdigest()


def _write_page(session: Session, output: Path, page: bytes) -> None:
    write_file(output, page)
    digest = hashlib.sha256(page).hexdigest()
    if session.as_json:
        session.emit({"file": escaped(str(output)), "bytes": len(page), "sha256": digest})
        return
    session.say("The page was written to ", (inert(escaped(str(output))), "bold"), ". Its SHA-256:")
    session.say((digest, "bold"))
