"""A log with all that a bundle can tell of (handovers, witnesses, a time stamp), and bundles with one thing wrong."""

from __future__ import annotations

import io
import json
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klingai_audit.bundle import build_bundle, gather
from klingai_audit.bundle.archive import read_bundle
from klingai_audit.bundle.evidence import Evidence, read_evidence
from klingai_audit.config import Places, open_reader
from klingai_audit.event.own import own_event
from klingai_audit.log import AuditLog
from klingai_audit.tlog.cosignature import cosign
from klingai_audit.tlog.keys import COSIGNATURE, SignerKey
from klingai_audit.tlog.note import Note, format_note, parse_note
from klingai_audit.trust.stamps import stamp_metadata
from klingai_audit.trust.token import parse_token
from klingai_audit.trust.witnessed import witnessed_metadata
from tests.support.tsa import Tsa

WITNESS = SignerKey("witness.example/one", b"\x21" * 32, COSIGNATURE)
STRANGER = SignerKey("witness.example/two", b"\x22" * 32, COSIGNATURE)
HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)>\u202e"

Change = Callable[[dict[str, Any]], None]
"""Changes the members of `evidence.json` in place."""


@dataclass
class Made:
    """A log, its key and fingerprint, and a good bundle of its entries of the type `x_note`."""

    folder: Path
    vkey: str
    evidence: Evidence
    data: bytes


def witness(audit: AuditLog, *signers: SignerKey) -> None:
    """Append what a log keeps after `signers` cosigned its checkpoint."""
    audit.flush("published")
    note = parse_note(audit.reader.checkpoint_note())
    lines = tuple(cosign(note.text, signer, int(time.time())) for signer in signers)
    cosigned = format_note(Note(note.text, (*note.signatures, *lines)))
    audit.append(own_event("checkpoint_witnessed", witnessed_metadata(cosigned), time.time_ns())).wait("published")


def make(folder: Path, *, notes: int = 5, stamped: bool = False, post_quantum: bool = False) -> Made:
    """Write a log of two handovers and return a bundle of it; `stamped` needs OpenSSL."""
    with AuditLog.open(folder / "audit", post_quantum=post_quantum) as audit:
        for number in range(notes):
            text = HOSTILE if number == 0 else f"note {number}"
            audit.log("x_note", "user@example.com", metadata={"number": number, "said": text})
            if number in (1, 2):
                audit.rotate_keys()
        audit.flush("published")
        if stamped:
            store = audit.reader.store
            size = max(size for size in range(1, audit.reader.size + 1) if store.read_kept(size) is not None)
            kept = store.read_kept(size) or b""
            reply = Tsa(folder / "tsa").stamp(kept)
            with store.publication() as publication:
                publication.put_token(size, reply)
            told = stamp_metadata(size, kept, reply, parse_token(reply))
            audit.append(own_event("checkpoint_timestamped", told, time.time_ns())).wait("published")
        witness(audit, WITNESS, STRANGER)
        vkey = audit.vkey
    reader = open_reader(Places.resolve(folder / "audit"))
    chosen = [seq for seq, line in enumerate(reader.entries()) if line.startswith(b'x_note"', 118)]
    evidence = gather(reader, chosen)
    return Made(folder, vkey, evidence, build_bundle(evidence))


def zipped(members: Mapping[str, bytes]) -> bytes:
    """Return a zip file of stored members."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def changed(made: Made, change: Change) -> bytes:
    """Return the bundle with other evidence, every file of it in keeping."""
    evidence = json.loads(made.evidence.encode())
    change(evidence)
    return build_bundle(read_evidence(json.dumps(evidence).encode()))


def entry(evidence: dict[str, Any], kind: str, nth: int = 0) -> dict[str, Any]:
    """Return the nth entry of a type."""
    return [one for one in evidence["entries"] if one["entry"].startswith(f'{kind}"', 118)][nth]


def _other(text: str, at: int) -> str:
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]


def _entry_changed(evidence: dict[str, Any]) -> None:
    one = entry(evidence, "x_note", 1)
    one["entry"] = one["entry"].replace("note 1", "note 9")


def _entries_swapped(evidence: dict[str, Any]) -> None:
    one, other = entry(evidence, "x_note", 1), entry(evidence, "x_note", 3)
    one["entry"], other["entry"] = other["entry"], one["entry"]


def _proof_changed(evidence: dict[str, Any]) -> None:
    one = entry(evidence, "x_note", 2)
    one["proof"][0] = _other(one["proof"][0], 5)


def _log_signature_changed(evidence: dict[str, Any]) -> None:
    head, _, line = evidence["checkpoint"].partition("\n\n")
    log_line, epoch_line, _ = line.split("\n")
    evidence["checkpoint"] = f"{head}\n\n{_other(log_line, len(log_line) - 20)}\n{epoch_line}\n"


def _epoch_signature_changed(evidence: dict[str, Any]) -> None:
    evidence["checkpoint"] = _other(evidence["checkpoint"], len(evidence["checkpoint"]) - 20)


def _handover_changed(evidence: dict[str, Any]) -> None:
    one = entry(evidence, "signing_key_rotated")
    at = one["entry"].index("/epoch-0 ") + 40
    one["entry"] = _other(one["entry"], at)


def _handover_left_out(evidence: dict[str, Any]) -> None:
    evidence["entries"].remove(entry(evidence, "signing_key_rotated", 1))


def _consistency_changed(evidence: dict[str, Any]) -> None:
    evidence["consistency"][0]["proof"][0] = _other(evidence["consistency"][0]["proof"][0], 5)


BAD: Mapping[str, Change] = {
    "entry changed": _entry_changed,
    "entries swapped": _entries_swapped,
    "proof hash changed": _proof_changed,
    "log signature changed": _log_signature_changed,
    "epoch signature changed": _epoch_signature_changed,
    "handover changed": _handover_changed,
    "handover left out": _handover_left_out,
    "consistency changed": _consistency_changed,
}
"""What somebody might change in evidence, in keeping with its form."""


def foreign(made: Made, other: Made) -> bytes:
    """Return a bundle in which one entry and its proof come from another log."""

    def change(evidence: dict[str, Any]) -> None:
        theirs = entry(json.loads(other.evidence.encode()), "x_note", 3)
        ours = next(one for one in evidence["entries"] if one["seq"] == theirs["seq"])
        ours.update(theirs)

    return changed(made, change)


def with_member(data: bytes, name: str, content: bytes) -> bytes:
    """Return the zip file with one member replaced."""
    return zipped({**read_bundle(data), name: content})


def moved(made: Made, folder: Path) -> Path:
    """Return a copy of the log's public key in a folder, as a reader has it."""
    folder.mkdir(exist_ok=True)
    shutil.copy(made.folder / "audit.keys" / "log.pub", folder / "log.pub")
    return folder / "log.pub"
