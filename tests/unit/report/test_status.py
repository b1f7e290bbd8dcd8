"""The checklist of `status`: green where evidence is there, and each other state provoked by a real act."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from klingai_audit import AuditLog
from klingai_audit.cli.run import run
from klingai_audit.config import Places, open_reader
from klingai_audit.event.own import own_event
from klingai_audit.index import Index
from klingai_audit.report.ask import Rows
from klingai_audit.report.modes import look_at
from klingai_audit.report.status import LIGHTS, Status, take_status
from klingai_audit.testing import HandClock
from klingai_audit.watch.memory import Memory, save_memory
from klingai_audit.watch.problems import Problem
from tests.support.logsmith import START as SMITH_START
from tests.support.logsmith import Smith
from tests.support.reportlog import Hasty, Team, units

pytestmark = pytest.mark.slow

IDS = ["calls_logged", "prompts_not_plain", "chain_verifiable", "retention_1_to_7_years", "access_restricted",
       "verified_regularly", "anchored_outside", "backed_up"]  # fmt: skip
WHO = ("user@example.com", "studio-a")
DAY = 86_400


def verified(audit: AuditLog, *, holds: bool = True) -> None:
    kind = "log_verified" if holds else "verification_failed"
    audit.log(kind, "auditor@example.com", "log", "watch", outcome="success" if holds else "failure", tree_size=9)


def reconciled(audit: AuditLog, unexplained: int = 0) -> None:
    told = {"unexplained": unexplained, "counts": {}, "begin": "2026-09-01T00:00:00Z", "end": "2026-09-02T00:00:00Z"}
    outcome = "failure" if unexplained else "success"
    audit.log("reconciled", "auditor@example.com", "log", "reconcile", outcome=outcome, metadata=told)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> tuple[Path, dt.datetime]:
    """A log of which everything can be shown, and the moment after its last entry."""
    team = Team(tmp_path_factory.mktemp("status"))
    team.generation(WHO, "kling-3.0-turbo", "success", units("5"))
    reconciled(team.audit)
    verified(team.audit)
    team.clock.advance(3600)
    verified(team.audit)
    team.audit.log("report_generated", "auditor@example.com", "log", "report")
    team.audit.append(own_event("checkpoint_witnessed", {"size": 9}, team.clock.now_ns())).wait()
    team.close()
    return team.folder, team.clock.now + dt.timedelta(minutes=5)


@pytest.fixture
def log(good, tmp_path) -> Path:
    """A copy of the good log, to be spoiled."""
    shutil.copytree(good[0], tmp_path, dirs_exist_ok=True)
    return tmp_path / "audit"


@pytest.fixture
def now(good) -> dt.datetime:
    return good[1]


@pytest.fixture(scope="module")
def rows(good) -> Iterator[Rows]:
    """The good log's index, for tests that leave entries as they are."""
    places = Places.resolve(good[0] / "audit")
    with closing(Index.open(open_reader(places), places.state / "index")) as index:
        yield index.rows


def look(log: Path, now: dt.datetime, rows: Rows | None = None, **terms: object) -> Status:
    return take_status(Places.resolve(log), now=now, rows=rows, **terms)


def later(log: Path, now: dt.datetime, act: Callable[[AuditLog], None]) -> None:
    """Open the log again at `now` and let `act` write."""
    with AuditLog.open(log, clock=HandClock(now), ops=Hasty(), accept_clock=True) as audit:
        act(audit)


def test_a_good_log_is_green_where_there_is_evidence(log, now):
    """All lines but the one that a log cannot know."""
    status = look(log, now)
    assert IDS == [line.id for line in status.lines]
    assert {"green": 7, "yellow": 0, "red": 0, "unknown": 1} == status.counts, status.to_json()
    assert status.line("backed_up").state == "unknown"
    assert all(line.do for line in status.lines if line.state != "green")


@pytest.mark.slow
def test_an_empty_log_has_no_green_that_rests_on_nothing(tmp_path, now):
    """A log without an act knows nothing of calls and prompts, and says so."""
    AuditLog.open(tmp_path / "audit", clock=HandClock(now), ops=Hasty()).close()
    status = look(tmp_path / "audit", now)
    assert ["unknown", "unknown", "unknown"] == [status.line(name).state for name in IDS[:3]]
    assert status.line("verified_regularly").state == "yellow"
    assert status.line("anchored_outside").state == "yellow"


@pytest.mark.slow
def test_json_has_the_same_members_whatever_is_found(log, now, tmp_path):
    """Members and their order are the same for a good, an empty and a broken log."""
    AuditLog.open(tmp_path / "other" / "audit", clock=HandClock(now), ops=Hasty()).close()
    broken = tmp_path / "broken"
    shutil.copytree(log, broken)
    next(broken.glob("*.jsonl")).write_bytes(b"nothing\n")
    for place in (log, tmp_path / "other" / "audit", broken):
        told = json.loads(msgspec.json.encode(look(place, now).to_json()))
        assert ["format", "log", "origin", "size", "at", "searched", "counts", "lines"] == list(told)
        assert list(LIGHTS) == list(told["counts"])
        for line in told["lines"]:
            assert ["id", "title", "state", "words", "do", "evidence"] == list(line)
        assert IDS == [line["id"] for line in told["lines"]]


@pytest.mark.slow
def test_acts_of_nobody_are_yellow(log, now):
    """An act that nobody is bound to is counted."""
    with pytest.warns(match="unknown"):
        later(log, now, lambda audit: audit.log("x_note", resource_type="log", action="add"))
    line = look(log, now).line("calls_logged")
    assert ("yellow", 1) == (line.state, line.evidence["unknown_actor"])


@pytest.mark.slow
def test_acts_that_callers_only_declare_are_yellow(tmp_path, now):
    """Without a captured call, completeness rests on whoever calls `log`."""
    with AuditLog.open(tmp_path / "audit", clock=HandClock(now), ops=Hasty()) as audit:
        audit.log("video_downloaded", "user@example.com", "video", "download", resource_id="1")
        reconciled(audit)
    line = look(tmp_path / "audit", now).line("calls_logged")
    assert line.state == "yellow"
    assert "no call was captured" in line.words.lower()


@pytest.mark.slow
@pytest.mark.parametrize(("days", "unexplained", "state"), [(8, 0, "yellow"), (0, 2, "red")])
def test_a_comparison_that_is_old_or_left_differences(log, now, days, unexplained, state):
    """A comparison of last week is yellow, one with an unexplained difference red."""
    if unexplained:
        later(log, now, lambda audit: reconciled(audit, unexplained))
    line = look(log, now + dt.timedelta(days=days)).line("calls_logged")
    assert state == line.state
    assert unexplained == line.evidence["reconciled"]["unexplained"]


def test_a_planted_address_is_red_and_never_shown(tmp_path):
    """An entry that went round the privacy door with an address and a prompt is found; neither is repeated."""
    smith = Smith().create()
    smith.batch(smith.event("x_note", {"note": "mail person@example.com", "prompt": "a lake at dawn"}))
    smith.write(tmp_path / "audit")
    status = look(tmp_path / "audit", SMITH_START + dt.timedelta(days=1))
    line = status.line("prompts_not_plain")
    assert ("red", 1, 1) == (
        line.state, line.evidence["plain_prompts"], line.evidence["credentials_or_addresses"],
    )  # fmt: skip
    assert "person@" not in json.dumps(status.to_json())
    assert "lake" not in json.dumps(status.to_json())


def test_a_search_of_the_newest_entries_says_what_it_left_out(log, now, rows):
    """With `entries`, the line names how many of how many were searched."""
    status = look(log, now, rows, entries=3)
    line = status.line("prompts_not_plain")
    assert (3, 3) == (status.searched, line.evidence["searched"])
    assert f"3 of {status.size}" in line.words


@pytest.mark.slow
def test_a_policy_that_lets_prompts_in_is_red(log, now, rows):
    """The names that withhold prompts were taken out of policy.toml."""
    policy = log.with_name("audit.keys") / "policy.toml"
    policy.write_text('[privacy]\ncommit = ["lyrics"]\n')
    status = look(log, now, rows)
    assert status.line("prompts_not_plain").state == "red"
    assert status.line("retention_1_to_7_years").state == "yellow"
    assert status.line("retention_1_to_7_years").evidence["policy_is_the_recorded_one"] is False


@pytest.mark.parametrize(
    ("text", "state"),
    [('minimum = "30d"', "red"), ('maximum = "forever"', "yellow"),
     ("[retention.classes]\ndownload = {}\n", None), ('[retention.classes]\nx_brief = { minimum = "7d" }', "red")],
)  # fmt: skip
@pytest.mark.slow
def test_what_the_policy_says_of_retention(log, now, rows, text, state):
    """Under a year is red, for ever yellow; a policy that cannot be read is unknown."""
    policy = log.with_name("audit.keys") / "policy.toml"
    policy.write_text(f"[retention]\n{text}\n")
    line = look(log, now, rows).line("retention_1_to_7_years")
    assert (state or "unknown") == line.state


@pytest.mark.slow
def test_entries_past_their_maximum_wait_for_a_purge(log, now):
    """Entries older than seven years are counted, and the command that purges them is named."""
    after = now + dt.timedelta(days=2600)
    later(log, after, lambda audit: audit.log("x_note", "user@example.com", "log", "add"))
    line = look(log, after).line("retention_1_to_7_years")
    assert ("yellow", "klingai-audit retention apply") == (line.state, line.do)
    assert 3 == line.evidence["due"]


@pytest.mark.parametrize(
    ("place", "mode", "state", "kind"),
    [
        ("audit.keys/log.key", 0o644, "red", "others_read_secrets"),
        ("audit.keys/subjects.sqlite", 0o604, "red", "others_read_secrets"),
        ("audit.keys/lookup.key", 0o640, "yellow", "group_reads_secrets"),
        ("audit.keys/epoch-0.key", 0o660, "red", "group_writes_secrets"),
        ("audit/checkpoint", 0o666, "red", "others_write"),
        ("audit", 0o777, "red", "others_write"),
        ("audit", 0o755, "yellow", "others_read"),
        ("audit.state", 0o770, "yellow", "group_writes"),
    ],
)
def test_modes_that_let_others_in(log, place, mode, state, kind):
    """Keys that others read and files that others write are found, with the chmod that mends it."""
    (log.parent / place).chmod(mode)
    flaws = [flaw for one in look_at(Places.resolve(log)) for flaw in one.flaws]
    assert (state, kind) in [(flaw.level, flaw.kind) for flaw in flaws]
    assert all(flaw.do.startswith("chmod ") for flaw in flaws)


def test_a_vault_that_others_may_enter_is_red(log):
    """Sealed content is for privacy officers alone, in its sealed form, too."""
    log.with_name("audit.vault").mkdir(mode=0o700)
    places = Places.resolve(log)
    assert () == look_at(places)[-1].flaws
    places.vault.chmod(0o711)
    assert ["others_enter_vault"] == [flaw.kind for flaw in look_at(places)[-1].flaws]


def test_a_key_that_others_read_makes_its_line_red(log, now, rows):
    """The worst of the modes decides, and its chmod is what the line says to do."""
    (log.with_name("audit.keys") / "log.key").chmod(0o644)
    line = look(log, now, rows).line("access_restricted")
    assert ("red", f"chmod -R o-rwx {log}.keys") == (line.state, line.do)


@pytest.mark.slow
def test_a_log_nobody_reviewed_is_yellow(log, now, rows):
    """Four months after the last read or report on record."""
    line = look(log, now + dt.timedelta(days=120), rows).line("access_restricted")
    assert ("yellow", "klingai-audit report --record -o report.html") == (line.state, line.do)


@pytest.mark.slow
def test_without_keys_their_modes_are_not_known(log, now, rows):
    """An auditor's copy has no keys folder: that is unknown, and so is retention."""
    shutil.rmtree(log.with_name("audit.keys"))
    status = look(log, now, rows)
    assert status.line("access_restricted").state == "unknown"
    assert status.line("retention_1_to_7_years").state == "unknown"


@pytest.mark.parametrize(("days", "state"), [(1, "green"), (3, "yellow"), (31, "red")])
def test_verification_that_stopped(log, now, rows, days, state):
    """The older the last verification, the worse."""
    line = look(log, now + dt.timedelta(days=days), rows).line("verified_regularly")
    assert state == line.state
    assert 2 == line.evidence["recorded"]


@pytest.mark.slow
def test_one_verification_is_no_rhythm(tmp_path, now):
    """A single verification on record is yellow."""
    with AuditLog.open(tmp_path / "audit", clock=HandClock(now), ops=Hasty()) as audit:
        verified(audit)
    assert look(tmp_path / "audit", now).line("verified_regularly").state == "yellow"


@pytest.mark.slow
def test_a_failed_verification_is_red(log, now):
    """The newest recorded verdict counts, until another holds."""
    later(log, now, lambda audit: verified(audit, holds=False))
    line = look(log, now).line("chain_verifiable")
    assert ("red", "klingai-audit verify") == (line.state, line.do)
    later(log, now, verified)
    assert look(log, now).line("chain_verifiable").state == "green"


@pytest.mark.slow
def test_what_a_watch_found_broken_is_red(log, now, rows):
    """An open problem of a watch counts beside a verdict on record."""
    problem = Problem(source="verify", kind="leaf_mismatch", level="broken", text="x", key="k")
    origin = look(log, now, rows).origin
    save_memory(
        log.with_name("audit.state"), Memory(origin=origin, done={"full": now.timestamp()}, open={"k": problem})
    )
    status = look(log, now, rows)
    assert status.line("chain_verifiable").state == "red"
    assert "leaf_mismatch" in status.line("chain_verifiable").words
    assert status.line("verified_regularly").evidence["watch_full"] is not None


@pytest.mark.slow
def test_witnesses_that_stopped_are_yellow(log, now):
    """Acts since the last witness, days ago, stand under nobody else's signature."""
    after = now + dt.timedelta(days=4)
    later(log, after, lambda audit: audit.log("x_note", "user@example.com", "log", "add"))
    assert look(log, now + dt.timedelta(days=4)).line("anchored_outside").state == "yellow"


@pytest.mark.slow
def test_a_log_that_cannot_be_read_is_red_not_an_error(log, now):
    """A line that is no entry: the chain is red, what rests on entries unknown."""
    file = next(log.glob("*.jsonl"))
    file.write_bytes(file.read_bytes().replace(b'{"schema":1', b'{"schema":', 1))
    shutil.rmtree(log.with_name("audit.state") / "index", ignore_errors=True)
    status = look(log, now)
    assert ["unknown", "unknown", "red"] == [status.line(name).state for name in IDS[:3]]
    assert status.line("chain_verifiable").do == "klingai-audit verify"


@pytest.mark.slow
def test_the_command_line_verifies_on_demand_and_is_strict_on_demand(log, monkeypatch, capfd):
    """Exit code 0 although a line is red, 1 with --strict; --verify finds a changed byte."""
    monkeypatch.chdir(log.parent)
    assert 0 == run(["status", "--verify", "--json"])
    told = json.loads(capfd.readouterr().out)
    chain = next(line for line in told["lines"] if line["id"] == "chain_verifiable")
    assert ("green", True) == (chain["state"], chain["evidence"]["verified_now"])
    file = next(log.glob("*.jsonl"))
    file.write_bytes(file.read_bytes().replace(b"kling-3.0-turbo", b"kling-3.0-turbO", 1))
    assert 0 == run(["status", "--verify"])
    assert "Verified now: broken" in capfd.readouterr().out
    assert 1 == run(["status", "--verify", "--strict"])
    assert 2 == run(["status", "--entries", "0"])
