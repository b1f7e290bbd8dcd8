"""The time stamps of a log: what entries say of them, the tokens beside the kept checkpoints, and what they prove.

An entry names the digests of one kept checkpoint and of its token. So a token that is taken away, changed or put beside
another checkpoint shows without any certificate; who issued it is checked with the roots that the caller trusts.
Format: docs/format.md, "Time stamps".
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from klingai_audit.errors import InvalidSignature, Malformed, MissingExtra
from klingai_audit.event.types import EventType
from klingai_audit.ledger.line import event_type_of, parse_members
from klingai_audit.ledger.store import LogFile, Store
from klingai_audit.trust.authority import Roots
from klingai_audit.trust.look import Look, reader_of
from klingai_audit.trust.token import MAX_TOKEN_BYTES, Token, parse_token
from klingai_audit.trust.verdict import Finding
from klingai_audit.trust.witnessed import QUIET_TYPES

__all__ = [
    "TOLERANCE",
    "Stamp",
    "StampCheck",
    "Stamped",
    "is_stamp",
    "moment_of",
    "read_stamp",
    "stamp_metadata",
    "token_size",
]

TOLERANCE: Final = dt.timedelta(minutes=5)
"""How far the writer's clock and an authority's may differ before one of them is called wrong."""

_MEMBERS: Final = ("size", "checkpoint", "token", "tsa", "gen_time")
_PREFIX: Final = EventType.CHECKPOINT_TIMESTAMPED.encode() + b'"'
_TYPE_AT: Final = 118
_DIGEST: Final = 64
_LATEST: Final = 253_402_300_799
_BACK: Final = 64


class Stamp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What entry `seq` says: the kept checkpoint of `size` has the SHA-256 `checkpoint`, its token the SHA-256 `token`.

    `tsa` and `gen_time` (27 characters) repeat what the token states.
    """

    seq: int
    size: int
    checkpoint: str
    token: str
    tsa: str
    gen_time: str


@dataclass(frozen=True, slots=True)
class Stamped:
    """What the time stamps of a log establish.

    `count` tokens are in order, the last one over `size` entries, dated `gen_time` by `tsa`. `unchecked` says why
    nobody looked who issued them, empty if that was checked. If it was and the log is whole, it is `dated`: no entry
    is dated back by more than `lag` (None if there was no act), which the entries `[begin, end)` of `stretch` may be;
    `tail` tells that no stamp covers these yet. `unfinished` is the size of a token that no entry names. These bounds
    rest on so many `rounds` of witnesses too.
    """

    findings: tuple[Finding, ...] = ()
    known: tuple[Stamp, ...] = ()
    count: int = 0
    size: int = 0
    gen_time: dt.datetime | None = None
    tsa: str = ""
    unchecked: str = ""
    lag: dt.timedelta | None = None
    stretch: tuple[int, int] = (0, 0)
    tail: bool = False
    dated: bool = False
    unfinished: int | None = None
    rounds: int = 0


def moment_of(seconds: int) -> dt.datetime:
    """Return the moment of POSIX seconds, the latest that there is for what lies beyond it."""
    return dt.datetime.fromtimestamp(min(seconds, _LATEST), dt.UTC)


def is_stamp(line: bytes) -> bool:
    """Tell whether an entry tells of a time stamp."""
    return line.startswith(_PREFIX, _TYPE_AT)


def token_size(name: str) -> int | None:
    """Return the tree size in the name of a token file, None for other names."""
    digits = name.removeprefix("checkpoints/").removesuffix(".tsr")
    return int(digits) if name == f"checkpoints/{digits}.tsr" and len(digits) == 20 and digits.isdigit() else None


def stamp_metadata(size: int, kept: bytes, reply: bytes, token: Token) -> dict[str, Any]:
    """Return the metadata of a `checkpoint_timestamped` entry."""
    values = (size, hashlib.sha256(kept).hexdigest(), hashlib.sha256(reply).hexdigest(), token.name, token.stated)
    return dict(zip(_MEMBERS, values, strict=True))


class _Line(msgspec.Struct):
    metadata: dict[str, Any] = {}


def read_stamp(seq: int, line: bytes) -> Stamp:
    """Read what a `checkpoint_timestamped` entry says. Raises: Malformed."""
    try:
        metadata = msgspec.json.decode(line, type=_Line).metadata
        stamp = msgspec.convert({"seq": seq, **metadata}, Stamp)
        digests = bytes.fromhex(stamp.checkpoint) + bytes.fromhex(stamp.token)
    except (msgspec.DecodeError, ValueError, RecursionError) as exc:
        raise Malformed("it does not have the members of docs/format.md") from exc
    written = (stamp.checkpoint + stamp.token) == digests.hex() and len(stamp.token) == len(stamp.checkpoint) == _DIGEST
    if tuple(metadata) != _MEMBERS or not written:
        raise Malformed("it does not have the members of docs/format.md")
    if not 0 < stamp.size <= seq:
        raise Malformed(f"it names the size {stamp.size}, which does not come before it")
    return stamp


@dataclass(slots=True)
class StampCheck:
    """Checks the time stamps of one log. `place` tells file and line of an entry; `now` is the verifier's clock."""

    store: Store
    roots: Roots | None
    now: dt.datetime
    place: Callable[[int], tuple[str | None, int | None]]
    findings: list[Finding] = field(default_factory=list)
    _files: dict[int, LogFile] = field(default_factory=dict)
    _tokens: frozenset[str] = frozenset()
    _unchecked: str = ""
    _unfinished: int | None = None
    _points: list[tuple[int, dt.datetime]] = field(default_factory=list)

    def known(self, before: Sequence[Stamp], own: Sequence[tuple[int, bytes]]) -> tuple[Stamp, ...]:
        """Return what the log's `own` entries (seq, line) say of time stamps, after those known `before`."""
        found = list(before)
        for seq, line in own:
            if is_stamp(line):
                try:
                    found.append(read_stamp(seq, line))
                except Malformed as exc:
                    self._find("stamp_malformed", f"Entry {seq} tells of a time stamp, but {exc.message}.", seq)
        return tuple(found)

    def check(
        self, known: Sequence[Stamp], kept: Mapping[int, bytes], last: Look, *, size: int, whole: bool
    ) -> Stamped:
        """Check the tokens that entries name, and those that none names, up to the signed `size`.

        `kept` are the kept checkpoints by size that are signed by this log. Unless the log is `whole`, an entry that
        names a token may be gone, and nothing is said about dates.
        """
        self._files = {found: file for file in last.kind("token") if (found := token_size(file.name)) is not None}
        self._tokens = frozenset(stamp.token for stamp in known)
        good = [(stamp, token) for stamp in known if (token := self._check(stamp, kept)) is not None]
        if whole:
            self._check_unnamed(known, kept, size)
        result = Stamped(known=tuple(known), count=len({stamp.size for stamp, _ in good}), unfinished=self._unfinished)
        self._points = [(stamp.size, token.gen_time + token.accuracy) for stamp, token in good]
        if good:
            stamp, token = max(good, key=lambda one: one[0].size)
            result = replace(result, size=stamp.size, gen_time=token.gen_time, tsa=token.name)
            result = replace(result, unchecked=self._unchecked)
            if whole and not self._unchecked and all(finding.severity == "note" for finding in self.findings):
                self._contradictions(good)
                lag, stretch = self._widest(self._points, size)
                result = replace(result, lag=lag, stretch=stretch, tail=stretch[0] >= stamp.size, dated=True)
        return replace(result, findings=tuple(self.findings))

    def date_with(self, stamped: Stamped, rounds: Sequence[tuple[int, int]], size: int) -> Stamped:
        """Bound the dates by `rounds` of witnesses (size, POSIX seconds) too; for a log in which nothing is broken.

        Time stamps that nobody checked bound nothing.
        """
        if not rounds:
            return stamped
        points = [(seen, moment_of(seconds)) for seen, seconds in rounds]
        points += [] if self._unchecked else self._points
        lag, stretch = self._widest(points, size)
        tail = stretch[0] >= max(seen for seen, _ in points)
        return replace(stamped, lag=lag, stretch=stretch, tail=tail, dated=True, rounds=len(rounds))

    def _find(self, kind: str, message: str, seq: int | None, file: str | None = None) -> None:
        where = (file, None) if seq is None else self.place(seq)
        self.findings.append(Finding(kind, message, seq, None, *where))

    # --- tokens -----------------------------------------------------------------------------------

    def _check(self, stamp: Stamp, kept: Mapping[int, bytes]) -> Token | None:
        """Check one named token against its entry and the checkpoint; None if it is not in order."""
        checkpoint, seq = kept.get(stamp.size), stamp.seq
        name = f"checkpoints/{stamp.size:020}.tsr"
        if checkpoint is None:
            return None  # which is a finding of its own
        reply = self._read(stamp.size, name)
        if reply is None:
            self._find("stamp_missing", f"Entry {seq} names the time stamp {name}, which is gone.", None, name)
            return None
        digest = hashlib.sha256(reply).hexdigest()
        if hashlib.sha256(checkpoint).hexdigest() != stamp.checkpoint:
            self._find("stamp_moved", f"Entry {seq} tells of a time stamp of another checkpoint.", None, name)
        elif digest != stamp.token and digest in self._tokens:
            self._find("stamp_moved", f"{name} is the time stamp of another checkpoint.", None, name)
        elif digest != stamp.token:
            self._find("stamp_changed", f"{name} is not the time stamp that entry {seq} names.", None, name)
        else:
            return self._check_token(stamp, checkpoint, reply, name)
        return None

    def _check_token(self, stamp: Stamp, checkpoint: bytes, reply: bytes, name: str) -> Token | None:
        """Check a token that is the named one: whether the entry was right to name it."""
        token = self._parse(checkpoint, reply, name)
        if token is None:
            return None
        if (token.name, token.stated) != (stamp.tsa, stamp.gen_time):
            self._find("stamp_changed", f"Entry {stamp.seq} states another authority or time than {name}.", None, name)
        elif self._trusts(token, name):
            return token
        return None

    def _parse(self, checkpoint: bytes, reply: bytes, name: str) -> Token | None:
        """Read a token that is over `checkpoint`; None with a finding if it is not."""
        digest = hashlib.sha256(checkpoint).digest()
        try:
            token = parse_token(reply) if digest in reply else None
        except Malformed as exc:
            self._find("stamp_malformed", f"{name} is no time stamp: {exc.message}", None, name)
            return None
        if token is None or token.digest != digest:
            self._find("stamp_moved", f"{name} is a time stamp of something other than the file beside it.", None, name)
            return None
        return token

    def _read(self, size: int, name: str) -> bytes | None:
        file = self._files.get(size)
        if file is None:
            return None
        try:
            return reader_of(self.store, file)(0, min(file.size, MAX_TOKEN_BYTES + 1))
        except OSError as exc:
            self.findings.append(Finding("file_unreadable", f"{name} cannot be read: {exc.strerror}.", file=name))
            return b""

    def _trusts(self, token: Token, name: str) -> bool:
        """Check who issued a token, if roots are given and the library is there; False if that fails."""
        if self.roots is None:
            self._unchecked = "no root certificates of time stamp authorities were given"
            return True
        try:
            self.roots.verify(token, token.digest)
        except MissingExtra as exc:
            self._unchecked = exc.message.rstrip(".").lower()
            return True
        except InvalidSignature as exc:
            self._find("stamp_untrusted", f"{name}: {exc.message}", None, name)
            return False
        if token.gen_time > self.now + TOLERANCE + token.accuracy:
            self._find("stamp_untrusted", f"{name} is dated {token.stated}, which is in the future.", None, name)
            return False
        return True

    def _check_unnamed(self, known: Sequence[Stamp], kept: Mapping[int, bytes], size: int) -> None:
        """A token that no entry names: a writer may have been stopped, once, just before it wrote that entry."""
        named = {stamp.size for stamp in known}
        begin = max(named, default=0)
        for at, file in sorted(self._files.items()):
            if at in named:
                continue
            checkpoint, reply = kept.get(at), self._read(at, file.name)
            if checkpoint is None or reply is None or at <= begin or at > size:
                self._find("stamp_unexpected", f"No entry names the time stamp {file.name}.", None, file.name)
                continue
            token = self._parse(checkpoint, reply, file.name)
            if token is not None and self._trusts(token, file.name):
                message = (
                    f"{file.name} fits its checkpoint, but no entry names it: a writer was stopped just before. "
                    f"Run once: klingai-audit timestamp"
                )
                self._find("stamp_unfinished", message, None, file.name)
                self._unfinished, begin = at, size  # one at most

    # --- dates ------------------------------------------------------------------------------------

    def _contradictions(self, good: Sequence[tuple[Stamp, Token]]) -> None:
        """Compare dates of entries with those of stamps.

        What a stamp covers existed when it was made, and what follows the entry that names it did not exist before.
        """
        for stamp, token in sorted(good, key=lambda one: one[0].size):
            allowed = TOLERANCE + token.accuracy
            named = self._logged_at(stamp.seq)
            if named is not None and named < token.gen_time - allowed:
                message = (
                    f"Entry {stamp.seq} claims to be logged at {named:%Y-%m-%d %H:%M:%S} UTC, but it names a time "
                    f"stamp that was issued at {token.gen_time:%Y-%m-%d %H:%M:%S} UTC."
                )
                self._find("back_dated", message, stamp.seq)
            last = self._logged_at(stamp.size - 1)
            if last is not None and last > token.gen_time + allowed:
                message = (
                    f"Entry {stamp.size - 1} claims to be logged at {last:%Y-%m-%d %H:%M:%S} UTC, but it existed "
                    f"when a time stamp was issued at {token.gen_time:%Y-%m-%d %H:%M:%S} UTC."
                )
                self._find("dated_ahead", message, stamp.size - 1)

    def _widest(
        self, points: Sequence[tuple[int, dt.datetime]], size: int
    ) -> tuple[dt.timedelta | None, tuple[int, int]]:
        """Return the widest time from an act to when it surely existed, and between which sizes that is.

        `points` are (size, moment): so many entries existed then. All `size` of them exist now.
        """
        widest: dt.timedelta | None = None
        stretch, end, bound = (0, 0), size, self.now
        for begin, moment in sorted([*points, (0, self.now)], reverse=True):
            first = self._first_act(begin, end)
            lag = None if first is None else max(bound - first, dt.timedelta())
            if lag is not None and (widest is None or lag >= widest):
                widest, stretch = lag, (begin, end)
            end, bound = min(end, begin), min(bound, moment)
        return widest, stretch

    def _first_act(self, begin: int, end: int) -> dt.datetime | None:
        """Return when the first of the entries `[begin, end)` that is an act was logged, by its own word."""
        acts = (line for line in self._lines(begin, end) if event_type_of(line) not in QUIET_TYPES)
        return next((time for line in acts if (time := _time_of(line)) is not None), None)

    def _logged_at(self, seq: int) -> dt.datetime | None:
        """Return when entry `seq` was logged by its own word, or if it is purged, the last one before that is not."""
        for end in range(seq + 1, 0, -_BACK):
            times = [_time_of(line) for line in self._lines(max(0, end - _BACK), end)]
            if known := [time for time in times if time is not None]:
                return known[-1]
        return None

    def _lines(self, begin: int, end: int) -> Iterator[bytes]:
        return self.store.read_entries(begin, end) if begin < end else iter(())


def _time_of(line: bytes) -> dt.datetime | None:
    members = parse_members(line)
    return None if members is None else dt.datetime.fromisoformat(members.logged_at)
