"""The checks that a watch makes: each looks at the log and says what it found, and what it thereby knows to be gone.

Checks that write need a writer; it is opened only when there is something to write, so that a log at rest stays at
rest: see `Bench.writer`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Final

from klingai_audit.config import Places, open_reader
from klingai_audit.detect.engine import Found, known_findings, only_detector, record_findings, run_rules
from klingai_audit.detect.rules import Rule
from klingai_audit.errors import KlingAuditError, StorageError
from klingai_audit.event.types import EventType
from klingai_audit.index import Index
from klingai_audit.kling.client import KlingAI
from klingai_audit.kling.flows import Retries
from klingai_audit.ledger.line import event_type_of, parse_members
from klingai_audit.ledger.reader import LogReader
from klingai_audit.log import AuditLog
from klingai_audit.privacy.policy import Policy
from klingai_audit.reconcile import reconcile
from klingai_audit.trust.verdict import Verdict
from klingai_audit.upkeep.stamping import is_stamp_due, stamp_now, time_authority
from klingai_audit.upkeep.witnessing import ask_witnesses, keep_cosigned, read_policy
from klingai_audit.watch.memory import Memory
from klingai_audit.watch.problems import Problem, failed, of_difference, of_found, of_verdict, state
from klingai_audit.witness.client import Submission, WitnessClient

__all__ = [
    "BOOKKEEPING",
    "Bench",
    "Outcome",
    "Verify",
    "compare",
    "detect",
    "look_for_life",
    "stamp",
    "verify",
    "witness",
]

Verify = Callable[[bool, Callable[[int, int], None]], Verdict]
"""Verifies the log, quickly if the first argument is true; tells the second how far it is (done, total)."""

BOOKKEEPING: Final = frozenset(
    {
        EventType.CHECKPOINT_WITNESSED,
        EventType.CHECKPOINT_TIMESTAMPED,
        EventType.LOG_OPENED,
        EventType.LOG_CLOSED,
        EventType.LOG_VERIFIED,
        EventType.VERIFICATION_FAILED,
        EventType.LOG_QUERIED,
        EventType.LOG_EXPORTED,
        EventType.REPORT_GENERATED,
        EventType.SUSPICIOUS_ACTIVITY,
        EventType.RECONCILED,
    }
)
"""Entries that are no sign of life of a service: checks, a watch's own among them, write them too."""

RECONCILE_SINCE: Final = "-7d"
PARTIAL_EVERY_S: Final = 3600.0
"""How often a checkpoint with too few cosignatures is kept, while the rest do not answer."""

ATTEMPTS: Final = 8
CAP_S: Final = 10.0
"""Longest pause before the provider is asked again: a watch that is to end does not wait for longer."""

_PIECE: Final = 1024


def _nothing(_problem: Problem) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check came to, in words, and the problems it found; `settles` picks the open ones that would have shown.

    `quiet` tells that there is nothing worth a line. `recorded` is whether an entry was written.
    """

    words: str
    problems: tuple[Problem, ...] = ()
    settles: Callable[[Problem], bool] = _nothing
    quiet: bool = False
    recorded: bool = False


@dataclass(slots=True)
class Bench:
    """What the checks of one watch work with. `check_end` raises when the watch is to end."""

    places: Places
    policy: Policy
    memory: Memory
    rules: tuple[Rule, ...]
    record: bool
    verify: Verify
    check_end: Callable[[], None]
    clock: Callable[[], float]
    environment: Mapping[str, str]
    _stack: ExitStack = field(default_factory=ExitStack)
    _writer: AuditLog | None = None

    @property
    def reader(self) -> LogReader:
        """The log. Raises: LogNotFound."""
        return open_reader(self.places)

    @property
    def now(self) -> dt.datetime:
        """The present time, UTC."""
        return dt.datetime.fromtimestamp(self.clock(), dt.UTC)

    def writer(self) -> AuditLog:
        """The log, open for writing until `put_away`. Raises: as `AuditLog.open`."""
        if self._writer is None:
            places = self.places
            self._writer = self._stack.enter_context(
                AuditLog.open(
                    places.address,
                    keys=places.keys,
                    state=places.state,
                    subjects=places.subjects,
                    vault=places.vault,
                    create=False,
                )
            )
        return self._writer

    def put_away(self) -> None:
        """Close the log if a check opened it. Raises: AuditUnavailable."""
        self._writer = None
        self._stack.close()

    def progress(self, *_: object) -> None:
        """Take what a check tells of its progress."""
        self.check_end()


def verify(bench: Bench, *, quick: bool) -> Outcome:
    """Verify the log; with a writer, each whole verification becomes an entry, and each new state of damage."""
    verdict = bench.verify(quick, bench.progress)
    problems = of_verdict(verdict)
    kind = "quick" if quick else "whole"
    noun = "finding" if len(verdict.broken) == 1 else "findings"
    words = f"{kind} verification of {verdict.size:,} entries: "
    words += "nothing is broken" if verdict.integrity_ok else f"{len(verdict.broken)} {noun}, evidence does not hold"
    if quick:
        return Outcome(words, tuple(problems), quiet=not problems)
    bench.memory.threats = {threat.threat: threat.state for threat in verdict.threats}
    broken = sorted(one.key for one in problems if one.level == "broken")
    recorded = False
    if bench.record and (not broken or bench.memory.recorded != broken):
        try:
            _record_verdict(bench, verdict)
            recorded = True
        except KlingAuditError as error:
            if not broken:  # a damaged log need not be fit for writing; the alert says what an entry would have said
                problems.append(failed("verify", error))
    bench.memory.recorded = broken
    return Outcome(words, tuple(problems), lambda _problem: True, recorded=recorded)


def _record_verdict(bench: Bench, verdict: Verdict) -> None:
    audit = bench.writer()
    audit.log(
        EventType.LOG_VERIFIED if verdict.integrity_ok else EventType.VERIFICATION_FAILED,
        resource_type="log",
        resource_id=audit.origin,
        action="watch",
        outcome="success" if verdict.integrity_ok else "failure",
        metadata={
            "command": "watch",
            "tree_size": verdict.size,
            "findings": [finding.kind for finding in verdict.findings],
        },
    ).wait("published")


def detect(bench: Bench) -> Outcome:
    """Run the detection rules; with a writer, each new finding becomes an entry."""
    told = frozenset(bench.memory.once)
    with ExitStack() as stack:
        index = stack.enter_context(closing(Index.open(bench.reader, bench.places.state / "index")))
        found = run_rules(index, bench.rules, now=bench.now, progress=bench.progress)
        fresh = [one for one in found if one.id not in known_findings(index)]
    problems = [of_found(one) for one in fresh if one.id not in told]
    words = f"{len(bench.rules)} detection rules: {len(problems)} new findings"
    recorded = False
    if bench.record and fresh:
        try:
            _record_found(bench, fresh)
            recorded = True
        except KlingAuditError as error:
            problems.append(failed("detect", error))
    return Outcome(words, tuple(problems), quiet=not problems, recorded=recorded)


def _record_found(bench: Bench, fresh: Sequence[Found]) -> None:
    with ExitStack() as stack:
        stack.enter_context(only_detector(bench.places.state))
        audit = bench.writer()
        audit.flush("published")
        index = stack.enter_context(closing(Index.open(audit.reader, bench.places.state / "index")))
        known = known_findings(index)
        record_findings(audit, [one for one in fresh if one.id not in known], index.size)


def witness(bench: Bench) -> Outcome:
    """Show the checkpoint to the witnesses if there is news, and keep what they cosigned."""
    policy = read_policy(bench.places.keys)
    if policy is None:
        return Outcome("no witnesses are named", settles=lambda _problem: True, quiet=True)
    missing = state("witness", "quorum_missing", "finding", f"Too few witnesses answer: {policy.describe()} are asked.")
    waiting = missing.key in bench.memory.open
    done = ask_witnesses(bench.reader, WitnessClient(policy), always=waiting)
    found = done.submission
    if found is None:
        return Outcome("nothing new for the witnesses", quiet=True)
    problems = [] if found.satisfied else [missing]
    kept = False
    try:
        kept = _keep(bench, found)
    except KlingAuditError as error:
        problems.append(failed("witness", error))
    if any(one.state == "ahead" for one in found.results):
        text = "A witness holds more entries than the log: an older state was put back, or there are two histories."
        problems.append(state("witness", "witness_ahead", "broken", text))
    if any(one.state == "refused" for one in found.results):
        text = "A witness does not accept that the log extends what it holds: two histories."
        problems.append(state("witness", "witness_refused", "broken", text))
    answers = ", ".join(f"{one.name} {one.state}" for one in found.results)
    return Outcome(
        f"witnesses at size {found.size:,}: {answers or 'nobody has an address'}",
        tuple(problems),
        lambda _problem: True,
        quiet=waiting and not found.satisfied,
        recorded=kept,
    )


def _keep(bench: Bench, found: Submission) -> bool:
    """Keep cosignatures; too few of them only now and then, as they are asked for again and again."""
    if not any(one.line is not None for one in found.results):
        return False
    if not found.satisfied:
        if 0 <= bench.clock() - bench.memory.kept_partial < PARTIAL_EVERY_S:
            return False
        bench.memory.kept_partial = bench.clock()
    keep_cosigned(bench.writer(), found)
    return True


def stamp(bench: Bench) -> Outcome:
    """Have the newest checkpoint stamped if that is due, and finish what a stopped run left."""
    span = bench.policy.timestamp.span
    left = any(
        problem.kind in ("kept_unexpected", "stamp_unexpected", "stamp_unfinished")
        for problem in bench.memory.open.values()
    )
    if not left and not is_stamp_due(bench.reader, span, bench.now):
        return Outcome("no time stamp is due", settles=lambda _problem: True, quiet=True)
    done = stamp_now(bench.writer(), time_authority(bench.policy, bench.places.keys), interval=span)
    words = f"time stamp at size {done.stamps[-1].size:,}" if done.stamps else f"no time stamp: {done.why}"
    return Outcome(words, settles=lambda _problem: True, recorded=bool(done.stamps))


def compare(bench: Bench) -> Outcome:
    """Compare the log with the provider's records of the last week; what is asked for is recorded as reads are."""
    audit = bench.writer()
    retries = Retries(attempts=ATTEMPTS, cap=CAP_S)
    with KlingAI(audit=audit, retries=retries) as kling:
        result = reconcile(audit, kling, RECONCILE_SINCE, resume=True, progress=bench.progress)
    told = frozenset(bench.memory.once)
    problems = [of_difference(found) for found in result.findings if found.unexplained]
    fresh = tuple(one for one in problems if one.key not in told)
    words = f"compared with the provider: {result.matched:,} agree, {len(problems)} do not, {len(fresh)} of these new"
    return Outcome(words, fresh, recorded=True)


def look_for_life(bench: Bench, within: dt.timedelta) -> Outcome:
    """Look when a service last wrote an entry or a heartbeat."""
    last = _last_life(bench.reader)
    silent = bench.now - last
    problems: tuple[Problem, ...] = ()
    if silent > within:
        text = "No entry and no heartbeat for longer than expected: is the service that writes this log running?"
        problems = (state("heartbeat", "stale_head", "finding", text),)
    return Outcome(f"last sign of life at {last:%Y-%m-%dT%H:%M:%SZ}", problems, lambda _problem: True, quiet=True)


def _last_life(reader: LogReader) -> dt.datetime:
    """When the last entry was logged that is more than a check's own. Raises: StorageError if there is none."""
    end = reader.size
    while end > 0:
        begin = max(0, end - _PIECE)
        lines = [line for line in reader.entries(begin, end) if event_type_of(line) not in BOOKKEEPING]
        members = parse_members(lines[-1]) if lines else None
        if members is not None:
            return dt.datetime.fromisoformat(members.logged_at)
        end = begin
    raise StorageError("No entry of the log tells when a service last wrote.")
