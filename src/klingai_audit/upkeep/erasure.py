"""Erasing a person: what could make their entries readable is destroyed, and every proof still holds.

The order: refuse if a hold stands against it; write `subject_erased` with the certificate, published; destroy sealed
content, then row and key; verify. Stopped anywhere, the next opening of the log or the same call completes it. The
entry comes first, so that nothing is ever destroyed without a record. See docs/how-to/erase-a-person.md.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from klingai_audit.durable import OPS, FileOps
from klingai_audit.errors import AuditUnavailable, UnderHold, UsageError
from klingai_audit.event.record import Draft, decode_event
from klingai_audit.event.types import EventType
from klingai_audit.log import AuditLog
from klingai_audit.privacy.subjects import RESERVED, Erased, normalise_id
from klingai_audit.upkeep.approval_file import erase_target
from klingai_audit.upkeep.approvals import require_approval
from klingai_audit.upkeep.holds import Hold, active_holds
from klingai_audit.upkeep.registry import RegistryFile
from klingai_audit.views.entry import EntryView
from klingai_audit.views.erasures import ErasureMemory, redo_erasures

__all__ = ["MAX_BASIS", "Certificate", "about_person", "erase_subject", "names_in_log"]

MAX_BASIS: Final = 200
"""Most characters of a basis."""

_MAX_TYPES: Final = 100
_REMAINS: Final = ("times", "event types", "models and settings", "charges", "coarse address masks", "product names")


@dataclass(frozen=True)
class Certificate:
    """What was erased and when; no personal data. The same stands in the `subject_erased` entry `seq`.

    `entries` are those about the person at that time, by type in `types`, from entry `first` to `last` (None: there
    were none); `checkpoint` is size and root (hex) before. `vault_files` were destroyed. `remains` names what the
    entries still show. `again` says that the entry was there already, `verified` what `verify` said of the log's
    integrity afterwards (None: not asked).
    """

    pseudonym: str
    seq: int
    at: str
    basis: str
    entries: int
    types: dict[str, int]
    first: int | None
    last: int | None
    checkpoint: dict[str, Any]
    vault_files: int
    remains: Sequence[str] = field(default_factory=tuple)
    again: bool = False
    verified: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the members as JSON values."""
        return {**vars(self), "remains": list(self.remains)}


def erase_subject(
    audit: AuditLog,
    actor: str,
    *,
    basis: str,
    approval: Path | Sequence[Path] | None = None,
    verify: bool = True,
    ops: FileOps = OPS,
) -> Certificate:
    """Erase the person behind `actor`, a raw id or a pseudonym; `basis` says on what ground, such as an article.

    On return the entry is published, row, key and sealed content are destroyed, and the log was verified (unless
    `verify` is False). Who was erased already: what was left is completed, nothing is written. Who acts comes from
    `acting(…)`; `approval` is a second person's, where policy `access.two_person` asks for one.
    Raises: AccessDenied (the policy refuses it), UsageError (nobody by this id, no person, a basis that is empty, too
    long or names somebody), UnderHold: nothing was changed. AuditUnavailable, StorageError: try again, what the entry
    says is completed then.
    """
    with RegistryFile(Path(audit.places.keys), ops).locked():
        audit.flush("published")
        earlier = {one.pseudonym: one for one in ErasureMemory(audit.reader, audit.places.state, ops).look()}
        pseudonym = _who(audit, actor, earlier)
        done = earlier.get(pseudonym)
        audit.subjects.check_may_destroy()  # or the entry would promise what nobody here can do
        ground = "" if done else _checked_basis(audit, pseudonym, basis)
        seq = done.seq if done else _record(audit, pseudonym, ground, approval)
        redo_erasures(audit.reader, audit.subjects, audit.vault, audit.places.state, ops)
    verified = audit.verify().integrity_ok if verify else None
    return _certificate(EntryView(audit.reader.entry(seq)), again=done is not None, verified=verified)


def about_person(line: bytes, names: frozenset[bytes]) -> EntryView | None:
    """Return the entry if it is about a person: as actor, on whose behalf, or as resource; `names` as stored."""
    if not any(name in line for name in names):
        return None
    entry = EntryView(line)
    stored = (entry.actor_id, entry.on_behalf_of, entry.resource_id)
    return entry if any(one is not None and one.encode() in names for one in stored) else None


def names_in_log(audit: AuditLog, pseudonym: str) -> frozenset[bytes]:
    """Return how entries name a person: by pseudonym, and by the id itself where policy keeps ids as they are."""
    raw = audit.subjects.reveal(pseudonym) if audit.policy.privacy.actor_ids == "opaque" else None
    return frozenset(name.encode("utf-8", "replace") for name in (pseudonym, raw) if name is not None)


def _who(audit: AuditLog, actor: str, earlier: Mapping[str, Erased]) -> str:
    if actor in earlier:
        return actor
    known = audit.subjects.get(actor) or audit.subjects.find(actor)
    if known is None:
        raise UsageError(
            "Nobody by this id is in the table of people.",
            do="Who was erased is known by pseudonym only: klingai-audit query --type subject_erased",
        )
    if known.reserved or known.pseudonym in RESERVED:
        raise UsageError(f"`{known.pseudonym}` is no person and cannot be erased.")
    return known.pseudonym


def _checked_basis(audit: AuditLog, pseudonym: str, basis: str) -> str:
    """Return the basis as the entry will hold it: it outlives the person and must not name anybody."""
    text = " ".join(basis.split())
    if not text or len(text) > MAX_BASIS:
        raise UsageError(
            f"The basis is empty or longer than {MAX_BASIS} characters.", do='Such as: "GDPR Art. 17(1)(b)"'
        )
    draft = Draft(event_type=EventType.SUBJECT_ERASED, resource_id=pseudonym, metadata={"basis": text})
    raw = audit.subjects.reveal(pseudonym)
    named = raw is not None and re.search(rf"(?<!\w){re.escape(raw)}(?!\w)", normalise_id(text)) is not None
    if named or decode_event(audit.admit(draft, warn=False).body).details.get("basis") != text:
        raise UsageError(
            "The basis names somebody, or holds what an entry may not keep.",
            do="Name the ground and a case number, no person: it stays in the log for ever.",
        )
    return text


def _record(audit: AuditLog, pseudonym: str, basis: str, approval: Path | Sequence[Path] | None) -> int:
    """Write the certificate, published on return. Raises: UnderHold, AccessDenied, AuditUnavailable."""
    checkpoint = audit.reader.checkpoint()
    about = _gather(audit, pseudonym, checkpoint.size)
    granted = require_approval(audit, "erase", erase_target(pseudonym), approval)
    told = {
        "basis": basis,
        "entries": about.types.total(),
        "types": _listed(about.types),
        **({} if about.first is None else {"first": about.first, "last": about.last}),
        "checkpoint": {"size": checkpoint.size, "root": checkpoint.root.hex()},
        "vault_files": audit.vault.count(pseudonym),
        "remains": [*_REMAINS, *(["ids that policy keeps as they are"] if about.opaque else [])],
        **granted,
    }
    draft = Draft(
        event_type=EventType.SUBJECT_ERASED, resource_type="user", resource_id=pseudonym, action="erase", metadata=told
    )
    seq = audit.record(draft).wait("published").seq
    if seq is None:
        raise AuditUnavailable("It is not known which entry holds the certificate; nobody was erased.")
    return seq


@dataclass
class _About:
    """What the log holds of a person."""

    types: Counter[str]
    opaque: bool
    first: int | None = None
    last: int | None = None


def _gather(audit: AuditLog, pseudonym: str, size: int) -> _About:
    """Look at the person's entries among the first `size`. Raises: UnderHold."""
    holds = active_holds(audit)
    for hold in holds:
        if pseudonym in (hold.covers.get("actor"), _selected(hold)):
            raise _held(hold)
    tests = [(hold, hold.test()) for hold in holds]
    names = names_in_log(audit, pseudonym)
    about = _About(Counter(), opaque=len(names) > 1)
    for line in audit.reader.entries(0, size):
        entry = about_person(line, names)
        if entry is None:
            continue
        for hold, test in tests:
            if test(line):
                raise _held(hold)
        about.types[entry.event_type] += 1
        about.first = entry.seq if about.first is None else about.first
        about.last = entry.seq
    return about


def _held(hold: Hold) -> UnderHold:
    return UnderHold(
        f"Nobody was erased: the legal hold {hold.name} (entry {hold.seq}) covers this person.",
        do=f"It has to be released first: klingai-audit hold release {hold.name}",
    )


def _selected(hold: Hold) -> str | None:
    selection = hold.covers.get("selection")
    actor = selection.get("actor") if isinstance(selection, dict) else None
    return actor if isinstance(actor, str) else None


def _listed(types: Counter[str]) -> dict[str, int]:
    """Return the counts by type, sorted; types of users beyond what an entry can list are counted together."""
    if len(types) > _MAX_TYPES:
        own = Counter({name: count for name, count in types.items() if not name.startswith("x_")})
        own["x_"] = types.total() - own.total()
        types = own
    return dict(sorted(types.items()))


def _certificate(entry: EntryView, *, again: bool, verified: bool | None) -> Certificate:
    told = entry.metadata
    return Certificate(
        pseudonym=entry.resource_id or "",
        seq=entry.seq,
        at=f"{entry.timestamp:%Y-%m-%dT%H:%M:%S.%fZ}",
        basis=told["basis"],
        entries=told["entries"],
        types=told["types"],
        first=told.get("first"),
        last=told.get("last"),
        checkpoint=told["checkpoint"],
        vault_files=told["vault_files"],
        remains=tuple(told["remains"]),
        again=again,
        verified=verified,
    )
