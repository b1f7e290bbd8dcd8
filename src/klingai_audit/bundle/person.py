"""Everything that a log holds about one person, for that person: GDPR Art. 15 (access) and 20 (portability).

Evidence bundles with every entry and its proof, one document for programs, one page for people. Other people stay
the pseudonyms that entries have. See docs/how-to/erase-a-person.md.
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from klingai_audit.bundle.archive import build_bundle
from klingai_audit.bundle.evidence import MAX_ENTRIES, gather
from klingai_audit.errors import UsageError
from klingai_audit.event.record import Draft
from klingai_audit.event.types import EVENT_TYPES, EventType
from klingai_audit.log import AuditLog
from klingai_audit.upkeep.erasure import about_person, names_in_log
from klingai_audit.views.entry import EntryView

__all__ = ["FORMAT", "PersonExport", "export_subject"]

FORMAT: Final = "klingai-audit/person/v1"
"""Form of `person.json`."""

_TIME: Final = (1980, 1, 1, 0, 0, 0)
_MEMBERS: Final = (
    *("event_type", "actor_type", "on_behalf_of", "team", "project", "resource_type", "resource_id", "action"),
    *("outcome", "ip_address", "ip_ref", "user_agent", "correlation_id", "request_id"),
)


@dataclass(frozen=True)
class PersonExport:
    """The files of an export by name, and what they are about.

    `person` is the raw id, None if it is known no more; `entries` how many there are; `recorded` the `log_exported`
    entry that tells of the export.
    """

    pseudonym: str
    person: str | None
    entries: int
    sealed: int
    recorded: int | None
    files: dict[str, bytes]

    def zipped(self) -> bytes:
        """Return all files as one zip file, not compressed."""
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for name, data in sorted(self.files.items()):
                archive.writestr(zipfile.ZipInfo(name, _TIME), data)
        return out.getvalue()


def export_subject(audit: AuditLog, actor: str) -> PersonExport:
    """Collect what the log holds about `actor`, a raw id or a pseudonym: as actor, on whose behalf, as resource.

    The export is an entry `log_exported`, published before anything is returned. What the vault holds is counted and
    not opened: `klingai_audit.upkeep.unseal` opens it, one at a time.
    Raises: UsageError (nobody by this id, no person, nothing in the log), AuditUnavailable, StorageError.
    """
    audit.flush("published")
    checkpoint = audit.reader.checkpoint()
    known = audit.subjects.get(actor) or audit.subjects.find(actor)
    erased = audit.subjects.erased(actor)
    if (known is None and erased is None) or (known is not None and known.reserved):
        raise UsageError("Nobody by this id is in the table of people.", do="klingai-audit activity lists who is.")
    pseudonym = known.pseudonym if known is not None else actor
    person = None if known is None else audit.subjects.reveal(pseudonym)
    names = names_in_log(audit, pseudonym)
    found = [entry for line in audit.reader.entries(0, checkpoint.size) if (entry := about_person(line, names))]
    if not found:
        raise UsageError("The log holds no entry about this person.")
    sealed = audit.vault.count(pseudonym)
    told = {"command": "subject export", "entries": len(found), "tree_size": checkpoint.size, "format": FORMAT}
    draft = Draft(
        event_type=EventType.LOG_EXPORTED, resource_type="user", resource_id=pseudonym, action="export", metadata=told
    )
    recorded = audit.record(draft).wait("published").seq
    parts = [found[at : at + MAX_ENTRIES] for at in range(0, len(found), MAX_ENTRIES)]
    files = {
        f"evidence-{number:03}.zip": build_bundle(gather(audit.reader, [entry.seq for entry in part]))
        for number, part in enumerate(parts, 1)
    }
    about: dict[str, Any] = {
        "format": FORMAT,
        "origin": audit.origin,
        "key": audit.vkey,
        "person": {"pseudonym": pseudonym, "id": person, "erased": None if erased is None else erased.to_json()},
        "checkpoint": {"size": checkpoint.size, "root": checkpoint.root.hex()},
        "recorded_as": recorded,
        "sealed_contents": sealed,
        "evidence": sorted(files),
        "entries": [_told(entry, names) for entry in found],
    }
    files["person.json"] = msgspec.json.format(msgspec.json.encode(about), indent=1) + b"\n"
    files["README.txt"] = _summary(about, found, sealed).encode()
    return PersonExport(pseudonym, person, len(found), sealed, recorded, files)


def _told(entry: EntryView, names: frozenset[bytes]) -> dict[str, Any]:
    """Return an entry for programs: its members, and in which role the person is in it."""
    stored = (("actor", entry.actor_id), ("on_behalf_of", entry.on_behalf_of), ("resource", entry.resource_id))
    told: dict[str, Any] = {
        "seq": entry.seq,
        "event_id": entry.event_id,
        "timestamp": entry.timestamp.isoformat(),
        "roles": [role for role, value in stored if value is not None and value.encode() in names],
        "actor_id": entry.actor_id,
    }
    told |= {name: value for name in _MEMBERS if (value := getattr(entry, name)) is not None}
    return told | ({"metadata": entry.metadata} if entry.metadata else {})


def _summary(about: dict[str, Any], found: Sequence[EntryView], sealed: int) -> str:
    person = about["person"]
    types = Counter(entry.event_type for entry in found)
    meanings = {name: f": {info.meaning}" for name, info in EVENT_TYPES.items()}
    return "\n".join((
        "What an audit log of Kling AI use holds about you",
        "",
        f"You are in it as {person['pseudonym']}"
        + (f", which stands for {person['id']}." if person["id"] else "; who that was is known no more."),
        f"Log {about['origin']}, {about['checkpoint']['size']:,} entries, root {about['checkpoint']['root']}.",
        f"{len(found):,} entries are about you, from {found[0].timestamp:%Y-%m-%d} to {found[-1].timestamp:%Y-%m-%d}:",
        "",
        *(f"  {count:>7,}  {name}{meanings.get(name, '')}" for name, count in types.most_common()),
        "",
        "What they hold: when, what kind of act, models and settings, what was charged, a coarse mask of the address,",
        "product and major version of the program. Prompts stand there as commitments: nobody can read them there.",
        f"Contents kept sealed beside the log: {sealed:,}. They are opened one at a time, on the record.",
        "Other people are pseudonyms.",
        "",
        "person.json        the same for programs",
        "evidence-*.zip     every entry as stored, with its proof: open verify.html in it, or run",
        f"                   klingai-audit check evidence-001.zip --key {about['key']}",
        "",
    ))  # fmt: skip
