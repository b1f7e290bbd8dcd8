"""Moving a log into another store: the same entries, the same tree, the same keys, every old proof still valid.

The order: the source is verified; most of it is copied while writers go on; it gets its last entry, `log_migrated`, and
refuses writers from then on; the rest is copied; the copy is verified; keys and people are carried over; the log is
taken up in its new place by a second `log_migrated`; what is private in the old place is destroyed. Stopped anywhere,
the same command goes on where it was. See docs/how-to/choosing-a-store.md.
"""

from __future__ import annotations

import contextlib
import hmac
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from klingai_audit.config import Places, open_store
from klingai_audit.durable import OPS, FileOps
from klingai_audit.errors import LogDamaged, LogMigrated, LogNotFound, UsageError
from klingai_audit.event.context import acting
from klingai_audit.event.own import own_event
from klingai_audit.ledger.clock import SYSTEM_CLOCK, Clock
from klingai_audit.ledger.heads_of import head_of
from klingai_audit.ledger.keys import KeyFolder, read_public_key
from klingai_audit.ledger.log_head import LogHead
from klingai_audit.ledger.mirror import look_at
from klingai_audit.ledger.moved import PHASE_IN, PHASE_OUT, is_taken_up, moved_to
from klingai_audit.ledger.state import StateFolder
from klingai_audit.ledger.store import Store
from klingai_audit.ledger.transfer import transfer
from klingai_audit.log import AuditLog
from klingai_audit.privacy.policy import Policy
from klingai_audit.tlog.checkpoint import Checkpoint, open_checkpoint
from klingai_audit.trust.verdict import Verdict
from klingai_audit.trust.verify import verify
from klingai_audit.upkeep.approvals import require_approval
from klingai_audit.upkeep.belongings import Belongings, same_place

__all__ = ["Migrated", "Progress", "migrate"]

_POLICY: Final = "policy.toml"
_PLACE_DOMAIN: Final = b"klingai-audit/place/v1\0"

Progress = Callable[[int, int], None]
"""Called with (entries copied, entries in all)."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """A log that was moved: its origin, from where to where, and size and root (32 bytes) that both places share."""

    origin: str
    source: str
    target: str
    size: int
    root: bytes


def migrate(
    source: Places,
    target: Places,
    *,
    actor: str,
    approval: list[Path] | None = None,
    clock: Clock = SYSTEM_CLOCK,
    ops: FileOps = OPS,
    progress: Progress | None = None,
) -> Migrated:
    """Move the log from `source` to `target`; completes what an earlier run began.

    `actor` is whose act it is, as the log's last entries in the old place tell; `approval` is a second person's, where
    policy has `govern` done by two (target: `migrate to …`).
    Raises: AccessDenied, UsageError (the two places are one, or the new one is not free), LogNotFound, LogDamaged (the
    log does not verify; or the copy does not: the log is not taken up), LogMigrated (it went elsewhere before),
    StorageError.
    """
    return _Migration(source, target, actor, approval or [], clock, ops, progress).run()


class _Migration:
    def __init__(
        self,
        source: Places,
        target: Places,
        actor: str,
        approval: list[Path],
        clock: Clock,
        ops: FileOps,
        progress: Progress | None,
    ) -> None:
        self._places = source
        self._target_places = target
        self._actor = actor
        self._approval = approval
        self._clock = clock
        self._ops = ops
        self._progress = progress
        self._belongings = Belongings(source, target, ops)

    def run(self) -> Migrated:
        if "memory:" in (self._places.log, self._target_places.log) or same_place(self._places, self._target_places):
            raise UsageError("A log moves from one place to another.", do="Name two: klingai-audit migrate FROM TO")
        with (
            closing(open_store(self._places, self._ops)) as source,
            closing(open_store(self._target_places, self._ops)) as target,
        ):
            return self._move(source, target)

    def _move(self, source: Store, target: Store) -> Migrated:
        if not source.exists():
            raise LogNotFound(f"There is no log at {self._places.log}.", do="Name the one that is to move.")
        self._belongings.check()
        if (left := self._left(source)) is None:
            self._begin(source, target)
        elif left != self._told(self._target_places, self._places):
            raise LogMigrated(
                f"The log at {self._places.log} was migrated before: it goes on at {left}.", do="Move it from there."
            )
        if left is None or not self._is_taken_up(source, target):
            self._end(source)
            self._take_up(source, target)
        elif look_at(target).end > look_at(target).size:
            self._open(self._target_places).close()  # stopped before that entry was signed: opening does it
        self._belongings.leave()
        checkpoint = self._checked(source)
        return Migrated(checkpoint.origin, self._places.log, self._target_places.log, checkpoint.size, checkpoint.root)

    # --- in the old place -------------------------------------------------------------------------

    def _left(self, source: Store) -> str | None:
        """Return where the source says that it went on."""
        return moved_to(_last_line(source))

    def _begin(self, source: Store, target: Store) -> None:
        """See that everything can be done, tell whose act it is, copy what is there, and end the log here."""
        with self._open(self._places) as audit, acting(self._actor, actor_type="admin"):
            _demand(audit.verify(), "The log")
            transfer(source, target, audit.reader.checkpoint_note(), final=False, progress=self._progress)
            to = self._told(self._target_places, self._places)
            told = require_approval(audit, "govern", f"migrate to {to}", self._approval)
            audit.log(
                "settings_changed",
                resource_type="log",
                resource_id=audit.origin,
                action="migrate",
                metadata={"to": to, **told},
            ).wait("published")
        self._belongings.check_spool()

    def _end(self, source: Store) -> None:
        """Append the last entry, unless it is there, and publish it."""
        keys = KeyFolder(self._places.keys, self._ops)
        keys.resume()
        head = self._head(source, keys, self._places)
        with contextlib.suppress(LogMigrated):
            head.take_up([self._event(PHASE_OUT, {"to": self._told(self._target_places, self._places)})])
        head.publish()
        head.close()

    # --- in the new place -------------------------------------------------------------------------

    def _is_taken_up(self, source: Store, target: Store) -> bool:
        size = self._checked(source).size
        return target.exists() and is_taken_up(next(iter(target.read_entries(size, size + 1)), b""))

    def _take_up(self, source: Store, target: Store) -> None:
        note, checkpoint = source.read_checkpoint() or b"", self._checked(source)
        transfer(source, target, note, final=True, progress=self._progress)
        self._verify(target)
        self._belongings.carry(note)
        keys = KeyFolder(self._target_places.keys, self._ops)
        keys.resume()
        head = self._head(target, keys, self._target_places)
        told = {"from": self._told(self._places, self._target_places), "size": checkpoint.size}
        head.take_up([self._event(PHASE_IN, told)])
        head.publish()
        head.close()

    def _open(self, places: Places) -> AuditLog:
        return AuditLog.open(
            places.address,
            keys=places.keys,
            state=places.state,
            subjects=places.subjects,
            vault=places.vault,
            create=False,
            clock=self._clock,
            ops=self._ops,
        )

    def _head(self, store: Store, keys: KeyFolder, places: Places) -> LogHead:
        policy = Policy.load(places.keys / _POLICY)
        return head_of(
            store,
            keys,
            StateFolder(places.state, self._ops),
            lambda event_type, metadata: own_event(event_type, metadata, self._clock.now_ns()),
            self._clock,
            rotation=policy.verify.epoch_rotation,
        )

    def _told(self, place: Places, seen_from: Places) -> str:
        """Return a place as an entry may name it: paths name people, so other folders are told by a fingerprint."""
        if place.remote is not None:
            return place.remote.place
        path = os.path.relpath(place.log, seen_from.home)
        if not path.startswith(".."):
            return os.fsencode(path).decode("utf-8", "backslashreplace")
        folders = (self._places.keys, self._target_places.keys)
        keys = next((folder for folder in folders if (folder / "lookup.key").exists()), self._places.keys)
        named = _PLACE_DOMAIN + os.fsencode(os.path.realpath(place.log))
        return f"elsewhere:{hmac.digest(KeyFolder(keys).lookup_key, named, 'sha256')[:8].hex()}"

    def _event(self, phase: str, more: dict[str, Any]) -> tuple[Any, bool]:
        return own_event("log_migrated", {"phase": phase, **more}, self._clock.now_ns()), False

    # --- what is believed -------------------------------------------------------------------------

    def _checked(self, source: Store) -> Checkpoint:
        """Return the source's published checkpoint, signed by the log key. Raises: VerificationError."""
        key = read_public_key(self._places.keys / "log.pub")
        return open_checkpoint(source.read_checkpoint() or b"", key.name, [key])[0]

    def _verify(self, target: Store) -> None:
        key = read_public_key(self._places.keys / "log.pub").format()
        remembered = StateFolder(self._places.state, self._ops).read_head()
        _demand(verify(target, key=key, key_source="keys folder", remembered=remembered), "The copy")


def _demand(verdict: Verdict, what: str) -> None:
    """Refuse what does not verify. Raises: LogDamaged."""
    if not verdict.integrity_ok:
        first = next(finding for finding in verdict.findings if finding.severity == "broken")
        raise LogDamaged(f"{what} does not verify: {first.message}", kind_of_damage=first.kind)


def _last_line(store: Store) -> bytes:
    end = look_at(store).end
    return next(iter(store.read_entries(end - 1, end)), b"") if end else b""
