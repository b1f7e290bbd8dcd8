"""A log that lies on a server, read by every command: as one in a folder, and nothing of it stays on this machine."""

from __future__ import annotations

import io
import json
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from klingai_audit import AuditLog, acting
from klingai_audit.cli.run import run
from klingai_audit.config import Places, open_reader
from klingai_audit.ledger.line import PURGED_PREFIX
from klingai_audit.testing import HandClock
from klingai_audit.tlog.tile import decode_bundle, encode_bundle
from klingai_audit.upkeep.retention import apply_retention
from tests.support.faulty import QuickOps
from tests.support.purged import DAY, POLICY, START, TASK, TYPES
from tests.support.remote import URL, serve

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
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True)
class Place:
    """A log of a week at `url` of which some entries are purged; `forge` puts another line in the place of one."""

    url: str
    forge: Callable[[int, bytes], None]

    @property
    def lines(self) -> list[bytes]:
        return list(open_reader(Places.resolve(self.url)).lines())

    @property
    def purged(self) -> list[int]:
        return [seq for seq, line in enumerate(self.lines) if line.startswith(PURGED_PREFIX)]


def in_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    store = serve(monkeypatch)
    return Place(URL, store.entries.__setitem__)


def in_postgres(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    from klingai_audit.stores.postgres_commit import PostgresTransaction

    url, server = request.getfixturevalue("postgres_url"), request.getfixturevalue("postgres")
    monkeypatch.setattr(PostgresTransaction, "now_ns", lambda self: None)  # the server's clock is no test's

    def forge(seq: int, line: bytes) -> None:
        with server.connect(url) as connection:
            (schema,) = connection.execute(
                "SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relname = 'purging'"
            ).fetchone()
            connection.execute("SET session_replication_role = replica")  # no trigger fires
            connection.execute(f"UPDATE {schema}.entries SET line = %s WHERE seq = %s", (line, seq))

    return Place(url, forge)


def in_objects(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    url, server = request.getfixturevalue("bucket_url"), request.getfixturevalue("objects")
    place: Place

    def forge(seq: int, line: bytes) -> None:
        path = f"/{url.removeprefix('s3://')}/tile/entries/000.p/{len(place.lines)}"
        found = server.request("GET", path).body
        entries = decode_bundle(found)
        entries[seq] = line
        assert HTTPStatus.OK == server.request("PUT", path, body=encode_bundle(entries)).status

    place = Place(url, forge)
    return place


@pytest.fixture(params=[in_memory, in_postgres, in_objects])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "machine"))
    monkeypatch.setenv("KLINGAI_AUDIT_ACTOR", "keeper@example.com")
    made, clock = request.param(request, monkeypatch), HandClock(START)
    url = made.url
    AuditLog.open(url, clock=clock, ops=QuickOps()).close()
    (Places.resolve(url).keys / "policy.toml").write_bytes(POLICY)
    with AuditLog.open(url, clock=clock, ops=QuickOps()) as audit:
        for _ in range(6):
            for number in range(3):
                for kind in TYPES:
                    with acting(f"user{number % 2}@example.com", team="studio-a"):
                        audit.log(kind, resource_type="video", action="set", resource_id=TASK)
                clock.advance(60)
            audit.flush()
            clock.advance(DAY)
        with acting("keeper@example.com", actor_type="admin"):
            apply_retention(audit, today=clock.now.date())
    return made


@pytest.fixture
def cli(place: Place, capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run a command line on the log."""

    def call(*argv: object) -> Answer:
        code = run([*map(str, argv), "--log", place.url])
        out, err = capfd.readouterr()
        return Answer(code, out, err)

    return call


def left_behind(tmp_path: Path) -> list[str]:
    return [str(path) for path in tmp_path.rglob("*") if "scratch" in path.name]


def test_verify(place: Place, cli, tmp_path: Path):
    """Whole, with entries purged on authority; a second, quick run begins where the first ended."""
    found = cli("verify", "--json").json
    assert (True, Places.resolve(place.url).log, [], len(place.lines)) == (
        found["integrity_ok"], found["log"], [f for f in found["findings"] if f["severity"] == "broken"], found["size"]
    )  # fmt: skip
    purged = [seq for run_ in found["purged"] for seq in range(run_["seq"], run_["seq_end"])]
    assert (9, place.purged) == (len(purged), purged)
    assert found["size"] == cli("verify", "--quick", "--json").json["quick_from"]
    assert [] == left_behind(tmp_path)


def test_verify_finds(place: Place, cli, tmp_path: Path):
    """A change on the server is named with its place, exit code 4."""
    seq = next(seq for seq, line in enumerate(place.lines) if b"budget_modified" in line)
    place.forge(seq, place.lines[seq].replace(b"studio-a", b"studio-b"))
    answer = cli("verify", "--json")
    assert (4, [("entry_changed", seq)]) == (
        answer.code,
        [(f["kind"], f["seq"]) for f in answer.json["findings"] if f["severity"] == "broken"],
    )
    (message,) = [f["message"] for f in answer.json["findings"] if f["severity"] == "broken"]
    assert {"s3": "tile/entries/000", "postgresql": f"table entries, seq {seq}."}[place.url.split(":")[0]] in message
    assert [] == left_behind(tmp_path)


def test_drill(cli):
    """Every attack on a copy of it is caught."""
    answer = cli("drill", "--json")
    assert (0, []) == (answer.code, answer.json["missed"])
    assert answer.json["caught"] > 30


def test_backup(cli, place: Place, tmp_path: Path):
    """The copy is a folder that verifies by itself, and that the single file reads."""
    from klingai_audit.standalone import klingai_audit_verify as alone

    answer = cli("backup", tmp_path / "copy", "--keys", "--json")
    assert (0, True, len(place.lines)) == (answer.code, answer.json["verified"], answer.json["tree_size"])
    key = (tmp_path / "copy" / "audit.keys" / "log.pub").read_text()
    verdict = alone.verify_log(str(tmp_path / "copy" / "audit"), key)
    assert [] == [finding.kind for finding in verdict.findings if finding.severity == "broken"]


def test_questions(cli, place: Place):
    """`query`, `activity`, `sql`, `show`, `tail` and `costs` answer, without what is purged."""
    rare = [json.loads(line)["seq"] for line in place.lines if b'"budget_modified"' in line]
    assert rare == [one["seq"] for one in cli("query", "--type", "budget_modified", "--limit", "100", "--json").lines]
    assert rare[::-1][:5] == [
        one["seq"] for one in cli("query", "--type", "budget_modified", "--reverse", "--limit", "5", "--json").lines
    ]
    count = len(place.lines) - len(place.purged)
    assert [[count]] == cli("query", "--sql", "SELECT count(*) FROM events", "--json").json["rows"]
    assert place.lines[rare[0]].decode() == cli("show", rare[0], "--json").out.strip()
    assert len(place.lines) - 1 == cli("tail", "-n", "3", "--json").lines[-1]["seq"]
    assert 0 == cli("activity", "--by", "day", "--days", "3650", "--json").code


def test_evidence(cli, place: Place, tmp_path: Path):
    """Proofs, bundles, tiles and exports come out of it."""
    rare = next(seq for seq, line in enumerate(place.lines) if b'"budget_modified"' in line)
    assert 0 == cli("prove", rare, "-o", tmp_path / "proof").code
    assert 0 == cli("bundle", "--type", "budget_modified", "-o", tmp_path / "bundle.zip").code
    assert zipfile.is_zipfile(io.BytesIO((tmp_path / "bundle.zip").read_bytes()))
    assert 0 == cli("export", "--format", "tiles", "-o", tmp_path / "tiles").code
    assert (tmp_path / "tiles" / "checkpoint").read_bytes() == open_reader(Places.resolve(place.url)).checkpoint_note()
    assert 0 == cli("export", "--format", "jsonl", "-o", tmp_path / "all.jsonl").code
    kept = [line for line in place.lines if not line.startswith(PURGED_PREFIX)]
    assert len(kept) == len((tmp_path / "all.jsonl").read_bytes().splitlines())
    assert 0 == cli("report", "-o", tmp_path / "report.json").code


def test_watching(cli, place: Place, tmp_path: Path):
    """Checks on a schedule, rules, the checklist, samples and people's own data work; writing them into it, too."""
    old = tmp_path / "old-checkpoint"
    old.write_bytes(open_reader(Places.resolve(place.url)).checkpoint_note())
    jobs = cli("watch", "--once", "--record", "--json").lines[0]["jobs"]
    assert [] == [job for job in jobs if job["failed"]]
    assert "nothing is broken" in jobs[0]["result"]
    assert len(place.lines) > len(place.purged) + 76
    assert 0 == cli("detect", "--record", "--json").code
    assert 0 == cli("status", "--verify", "--json").code
    assert 0 == cli("sample", "-n", "5", "--seed", "x", "-o", tmp_path / "sample.json", "--json").code
    assert 0 == cli("consistency", old, "-o", tmp_path / "proof").code
    assert 0 == cli("subject", "export", "user1@example.com", "-o", tmp_path / "person.zip", "--json").code
    assert 0 == cli("costs", "--month", "2026-01", "--json").code
    assert 0 == cli("verify", "--json").code
    assert [] == left_behind(tmp_path)


def test_keeping(cli, place: Place):
    """Holds, plans, purges and erasures work; the log stays whole."""
    assert 0 == cli("hold", "set", "case-1", "--type", "x_other").code
    assert 1 == cli("erase", "user1@example.com", "--basis", "gdpr-17").code
    assert 0 == cli("hold", "release", "case-1").code
    due = cli("retention", "plan", "--on", "2026-02-07", "--json").json
    assert 0 == cli("erase", "user1@example.com", "--basis", "gdpr-17").code
    before = sum(line.startswith(PURGED_PREFIX) for line in place.lines)
    assert 0 == cli("retention", "apply", "--on", "2026-02-07").code
    assert due["due"] == sum(line.startswith(PURGED_PREFIX) for line in place.lines) - before > 9
    assert 0 == cli("verify", "--json").code


def test_beside_a_writer(cli, place: Place):
    """A writer at work is no finding, for a whole check, a quick one and a backup."""
    ended = threading.Event()

    def write() -> None:
        with AuditLog.open(place.url) as audit:
            while not ended.wait(0.002):
                audit.log("x_note", "user@example.com", resource_type="video", action="set")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for quick in ((), ("--quick",), (), ("--quick",)):
            found = cli("verify", "--json", *quick)
            broken = [one for one in found.json["findings"] if one["severity"] == "broken"]
            assert ([], 0, bool(quick)) == (broken, found.code, found.json["quick_from"] is not None)
            time.sleep(0.3)
        assert 0 == cli("backup", str(Places.resolve(place.url).home / "copy"), "--json").code
    finally:
        ended.set()
        writer.join()
