"""Stamping a log: the newest checkpoint, if there is news; and what a stopped run left behind, first.

Order: the token is asked for and checked, then the kept checkpoint is durable, then the token beside it, then the entry
that names both. A run that is stopped in between is finished by the next one (docs/life-of-an-entry.md).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from klingai_audit.errors import AuditUnavailable, HeadConflict, LogDamaged, StorageError
from klingai_audit.event.types import EventType
from klingai_audit.ledger.line import KEPT_INTERVAL, names_checkpoint, parse_members
from klingai_audit.ledger.store import Store
from klingai_audit.stamp.client import TimeAuthority
from klingai_audit.tlog.checkpoint import parse_checkpoint
from klingai_audit.tlog.note import parse_note
from klingai_audit.trust.anchors import kept_size
from klingai_audit.trust.stamps import TOLERANCE, Stamp, is_stamp, read_stamp, stamp_metadata, token_size
from klingai_audit.trust.token import Token, parse_token
from klingai_audit.trust.verify import verify
from klingai_audit.trust.witnessed import is_quiet

__all__ = ["Stamper", "Stamping"]

_Why = Literal["stamped", "nothing new", "not due", "somebody else was faster"]

_LEFT: Final = ("kept_unexpected", "stamp_unexpected")
_CLOCK: Final = "Set this machine's clock, or ask another authority. Nothing was written."


@dataclass(frozen=True, slots=True)
class Stamping:
    """What one run did. `size` is that of the newest checkpoint; `stamps` are the entries written, in order."""

    why: _Why
    size: int
    stamps: tuple[Stamp, ...] = ()


class Stamper:
    """Stamps one log that this process holds open for writing.

    `publish` blocks until everything logged is under a signed checkpoint; `append` adds one of the log's own entries
    (type, metadata) and returns its `seq` when it is published. `vkey` is the log's key, `now` the writer's clock.
    """

    def __init__(
        self,
        store: Store,
        authority: TimeAuthority,
        *,
        vkey: str,
        publish: Callable[[], None],
        append: Callable[[str, Mapping[str, Any]], int],
        now: Callable[[], dt.datetime],
    ) -> None:
        self._store = store
        self._authority = authority
        self._vkey = vkey
        self._publish = publish
        self._append = append
        self._now = now

    def run(self, interval: dt.timedelta | None = None) -> Stamping:
        """Stamp the newest checkpoint unless only the log's own bookkeeping is new, or the last stamp is younger than
        `interval`; finish what an earlier run began. Durable on return.

        Raises: StorageError (no stamp could be had, clocks disagree); VerificationError (an answer that proves
        nothing, a log that is damaged); MissingExtra.
        """
        self._publish()
        stamps = [*self._finish()]
        note = self._store.read_checkpoint()
        if note is None:
            raise AuditUnavailable(f"{self._store.url} has no checkpoint to stamp.")
        size = parse_checkpoint(parse_note(note).text).size
        last = stamps[-1] if stamps else self._last()
        why: _Why = "stamped"
        if last is not None and (last.size >= size or is_quiet(self._store.read_entries(last.size, size))):
            why = "nothing new"
        elif last is not None and interval is not None and self._now() - _moment(last) < interval:
            why = "not due"
        else:
            stamp = self._stamp(size, self._store.read_kept(size) or note)
            if stamp is None:
                why = "somebody else was faster"
            else:
                stamps.append(stamp)
        return Stamping(why, size, tuple(stamps))

    # --- what is there ----------------------------------------------------------------------------

    def _last(self) -> Stamp | None:
        """Return the last stamp that an entry names."""
        for size in sorted(self._tokens(), reverse=True):
            stamp = self._named(size)
            if stamp is not None:
                return stamp
        return None

    def _tokens(self) -> set[int]:
        sizes = (token_size(file.name) for file in self._store.inspect() if file.kind == "token")
        return {size for size in sizes if size is not None}

    def _named(self, size: int) -> Stamp | None:
        """Return what the entry says that names the token of `size`, None if none does."""
        for seq, line in enumerate(self._store.read_entries(size), size):
            if is_stamp(line):
                stamp = read_stamp(seq, line)
                if stamp.size == size:
                    return stamp
        return None

    # --- what a stopped run left ------------------------------------------------------------------

    def _finish(self) -> Iterator[Stamp]:
        """Name tokens that no entry names yet, and stamp checkpoints that were kept for a token that never came."""
        while (size := self._leftover()) is not None:
            self._check_leftovers()
            if self._store.read_token(size) is not None:
                yield self._adopt(size)
                continue
            stamp = self._stamp(size, self._store.read_kept(size) or b"")
            if stamp is None:
                return
            yield stamp

    def _leftover(self) -> int | None:
        """Return the smallest size above all named ones that has a token, or a checkpoint for which no rule asks."""
        last = self._last()
        begin = 0 if last is None else last.size
        tokens = self._tokens()
        kept = (kept_size(file.name) for file in self._store.inspect() if file.kind == "kept")
        for size in sorted(size for size in {*kept, *tokens} if size is not None and size > begin):
            asked = not size % KEPT_INTERVAL or any(map(names_checkpoint, self._store.read_entries(size - 1, size)))
            if size in tokens or not asked:
                return size
        return None

    def _check_leftovers(self) -> None:
        """Whoever can write here could have put it there: nothing is named for ever that verification would not take.

        Raises: LogDamaged.
        """
        verdict = verify(self._store, key=self._vkey, tsa_roots=self._authority.roots, now=self._now())
        for finding in verdict.broken:
            if finding.kind not in _LEFT:
                raise LogDamaged(
                    f"A run that stamped this log was stopped, and what lies there is not in order: {finding.message}",
                    kind_of_damage=finding.kind,
                )

    def _adopt(self, size: int) -> Stamp:
        kept, reply = self._store.read_kept(size) or b"", self._store.read_token(size) or b""
        token = parse_token(reply)
        self._check_clocks(token, size, adopting=True)
        return self._name(size, kept, reply, token)

    # --- one stamp --------------------------------------------------------------------------------

    def _stamp(self, size: int, kept: bytes) -> Stamp | None:
        """Have one checkpoint stamped; None if another process was faster. Durable on return."""
        reply, token = self._authority.stamp(kept)
        self._check_clocks(token, size)
        try:
            with self._store.publication() as publication:
                if self._store.read_token(size) is not None:
                    return None
                publication.put_kept(size, kept)
                publication.put_token(size, reply)
        except HeadConflict:
            return None
        return self._name(size, kept, reply, token)

    def _name(self, size: int, kept: bytes, reply: bytes, token: Token) -> Stamp:
        metadata = stamp_metadata(size, kept, reply, token)
        seq = self._append(EventType.CHECKPOINT_TIMESTAMPED.value, metadata)
        return Stamp(seq=seq, **metadata)

    def _check_clocks(self, token: Token, size: int, *, adopting: bool = False) -> None:
        """Refuse what verification would have to call a contradiction between the writer's clock and the stamp.

        A stamp of an earlier run (`adopting`) may be old.
        """
        allowed = TOLERANCE + token.accuracy
        moments = [min(self._now(), token.gen_time) if adopting else self._now()]
        for line in self._store.read_entries(size - 1, size):
            members = parse_members(line)
            if members is not None:
                moments.append(max(dt.datetime.fromisoformat(members.logged_at), token.gen_time))
        for moment in moments:
            if abs(moment - token.gen_time) > allowed:
                raise StorageError(
                    f"The time stamp states {token.stated}, but the log's clock says {moment:%Y-%m-%dT%H:%M:%SZ}.",
                    do=_CLOCK,
                )


def _moment(stamp: Stamp) -> dt.datetime:
    return dt.datetime.fromisoformat(stamp.gen_time)
