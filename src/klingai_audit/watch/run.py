"""The watch itself: makes each check when it is due, compares with what it knew, and tells what changed, once.

Order of one round: checks, then the memory (with the message that is to be sent) is durable, then the message is sent.
So a watch that is killed at any moment tells everything at least once, under the same message id.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from klingai_audit.errors import KlingAuditError, LogNotFound, StorageError, UsageError
from klingai_audit.event.context import acting
from klingai_audit.watch import jobs
from klingai_audit.watch.channels import Channel, Context
from klingai_audit.watch.jobs import Bench, Outcome
from klingai_audit.watch.memory import MAX_WAITING, Memory, Message, load_memory, only_watch, save_memory
from klingai_audit.watch.problems import Alert, Problem, exit_code_of, failed
from klingai_audit.watch.rounds import Job, Round, Settings

if TYPE_CHECKING:
    from pathlib import Path

    from klingai_audit.config import Places
    from klingai_audit.detect.rules import Rule
    from klingai_audit.privacy.policy import Policy

__all__ = ["Watch"]

POLL_S: Final = 0.2
"""How soon an end that was asked for is noticed between checks."""

LONGEST_RETRY_S: Final = 3600.0
FIRST_RETRY_S: Final = 60.0
SEND_AGAIN_S: Final = 30.0
SEND_LONGEST_S: Final = 600.0
_UNREACHABLE: Final = 3


class _Ended(BaseException):
    """Somebody wants the watch to end; leaves a check under way."""


class Watch:
    """Watches one log. `verify` verifies it, `folder` is where is remembered what was done (None: nowhere).

    `actor` is named in entries that the watch writes. `stop` is asked whether to end.
    """

    def __init__(
        self,
        places: Places,
        policy: Policy,
        settings: Settings,
        verify: jobs.Verify,
        *,
        folder: Path | None,
        actor: str,
        rules: Sequence[Rule] = (),
        channels: Iterable[Channel] = (),
        stop: Callable[[], bool] = bool,
        clock: Callable[[], float] = time.time,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.settings = settings
        self._policy = policy
        self._folder = folder
        self._actor = actor
        self._channels = {channel.name: channel for channel in channels}
        self._stop = stop
        self._clock = clock
        self._environment = environment
        self._pauses: dict[str, float] = {}
        self._bench = Bench(
            places, policy, Memory(), tuple(rules), settings.record, verify, self._check_end, clock, environment
        )
        self._every = self._intervals()

    def run(self, told: Callable[[Round], None], *, once: bool = False, on_finding: bool = False) -> int:
        """Watch until `stop`; `once`: only what is due now; `on_finding`: until something was found.

        `told` gets each round. Returns the exit code: of what is open or was found, 0 if `stop` ended it.
        Raises: UsageError: another process watches, nothing to verify with; StorageError: the state folder is closed.
        """
        with only_watch(self._folder), acting(self._actor, actor_type="service"):
            self._bench.memory = load_memory(self._folder, self._origin())
            try:
                while not self._stop():
                    found = self.round()
                    if found is not None:
                        told(found)
                    if once:
                        return exit_code_of(self._memory.open.values()) if found is None else found.exit_code
                    if found is not None and on_finding and found.exit_code:
                        return found.exit_code
                    self._rest()
            except _Ended:
                pass
        return 0

    # What another thread may ask for while the watch runs.

    @property
    def done(self) -> dict[str, float]:
        """When each check was last made, in seconds since 1970 UTC."""
        return dict(self._memory.done)

    @property
    def open(self) -> list[Problem]:
        """What is there now."""
        return list(self._memory.open.values())

    @property
    def undelivered(self) -> dict[str, int]:
        """Messages that wait, by receiver."""
        return {name: len(waiting) for name, waiting in dict(self._memory.waiting).items()}

    def round(self) -> Round | None:
        """Do what is due; None if nothing was. Raises: as `run`."""
        memory, now = self._memory, self._clock()
        made = Round(dt.datetime.fromtimestamp(now, dt.UTC))
        fresh: list[Problem] = []
        try:
            for name in self._due(now):
                self._check_end()
                self._make(name, made, fresh)
        finally:
            self._put_away(made, fresh)
        if made.alerts:
            message = Message(id=f"watch_{secrets.token_hex(12)}", time=int(now), alerts=made.alerts)
            for name in self._channels:
                waiting = memory.waiting.setdefault(name, [])
                waiting.append(message)
                memory.lost[name] = memory.lost.get(name, 0) + max(0, len(waiting) - MAX_WAITING)
                del waiting[:-MAX_WAITING]
        if made.jobs:
            self._save(made)
        self._send(made)
        made.open = tuple(memory.open.values())
        made.undelivered = {name: len(waiting) for name, waiting in memory.waiting.items() if waiting}
        late = _UNREACHABLE if made.undelivered or made.late else 0
        made.exit_code = max(exit_code_of(made.open), exit_code_of(fresh))
        made.exit_code = made.exit_code if made.exit_code == 4 else max(made.exit_code, late)
        return made if made.jobs or made.delivered or made.trouble else None

    # --- checks -----------------------------------------------------------------------------------

    def _intervals(self) -> dict[str, float | None]:
        given = self.settings
        witness = given.witness if given.record else None
        stamping = given.record and bool(self._policy.timestamp.tsa)
        life = None if given.heartbeat is None else min(dt.timedelta(minutes=1), given.heartbeat / 10)
        spans = {
            "full": given.full,
            "quick": given.quick,
            "detect": given.detect if self._bench.rules else None,
            "witness": witness,
            "timestamp": dt.timedelta(minutes=1) if stamping else None,
            "reconcile": given.reconcile if given.record and self._has_credential() else None,
            "heartbeat": life,
        }
        return {name: None if span is None else span.total_seconds() for name, span in spans.items()}

    def _has_credential(self) -> bool:
        given = self._environment
        pair = given.get("KLINGAI_ACCESS_KEY") and given.get("KLINGAI_SECRET_KEY")
        return bool(given.get("KLINGAI_API_KEY") or pair)

    def _next(self, name: str) -> float:
        """When a check is due; a clock that was set back makes it due."""
        every, memory = self._every[name], self._memory
        if every is None:
            return float("inf")
        done = memory.done.get(name, 0.0)
        due = done + every if done <= self._clock() else 0.0
        return max(due, min(memory.again.get(name, 0.0), self._clock() + LONGEST_RETRY_S))

    def _due(self, now: float) -> list[str]:
        return [name for name in self._every if self._next(name) <= now]

    def _make(self, name: str, made: Round, fresh: list[Problem]) -> None:
        """Make one check; what it cannot do is a problem of its own."""
        if self._next(name) > self._clock():  # a whole verification is a quick one, too
            return
        source = "verify" if name in ("full", "quick") else name
        if source not in ("verify", "heartbeat") and self._is_damaged():
            self._postpone(name)
            made.jobs.append(Job(name, 0.0, "left out: the log does not hold", quiet=True))
            return
        begun = time.monotonic()
        try:
            outcome = self._check(name)
        except KlingAuditError as error:
            if source == "verify" and isinstance(error, UsageError):
                raise
            self._postpone(name)
            self._take(source, (failed(source, error),), lambda _problem: False, made, fresh)
            made.jobs.append(Job(name, time.monotonic() - begun, error.message, failed=True))
            return
        self._memory.done[name] = self._clock()
        self._memory.again.pop(name, None)
        self._take(source, outcome.problems, outcome.settles, made, fresh)
        made.jobs.append(Job(name, time.monotonic() - begun, outcome.words, outcome.quiet, outcome.recorded))

    def _check(self, name: str) -> Outcome:
        bench = self._bench
        match name:
            case "full":
                return self._verify_whole()
            case "quick":
                return self._verify_quickly()
            case "detect":
                return jobs.detect(bench)
            case "witness":
                return jobs.witness(bench)
            case "timestamp":
                return jobs.stamp(bench)
            case "reconcile":
                return jobs.compare(bench)
            case _:
                return jobs.look_for_life(bench, self.settings.heartbeat or dt.timedelta.max)

    def _verify_whole(self) -> Outcome:
        outcome = jobs.verify(self._bench, quick=False)
        self._memory.done["quick"] = self._clock()
        return outcome

    def _verify_quickly(self) -> Outcome:
        """Verify what is new; where that looks otherwise than before, a whole verification says what it is."""
        outcome = jobs.verify(self._bench, quick=True)
        broken = {problem.kind for problem in outcome.problems if problem.level == "broken"}
        changed = bool(broken) != self._memory.shaky
        self._memory.shaky = bool(broken)
        if not changed and broken <= {problem.kind for problem in self._memory.open.values()}:
            return Outcome(outcome.words, (), outcome.settles, quiet=outcome.quiet)
        whole = self._verify_whole()
        self._memory.done["full"] = self._clock()
        return whole

    def _is_damaged(self) -> bool:
        return any(one.source == "verify" and one.level == "broken" for one in self._memory.open.values())

    def _postpone(self, name: str) -> None:
        every = self._every[name] or LONGEST_RETRY_S
        self._memory.again[name] = self._clock() + max(FIRST_RETRY_S, min(every, LONGEST_RETRY_S))

    def _put_away(self, made: Round, fresh: list[Problem]) -> None:
        try:
            self._bench.put_away()
        except KlingAuditError as error:
            self._take("log", (failed("log", error),), lambda _problem: False, made, fresh)
            made.jobs.append(Job("log", 0.0, error.message, failed=True))
        else:
            self._take("log", (), lambda _problem: True, made, fresh)

    # --- what changed -----------------------------------------------------------------------------

    def _take(
        self,
        source: str,
        problems: Iterable[Problem],
        settles: Callable[[Problem], bool],
        made: Round,
        fresh: list[Problem],
    ) -> None:
        """Compare what a check found with what is known; what is new, back or gone is told."""
        memory = self._memory
        found = {problem.key: problem for problem in problems}
        for key, problem in found.items():
            if problem.once:
                if key not in memory.once:
                    memory.once.append(key)
                    fresh.append(problem)
                    made.alerts.append(Alert(change="new", problem=problem))
            elif key not in memory.open:
                back = key in memory.closed
                memory.closed = [one for one in memory.closed if one != key]
                made.alerts.append(Alert(change="again" if back else "new", problem=problem))
                memory.open[key] = problem
        for key, problem in list(memory.open.items()):
            gone = problem.source == source and key not in found
            if gone and (settles(problem) or problem.failure):
                del memory.open[key]
                memory.closed.append(key)
                made.alerts.append(Alert(change="gone", problem=problem))

    # --- telling ----------------------------------------------------------------------------------

    def _send(self, made: Round) -> None:
        memory = self._memory
        context = Context(origin=memory.origin, threats=memory.threats, open=len(memory.open))
        for name in [name for name in memory.waiting if name not in self._channels]:
            del memory.waiting[name]  # nobody is told there any more
        tried = False
        for name, channel in self._channels.items():
            waiting = memory.waiting.get(name, [])
            if not waiting or memory.again.get(f"send {name}", 0.0) > self._clock():
                continue
            tried = True
            try:
                while waiting:
                    channel.send(waiting[0], context)
                    made.delivered.append(f"{waiting.pop(0).id} to {name}")
                self._pauses.pop(name, None)
                memory.again.pop(f"send {name}", None)
                if lost := memory.lost.pop(name, 0):
                    made.trouble.append(f"{lost} older messages for {name} were dropped: it was away for too long.")
            except StorageError as error:
                pause = self._pauses[name] = min(SEND_LONGEST_S, 2 * self._pauses.get(name, SEND_AGAIN_S / 2))
                memory.again[f"send {name}"] = self._clock() + pause
                made.trouble.append(f"{error.message} Trying again in {pause:g} s.")
        if tried:
            self._save(made)

    def _save(self, made: Round) -> None:
        """Remember what was done; where that cannot be, the watch goes on and says so: a full disk is worth alerts."""
        try:
            save_memory(self._folder, self._memory)
        except StorageError as error:
            if error.message not in made.trouble:
                made.trouble.append(error.message)
            made.late = True

    # --- time -------------------------------------------------------------------------------------

    def _rest(self) -> None:
        waits = [self._memory.again.get(f"send {name}", 0.0) for name, left in self._memory.waiting.items() if left]
        until = min([*(self._next(name) for name in self._every), *waits], default=float("inf"))
        while not self._stop() and self._clock() < until:
            time.sleep(min(POLL_S, max(0.0, until - self._clock())))

    def _check_end(self) -> None:
        if self._stop():
            raise _Ended

    @property
    def _memory(self) -> Memory:
        return self._bench.memory

    def _origin(self) -> str:
        try:
            return self._bench.reader.origin
        except (KlingAuditError, OSError) as error:
            if isinstance(error, LogNotFound) or not isinstance(error, UsageError):
                return ""
            raise
