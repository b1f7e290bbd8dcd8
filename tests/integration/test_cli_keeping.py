"""`retention`, `hold`, and every reading command on a log with sealed days and purged entries."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from klingai_audit import AuditLog
from klingai_audit.cli.run import run
from klingai_audit.config import Places
from klingai_audit.ledger.line import PURGED_PREFIX
from klingai_audit.ledger.sealed import open_day
from klingai_audit.stores.days import list_days
from tests.support.purged import TASK, OldLog, old_log

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Answer:
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)

    @property
    def seqs(self) -> list[int]:
        return [found["seq"] for line in self.out.splitlines() if "seq" in (found := json.loads(line))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A closed log of a week in January: five sealed days, nine purged entries, two plain days."""
    folder = tmp_path_factory.mktemp("kept")
    _, purged = old_log(folder)
    return folder, purged


@pytest.fixture
def purged(made: tuple[Path, list[int]]) -> list[int]:
    return made[1]


@pytest.fixture
def place(made: tuple[Path, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that log, on a machine of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "machine"))
    monkeypatch.setenv("KLINGAI_AUDIT_ACTOR", "keeper@example.com")
    shutil.copytree(made[0], tmp_path / "kept", symlinks=True)
    return tmp_path / "kept" / "audit"


@pytest.fixture
def cli(place: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run a command line on the log."""

    def call(*argv: object, log: Path = place) -> Answer:
        code = run([*map(str, argv), "--log", str(log)])
        out, err = capfd.readouterr()
        return Answer(code, out, err)

    return call


def stored(log: Path) -> list[bytes]:
    lines: list[bytes] = []
    for path in list_days(log):
        with open_day(path) as file:
            lines += file.readall().splitlines()
    return lines


# --- retention -------------------------------------------------------------------------------------------


def test_plan_and_apply(cli, place, purged):
    """The plan says what is due and why, apply does it and says who authorised it, then nothing is left to do."""
    assert 0 == cli("recover").code  # opened today: what was the newest day is an old one now
    plan = cli("retention", "plan", "--json").json
    assert ["today", "due", "digest", "to_seal", "holds", "archives", "days"] == list(plan)
    assert [True] * 5 + [False] * 2 == [day["sealed"] for day in plan["days"]]
    rows = {row["event_type"]: row for row in plan["days"][0]["types"]}
    assert ["event_type", "entries", "due", "held", "locked", "keep_until", "why"] == list(rows["x_other"])
    assert (3, 3, 0, "2026-02-05") == tuple(rows["x_other"][k] for k in ("entries", "due", "held", "keep_until"))
    assert (0, None) == (rows["log_created"]["due"], rows["log_created"]["keep_until"])
    words = cli("retention", "plan").out
    assert f"{plan['due']} entries are due and {plan['to_seal']} days are to be sealed." in words
    assert all(name in words for name in ("x_other", "never", "at most 30d (retention)", "retention apply"))
    assert "2026-01-05" in cli("retention", "plan", "--days").out
    assert len(purged) == sum(line.startswith(PURGED_PREFIX) for line in stored(place))
    done = cli("retention", "apply", "--json").json
    assert ["purged", "sealed", "authorised_by"] == list(done)
    assert (plan["due"], True) == (done["purged"], "audit-2026-01-10.jsonl.gz" in done["sealed"])
    assert len(purged) + plan["due"] == sum(line.startswith(PURGED_PREFIX) for line in stored(place))
    assert 0 == cli("verify", "--json").code
    assert "Nothing was due." in cli("retention", "apply").out


def test_apply_says_what_it_did(cli, purged):
    """Numbers, who authorised it, and where to look."""
    said = cli("retention", "apply")
    assert 0 == said.code
    assert all(words in said.out for words in ("entries purged", "days sealed", "Authorised by entry", "verify"))


def test_a_plan_for_another_day(cli):
    """What falls due later is told; what is no day is a mistake in use."""
    assert 0 == cli("retention", "plan", "--on", "2026-01-11", "--json").json["due"]
    assert 2 == cli("retention", "plan", "--on", "soon").code


def test_a_broken_log_is_not_purged(cli, place):
    """Exit code 4, and the files are what they were."""
    path = place / "audit-2026-01-10.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"x_other"', b'"x_odder"', 1))
    before = {found.name: found.read_bytes() for found in place.glob("audit-*")}
    said = cli("retention", "apply")
    assert (4, True) == (said.code, "does not verify" in said.err)
    assert all(before[name] == (place / name).read_bytes() for name in before)


# --- holds -----------------------------------------------------------------------------------------------


def test_holds(cli, place, purged):
    """Set by range, actor and query, listed, in the plan, released; a name in force cannot be taken again."""
    assert "No hold is in force." in cli("hold", "list").out
    assert {"holds": []} == cli("hold", "list", "--json").json
    assert 0 == cli("hold", "set", "case-1", "--range", "0:20", "--reason", "a claim").code
    told = cli("hold", "set", "case-2", "--actor", "user1@example.com", "--json").json
    assert "case-2" == told["hold"]
    assert "seq" in told
    assert 0 == cli("hold", "set", "case-3", "--type", "x_other", "--until", "2026-01-08").code
    listed = cli("hold", "list", "--json").json["holds"]
    assert ["case-1", "case-2", "case-3"] == [hold["name"] for hold in listed]
    assert ["name", "seq", "since", "reason", "covers"] == list(listed[0])
    assert "user1" not in json.dumps(listed)
    table = "".join(cli("hold", "list").out.split())
    assert all(words in table for words in ("entries0to20", "aclaim", "event_type=", "actorp_"))
    plan = cli("retention", "plan", "--json").json
    assert ["case-1", "case-2", "case-3"] == plan["holds"]
    rows = {row["event_type"]: row for row in plan["days"][0]["types"]}
    assert (0, 3) == (rows["x_other"]["due"], rows["x_other"]["held"])
    cli("retention", "apply")
    kept = stored(place)
    assert all(b'"x_other"' in kept[seq] for seq in (6, 10, 14))
    assert 2 == cli("hold", "set", "case-1", "--range", "0:3").code
    for name in ("case-1", "case-2", "case-3"):
        assert 0 == cli("hold", "release", name, "--reason", "settled").code
    assert 2 == cli("hold", "release", "case-1").code
    cli("retention", "apply")
    kept = stored(place)
    assert all(kept[seq].startswith(PURGED_PREFIX) for seq in (6, 10, 14))
    assert 0 == cli("verify", "--json").code


@pytest.mark.parametrize(
    "wrong", [(), ("--range", "7"), ("--range", "9:3"), ("--range", "0:3", "--type", "x_other"), ("--actor", "nobody")]
)
def test_holds_that_cover_nothing(cli, place, wrong):
    """Exit code 2, and no entry."""
    before = len(stored(place))
    assert 2 == cli("hold", "set", "case-9", *wrong).code
    assert not any(b"legal_hold_set" in line for line in stored(place)[before:])


# --- every reading command -------------------------------------------------------------------------------


def test_verify_names_what_is_purged_and_by_whom(cli, place, purged):
    """The whole log and a sealed day by itself; in words and as JSON."""
    told = cli("verify", "--json").json
    spans = [(run["seq"], run["seq_end"], run["by"]) for run in told["purged"]]
    assert purged == [seq for begin, end, _ in spans for seq in range(begin, end)]
    assert (1, True) == (len({by for *_, by in spans}), told["integrity_ok"])
    assert f"9 entries from seq 5 to 39, authorised by entry {spans[0][2]}" in cli("verify").out
    day = place / "audit-2026-01-05.jsonl.gz"
    found = cli("verify", day, "--json").json
    assert ("file", 17, [5, 9, 13]) == (found["scope"], found["total"], [run["seq"] for run in found["purged"]])
    assert "as they say by entry" in cli("verify", day).out


def test_query_tail_show(cli, purged):
    """Purged entries are not found, and by number they are called what they are."""
    seqs = cli("query", "--json", "--limit", "1000").seqs
    assert len(stored_seqs := set(seqs)) == len(seqs)
    assert not stored_seqs & set(purged)
    assert set(range(max(seqs) + 1)) == stored_seqs | set(purged)
    assert min(cli("query", "--type", "x_brief", "--json").seqs) > max(purged)
    assert 2 == len(cli("tail", "-n", "2", "--json").seqs)
    gone = cli("show", purged[0])
    assert (2, True) == (gone.code, f"Entry {purged[0]} was purged; entry " in gone.err)
    assert "audit-2026-01-05.jsonl.gz:7" in cli("show", "6").out
    assert TASK in cli("query", "--task", TASK, "--json").out


def test_export(cli, tmp_path, purged):
    """Exports leave purged entries out; the count and the rows agree."""
    for name, reader in (("csv", lambda text: csv.DictReader(io.StringIO(text))), ("jsonl", _json_lines)):
        target = tmp_path / f"out.{name}"
        assert 0 == cli("export", "--format", name, "--output", target).code
        seqs = [int(row["seq"]) for row in reader(target.read_text())]
        assert (seqs, set()) == (sorted(seqs), set(seqs) & set(purged))
        assert max(seqs) + 1 == len(seqs) + len(purged)


def _json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_proofs(cli, place, tmp_path, purged):
    """Of a purged entry the hash is proven, for whoever kept it or the entry; of another one the entry."""
    proof, other = tmp_path / "purged.tlog-proof", tmp_path / "whole.tlog-proof"
    told = cli("prove", purged[0], "--output", proof, "--json").json
    assert (64, True) == (len(told["leaf"]), told["purged_by"] > purged[-1])
    assert 2 == cli("check", proof).code
    checked = cli("check", proof, "--leaf", told["leaf"], "--json").json
    assert (purged[0], told["leaf"], True) == (checked["seq"], checked["leaf"], checked["valid"])
    assert "with this hash is number" in cli("check", proof, "--leaf", told["leaf"].upper()).out
    wrong = ("0" if told["leaf"][0] != "0" else "1") + told["leaf"][1:]
    assert [4, 2] == [cli("check", proof, "--leaf", text).code for text in (wrong, "abc")]
    assert "had the entry purged" in cli("prove", purged[1], "--output", tmp_path / "more").out
    assert 0 == cli("prove", purged[0] + 1, "--output", other).code
    assert 0 == cli("check", other).code
    assert 0 == cli("consistency", purged[-1]).code


def test_a_proof_of_a_purged_entry_holds_for_its_copy(cli, tmp_path):
    """Whoever kept the entry itself checks it with a proof that was made after the purge."""
    log = OldLog(tmp_path / "other")
    with log.open() as audit:
        for _ in range(5):
            log.day(audit)
        audit.flush("published")
        before = dict(enumerate(audit.reader.lines()))
        seq = log.apply(audit)[0]
    (tmp_path / "entry").write_bytes(before[seq] + b"\n")
    assert 0 == cli("prove", seq, "--output", tmp_path / "proof", log=log.path).code
    told = cli("check", tmp_path / "proof", "--entry", tmp_path / "entry", "--json", log=log.path).json
    assert (seq, before[seq].decode()) == (told["seq"], told["entry"])


def test_bundle(cli, tmp_path, purged):
    """A bundle of a purged entry is refused with the reason; one of others holds."""
    gone = cli("bundle", "--seq", purged[0], "--output", tmp_path / "no.zip")
    assert (2, True) == (gone.code, "was purged" in gone.err)
    assert 0 == cli("bundle", "--seq", purged[0] + 1, "--output", tmp_path / "b.zip").code
    assert 0 == cli("check", tmp_path / "b.zip").code


@pytest.mark.slow
def test_views(cli, tmp_path):
    """Activity, costs, detections and traces count what is there."""
    people = cli("activity", "--by", "actor", "--days", "36500", "--json")
    assert (0, True) == (people.code, "p_" in people.out or "@" in people.out)
    assert (0, True) == ((costs := cli("costs", "--since", "2026-01-01", "--json")).code, "studio-a" in costs.out)
    found = cli("detect", "--json")
    assert (1, True) == (found.code, found.json["new"] > 0)
    media = tmp_path / "film.mp4"
    media.write_bytes(b"no film of this log")
    assert cli("trace", media).code in (0, 1)


@pytest.mark.slow
def test_report(cli, tmp_path, purged):
    """The report names purges and holds, and does not call what was purged missing."""
    cli("hold", "set", "case-1", "--range", "0:3")
    target = tmp_path / "report.json"
    assert 0 == cli("report", "--output", target, "--days", "36500").code
    told = json.loads(target.read_text())
    kept = told["retention"]
    assert ("applied", len(purged)) == (kept["state"], kept["purged"])
    assert [len(purged)] == [one["entries"] for one in kept["purges"]]
    assert ["case-1"] == [hold["name"] for hold in kept["holds"]]
    assert (0, len(purged)) == (told["sequence"]["missing"], told["sequence"]["purged"])
    page = tmp_path / "report.html"
    assert 0 == cli("report", "--output", page, "--days", "36500").code
    text = page.read_text()
    assert "applied: 9 entries purged" in text
    assert "case-1" in text
    assert 0 == cli("sample", "--n", "5", "--seed", "s", "--output", tmp_path / "sample.csv").code


def test_backup_and_successor(cli, place, tmp_path):
    """Sealed files are copied as they are; the copy verifies, and a successor follows it."""
    assert 0 == cli("backup", tmp_path / "copy", "--keys").code
    copied = tmp_path / "copy" / "audit"
    for path in place.glob("audit-*.gz"):
        assert path.read_bytes() == (copied / path.name).read_bytes()
    assert 0 == cli("verify", "--json", log=copied).code
    assert 0 == cli("recover", "--restored", "--into", tmp_path / "next", log=copied).code
    assert 0 == cli("verify", "--json", log=tmp_path / "next").code


def test_recover(cli, place):
    """Tree files and a lost checkpoint come back from lines that stand for purged entries, too."""
    tree = place / "tree" / "0"
    data = tree.read_bytes()
    tree.write_bytes(bytes(32) + data[32:])
    assert 0 == cli("recover").code
    assert data == tree.read_bytes()[: len(data)]
    (place / "checkpoint").unlink()
    assert 0 == cli("recover").code
    assert 0 == cli("verify", "--json").code


def test_import_of_a_sealed_day(cli, place):
    """It is no log of a recipe, and is told so."""
    said = cli("import", place / "audit-2026-01-06.jsonl.gz")
    assert (True, True) == (said.code != 0, "holds no line" in said.err)


@pytest.mark.slow
def test_drill(cli):
    """Everything is caught on such a log, too, also after a long time without a day."""
    assert 0 == cli("recover").code
    told = cli("drill", "--json").json
    assert ([], True) == (told["missed"], told["mutations"] == told["caught"] > 55)


# --- a sealed day put back in an older form --------------------------------------------------------------


@pytest.mark.slow
def test_older_files_put_back_are_told_and_completed(tmp_path):
    """What was purged and is there again is a note with its name; the next run purges it again."""
    log = OldLog(tmp_path)
    with log.open() as audit:
        for _ in range(5):
            log.day(audit)
        whole = tmp_path / "whole.jsonl"
        first = log.path / "audit-2026-01-05.jsonl"
        whole.write_bytes(first.read_bytes())
        log.apply(audit)
        older = (log.path / "audit-2026-01-05.jsonl.gz").read_bytes()
        for _ in range(32):
            log.day(audit, 1)
        gone = log.apply(audit)
        newer = log.path / "audit-2026-01-05.jsonl.gz"
        assert older != newer.read_bytes()

        def told() -> set[str]:
            verdict = audit.verify(now=log.clock.now)
            assert verdict.integrity_ok
            return {finding.kind for finding in verdict.findings} - {"heartbeat_gap"}

        assert set() == told()
        newer.write_bytes(older)
        assert {"seal_unfinished", "purge_unfinished"} == told()
        newer.unlink()
        first.write_bytes(whole.read_bytes())
        assert "purge_unfinished" in told()
        assert gone == log.apply(audit)
        assert set() == told()


# --- beside writers, and killed --------------------------------------------------------------------------

_WRITER = """
import os, sys
from klingai_audit import AuditLog, acting
count = 0
with AuditLog.open(sys.argv[1]) as audit, acting("writer@example.com"):
    while count < 4000:
        audit.log("x_live", resource_type="video", action="set", number=count)
        count += 1
        if count % 40 == 0:
            audit.flush("published")
            print(count, flush=True)
        if os.path.exists(sys.argv[1] + ".stop"):
            break
print("done", count, flush=True)
"""


_CLI = "import sys; from klingai_audit.cli.run import run; sys.exit(run(sys.argv[1:]))"


def _apply(log: Path, **more: Any) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-c", _CLI, "retention", "apply", "--log", str(log), "--json"]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


@pytest.mark.slow
def test_beside_a_writer_in_another_process(place):
    """Nothing that was written is lost, what was due is gone, and everything verifies."""
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(place)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline()
        applying = _apply(place)
        out, err = applying.communicate(timeout=120)
        Path(f"{place}.stop").touch()
        rest, _ = writer.communicate(timeout=120)
    assert 0 == applying.returncode, err
    assert json.loads(out)["purged"] > 20
    written = int(rest.split()[-1])
    live = [json.loads(line)["metadata"]["number"] for line in stored(place) if b'"x_live"' in line]
    assert list(range(written)) == live
    verdict = verify_of(place)
    assert (True, True) == (verdict.integrity_ok, {f.kind for f in verdict.findings} <= {"heartbeat_gap"})


def verify_of(log: Path) -> Any:
    places = Places.resolve(log, environ={})
    with AuditLog.open(places.log) as audit:
        return audit.verify()


@pytest.mark.slow
def test_killed_at_random_and_run_again(made, tmp_path, monkeypatch):
    """After every kill the log verifies but for notes; one whole run completes it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "machine"))
    luck = random.Random(7)
    for turn in range(8):
        folder = tmp_path / str(turn)
        shutil.copytree(made[0], folder)
        log = folder / "audit"
        for _ in range(3):
            process = _apply(log)
            time.sleep(0.2 + luck.random() * 0.8)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            verdict = verify_of(log)
            kinds = {finding.kind for finding in verdict.findings}
            assert verdict.integrity_ok, kinds
        process = _apply(log)
        _, err = process.communicate(timeout=120)
        assert 0 == process.returncode, err
        verdict = verify_of(log)
        assert not {"purge_unfinished", "seal_unfinished"} & {finding.kind for finding in verdict.findings}
        assert not any(b'"x_other"' in line for line in stored(log)[:80])
