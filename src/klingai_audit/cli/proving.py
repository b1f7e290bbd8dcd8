"""`prove`, `consistency`, `check`: evidence that leaves the log, and its check with nothing but a key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from klingai_audit.cli.cosigning import Witnesses, cosigned_head, read_demands
from klingai_audit.cli.files import read_file, write_file
from klingai_audit.cli.options import Record
from klingai_audit.cli.session import Session, SessionArgument, escaped
from klingai_audit.cli.sources import has_index, indexed
from klingai_audit.errors import InconsistentCheckpoints, InvalidSignature, NoTrustedKey, UsageError
from klingai_audit.views.inert import inert

if TYPE_CHECKING:
    from klingai_audit.ledger.reader import LogReader
    from klingai_audit.tlog.keys import VerifierKey

_SEQ: Final = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)
_LEAF: Final = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)

Out = Annotated[Path, Parameter(name=("--output", "-o"), help="File to write.")]
Key = Annotated[str | None, Parameter(help="The log's public key: a vkey, or a file with one.")]


def prove(
    what: Annotated[str, Parameter(name="WHAT", help="A seq or an event id.")],
    /,
    *,
    output: Out,
    cosigned: Annotated[
        bool, Parameter(help="Under the newest checkpoint that enough witnesses cosigned, with their lines on it.")
    ] = False,
    witnesses: Witnesses = None,
    record: Record = False,
    session: SessionArgument,
) -> None:
    """Write the proof that one entry is in the log: a C2SP .tlog-proof file that holds the entry, too."""
    from klingai_audit.cli.recording import record_read
    from klingai_audit.config import open_reader, open_subjects
    from klingai_audit.trust.proofs import prove_entry, prove_purged

    reader = open_reader(session.places)
    seq = _seq_of(session, reader, escaped(what))
    note = cosigned_head(session, reader, witnesses)() if cosigned else None
    gone = prove_purged(reader, seq, note)
    proof = prove_entry(reader, seq, note) if gone is None else gone[0]
    recorded = record_read(
        session, "prove", {"what": what}, reader.size, open_subjects(session.places) if record else None, asked=record
    )
    data = proof.format()
    write_file(output, data)
    told = {"seq": seq, "file": escaped(str(output)), "bytes": len(data), "tree_size": size_of(proof.checkpoint)}
    if session.as_json:
        left = {} if gone is None else {"purged_by": gone[1].by, "leaf": gone[1].leaf.hex()}
        session.emit({**told, **left, "recorded": recorded})
        return
    session.say(f"Entry {seq} is in the tree of {told['tree_size']:,} entries: {len(proof.proof)} hashes prove it.")
    name = inert(escaped(str(output)))
    if gone is not None:
        session.say(
            "Written to ", (name, "bold"), f". Entry {gone[1].by} had the entry purged: the proof is of its hash."
        )
        session.say(f"Whoever kept the entry, or this hash of it, checks it: {gone[1].leaf.hex()}")
        session.say(("klingai-audit check FILE --key VKEY --entry FILE, or --leaf HASH", "dim"))
        return
    session.say("Written to ", (name, "bold"), f", {len(data):,} bytes. It holds the entry.")
    session.say(("Anyone with the log's public key checks it: klingai-audit check FILE --key VKEY", "dim"))


def consistency(
    old: Annotated[str, Parameter(name="OLD", help="A checkpoint file kept earlier, or a size.")],
    /,
    *,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"), help="File to write the proof to.")] = None,
    key: Key = None,
    session: SessionArgument,
) -> None:
    """Show that the log still begins with what an older checkpoint covered. Exit 4 if it does not."""
    from klingai_audit.config import open_reader
    from klingai_audit.tlog.checkpoint import open_checkpoint
    from klingai_audit.trust.proofs import check_consistency, prove_consistency

    reader = open_reader(session.places)
    note = None if _SEQ.fullmatch(old) else read_file(Path(old))
    size = int(old) if note is None else size_of(note)
    trusted = trusted_log_key(session, reader.origin, key)
    if note is not None and size > reader.size:
        open_checkpoint(note, trusted.name, [trusted])
        raise InconsistentCheckpoints(
            f"The older checkpoint covers {size} entries, the log has {reader.size}.",
            older=note,
            newer=reader.checkpoint_note(),
            do="Preserve both as they are: entries were cut off, or an older state was put back.",
        )
    proof = prove_consistency(reader, size)
    newest = proof.checkpoint.size
    checked = note is not None
    if note is not None:
        check_consistency(proof, note, [trusted])
    if output is not None:
        write_file(output, proof.format())
    if session.as_json:
        session.emit(
            {"old": size, "new": newest, "checked": checked, "file": None if output is None else escaped(str(output))}
        )
        return
    if checked:
        words = f"the first {size:,} of {newest:,} entries are what the checkpoint covered."
        session.say(("Consistent: ", "green"), words)
    else:
        hashes = len(proof.proof)
        session.say(f"The proof from size {size:,} to {newest:,} has {hashes} hashes; a size alone proves nothing.")
        session.say(("Give the checkpoint that you kept instead of its size, to have it checked.", "dim"))
    if output is not None:
        session.say("Written to ", (inert(escaped(str(output))), "bold"))


def check(
    file: Annotated[Path | None, Parameter(name="FILE", help="What prove, consistency or bundle wrote.")] = None,
    /,
    *,
    opening: Annotated[Path | None, Parameter(help="What unseal --opening wrote, in the place of FILE.")] = None,
    key: Key = None,
    entry: Annotated[Path | None, Parameter(help="The entry's bytes, where the proof does not hold them.")] = None,
    leaf: Annotated[str | None, Parameter(help="The hash of a purged entry that you kept, in hex.")] = None,
    old: Annotated[Path | None, Parameter(help="The older checkpoint, for a proof of consistency.")] = None,
    witnesses: Annotated[
        Path | None, Parameter(help="A policy file with the witnesses you trust (C2SP tlog-policy).")
    ] = None,
    session: SessionArgument,
) -> None:
    """Check a proof, an opening or a bundle with a public key; needs no log. Exit 4 if it does not hold."""
    if opening is not None:
        from klingai_audit.cli.unsealing import check_opening_file

        if (file, entry, leaf, old, witnesses) != (None,) * 5:
            raise UsageError("An opening is checked alone, with --key.", do="Leave the others out.")
        check_opening_file(session, opening, key)
        return
    if file is None:
        raise UsageError("There is nothing to check.", do="Name what prove, consistency, bundle or unseal wrote.")
    if _is_zip(file):
        from klingai_audit.cli.bundling import check_bundle_file

        check_bundle_file(session, file, key, witnesses)
        return
    from klingai_audit.tlog.submission import AddCheckpoint
    from klingai_audit.trust.proofs import (
        ProvenEntry,
        check_consistency,
        check_entry_proof,
        check_leaf_proof,
        origin_of_proof,
    )

    data = read_file(file)
    trusted = trusted_log_key(session, origin_of_proof(data), key)
    if not data.startswith(b"c2sp.org/"):
        if witnesses is not None:
            raise UsageError("A proof of consistency is checked without witnesses.", do="Leave --witnesses out.")
        if old is None:
            raise UsageError("A proof of consistency begins at a checkpoint.", do="Name the one you kept: --old FILE")
        before, after = check_consistency(AddCheckpoint.parse(data), read_file(old), [trusted])
        told: dict[str, Any] = {"kind": "consistency", "old": before.size, "new": after.size}
        words = f"the first {before.size:,} of {after.size:,} entries are what the older checkpoint covered."
        line, names = b"", []
    else:
        given = None if entry is None else read_file(entry).removesuffix(b"\n")
        policy = None if witnesses is None else read_demands(witnesses)
        keys = [trusted, *(policy.keys if policy else ())]
        proven = check_entry_proof(data, keys, given) if leaf is None else check_leaf_proof(data, keys, _hash(leaf))
        if policy is not None and not policy.is_satisfied(proven.signed_by):
            raise InvalidSignature(f"The checkpoint of the proof is not cosigned by {policy.describe()}.")
        line = proven.entry if isinstance(proven, ProvenEntry) else b""
        names = sorted(signer.name for signer in proven.signed_by if signer != trusted)
        told = {"kind": "inclusion", "seq": proven.index, "tree_size": proven.checkpoint.size, "cosigned_by": names}
        words = f"entry {proven.index} is in the tree of {proven.checkpoint.size:,} entries."
        if not line:
            told["leaf"] = (leaf or "").lower()
            words = f"an entry with this hash is number {proven.index} of {proven.checkpoint.size:,} in the tree."
    told |= {"origin": trusted.name, "key": trusted.format(), "key_id": trusted.key_id.hex(), "valid": True}
    if session.as_json:
        session.emit({**told, **({"entry": line.decode()} if line else {})})
        return
    session.say(("Proven: ", "green"), words)
    session.say(f"Log {inert(trusted.name)}, signed by its key {trusted.key_id.hex()}.")
    if names:
        session.say(f"Cosigned by {inert(', '.join(names))}.")
    if line:
        _show_entry(session, line)
    if names:
        return
    session.say(
        ("Not shown by this: that everybody is shown the same tree; a witness or another reader can tell.", "dim")
    )


def _hash(text: str) -> bytes:
    if _LEAF.fullmatch(text) is None:
        raise UsageError("--leaf is no leaf hash.", do="Give the 64 hex digits that prove printed, or that you kept.")
    return bytes.fromhex(text)


def _show_entry(session: Session, line: bytes) -> None:
    from klingai_audit.cli.showing import draw_entry
    from klingai_audit.views.entry import EntryView

    draw_entry(session, EntryView(line), None, "pseudonym")


def trusted_log_key(session: Session, origin: str, given: str | None) -> VerifierKey:
    """Return the key to check with: the one given, else this machine's memory of the origin, else the keys folder's."""
    from klingai_audit.errors import Malformed, StorageError
    from klingai_audit.ledger.keys import read_public_key
    from klingai_audit.ledger.state import OriginMemory
    from klingai_audit.tlog.keys import VerifierKey

    if given is not None:
        return read_public_key(Path(given)) if Path(given).is_file() else VerifierKey.parse(given)
    remembered = OriginMemory().recall(origin)
    if remembered is not None:
        return VerifierKey.parse(remembered)
    try:
        key = read_public_key(session.places.keys / "log.pub")
    except (OSError, StorageError, Malformed):
        key = None
    if key is None or key.name != origin:
        raise NoTrustedKey(
            f"No public key is known for the log {origin}.", do="Give the key you were handed with --key VKEY|FILE"
        )
    return key


def _seq_of(session: Session, reader: LogReader, what: str) -> int:
    if _SEQ.fullmatch(what):
        return int(what)
    with indexed(session, reader) as source:
        seq = source(reader.size).find_event(what.lower(), made=has_index(session))
    if seq is not None:
        return seq
    raise UsageError(f"No entry has the event id {what!r}.", do="Give a seq or an event id; klingai-audit query")


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(4) == b"PK\x03\x04"
    except (OSError, ValueError):
        return False


def size_of(note: bytes) -> int:
    """Return the size that a checkpoint states, unverified. Raises: Malformed."""
    from klingai_audit.tlog.checkpoint import parse_checkpoint
    from klingai_audit.tlog.note import parse_note

    return parse_checkpoint(parse_note(note).text).size
