"""Records of processing: what a log holds of people, checked against its bytes; counts are told, never values."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import json
import re
import shutil
from pathlib import Path

import pytest

from klingai_audit import acting
from klingai_audit.cli.run import run
from klingai_audit.config import Places, open_subjects
from klingai_audit.report import build
from klingai_audit.report.inventory import inventory, search_file
from klingai_audit.upkeep.erasure import erase_subject
from klingai_audit.upkeep.holds import set_hold
from klingai_audit.upkeep.migrate import migrate
from tests.support.logsmith import Smith
from tests.unit.report.conftest import UNTIL, opened

pytestmark = pytest.mark.slow

KEYS = ["needs_human", "data", "purposes", "recipients", "acts", "measures", "scan"]


@pytest.fixture
def log(small, tmp_path) -> Path:
    """A copy of the small log, with its places."""
    shutil.copytree(small.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "audit"


@pytest.mark.slow
def test_only_who_names_gdpr_gets_the_records(report, log):
    """A report on all frameworks has no such section; one that names GDPR has, with its places beside it."""
    assert "processing" not in report.facts
    with opened(log) as audit:
        made = build(audit, days=10, until=UNTIL, frameworks=["gdpr"])
    assert KEYS == list(made.facts["processing"])
    assert made.machine is not None
    ids = [query["id"] for query in made.facts["queries"]]
    assert sorted(set(ids)) == sorted(ids)
    told = made.machine["processing"]
    assert ["log", "subjects", "keys", "index", "state", "vault"] == [row["place"] for row in told["places"]]
    assert [0] * 6 == [row["e_mail_addresses"] + row["ids_of_people"] for row in told["places"]]


@pytest.mark.slow
def test_what_the_log_holds_is_counted_and_what_a_human_adds_is_named(log):
    """Kinds of data with entries and people, purposes to confirm, periods by class from the policy."""
    (log.with_name("audit.keys") / "policy.toml").write_text(
        '[retention]\n[retention.classes]\nadmin = { maximum = "forever" }\nvideo_downloaded = { minimum = "400d" }\n'
    )
    with opened(log) as audit:
        made = build(audit, days=10, until=UNTIL, frameworks=["gdpr"])
    found = made.facts["processing"]
    people = next(row for row in found["data"] if row["what"] == "pseudonym of who acted")
    assert people["distinct"] >= 5
    assert all(row["needs_human"] for row in found["purposes"])
    assert any("controller" in words for words in found["needs_human"])
    assert made.machine is not None
    periods = {row["entries"]: (row["minimum_days"], row["maximum_days"])
               for row in made.machine["processing"]["periods"]}  # fmt: skip
    assert ((365, None), (365, 2557), (400, 2557), (0, None)) == (
        periods["admin"], periods["operations"], periods["video_downloaded"], periods["log"],
    )  # fmt: skip


@pytest.mark.slow
def test_erasures_holds_and_exports_are_listed(log):
    """Acts by pseudonym and name with their basis, recipients with what they got; no e-mail address."""
    with opened(log) as audit, acting("officer@example.com", actor_type="admin"):
        audit.log("log_exported", resource_type="log", action="export", metadata={"format": "csv"})
        set_hold(audit, "case-7", range=(0, 3), reason="dispute 7")
        erase_subject(audit, "artist@example.org", basis="GDPR 17(1)(b)")
        made = build(audit, days=10, until=UNTIL, frameworks=["gdpr"])
    found = made.facts["processing"]
    assert ["subject_erased", "legal_hold_set"] == [row["event_type"] for row in found["acts"]]
    assert ["GDPR 17(1)(b)", "dispute 7"] == [row["basis"] for row in found["acts"]]
    assert found["acts"][0]["about"].startswith("p_")
    assert ("log_exported", "csv") in [(row["event_type"], row["destination"]) for row in found["recipients"]]
    assert "artist@example" not in json.dumps(made.to_json())


@pytest.mark.slow
def test_planted_data_is_found_and_not_repeated(tmp_path, monkeypatch, capfdbinary):
    """A log that somebody wrote round the privacy door: address, network address and prompt are counted."""
    smith = Smith().create()
    for metadata in ({"note": "ask person@example.com"}, {"from": "203.0.113.77"}, {"prompt": "a lake at dawn"}, {}):
        smith.batch(smith.event("x_note", metadata))
    smith.write(tmp_path / "audit")
    monkeypatch.chdir(tmp_path)
    run(["report", "--framework", "gdpr", "--trust-first-key", "--json"])
    told = json.loads(capfdbinary.readouterr().out)
    scan = told["processing"]["scan"]
    assert (1, 1, 1, True) == (
        scan["e_mail_addresses"], scan["network_addresses"], scan["prompts"], scan["complete"],
    )  # fmt: skip
    place = told["this_machine"]["processing"]["places"][0]
    assert ("log", 1, 1, 1) == (
        place["place"], place["e_mail_addresses"], place["network_addresses"], place["files_with_any"],
    )  # fmt: skip
    for secret in ("person@", "203.0.113.77", "lake at dawn"):
        assert secret not in json.dumps(told)


def test_files_beside_the_log_are_searched(log):
    """An address and a known id in the state folder, a sealed file: found by place, with counts only."""
    state = log.with_name("audit.state")
    (state / "note.txt").write_text("mail person@example.com, us***@example.com, from 192.0.2.17 and 192.168.xxx.xxx")
    (state / "who.json").write_text('{"who":"render-service"}')
    places = Places.resolve(log)
    rows = {row["place"]: row for row in inventory(places, open_subjects(places))["places"]}
    assert (1, 1, 1, 2) == (
        rows["state"]["e_mail_addresses"], rows["state"]["network_addresses"], rows["state"]["ids_of_people"],
        rows["state"]["files_with_any"],
    )  # fmt: skip


def test_what_lies_across_two_reads_is_counted_once(tmp_path, monkeypatch):
    """However a file is cut into reads, each address counts once; sealed files are unpacked."""
    text = b'"a":"person@example.com" "b":"192.0.2.17" ' * 40
    plain, packed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    plain.write_bytes(text)
    packed.write_bytes(gzip.compress(text))
    for size in (100, 101, 163, 1 << 20):
        monkeypatch.setattr("klingai_audit.report.inventory._CHUNK", size)
        assert (40, 40, 40) == search_file(plain, frozenset({b"person@example.com"}))
        assert (40, 40, 0) == search_file(packed)


def test_a_log_on_a_server_is_searched_entry_by_entry(log, postgres_url, tmp_path, monkeypatch):
    """What is planted in an entry is found there as in a file; a table of people there is named, not searched."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    source = Places.resolve(log, environ={})
    target = Places.resolve(postgres_url, subjects=postgres_url, environ={})
    before = {row["place"]: row for row in inventory(source)["places"]}
    migrate(source, target, actor="admin@example.com")
    rows = {row["place"]: row for row in inventory(target)["places"]}
    assert ["log", "subjects", "keys", "index", "state", "vault"] == list(rows)
    assert (rows["log"]["path"], rows["subjects"]["path"]) == (target.log, str(target.subjects))
    assert before["log"]["bytes"] * 0.9 < rows["log"]["bytes"]
    assert (before["log"]["e_mail_addresses"], 0) == (rows["log"]["e_mail_addresses"], rows["subjects"]["files"])
    monkeypatch.setattr("klingai_audit.report.inventory._AT", re.compile(rb"x_note|video"))
    monkeypatch.setattr("klingai_audit.report.inventory._is_mail", lambda _data, _at: True)
    assert 0 < next(row for row in inventory(target)["places"] if row["place"] == "log")["e_mail_addresses"]


def test_without_a_policy_periods_are_not_known(log):
    """An auditor's copy has no policy: no period is made up."""
    shutil.rmtree(log.with_name("audit.keys"))
    told = inventory(Places.resolve(log))
    assert (None, []) == (told["policy"], told["periods"])
    assert told["policy_trouble"]


@pytest.mark.slow
def test_all_four_forms_hold_the_records(log, tmp_path):
    """HTML and PDF show the section, CSV one number a row; made again at a size, the bytes are the same."""
    pytest.importorskip("typst", reason="the extra klingai-audit[report] is not installed")
    with opened(log) as audit:
        terms = {"days": 10, "until": UNTIL, "frameworks": ["gdpr"], "now": UNTIL + dt.timedelta(days=1)}
        made = build(audit, **terms)
        again = build(audit, at=made.scope.size, **terms)
        assert made.digest("json") == again.digest("json")
        html = made.render("html").data.decode()
        assert made.render("pdf").data.startswith(b"%PDF")
        rows = list(csv.reader(made.render("csv").data.decode().splitlines()))
    for words in ("Records of processing", "needs a human", "Places, and a search of their files", "Periods by policy"):
        assert words in html
    assert ["personal_data", "purpose", "scan"] == [
        name for name in ("personal_data", "purpose", "scan") if any(row[0] == name for row in rows)
    ]
