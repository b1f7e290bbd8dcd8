"""The zip file: stored members in order with one fixed time, so that equal evidence makes equal bytes."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final

from klingai_audit.bundle.evidence import Evidence
from klingai_audit.bundle.page import page_with
from klingai_audit.errors import Malformed
from klingai_audit.event.record import decode_event
from klingai_audit.event.types import EventType
from klingai_audit.tlog.checkpoint import parse_checkpoint
from klingai_audit.tlog.note import parse_note
from klingai_audit.tlog.proof import TlogProof
from klingai_audit.tlog.strict import parse_hash

__all__ = ["MAX_BUNDLE_BYTES", "UNPROVEN", "build_bundle", "derived_members", "read_bundle"]

MAX_BUNDLE_BYTES: Final = 1 << 30
"""Longer files are not read as bundles."""

UNPROVEN: Final = frozenset({"README.txt", "format.md", "klingai_audit_verify.py", "verify.html"})
"""Members that go with a bundle and prove nothing."""

_TIME: Final = (1980, 1, 1, 0, 0, 0)
_TYPE_AT: Final = 118


def build_bundle(evidence: Evidence) -> bytes:
    """Return the zip file."""
    members: dict[str, bytes] = {
        **derived_members(evidence),
        "evidence.json": evidence.encode(),
        "README.txt": _readme(evidence),
        "format.md": files("klingai_audit.bundle").joinpath("format.md").read_bytes(),
        "verify.html": page_with(evidence.encode()),
    }
    standalone = files("klingai_audit").joinpath("standalone", "klingai_audit_verify.py")
    if standalone.is_file():
        members["klingai_audit_verify.py"] = standalone.read_bytes()
    return _zipped(members)


def _zipped(members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, _TIME)
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            archive.writestr(info, members[name])
    return out.getvalue()


def read_bundle(data: bytes) -> dict[str, bytes]:
    """Return the members of a bundle by name. Raises: Malformed, also for a file that is cut short."""
    found: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(data) or info.filename in found:
                    raise Malformed(f"The member {info.filename!a} is not stored as bundles have it.")
                found[info.filename] = archive.read(info)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError) as exc:
        if isinstance(exc, Malformed):
            raise
        raise Malformed("The file is no whole zip file: it was cut short or changed on the way.") from exc
    if "evidence.json" not in found:
        raise Malformed("The zip file is no bundle: it holds no evidence.json.")
    return found


def derived_members(evidence: Evidence) -> dict[str, bytes]:
    """Return the members that repeat parts of the evidence for other software. Raises: Malformed."""
    note = evidence.checkpoint.encode()
    lines = evidence.lines
    chosen = set(evidence.chosen)
    members = {
        "checkpoint": note,
        "entries.jsonl": b"".join(lines[seq] + b"\n" for seq in evidence.chosen),
        "history.jsonl": b"".join(line + b"\n" for seq, line in lines.items() if seq not in chosen),
    }
    for one in evidence.entries:
        proof = TlogProof(
            one.seq, tuple(parse_hash(text, "A hash of a proof") for text in one.proof), note, lines[one.seq]
        )
        members[f"proofs/{one.seq:020}.tlog-proof"] = proof.format()
        told = _told(lines[one.seq])
        if told:
            members[f"{told[0]}/{one.seq:020}.note"] = told[1].encode("utf-8", "replace")
    for stamp in evidence.stamps:
        members[f"checkpoints/{stamp.size:020}"] = stamp.checkpoint.encode()
        members[f"checkpoints/{stamp.size:020}.tsr"] = _token(stamp.token)
    return members


def _told(line: bytes) -> tuple[str, str] | None:
    """Return the note inside an entry about keys or witnesses, and the folder it goes to."""
    kinds = {
        EventType.SIGNING_KEY_ROTATED: ("handovers", "handover"),
        EventType.CHECKPOINT_WITNESSED: ("cosigned", "note"),
    }
    for kind, (folder, member) in kinds.items():
        if line.startswith(kind.encode() + b'"', _TYPE_AT):
            note: Any = decode_event(line).details.get(member)
            return (folder, note) if isinstance(note, str) else None
    return None


def _token(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as exc:
        raise Malformed("A time stamp of the bundle is no base64.") from exc


def _readme(evidence: Evidence) -> bytes:
    checkpoint = parse_checkpoint(parse_note(evidence.checkpoint.encode()).text)
    text = files("klingai_audit.bundle").joinpath("page", "README.txt").read_text("utf-8")
    count = len(evidence.chosen)
    values = {
        "@ORIGIN@": checkpoint.origin,
        "@SIZE@": f"{checkpoint.size:,}",
        "@COUNT@": f"{count:,} {'entry' if count == 1 else 'entries'}",
    }
    for name, value in values.items():
        text = text.replace(name, value)
    return text.encode()
