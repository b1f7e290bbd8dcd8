"""What lies in the vault for entries that are purged goes before they do."""

from __future__ import annotations

from typing import Final

from klingai_audit.log import AuditLog
from klingai_audit.privacy.subjects import is_pseudonym
from klingai_audit.trust.openings import commitments_in
from klingai_audit.views.entry import EntryView

__all__ = ["SealedContent"]

_HINT: Final = b'"commitment":"'


class SealedContent:
    """Collects what is sealed for entries that are about to be purged, and removes it."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit
        self._any = audit.vault.path.exists()
        self._found: dict[str, list[str]] = {}

    def note(self, line: bytes) -> None:
        """Remember an entry that is to go, by its stored bytes."""
        if self._any and _HINT in line:
            entry = EntryView(line)
            commitments = [str(stored["commitment"]) for stored in commitments_in(entry.metadata).values()]
            self._found.setdefault(entry.actor_id or "", []).extend(commitments)

    def discard(self) -> int:
        """Remove it all; durable on return. Returns how many contents there were. Raises: StorageError.

        Before the entries are replaced: what a crash leaves is found again as long as they are whole.
        """
        found, self._found = self._found, {}
        removed = 0
        for actor, commitments in found.items():
            pseudonym = actor
            if not is_pseudonym(actor):  # an id that policy declares not personal
                subject = self._audit.subjects.get(actor) or (self._audit.subjects.find(actor) if actor else None)
                pseudonym = "" if subject is None else subject.pseudonym
            if pseudonym:  # whether the table knows it or not: an older table may have been put back
                removed += self._audit.vault.discard(pseudonym, commitments)
        return removed
