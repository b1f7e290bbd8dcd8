"""The lines of the checklist: how each is judged from the evidence. The words of a line never hold content."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from klingai_audit.event.types import CATEGORIES, EVENT_TYPES, category_of, is_canonical
from klingai_audit.privacy.policy import Policy
from klingai_audit.report.evidence import Evidence

__all__ = ["LIGHTS", "Light", "Line", "judge"]

Light = Literal["green", "yellow", "red", "unknown"]
LIGHTS: Final[tuple[Light, ...]] = ("green", "yellow", "red", "unknown")
"""States of a line; `unknown` is what nothing here can tell."""

_WORST: Final[Mapping[Light, int]] = {"green": 0, "unknown": 1, "yellow": 2, "red": 3}
_DAY: Final = dt.timedelta(days=1)
_RECONCILED_WITHIN: Final = dt.timedelta(days=7)
_REVIEWED_WITHIN: Final = dt.timedelta(days=92)
_VERIFIED_WITHIN: Final = dt.timedelta(days=7)
_LONG_AGO: Final = dt.timedelta(days=30)
_SHORTEST_DAYS: Final = 365
_LONGEST_DAYS: Final = 2557
_MUST_COMMIT: Final = ("prompt", "*_prompt")


@dataclass(frozen=True, slots=True)
class Line:
    """One line: `id` and `title` never change; `words` say why it has its state, `do` is the command that mends it."""

    id: str
    title: str
    state: Light
    words: str
    do: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The members in `status --json`."""
        return {
            "id": self.id,
            "title": self.title,
            "state": self.state,
            "words": self.words,
            "do": self.do or None,
            "evidence": dict(self.evidence),
        }


class _Judge:
    """Collects what is said of one line; the worst decides its state and gives its command."""

    def __init__(self, id: str, title: str) -> None:
        self._id, self._title = id, title
        self._said: list[tuple[Light, str, str]] = []
        self.evidence: dict[str, Any] = {}

    def say(self, state: Light, words: str, do: str = "") -> None:
        self._said.append((state, words, do))

    def line(self) -> Line:
        ordered = sorted(self._said, key=lambda one: -_WORST[one[0]])
        words = "; ".join(one[1] for one in ordered)
        do = next((one[2] for one in ordered if one[2]), "")
        return Line(self._id, self._title, ordered[0][0], f"{words[0].upper()}{words[1:]}.", do, self.evidence)


def judge(found: Evidence) -> tuple[Line, ...]:
    """Return the lines in their order."""
    return tuple(one(found) for one in (_calls, _prompts, _chain, _retention, _access, _regular, _anchors, _backups))


def _calls(found: Evidence) -> Line:
    said = _Judge("calls_logged", "All API calls are logged with time, actor and action")
    if found.log is None:
        return _unread(said, found)
    acts, tasks, last = found.log["acts"], found.log["open"], found.log["reconciliation"]["last"]
    said.evidence |= {name: acts[name] for name in ("acts", "calls", "announced", "unknown_actor", "without_action",
                                                    "without_time", "last")}  # fmt: skip
    said.evidence |= {"seen_by": acts["via"], "acts_without_outcome": tasks["overdue"], "open_gaps": found.log["gaps"],
                      "in_spool": found.waiting}  # fmt: skip
    if not acts["acts"]:
        said.say("unknown", "no act is recorded yet", "klingai-audit demo")
        return said.line()
    if acts["without_time"] or acts["unknown_actor"]:
        count = max(acts["without_time"], acts["unknown_actor"])
        said.say("yellow", f"{_many(count, 'act names', 'acts name')} nobody as actor: bind who acts",
                 "klingai-audit query --actor unknown")  # fmt: skip
    if acts["without_action"]:
        said.say("yellow", f"{_many(acts['without_action'], 'act has', 'acts have')} no action")
    if not acts["announced"]:
        said.say("yellow", "no call was captured before it left: the entries rest on what callers declare",
                 "Let a client be captured: docs/how-to/audit-existing-clients.md")  # fmt: skip
    if found.waiting:
        said.say("yellow", f"{_many(found.waiting, 'record waits', 'records wait')} in the spool, not in the log",
                 "Make the log reachable, and open it for writing: docs/how-to/failure-policy.md")  # fmt: skip
    if found.log["gaps"]:
        said.say("red", f"{_many(found.log['gaps'], 'gap', 'gaps')} in recording not closed",
                 "klingai-audit query --type gap_opened")  # fmt: skip
    if tasks["overdue"]:
        said.say("yellow", f"{_many(tasks['overdue'], 'announced act has', 'announced acts have')} no outcome",
                 "klingai-audit reconcile")  # fmt: skip
    _compared(said, found, last)
    if acts["announced"] and last is not None:
        said.say("green", f"{acts['acts']:,} acts, the last on {acts['last'][:10]}")
    return said.line()


def _compared(said: _Judge, found: Evidence, last: Mapping[str, Any] | None) -> None:
    """Say what the last comparison with the provider found: it alone shows calls around the log."""
    said.evidence["reconciled"] = None if last is None else {
        "seq": last["seq"], "at": last["timestamp"], "outcome": last["outcome"], "unexplained": last["unexplained"],
    }  # fmt: skip
    if last is None:
        said.say("yellow", "never compared with the provider's records, so a call around the log would not show",
                 "klingai-audit reconcile")  # fmt: skip
        return
    if last["outcome"] != "success" or last["unexplained"]:
        count = last["unexplained"] or 1
        said.say("red", f"the comparison of {last['timestamp'][:10]} left {_many(count, 'difference', 'differences')} "
                 "unexplained: a call may have gone around the log",
                 f"klingai-audit show {last['seq']}")  # fmt: skip
        return
    age = found.now - _when(last["timestamp"])
    if age > _RECONCILED_WITHIN:
        said.say("yellow", f"compared with the provider {_ago(age)}", "klingai-audit reconcile")
    else:
        said.say("green", f"compared with the provider {_ago(age)}, nothing unexplained")


def _prompts(found: Evidence) -> Line:
    said = _Judge("prompts_not_plain", "Prompts are never stored in plain")
    if found.log is None:
        return _unread(said, found)
    leaks = found.log["leaks"]
    said.evidence |= {
        "searched": leaks["entries"],
        "entries": found.size,
        "plain_prompts": leaks["prompts"],
        "credentials_or_addresses": leaks["total"],
        "seqs": [leak["seq"] for leak in leaks["found"]][:20],
    }
    if leaks["prompts"]:
        said.say("red", f"{_many(leaks['prompts'], 'entry holds', 'entries hold')} a prompt as text",
                 "klingai-audit report --framework gdpr -o gdpr.html")  # fmt: skip
    if leaks["total"]:
        first = leaks["found"][0]["seq"]
        said.say("red", f"{_many(leaks['total'], 'entry holds', 'entries hold')} a credential or an e-mail "
                 f"address, the first is {first}", f"klingai-audit show {first}")  # fmt: skip
    if leaks["too_many"]:
        said.say("yellow", "too many entries look suspicious to look at each")
    lost = [name for name in _MUST_COMMIT if found.policy is not None and name not in found.policy.privacy.commit]
    if lost:
        said.say("red", f"the policy no longer withholds {' and '.join(lost)}",
                 "Add the names to privacy.commit in policy.toml")  # fmt: skip
    if found.policy is None:
        said.say("yellow", found.policy_trouble.rstrip("."))
    if not leaks["entries"] or not found.log["acts"]["acts"]:
        said.say("unknown", "there is no entry of an act to search")
    elif leaks["entries"] < found.size:
        said.say(
            "green", f"none in the newest {leaks['entries']:,} of {found.size:,} entries; the rest was not searched"
        )
    elif not said.evidence["plain_prompts"] and not leaks["total"]:
        said.say("green", f"none in {leaks['entries']:,} entries")
    return said.line()


def _chain(found: Evidence) -> Line:
    said = _Judge("chain_verifiable", "The chain can be verified, and holds")
    if found.verdict is not None:
        kinds = sorted({finding.kind for finding in found.verdict.broken})
        said.evidence |= {"verified_now": True, "holds": found.verdict.integrity_ok, "tree_size": found.verdict.size,
                          "findings": kinds}  # fmt: skip
        if found.verdict.integrity_ok:
            said.say("green", f"verified now: {found.verdict.size:,} entries hold")
        else:
            said.say("red", f"verified now: broken ({', '.join(kinds)})", "klingai-audit verify")
        return said.line()
    runs = found.log["verifications"] if found.log is not None else []
    last = runs[0] if runs else None
    said.evidence |= {"verified_now": False, "last": last, "checked_here": _checked(found),
                      "watch_alarm": _alarms(found)}  # fmt: skip
    if found.log is None:
        said.say("red", f"the log cannot be read: {found.trouble}".rstrip("."), "klingai-audit verify")
    if alarms := _alarms(found):
        said.say("red", f"the watch found what is broken: {', '.join(alarms)}", "klingai-audit verify")
    if last is not None and not last["holds"]:
        said.say("red", f"the last recorded verification failed, on {last['at'][:10]} (entry {last['seq']})",
                 "klingai-audit verify")  # fmt: skip
    elif last is not None:
        said.say("green", f"held when verified {_ago(found.now - _when(last['at']))} (entry {last['seq']}"
                 + (f", {last['tree_size']:,} entries)" if last["tree_size"] is not None else ")"))  # fmt: skip
    elif found.checked is not None:
        size, when = found.checked
        said.say("green", f"held when this machine verified {size:,} entries {_ago(found.now - when)}; not recorded")
    elif found.log is not None:
        said.say("unknown", "no verification is recorded or remembered", "klingai-audit verify --record")
    return said.line()


def _retention(found: Evidence) -> Line:
    said = _Judge("retention_1_to_7_years", "Entries are kept for one to seven years")
    if found.policy is None:
        said.say("unknown", found.policy_trouble.rstrip("."), "Name the keys folder: --keys")
        return said.line()
    spans = _spans(found.policy, found.log)
    least, most = min(span[0] for span in spans), max(span[1] or 36_500 for span in spans)
    said.evidence |= {"minimum_days": least, "maximum_days": None if most == 36_500 else most}
    if least < _SHORTEST_DAYS:
        said.say(
            "red", f"by policy entries may go after {least:,} days", "klingai-audit policy set retention.minimum 365d"
        )
    if most > _LONGEST_DAYS:
        words = "for ever" if most == 36_500 else f"for {most:,} days"
        said.say(
            "yellow", f"by policy some entries are kept {words}", "klingai-audit policy set retention.maximum 2557d"
        )
    if found.log is None:
        said.say("unknown", "how old entries are cannot be seen", "klingai-audit verify")
        return said.line()
    kept = found.log["retention"]
    said.evidence |= {name: kept[name] for name in ("oldest", "due", "purged", "last_purge", "holds")}
    named = found.log["policy_named"]
    said.evidence["policy_is_the_recorded_one"] = named == found.policy.digest
    if named != found.policy.digest:
        said.say("yellow", "policy.toml is not the one that the log names last",
                 "klingai-audit verify --record")  # fmt: skip
    if kept["due"]:
        words = f"{_many(kept['due'], 'entry is', 'entries are')} past the maximum"
        held = f"; {_many(len(kept['holds']), 'hold', 'holds')} may keep some of them" if kept["holds"] else ""
        said.say("yellow", words + held, "klingai-audit retention apply")
    age = (found.now - _when(kept["oldest"])).days if kept["oldest"] else 0
    oldest = f"the oldest is {age:,} days old" if kept["oldest"] else "there is none yet"
    purged = f", {kept['purged']:,} were purged" if kept["purged"] else ""
    said.say("green", f"policy keeps entries {least:,} to {most:,} days; {oldest}{purged}"
             if most != 36_500 else f"{oldest}{purged}")  # fmt: skip
    return said.line()


def _spans(policy: Policy, log: Mapping[str, Any] | None) -> list[tuple[int, int | None]]:
    """Return minimum and maximum of every class that the policy has, but for the log's own entries."""
    kinds = {name for name in (log["retention"]["types"] if log else ()) if is_canonical(name)}
    kinds |= {name for name in policy.retention.classes if name not in (*CATEGORIES, "custom")} | {"x_any"}
    kinds |= set(EVENT_TYPES)
    periods = [policy.retention.period(name) for name in kinds if category_of(name) != "log"]
    return [(period.minimum, period.maximum) for period in periods]


def _access(found: Evidence) -> Line:
    said = _Judge("access_restricted", "Access to the log and its keys is restricted")
    said.evidence["places"] = [place.as_json() for place in found.places]
    for place in found.places:
        for flaw in place.flaws:
            said.say(flaw.level, flaw.words, flaw.do)
    missing = {place.place: place for place in found.places if place.state != "seen"}
    for name, place in missing.items():
        if place.state == "closed":
            said.say("unknown", f"the {name} cannot be looked into from here, so its modes are not known")
        elif name in ("keys", "log"):
            said.say("unknown", f"there is no {name} folder here, so its modes are not known", f"Name it: --{name}")
    if found.log is not None:
        reviews, users = found.log["reviews"], found.log["users"]
        last = max((row["last"] for row in reviews.values()), default=None)
        said.evidence |= {"last_review": last, "reads_recorded": sum(row["entries"] for row in reviews.values()),
                          "last_user_change": max((row["last"] for row in users.values()), default=None)}  # fmt: skip
        if last is None:
            said.say("yellow", "no review is recorded", "klingai-audit report --record -o report.html")
        elif found.now - _when(last) > _REVIEWED_WITHIN:
            said.say("yellow", f"the last review that is recorded was {_ago(found.now - _when(last))}",
                     "klingai-audit report --record -o report.html")  # fmt: skip
        else:
            said.say("green", f"the last read or report on record was {_ago(found.now - _when(last))}")
    if found.policy is not None:
        said.evidence |= {"roles": found.policy.access.roles, "two_person": list(found.policy.access.two_person)}
    if not any(place.flaws for place in found.places):
        seen = ", ".join(place.place for place in found.places if place.state == "seen")
        said.say("green" if seen else "unknown", f"closed to others: {seen or 'nothing that could be looked at'}")
    return said.line()


def _regular(found: Evidence) -> Line:
    said = _Judge("verified_regularly", "The log is verified regularly")
    full = None if found.policy is None else found.policy.watch.span("full")
    every = full or _VERIFIED_WITHIN
    runs = found.log["verifications"] if found.log is not None else []
    times = [_when(run["at"]) for run in runs]
    watched = found.memory.done.get("full")
    if watched is not None:
        times.append(dt.datetime.fromtimestamp(watched, dt.UTC))
    if found.checked is not None:
        times.append(found.checked[1])
    quick = found.memory.done.get("quick")
    last = max(times, default=None)
    said.evidence |= {
        "every_s": int(every.total_seconds()),
        "schedule": "policy" if full is not None else "off" if found.policy is not None else "not known",
        "last": None if last is None else _text(last),
        "recorded": len(runs),
        "watch_full": None if watched is None else _text(dt.datetime.fromtimestamp(watched, dt.UTC)),
        "watch_quick": None if quick is None else _text(dt.datetime.fromtimestamp(quick, dt.UTC)),
    }
    do = "klingai-audit watch --record"
    if last is None:
        if found.log is None:
            said.say("unknown", "nothing is remembered, and the log cannot be read", do)
        else:
            said.say("yellow", "never, as far as is recorded or remembered", do)
        return said.line()
    age = found.now - last
    words = f"the last verification was {_ago(age)}, {_span(every)} is the rule"
    if age > max(_LONG_AGO, 2 * every):
        said.say("red", words, do)
    elif age > 2 * every:
        said.say("yellow", words, do)
    elif watched is None and len(runs) < 2:  # once is no rhythm
        said.say("yellow", f"verified {_ago(age)}, but only once, and no watch has run here", do)
    else:
        said.say(
            "green",
            f"the last was {_ago(age)}; {len(runs):,} on record" + ("" if watched is None else ", a watch runs"),
        )
    return said.line()


def _anchors(found: Evidence) -> Line:
    said = _Judge("anchored_outside", "Witnesses or time stamps outside stand by the log")
    if found.log is None:
        return _unread(said, found)
    anchors = found.log["anchors"]
    said.evidence |= {kind: anchors.get(kind) for kind in ("checkpoint_witnessed", "checkpoint_timestamped")}
    if not anchors:
        do = "klingai-audit witness submit, or klingai-audit timestamp"
        said.say("yellow", "none: whoever holds the log's key could rewrite it unnoticed", do)
        return said.line()
    span = _DAY if found.policy is None else max(_DAY, found.policy.timestamp.span)
    newest = max(anchors.values(), key=lambda one: one["at"])
    age = found.now - _when(newest["at"])
    after = (found.log["acts"]["last_seq"] or 0) > max(one["seq"] for one in anchors.values())
    told = ", ".join(f"{name} {_ago(found.now - _when(anchors[kind]['at']))}" for kind, name in
                     (("checkpoint_witnessed", "witnessed"), ("checkpoint_timestamped", "time-stamped"))
                     if kind in anchors)  # fmt: skip
    do = "klingai-audit timestamp" if "checkpoint_timestamped" in anchors else "klingai-audit witness submit"
    if after and age > 2 * span:
        said.say("yellow", f"{told}, and acts came since", do)
    else:
        said.say("green", told if after else f"{told}, and no act since")
    return said.line()


def _backups(_found: Evidence) -> Line:
    said = _Judge("backed_up", "The log is backed up")
    said.say("unknown", "the log cannot tell: a backup leaves no entry", "klingai-audit backup FOLDER")
    return said.line()


def _unread(said: _Judge, found: Evidence) -> Line:
    said.say("unknown", f"the log cannot be read: {found.trouble}".rstrip("."), "klingai-audit verify")
    return said.line()


def _alarms(found: Evidence) -> list[str]:
    """Return the kinds of what a watch found broken and did not see gone."""
    open_ = found.memory.open.values()
    return sorted({one.kind for one in open_ if one.source == "verify" and one.level == "broken"})


def _checked(found: Evidence) -> dict[str, Any] | None:
    return None if found.checked is None else {"tree_size": found.checked[0], "at": _text(found.checked[1])}


def _when(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def _text(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _ago(age: dt.timedelta) -> str:
    if age < dt.timedelta(hours=1):
        return "within the hour"
    if age < 2 * _DAY:
        return f"{int(age.total_seconds() // 3600):,} h ago"
    return f"{age.days:,} days ago"


def _span(span: dt.timedelta) -> str:
    hours = int(span.total_seconds() // 3600)
    return f"every {span.days:,} days" if span > 2 * _DAY else f"every {hours:,} h" if hours else "every few minutes"


def _many(count: int, one: str, more: str) -> str:
    return f"{count:,} {one if count == 1 else more}"
