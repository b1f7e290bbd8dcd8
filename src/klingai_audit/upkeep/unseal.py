"""Unsealing: one sealed content opened, after an entry says who opens it and why.

`content_unsealed` is published before anything is opened. An attempt that is refused leaves an `access_denied`. What is
opened is returned and kept nowhere. See docs/how-to/sealed-prompts.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from klingai_audit.capture.desk import Item
from klingai_audit.errors import AuditUnavailable, KlingAuditError, LogNotFound, UsageError
from klingai_audit.event.record import Draft
from klingai_audit.event.types import EventType
from klingai_audit.ledger.purged import parse_purged
from klingai_audit.ledger.receipt import Receipt
from klingai_audit.log import AuditLog
from klingai_audit.privacy.commitment import opening
from klingai_audit.privacy.subjects import Subject
from klingai_audit.privacy.unseal_key import PRIVATE_FILE, UnsealPublic, create_unseal_keys, read_unseal_key
from klingai_audit.trust.openings import commitments_in, format_opening
from klingai_audit.trust.proofs import prove_entry
from klingai_audit.upkeep.approval_file import unseal_target
from klingai_audit.upkeep.approvals import require_approval
from klingai_audit.views.entry import EntryView

__all__ = ["MAX_REASON", "Unsealed", "content_of", "make_unseal_key", "unseal"]

MAX_REASON: Final = 1000
"""Longest reason for opening something, in characters."""

_ACTION: Final = "unseal"


@dataclass(frozen=True, slots=True)
class Unsealed:
    """One content that was opened: where it stood, its bytes (never in a repr), and which entry says so.

    `recorded` is that entry's index; None if it could not be written yet and policy `failure.unseal` is `warn`.
    """

    seq: int
    event_id: str
    pointer: str
    type: str | None
    recorded: int | None
    value: bytes = field(repr=False)
    opening: bytes = field(repr=False)
    """The file by which a third party checks it: docs/format.md, "Openings"."""

    @property
    def text(self) -> str | None:
        """The content as text, None if it is no UTF-8."""
        try:
            return self.value.decode()
        except UnicodeDecodeError:
            return None


def make_unseal_key(audit_keys: Path, private: Path | None = None) -> UnsealPublic:
    """Make the unseal key: `unseal.pub` in the keys folder, the private half there too, or in the file `private`.

    Raises: UsageError if there is one already, LogNotFound without a keys folder, StorageError.
    """
    if not audit_keys.is_dir():
        raise LogNotFound(f"There is no keys folder at {audit_keys}.", do="Name it with --keys.")
    return create_unseal_keys(audit_keys, private)


def unseal(
    audit: AuditLog,
    seq: int,
    name: str,
    *,
    reason: str,
    actor: str | None = None,
    unseal_key: Path | None = None,
    approval: Path | Sequence[Path] | None = None,
) -> Unsealed:
    """Open the sealed content `name` of entry `seq`, on the record.

    `name` is the name under which it stands (`prompt`), or a JSON pointer (`/metadata/prompt`); `actor` is who opens,
    unless bound by `acting`; `unseal_key` is the file with the private half, by default in the keys folder;
    `approval` is a second person's approval, where policy `access.two_person` asks for one.
    Raises: AccessDenied (the policy refuses it), UsageError (no reason, no such entry or content; it was purged, its
    person erased, nothing is sealed; it is another unseal key), LogNotFound (no unseal key), UnsafePermissions,
    AuditUnavailable (it cannot be recorded, so it is not opened), VerificationError (the sealed file was changed),
    StorageError.
    """
    attempt = _Attempt(audit, seq, name, _checked(reason), actor, approval)
    try:
        return attempt.run(unseal_key or audit.places.keys / PRIVATE_FILE)
    except KlingAuditError as exc:
        attempt.refused(exc)
        raise


class _Attempt:
    """One attempt to open something; `why` is the short word for what stands in its way, None for a slip."""

    def __init__(
        self,
        audit: AuditLog,
        seq: int,
        name: str,
        reason: str,
        actor: str | None,
        approval: Path | Sequence[Path] | None,
    ) -> None:
        self._audit = audit
        self._seq = seq
        self._field = name
        self._reason = reason
        self._actor = actor
        self._approval = approval
        self._why: str | None = None

    def run(self, key_file: Path) -> Unsealed:
        entry = self._entry()
        pointer, stored = content_of(entry, self._field)
        self._field = pointer
        self._why = "no_key"
        key = read_unseal_key(key_file)
        subject = self._subject(entry)
        self._why = "not_sealed"
        if not self._audit.vault.has(subject.pseudonym, str(stored["commitment"])):
            raise UsageError(
                f"Nothing is sealed for {pointer} of entry {self._seq}.",
                do="The policy of its time did not name it, it was longer than vault.max_bytes, or --vault is another.",
            )
        self._why = None  # the gate records its own refusals
        granted = require_approval(
            self._audit, "unseal", unseal_target(self._seq, pointer), self._approval, self._actor
        )
        self._why = "not_recorded"
        recorded = self._announce(entry, subject, granted)
        self._why = "does_not_open"
        value = self._audit.vault.open(subject, entry.event_id, pointer, stored, key)
        return Unsealed(
            self._seq,
            entry.event_id,
            pointer,
            stored.get("type"),
            recorded,
            value,
            self._opening(entry, pointer, stored, subject, value),
        )

    def refused(self, exc: KlingAuditError) -> None:
        """Record what was refused and why; a slip such as an unknown name is none. What cannot be recorded is not."""
        if self._why is None:
            return
        told = {"seq": self._seq, "field": self._field, "reason": self._reason, "why": self._why, "error": exc.kind}
        with contextlib.suppress(KlingAuditError):
            self._audit.record(self._draft(EventType.ACCESS_DENIED, "blocked", told)).wait()

    def _entry(self) -> EntryView:
        for line in self._audit.reader.lines(self._seq, self._seq + 1):
            purged = parse_purged(line)
            if purged is not None:
                self._why = "purged"
                raise UsageError(
                    f"Entry {self._seq} was purged; entry {purged.by} authorised it.", do="What it held is gone."
                )
        return EntryView(self._audit.reader.entry(self._seq))

    def _subject(self, entry: EntryView) -> Subject:
        self._why = "erased"
        subjects, actor = self._audit.subjects, entry.actor_id or ""
        subject = subjects.get(actor) or subjects.find(actor)
        if subject is None:
            raise UsageError(
                f"Nobody can open this: whoever stands behind entry {self._seq} is not in the table of people.",
                do="An erased person's content is gone for good. If nobody was, name the right table: --subjects",
            )
        return subject

    def _announce(self, entry: EntryView, subject: Subject, granted: Mapping[str, Any]) -> int | None:
        """Record what is about to be opened; published on return, unless policy lets it happen all the same."""
        audit = self._audit
        told = {
            "seq": self._seq,
            "event_id": entry.event_id,
            "field": self._field,
            "reason": self._reason,
            "subject": subject.pseudonym,
            **granted,
        }
        event = audit.admit(self._draft(EventType.CONTENT_UNSEALED, "success", told))
        failure = audit.policy.failure.unseal
        try:
            if failure == "spool":
                receipt = cast("Receipt | None", audit.recorder.announce(event, _ACTION))
            else:
                receipt = audit.append(event).wait()
        except AuditUnavailable as exc:
            if failure != "warn":
                raise
            audit.recorder.desk.missed(Item(event, None, kind=_ACTION), exc)
            return None
        if receipt is None:
            return None
        try:
            receipt.wait("published", audit.spool.after if failure == "spool" else None)
        except AuditUnavailable:
            if failure == "refuse":
                raise
        return receipt.seq

    def _draft(self, event_type: EventType, outcome: str, told: Mapping[str, Any]) -> Draft:
        return Draft(
            event_type=event_type,
            actor_id=self._actor,
            resource_type="entry",
            resource_id=str(self._seq),
            action=_ACTION,
            outcome=outcome,
            metadata=told,
        )

    def _opening(
        self, entry: EntryView, pointer: str, stored: Mapping[str, Any], subject: Subject, value: bytes
    ) -> bytes:
        salt = opening(subject.key, entry.event_id, pointer)
        proof = prove_entry(self._audit.reader, self._seq)
        return format_opening(proof, entry.event_id, pointer, str(stored["commitment"]), salt, value)


def content_of(entry: EntryView, name: str) -> tuple[str, Mapping[str, Any]]:
    """Return pointer and commitment of what `name`, a name or a JSON pointer, means in an entry. Raises: UsageError."""
    found = commitments_in(entry.metadata)
    if name.startswith("/"):
        meant = [name] if name in found else []
    else:
        end = "/" + name.replace("~", "~0").replace("/", "~1")
        meant = [pointer for pointer in found if pointer.endswith(end)]
    if len(meant) == 1:
        return meant[0], found[meant[0]]
    if meant:
        raise UsageError(f"Entry {entry.seq} holds several of that name.", do=f"Name one: {', '.join(meant)}")
    held = ", ".join(found) or "none"
    raise UsageError(f"Entry {entry.seq} holds no such content.", do=f"Its commitments: {held}.")


def _checked(reason: str) -> str:
    text = reason.strip()
    if not text or len(text) > MAX_REASON:
        raise UsageError(
            f"A reason of 1 to {MAX_REASON:,} characters stands in the log beside what is opened.", do="Give it."
        )
    return text
