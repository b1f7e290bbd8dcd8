"""What verification says: findings, threats and the graded verdict. Never "valid" alone.

`FINDING_KINDS` is the one list of finding kinds; docs/when-it-fails.md has a section for each `page`.
Source: docs/cli.md, "JSON output".
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from klingai_audit.ledger.custody import Custody

__all__ = [
    "FINDING_KINDS",
    "THREATS",
    "THREAT_WORDS",
    "Finding",
    "FindingKind",
    "Severity",
    "State",
    "Threat",
    "ThreatName",
    "Unsigned",
    "Verdict",
    "distinct",
    "limited",
]

Severity = Literal["broken", "note"]

State = Literal["ruled_out", "detected", "not_ruled_out", "not_checked"]

ThreatName = Literal[
    "edit",
    "insert",
    "delete",
    "reorder",
    "head_cut",
    "tail_cut",
    "rollback",
    "fork",
    "back_dating",
    "foreign_key",
    "key_holder",
    "key_theft",
    "quantum",
]

THREATS: Final[tuple[ThreatName, ...]] = ThreatName.__args__  # type: ignore[attr-defined]
"""All threats in the order of the verdict."""

THREAT_WORDS: Final[Mapping[ThreatName, str]] = {
    "edit": "changing an entry",
    "insert": "slipping an entry in",
    "delete": "taking an entry out",
    "reorder": "reordering entries",
    "head_cut": "cutting off the beginning",
    "tail_cut": "cutting off the end",
    "rollback": "putting back an older state",
    "fork": "showing two histories to two readers",
    "back_dating": "dating entries back",
    "foreign_key": "rewriting all under another key",
    "key_holder": "rewriting by whoever holds the keys",
    "key_theft": "rewriting the past with stolen keys",
    "quantum": "forging by quantum computer",
}
"""Threat → what somebody would have done, in words."""

EXIT_BROKEN: Final = 4
MAX_FINDINGS: Final = 1000
"""Findings that a verdict lists one by one."""


@dataclass(frozen=True, slots=True)
class FindingKind:
    """What one kind of finding means, which threats it shows, and where the page tells what to do."""

    severity: Severity
    meaning: str
    page: str
    threats: tuple[ThreatName, ...] = ()


def _kinds() -> dict[str, FindingKind]:
    table: dict[str, FindingKind] = {}

    def add(page: str, severity: Severity, rows: Mapping[str, tuple[str, tuple[ThreatName, ...]]]) -> None:
        for kind, (meaning, threats) in rows.items():
            table[kind] = FindingKind(severity, meaning, page, threats)

    add(
        "checksum-mismatch",
        "broken",
        {
            "entry_changed": ("The entry's bytes are not those that were signed.", ("edit",)),
            "history_rewritten": (
                "The entries do not have the root that was signed; nothing tells which.",
                ("edit",),
            ),
            "unexplained": ("The log does not have its signed root, and no cause could be named.", ("edit",)),
            "entry_inserted": ("A line that was never signed stands among signed ones.", ("insert",)),
            "entry_duplicated": ("A signed entry stands there twice.", ("insert",)),
            "entry_moved": ("A signed entry stands at another place than it had.", ("reorder",)),
            "link_broken": ("prev_hash is not the hash of the entry before.", ("edit",)),
            "tree_changed": ("A stored tree hash is not that of the entries.", ()),
            "tree_short": ("Stored tree hashes are missing.", ()),
            "tree_long": ("There are more stored tree hashes than entries.", ()),
            "file_added": ("A day file holds no entry that was ever signed.", ("insert",)),
            "file_unexpected": ("The log holds something that is no part of a log.", ("insert",)),
            "sealed_changed": ("A sealed day is not the file that was sealed.", ()),
            "file_unreadable": ("A file of the log cannot be read.", ()),
        },
    )
    add(
        "missing-events",
        "broken",
        {
            "entry_missing": ("Entries that were signed are gone.", ("delete",)),
            "file_missing": ("All entries of one or more days are gone.", ("delete",)),
            "file_renamed": ("Entries stand under another file name than their day's.", ("reorder",)),
            "file_empty": ("A day file is empty.", ("delete",)),
            "head_cut": ("The first entries are gone.", ("head_cut",)),
            "tail_cut": ("The last entries are gone.", ("tail_cut",)),
            "purge_unauthorised": ("Entries are purged, and no entry of the log authorises it.", ("delete",)),
            "log_missing": ("There is no log, but one is remembered.", ("delete", "rollback")),
            "rollback": ("The log was longer than it is now.", ("rollback",)),
            "fork": ("Two signed histories of this log exclude each other.", ("fork",)),
        },
    )
    add(
        "forged-or-unfinished-lines",
        "broken",
        {
            "unsigned_tail": ("No signed checkpoint covers these lines.", ("insert",)),
            "torn_tail": ("The last line is incomplete.", ()),
        },
    )
    add(
        "not-of-the-format",
        "broken",
        {
            "entry_malformed": ("The entry is not of the form of docs/format.md.", ()),
            "entry_too_large": ("The entry has more than 65,535 bytes.", ()),
            "duplicate_member": ("An object holds one name twice: readers would disagree.", ()),
            "ledger_member": ("A ledger member stands where it does not belong.", ()),
            "unknown_version": ("The log or entry is of a version that this program does not know.", ()),
            "wrong_day": ("The entry lies in another day's file.", ("back_dating",)),
            "time_order": ("logged_at is before that of the entry before.", ("back_dating",)),
            "first_entry": ("The first entry does not describe this log.", ()),
        },
    )
    add(
        "checkpoints-and-keys",
        "broken",
        {
            "checkpoint_missing": ("There is no signed checkpoint.", ()),
            "checkpoint_behind": ("A kept checkpoint signs more of these lines than checkpoint: nothing is gone.", ()),
            "checkpoint_malformed": ("A checkpoint is not of the form of docs/format.md.", ()),
            "checkpoint_signature": ("A checkpoint's signature does not verify.", ()),
            "checkpoint_root": ("A signed checkpoint has another root than the log at that size.", ("fork",)),
            "kept_missing": ("A kept checkpoint is missing.", ()),
            "kept_unexpected": ("A checkpoint is kept that no rule asks for.", ()),
            "foreign_key": ("The log is signed by another key than the one you trust.", ("foreign_key",)),
            "key_disagreement": ("Two places name different keys for this log.", ("foreign_key",)),
            "epoch_signature": ("The epoch's signature is missing or does not verify.", ()),
            "epoch_misused": ("A later epoch's key signed what an earlier one had closed.", ("key_theft",)),
            "epoch_replaced": ("The first epoch's key is not the one you kept.", ("key_theft",)),
            "mldsa_missing": ("A checkpoint lacks the ML-DSA-44 line that it had.", ("quantum",)),
            "mldsa_invalid": ("An ML-DSA-44 line is not by the log's key, or does not verify.", ("quantum",)),
            "mldsa_replaced": ("The log's ML-DSA-44 key is not the one you kept, or gone.", ("quantum",)),
            "handover_invalid": ("A handover is not what the outgoing epoch signed.", ("key_theft",)),
            "cosignature_invalid": ("A witness's line in an entry does not verify.", ("fork",)),
            "witness_disagrees": ("Witnesses cosigned another history than this one.", ("fork", "key_holder")),
            "quorum_missing": ("Witnesses are demanded, and no checkpoint is cosigned by enough of them.", ()),
            "stamp_missing": ("A time stamp that an entry names is gone.", ("back_dating",)),
            "stamp_malformed": ("A time stamp, or what an entry says of one, is not of its form.", ("back_dating",)),
            "stamp_changed": ("A time stamp is not the one that the entry names.", ("back_dating",)),
            "stamp_moved": ("A time stamp is of another checkpoint than the one beside it.", ("back_dating",)),
            "stamp_untrusted": ("No root that you trust stands behind a time stamp.", ("back_dating",)),
            "stamp_unexpected": ("A time stamp lies in the log that no entry names.", ()),
            "back_dated": ("An entry claims an earlier time than a time stamp before it.", ("back_dating",)),
            "dated_ahead": ("An entry claims a later time than a time stamp over it.", ("back_dating",)),
            "memory_invalid": ("The remembered checkpoint is not one of this log.", ()),
        },
    )
    add(
        "notes",
        "note",
        {
            "heartbeat_gap": ("Over an hour of silence although a writer was open.", ()),
            "intent_overdue": ("An act was announced and its outcome never came.", ()),
            "unpublished": ("Lines that no checkpoint covers yet; policy tolerates them.", ()),
            "clock_step": ("The writer's clock jumped.", ()),
            "lines_set_aside": ("Unacknowledged lines were put aside and kept outside the log.", ()),
            "stamp_unfinished": ("A time stamp fits, but no entry names it: a writer was stopped just before.", ()),
            "purge_unfinished": ("Entries that are listed for purging are still there.", ()),
            "seal_unfinished": ("A day was being sealed or purged when the run was stopped.", ()),
            "open_gap": ("Events could not be recorded, and the gap was not closed.", ()),
            "migrated": ("The log goes on in another store.", ()),
            "migration_ignored": ("Entries follow one that says that the log goes on in another store.", ()),
            "equal_event_id": ("Two entries have the same event_id; views show one.", ()),
            "two_ends": ("One task has two different ends.", ()),
        },
    )
    return table


FINDING_KINDS: Final[Mapping[str, FindingKind]] = MappingProxyType(_kinds())
"""Every finding kind by name."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem and its place.

    Entries `[seq, seq_end)` are concerned, both None if no entry is. `file` is relative to the log and `line`
    counts from 1, each None where it cannot be told. The message never quotes an entry's content.
    """

    kind: str
    message: str
    seq: int | None = None
    seq_end: int | None = None
    file: str | None = None
    line: int | None = None

    def __post_init__(self) -> None:
        if self.seq is not None and self.seq_end is None:
            object.__setattr__(self, "seq_end", self.seq + 1)

    @property
    def severity(self) -> Severity:
        """`broken` (exit 4) or `note` (exit 0), by kind."""
        return FINDING_KINDS[self.kind].severity

    def as_json(self) -> dict[str, Any]:
        """The members of one finding in `verify --json`, in order."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "seq": self.seq,
            "seq_end": self.seq_end,
            "file": self.file,
            "line": self.line,
            "message": self.message,
        }


@dataclass(frozen=True, slots=True)
class Threat:
    """One threat: `by` says what rules it out or where it shows, `do` what to do if it is open or happened."""

    threat: ThreatName
    state: State
    by: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class Unsigned:
    """Lines that no checkpoint covers: how many, and `logged_at` of the oldest (None if there are none)."""

    entries: int = 0
    oldest: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The graded result of one verification.

    `size` is that of the signed checkpoint, `total` counts lines, `invalid` distinct entries in broken findings,
    `valid` the lines that are neither in such a finding nor beyond the checkpoint. `quick_from` is the size
    below which entries were not read again. `recorded` tells whether this check itself became an entry.
    """

    scope: Literal["log", "file"]
    log: str
    origin: str | None
    key: str | None
    key_source: str
    size: int
    total: int
    valid: int
    findings: tuple[Finding, ...]
    threats: tuple[Threat, ...]
    unsigned: Unsigned = Unsigned()
    purged: tuple[tuple[int, int, int], ...] = ()
    """Entries `[begin, end)` that are purged, and the entry that says so."""
    quick_from: int | None = None
    recorded: bool = False
    custody: Custody | None = None
    """Where the private keys lie, as far as this machine tells; None if nobody looked."""
    unlisted: tuple[Finding, ...] = field(default=(), repr=False, compare=False)
    """All findings where `findings` lists only the first of them, else empty."""
    memory: Any = field(default=None, repr=False, compare=False)
    """What `--quick` may start from next time (`trust.remember.Memory`); None unless the log is whole."""

    @property
    def broken(self) -> tuple[Finding, ...]:
        """The findings that make the exit code 4."""
        return tuple(finding for finding in self.findings if finding.severity == "broken")

    @property
    def notes(self) -> tuple[Finding, ...]:
        """The findings that do not."""
        return tuple(finding for finding in self.findings if finding.severity == "note")

    @property
    def integrity_ok(self) -> bool:
        """No broken finding. What that leaves open stands in `threats`."""
        return not self.broken

    @property
    def exit_code(self) -> int:
        """0 without broken findings, else 4."""
        return 0 if self.integrity_ok else EXIT_BROKEN

    @property
    def invalid(self) -> int:
        """How many distinct entries broken findings name."""
        broken = [finding for finding in self.unlisted or self.findings if finding.severity == "broken"]
        return distinct((f.seq, f.seq_end or f.seq + 1) for f in broken if f.seq is not None)

    def threat(self, name: ThreatName) -> Threat:
        """Return the threat of that name."""
        return next(threat for threat in self.threats if threat.threat == name)

    def with_recorded(self, recorded: bool) -> Verdict:  # noqa: FBT001  # the JSON member's own value
        """Return a copy that says whether this check became an entry."""
        return dataclasses.replace(self, recorded=recorded)

    def to_json(self) -> dict[str, Any]:
        """The object that `verify --json` prints, members in its order."""
        key = None if self.key is None else {"vkey": self.key, "source": self.key_source}
        head: dict[str, Any] = {"format": 1}
        if self.scope == "file":
            head["scope"] = "file"
        return head | {
            "log": self.log,
            "origin": self.origin,
            "key": key,
            "custody": None if self.custody is None else self.custody.as_json(),
            "size": self.size,
            "total": self.total,
            "valid": self.valid,
            "invalid": self.invalid,
            "integrity_ok": self.integrity_ok,
            "exit": self.exit_code,
            "quick_from": self.quick_from,
            "purged": [{"seq": begin, "seq_end": end, "by": by} for begin, end, by in self.purged],
            "unsigned": {"entries": self.unsigned.entries, "oldest": self.unsigned.oldest},
            "threats": [dataclasses.asdict(threat) for threat in self.threats],
            "findings": [finding.as_json() for finding in self.findings],
            "recorded": self.recorded,
        }


def limited(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return the first `MAX_FINDINGS`, then for each kind that there is more of one finding that says how many."""
    rest = Counter(finding.kind for finding in findings[MAX_FINDINGS:])
    more = (Finding(kind, f"{count:,} more of the kind {kind}.") for kind, count in rest.items())
    return (*findings[:MAX_FINDINGS], *more)


def distinct(ranges: Iterable[tuple[int, int]]) -> int:
    """Count the distinct integers in half-open ranges."""
    count, reached = 0, 0
    for begin, end in sorted(ranges):
        first = max(begin, reached)
        if end > first:
            count += end - first
            reached = end
    return count
