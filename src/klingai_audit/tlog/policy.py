"""Witness policies: which logs are meant, which witnesses there are, and how many of whom must have cosigned.

Source: C2SP tlog-policy (draft).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from klingai_audit.errors import Malformed
from klingai_audit.tlog.keys import COSIGNATURE, ED25519, ML_DSA_44, VerifierKey
from klingai_audit.tlog.strict import check_printable, parse_decimal

__all__ = ["MAX_POLICY_BYTES", "MAX_POLICY_ITEMS", "Group", "PolicyItem", "WitnessPolicy"]

MAX_POLICY_BYTES = 1_000_000
MAX_POLICY_ITEMS = 1_000  # of each kind; the draft asks for at least 32
_NONE = "none"
_COSIGNING = (COSIGNATURE, ML_DSA_44)


@dataclass(frozen=True, slots=True)
class PolicyItem:
    """A log or a witness of a policy: its key, the name the policy uses for it, and where it is reached, if told."""

    name: str
    key: VerifierKey
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A group of witnesses and groups, by name: satisfied when `needed` of its `members` are."""

    name: str
    needed: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WitnessPolicy:
    """A parsed policy. `quorum` names a witness or a group, or is None: then no cosignature is needed."""

    logs: tuple[PolicyItem, ...] = ()
    witnesses: tuple[PolicyItem, ...] = ()
    groups: tuple[Group, ...] = ()
    quorum: str | None = None
    _groups: Mapping[str, Group] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def parse(cls, data: bytes) -> WitnessPolicy:
        """Read a policy file. Raises: Malformed, naming the line (from 1)."""
        if len(data) > MAX_POLICY_BYTES:
            raise Malformed(f"A witness policy has at most {MAX_POLICY_BYTES} bytes, not {len(data)}.")
        try:
            lines = data.decode("utf-8").split("\n")
        except UnicodeDecodeError as exc:
            raise Malformed("The witness policy is not UTF-8.") from exc
        builder = _Builder()
        for number, line in enumerate(lines, 1):
            try:
                builder.take(line)
            except Malformed as exc:
                raise Malformed(f"Line {number} of the witness policy: {exc.message}") from exc
        return builder.done()

    @property
    def keys(self) -> tuple[VerifierKey, ...]:
        """The keys of all witnesses, in the order of the policy."""
        return tuple(witness.key for witness in self.witnesses)

    def is_satisfied(self, signed: Collection[VerifierKey]) -> bool:
        """Tell whether cosignatures by the keys `signed`, all verified by the caller, are enough."""
        if self.quorum is None:
            return True
        names = {witness.name for witness in self.witnesses if witness.key in signed}
        return self._holds(self.quorum, names)

    def time_of(self, times: Mapping[VerifierKey, int]) -> int | None:
        """Return the earliest time at which the cosignatures made by then are enough, None if they never are.

        `times` are those that verified cosignatures state, in POSIX seconds.
        """
        moments = sorted(set(times.values()))
        return next((at for at in moments if self.is_satisfied([key for key, t in times.items() if t <= at])), None)

    def _holds(self, name: str, signed: Collection[str]) -> bool:
        group = self._groups.get(name)
        if group is None:
            return name in signed
        return sum(self._holds(member, signed) for member in group.members) >= group.needed

    def describe(self) -> str:
        """Return in words what the quorum asks for: `2 of 3 witnesses`, `w1`, `none`."""
        if self.quorum is None:
            return _NONE
        group = self._groups.get(self.quorum)
        return self.quorum if group is None else f"{group.needed} of {len(group.members)} ({', '.join(group.members)})"


class _Builder:
    """Takes lines in order and remembers what they must not repeat."""

    def __init__(self) -> None:
        self.logs: list[PolicyItem] = []
        self.witnesses: list[PolicyItem] = []
        self.groups: dict[str, Group] = {}
        self.quorum: tuple[str | None] | None = None
        self._names: set[str] = set()
        self._grouped: set[str] = set()
        self._keys: set[tuple[int, bytes]] = set()

    def take(self, line: str) -> None:
        """Take one line, without its LF."""
        text = line.partition("#")[0].replace("\t", " ")
        check_printable(text, "The line")
        words = text.split(" ")
        items = [word for word in words if word]
        if not items:
            return
        kind, *rest = items
        takers = {"log": self._log, "witness": self._witness, "group": self._group, "quorum": self._quorum}
        taker = takers.get(kind)
        if taker is None:
            raise Malformed("it begins with none of log, witness, group, quorum.")
        taker(rest)

    def done(self) -> WitnessPolicy:
        """Return the policy. Raises: Malformed without a quorum line."""
        if self.quorum is None:
            raise Malformed("The witness policy has no quorum line.")
        groups = tuple(self.groups.values())
        return WitnessPolicy(tuple(self.logs), tuple(self.witnesses), groups, self.quorum[0], dict(self.groups))

    def _log(self, items: list[str]) -> None:
        if not 1 <= len(items) <= 2 or len(self.logs) >= MAX_POLICY_ITEMS:
            raise Malformed("a log is `log <vkey> [<url>]`.")
        key = self._key(items[0])
        self.logs.append(PolicyItem(key.name, key, items[1] if len(items) > 1 else None))

    def _witness(self, items: list[str]) -> None:
        if not 2 <= len(items) <= 3 or len(self.witnesses) >= MAX_POLICY_ITEMS:
            raise Malformed("a witness is `witness <name> <vkey> [<url>]`.")
        key = self._key(items[1])
        if key.algorithm not in _COSIGNING:
            raise Malformed(f"a witness key is of type 0x04 or 0x06, not {key.algorithm:#04x}.")
        self.witnesses.append(PolicyItem(self._name(items[0]), key, items[2] if len(items) > 2 else None))

    def _group(self, items: list[str]) -> None:
        if len(items) < 3 or len(self.groups) >= MAX_POLICY_ITEMS:
            raise Malformed("a group is `group <name> all|any|<k> <member>...`.")
        name, needed, *members = items
        for member in members:
            if member not in self._names:
                raise Malformed("a member of the group is named by no line before it.")
            if member in self._grouped or members.count(member) > 1:
                raise Malformed("a member of the group is a member already.")
        counts = {"all": len(members), "any": 1}
        count = counts[needed] if needed in counts else parse_decimal(needed, "the number of members that must sign")
        if not 1 <= count <= len(members):
            raise Malformed(f"{count} of {len(members)} members can never be.")
        self._grouped.update(members)
        self.groups[self._name(name)] = Group(name, count, tuple(members))

    def _quorum(self, items: list[str]) -> None:
        if len(items) != 1 or self.quorum is not None:
            raise Malformed("there is exactly one line `quorum <name>|none`.")
        if items[0] != _NONE and items[0] not in self._names:
            raise Malformed("the quorum is named by no line before it.")
        self.quorum = (None if items[0] == _NONE else items[0],)

    def _name(self, name: str) -> str:
        if name in self._names or name == _NONE:
            raise Malformed("the name is taken.")
        self._names.add(name)
        return name

    def _key(self, vkey: str) -> VerifierKey:
        key = VerifierKey.parse(vkey)
        identity = (0 if key.algorithm in (ED25519, COSIGNATURE) else key.algorithm, key.key_bytes)
        if identity in self._keys:
            raise Malformed("the public key stands in an earlier line, too.")
        self._keys.add(identity)
        return key
