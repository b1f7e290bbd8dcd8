"""What a reconciliation found: findings with their evidence, counts, sums, and the digest of all of it."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import msgspec

from klingai_audit.event.record import format_time
from klingai_audit.reconcile.records import Pack

__all__ = ["KINDS", "Amounts", "Difference", "KindInfo", "Result", "amounts_json"]

Amounts = Mapping[str, Decimal]
"""Unit -> exact amount; units are never added to each other."""

EXIT_DIFFERENT: Final = 4


@dataclass(frozen=True, slots=True)
class KindInfo:
    """What a kind of finding means, and what to do about it; only what is unexplained has something to be done."""

    meaning: str
    do: str = ""

    @property
    def unexplained(self) -> bool:
        """Whether somebody has to look into it."""
        return bool(self.do)


KINDS: Final[Mapping[str, KindInfo]] = {
    "missing_here": KindInfo(
        "at the provider, but not ordered through the log",
        "Find out who used the key that the ledger names, and why around the log; then replace that key.",
    ),
    "missing_there": KindInfo(
        "in the log, but unknown to the provider",
        "Check that this is the right account; if it is, ask Kling's support about these ids.",
    ),
    "amount_differs": KindInfo(
        "charged otherwise than was stated when it ended",
        "Compare the amounts with the bill and ask Kling's support.",
    ),
    "state_differs": KindInfo(
        "ended otherwise at the provider than in the log",
        "Look at the story (klingai-audit show TASK) and at who reported that end.",
    ),
    "dangling_unresolved": KindInfo(
        "announced, without an outcome, and without an id to ask for",
        "Compare with the calls that are missing here: one of them may be what came of it.",
    ),
    "open_overdue": KindInfo(
        "running at the provider for more than a day",
        "Ask Kling's support; such a task holds a slot and may still be charged.",
    ),
    "balance_differs": KindInfo(
        "a change of a balance that no line of the ledger explains",
        "Compare the ledger with the account's bills.",
    ),
    "dangling_found": KindInfo("announced without an outcome; the provider has the task"),
    "dangling_absent": KindInfo("announced without an outcome; the provider has no such task"),
    "ended_there": KindInfo("without an end in the log; ended at the provider"),
    "open": KindInfo("still running"),
    "in_flight": KindInfo("announced just now; the deadline is not over"),
    "pending": KindInfo("too young for the ledger, which may lag by 12 hours: compare again later"),
    "unverifiable": KindInfo("too old to be asked for, or without an id that could be"),
    "before_log": KindInfo("from before this log began"),
}
"""Kinds of findings, in the order in which they are shown."""

MAX_EVIDENCE: Final = 100
"""Unexplained findings that the entry names one by one."""

MAX_DAYS: Final = 400
"""Days whose sums the entry holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One finding and its evidence: ids, entries (`seqs`), amounts by source (`log`, `task`, `ledger`).

    `key` is the fingerprint that the log has, `key_name` the name that the ledger has of the credential. `message`
    says what is peculiar to this one, if anything is.
    """

    kind: str
    task_id: str | None = None
    external_task_id: str | None = None
    seqs: tuple[int, ...] = ()
    at: dt.datetime | None = None
    log_state: str | None = None
    provider_state: str | None = None
    amounts: Mapping[str, Amounts | None] = field(default_factory=dict)
    key: str | None = None
    key_name: str | None = None
    model: str | None = None
    action: str | None = None
    message: str = ""

    @property
    def unexplained(self) -> bool:
        """Whether somebody has to look into it."""
        return KINDS[self.kind].unexplained

    def to_json(self) -> dict[str, Any]:
        """Return the members that have a value, as JSON values."""
        made: dict[str, Any] = {"kind": self.kind, "unexplained": self.unexplained}
        for name in (
            "task_id",
            "external_task_id",
            "log_state",
            "provider_state",
            "key",
            "key_name",
            "model",
            "action",
        ):
            if getattr(self, name) is not None:
                made[name] = getattr(self, name)
        if self.seqs:
            made["seqs"] = list(self.seqs)
        if self.at is not None:
            made["at"] = format_time(self.at)
        if self.amounts:
            made["amounts"] = {
                name: None if sums is None else amounts_json(sums) for name, sums in self.amounts.items()
            }
        if self.message:
            made["message"] = self.message
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of comparing the log with the provider's records of tasks ordered in [begin, end).

    `as_of` is when it was asked, `size` how many entries were compared. `matched` tasks agree in every respect;
    `findings` are all others. Sums are by unit: `log_sums` of what was ordered through the log, as its ends state,
    `ledger_sums` as deducted,
    `ledger_days` the latter by UTC day of the order. `keys` maps fingerprints of the log to names in the ledger.
    `provider` is its host, `lists` names what was read. `seq` is the entry that records this result, once there is one.
    """

    begin: dt.datetime
    end: dt.datetime
    as_of: dt.datetime
    origin: str
    size: int
    provider: str
    lists: tuple[str, ...]
    matched: int
    findings: tuple[Difference, ...]
    log_sums: Amounts
    ledger_sums: Amounts
    ledger_days: Mapping[str, Amounts]
    keys: Mapping[str, tuple[str, ...]]
    packs: tuple[Pack, ...] = ()
    seq: int | None = None

    @property
    def counts(self) -> dict[str, int]:
        """`matched`, then each kind of finding that there is, in the order of `KINDS`."""
        found = Counter(finding.kind for finding in self.findings)
        return {"matched": self.matched, **{kind: found[kind] for kind in KINDS if found[kind]}}

    @property
    def unexplained(self) -> int:
        """How many findings somebody has to look into."""
        return sum(finding.unexplained for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """4 if anything is unexplained, else 0."""
        return EXIT_DIFFERENT if self.unexplained else 0

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the result as JSON without `digest`, `recorded`, `seq`: sorted names, no blanks, UTF-8."""
        return hashlib.sha256(msgspec.json.encode(self._content(), order="sorted")).hexdigest()

    def of(self, kind: str) -> list[Difference]:
        """Return the findings of one kind."""
        return [finding for finding in self.findings if finding.kind == kind]

    def entry(self) -> dict[str, Any]:
        """Return what the entry `reconciled` says of it."""
        named = [finding for finding in self.findings if finding.unexplained][:MAX_EVIDENCE]
        content = self._content()
        taken = (
            "begin",
            "end",
            "as_of",
            "provider",
            "lists",
            "counts",
            "unexplained",
            "log_sums",
            "ledger_sums",
            "keys",
        )
        days = content["ledger_days"] if len(self.ledger_days) <= MAX_DAYS else {}
        return {
            "digest": self.digest,
            "tree_size": self.size,
            **{name: content[name] for name in taken},
            "ledger_days": days,
            "evidence": [
                {"kind": finding.kind, **({"task_id": finding.task_id} if finding.task_id else {})} for finding in named
            ],
        }

    def to_json(self) -> dict[str, Any]:
        """Return the whole result as JSON values, in the order of docs."""
        return {
            **self._content(), "exit": self.exit_code, "digest": self.digest, "recorded": self.seq is not None,
            "seq": self.seq,
        }  # fmt: skip

    def _content(self) -> dict[str, Any]:
        return {
            "begin": format_time(self.begin),
            "end": format_time(self.end),
            "as_of": format_time(self.as_of),
            "origin": self.origin,
            "size": self.size,
            "provider": self.provider,
            "lists": list(self.lists),
            "counts": self.counts,
            "unexplained": self.unexplained,
            "findings": [finding.to_json() for finding in self.findings],
            "log_sums": amounts_json(self.log_sums),
            "ledger_sums": amounts_json(self.ledger_sums),
            "ledger_days": {day: amounts_json(sums) for day, sums in self.ledger_days.items()},
            "keys": {key: list(names) for key, names in self.keys.items()},
            "packs": [msgspec.to_builtins(pack) for pack in self.packs],
        }


def amounts_json(sums: Amounts) -> dict[str, str]:
    """Return unit -> plain decimal text without needless zeros, sorted by unit."""
    return {unit: _plain(sums[unit]) for unit in sorted(sums)}


def _plain(amount: Decimal) -> str:
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
