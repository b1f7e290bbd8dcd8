"""Old logs taken over: what is added, what is not added twice, what is found, and what never enters."""

from __future__ import annotations

import hashlib
import json

import pytest

from klingai_audit import AuditLog, acting
from klingai_audit.cli.run import run
from klingai_audit.errors import AuditUnavailable, StorageError, UsageError
from klingai_audit.event.record import Draft
from klingai_audit.upkeep import importing
from klingai_audit.upkeep.importing import import_files
from tests.support.recipes import ChainWriter, ChecksumWriter

BOSS = "boss@example.com"


@pytest.fixture
def audit(tmp_path):
    """An open log; the boss acts."""
    with AuditLog.open(tmp_path / "log") as log, acting(BOSS, actor_type="admin"):
        yield log


@pytest.fixture
def old(tmp_path):
    """A log of the first recipe with a story in it."""
    writer = ChecksumWriter(tmp_path / "audit.json")
    person = {"actor_id": "user@example.com", "ip_address": "192.168.1.100"}
    writer.log("prompt_submitted", resource_type="prompt", action="submit_prompt", prompt_length=32, **person)
    writer.log("generation_started", resource_type="video", action="start_generation", model="kling-v1.5", **person)
    writer.log(
        "generation_failed", resource_type="video", action="x", outcome="failure", error="API error: 500", **person
    )
    writer.log("rate_limit_exceeded", "ed@example.com", "api", "rate_limit_hit", "blocked")
    return writer.path


@pytest.fixture
def days(tmp_path):
    """Two files of the second recipe: one process over midnight, then a second one."""
    folder = tmp_path / "audit"
    folder.mkdir()
    first = ChainWriter(folder)
    first.log("task_submitted", "system", {"action": "text_to_video", "prompt_hash": "0123456789abcdef"})
    first.log("task_status_changed", "system", {"status": "processing", "task_id": "831045678901234567"})
    first.log("task_completed", "system", {"action": "text_to_video", "status": "succeed", "video_count": 1}, hours=18)
    second = ChainWriter(folder, begin=first._moment)
    second.log(
        "auth_event", "user@example.com", {"event": "rotate", "success": True, "access_key_prefix": "AKabcdef..."}
    )
    return sorted(folder.iterdir())


def entries(audit: AuditLog) -> list[dict]:
    """What the import wrote, as stored, its own summaries left out."""
    audit.flush()
    found = [json.loads(line) for line in audit.entries()]
    return [entry for entry in found if not entry["event_type"].startswith("log_")]


def size(audit: AuditLog) -> int:
    """How many entries there are."""
    audit.flush("published")
    return audit.reader.size


def counts(result) -> tuple[int, ...]:
    """Lines, imported, already there, repeated, bad."""
    return tuple(result.total(name) for name in ("lines", "imported", "already_there", "repeated", "bad"))


def kinds(result) -> list[tuple[int, str]]:
    """Line and kind of every finding."""
    return [(found.line, found.kind) for file in result.files for found in file.findings]


# --- what is added -------------------------------------------------------------------------------------


def test_first_recipe_is_taken_over(audit, old):
    """Each line is an entry at its own time, with its own id, and with what its checksum says."""
    result = import_files(audit, [old])
    lines = [json.loads(line) for line in old.read_text().splitlines()]
    found = entries(audit)
    assert ((4, 4, 0, 0, 0), 0, []) == (counts(result), result.exit_code, kinds(result))
    assert [line["event_id"] for line in lines] == [entry["event_id"] for entry in found]
    assert [line["timestamp"] for line in lines] == [entry["timestamp"] for entry in found]
    assert ["prompt_submitted", "video_generation_started", "video_generation_failed", "rate_limit_exceeded"] == [
        entry["event_type"] for entry in found
    ]
    file = hashlib.sha256(old.read_bytes()).hexdigest()
    told = [entry["metadata"]["import"] for entry in found]
    assert [("checksum-lines", file, number, "ok") for number in (1, 2, 3, 4)] == [
        (facts["format"], facts["file"], facts["line"], facts["checksum"]) for facts in told
    ]
    assert "192.168.xxx.xxx" == found[0]["ip_address"]
    assert 3 == audit.activity("us***@example.com", days=3650).total_events


def test_second_recipe_is_taken_over(audit, days):
    """A restart is a finding and no error; tasks can be found by their id."""
    result = import_files(audit, days)
    found = entries(audit)
    assert ((4, 4, 0, 0, 0), 0, [(2, "chain_restart")]) == (counts(result), result.exit_code, kinds(result))
    assert ["ok", "ok", "ok", "restart"] == [entry["metadata"]["import"]["chain"] for entry in found]
    assert ["unknown", "unknown", "success", "success"] == [entry["outcome"] for entry in found]
    assert {"5"} == {entry["event_id"][14] for entry in found}
    assert ["task_status_changed"] == [entry.event_type for entry in audit.query(task="831045678901234567")]


def test_who_imported_stands_in_the_log(audit, old, days):
    """One entry a file, in the name of the importer; paths are nobody's business."""
    import_files(audit, [old, *days])
    told = list(audit.query(event_type="log_imported"))
    assert {audit.subjects.resolve(BOSS).pseudonym} == {entry.actor_id for entry in told}
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in (old, *days)] == [
        entry.resource_id for entry in told
    ]
    assert [(4, {}), (2, {}), (2, {"chain_restart": 1})] == [
        (entry.metadata["imported"], entry.metadata["findings"]) for entry in told
    ]
    assert str(old.parent) not in b"".join(audit.entries()).decode()


def test_log_with_imports_verifies_without_a_note(audit, old, days):
    """Old times and ids are nothing that verification minds."""
    import_files(audit, [old, *days])
    verdict = audit.verify()
    assert (True, ()) == (verdict.integrity_ok, tuple(verdict.findings))


# --- what is not added twice ---------------------------------------------------------------------------


def test_file_again_adds_nothing(audit, old, days):
    """Not even a summary; the result says how many lines were there."""
    import_files(audit, [old, *days])
    before = size(audit)
    result = import_files(audit, [old, *days])
    assert ((8, 0, 8, 0, 0), before) == (counts(result), size(audit))


def test_file_that_grew_adds_what_is_new(audit, old, tmp_path):
    """The lines before are recognised though the file is another one."""
    import_files(audit, [old])
    ChecksumWriter(old, seed=2).log("quota_checked", "user@example.com", "account", "check")
    assert (5, 1, 4, 0, 0) == counts(import_files(audit, [old]))


def test_import_that_was_cut_off_is_completed(audit, old, days, monkeypatch):
    """What was durable before the crash is recognised after it."""
    monkeypatch.setattr(importing, "CHUNK", 1)
    record, left = audit.append, [3]

    def failing(event, *, once=False):
        left[0] -= 1
        if left[0] < 0:
            raise AuditUnavailable("gone")
        return record(event, once=once)

    monkeypatch.setattr(audit, "append", failing)
    with pytest.raises(AuditUnavailable):
        import_files(audit, [old, *days])
    monkeypatch.setattr(audit, "append", record)
    assert (8, 5, 3, 0, 0) == counts(import_files(audit, [old, *days]))
    ids = [entry["event_id"] for entry in entries(audit)]
    assert 8 == len(ids) == len(set(ids))


def test_other_logs_know_nothing_of_it(audit, old, tmp_path):
    """Recognition is by a key of the log: in another one the lines are new, with other references."""
    import_files(audit, [old])
    with AuditLog.open(tmp_path / "other") as other:
        assert 4 == import_files(other, [old]).total("imported")
        references = [[entry["metadata"]["import"]["ref"] for entry in entries(log)] for log in (audit, other)]
    assert set() == set(references[0]) & set(references[1])


def test_same_line_twice_in_a_file_is_told(audit, old):
    """A copied line adds nothing, is counted, and is a finding."""
    text = old.read_text()
    old.write_text(text + text.splitlines(keepends=True)[0])
    result = import_files(audit, [old])
    assert ((5, 4, 0, 1, 0), [(5, "repeated_line")]) == (counts(result), kinds(result))


def test_id_that_is_taken_does_not_hide_a_line(audit, old):
    """Another line under a known event_id is evidence, not a repetition: it enters under an id of its own."""
    first = json.loads(old.read_text().splitlines()[0])
    first["outcome"] = "failure"
    old.write_text(old.read_text() + json.dumps(first) + "\n")
    result = import_files(audit, [old])
    assert ((5, 5, 0, 0, 0), [(5, "event_id_reused")], 4) == (counts(result), kinds(result), result.exit_code)
    last = entries(audit)[-1]
    assert (first["event_id"], "failure") == (last["metadata"]["import"]["event_id"], last["outcome"])
    assert first["event_id"] != last["event_id"]
    assert (5, 0, 5, 0, 0) == counts(import_files(audit, [old]))


def test_id_of_a_live_entry_does_not_hide_a_line(audit, old):
    """An entry of this log that is no import may have the id, too."""
    taken = json.loads(old.read_text().splitlines()[0])["event_id"]
    audit.log("x_mine", event_id=taken).wait()
    result = import_files(audit, [old])
    assert ((4, 4, 0, 0, 0), [(1, "event_id_reused")]) == (counts(result), kinds(result))


# --- what is found -------------------------------------------------------------------------------------


def test_changed_line_is_taken_over_and_told(audit, old):
    """A line that somebody edited is imported as it is, marked; the exit code says so."""
    old.write_text(old.read_text().replace("rate_limit_hit", "nothing_special"))
    result = import_files(audit, [old])
    assert ((4, 4, 0, 0, 0), [(4, "checksum_bad")], 4) == (counts(result), kinds(result), result.exit_code)
    assert "bad" == entries(audit)[3]["metadata"]["import"]["checksum"]


def test_line_that_was_taken_out_breaks_the_chain(audit, days):
    """The line after the gap is the one that tells."""
    lines = days[0].read_text().splitlines(keepends=True)
    days[0].write_text(lines[0])
    result = import_files(audit, days)
    assert [(1, "chain_open"), (2, "chain_restart")] == kinds(result)
    days[0].write_text("".join(lines) + "".join(days[1].read_text().splitlines(keepends=True)[1:]) + lines[1])
    assert (4, "chain_broken") in kinds(import_files(audit, days[:1]))


def test_bad_lines_are_listed_and_the_rest_is_taken_over(audit, old):
    """A torn line, an empty one, one of another kind: each with its number, exit code 1."""
    lines = old.read_text().splitlines()
    huge = json.dumps({**json.loads(lines[0]), "event_id": "e", "metadata": {"x": "y" * 70_000}})
    log_itself = json.dumps({**json.loads(lines[0]), "event_id": "f", "actor_id": "klingai-audit"})
    surrogate = lines[0].replace('"prompt"', '"\\ud800"')
    bad = ["", "not json", '{"a":1}', huge, log_itself, surrogate, lines[3][:50]]
    old.write_text("\n".join([*lines[:3], *bad]))
    result = import_files(audit, [old])
    assert ((10, 3, 0, 0, 7), 1) == (counts(result), result.exit_code)
    assert [(number, "bad_line") for number in range(4, 11)] == [
        pair for pair in kinds(result) if pair[1] == "bad_line"
    ]
    told = " ".join(found.message for file in result.files for found in file.findings)
    assert [] == [word for word in ("yyyy", "example.com", "prompt_length") if word in told]
    (summary,) = audit.query(event_type="log_imported")
    assert 7 == summary.metadata["bad"]


def test_file_of_another_kind_is_refused(audit, tmp_path):
    """The recipe's text log, or any other file, is not an import of nothing."""
    text = tmp_path / "audit.log"
    text.write_text("2026-03-01 09:00:00,250 | INFO | api_key_used | us***@example.com | use | success\n")
    before = size(audit)
    for path in (text, tmp_path / "gone", tmp_path):
        with pytest.raises(UsageError):
            import_files(audit, [path])
    assert before == size(audit)


def test_empty_file_is_no_error(audit, tmp_path):
    """A day on which nothing happened."""
    (tmp_path / "audit-2026-03-09.jsonl").touch()
    assert (0, 0, 0, 0, 0) == counts(import_files(audit, [tmp_path / "audit-2026-03-09.jsonl"]))


def test_two_imports_at_once_are_refused(audit, old):
    """Neither would see the lines of the other."""
    with importing._alone(audit, importing.OPS), pytest.raises(StorageError):
        import_files(audit, [old])
    assert 4 == import_files(audit, [old]).total("imported")


def test_file_that_changes_meanwhile_is_noticed(audit, old, monkeypatch):
    """The digest in the entries is that of the bytes that were read."""
    look_up = importing._Known.look_up

    def meddling(known):
        look_up(known)
        old.write_text(old.read_text().replace("submit_prompt", "submit_pr0mpt"))

    monkeypatch.setattr(importing._Known, "look_up", meddling)
    with pytest.raises(StorageError):
        import_files(audit, [old])


# --- what never enters ---------------------------------------------------------------------------------


def test_unmasked_logs_go_through_the_door(audit, tmp_path):
    """Mail addresses, IP addresses, prompts, keys and hashes of prompts of an old log are nowhere in the new one."""
    writer = ChecksumWriter(tmp_path / "audit.json", include_pii=True)
    writer.log(
        "prompt_submitted", "user@example.com", "user", "submit for user@example.com", resource_id="ed@example.com",
        ip_address="192.168.1.100", user_agent="python-requests/2.31.0", prompt="A serene mountain lake at sunrise",
        error="Bearer 0123abcd4567efgh89 refused for ed@example.com", note="from 192.168.1.100",
    )  # fmt: skip
    writer.log("mail from ed@example.com", "user@example.com", "video", "x", region="ed@example.com")
    chain = ChainWriter(tmp_path)
    chain.log("task_submitted", "user@example.com", {"prompt_hash": "0123456789abcdef", "ip": "192.168.1.100"})
    import_files(audit, [writer.path, tmp_path / "audit-2026-03-01.jsonl"])
    audit.close()
    stored = b"".join(path.read_bytes() for path in (tmp_path / "log").rglob("*") if path.is_file())
    planted = (
        b"user@example", b"ed@example", b"192.168.1.100", b"serene", b"0123456789abcdef", b"0123abcd4567efgh89",
        b"2.31.0",
        *(json.loads(line)["checksum"].encode() for line in writer.path.read_text().splitlines()),
    )  # fmt: skip
    assert [] == [word for word in planted if word in stored]


def test_real_person_can_be_found_by_id(audit, tmp_path):
    """An old log that kept ids joins the person's new entries under one pseudonym."""
    ChecksumWriter(tmp_path / "a.json", include_pii=True).log("quota_checked", "user@example.com", "account", "check")
    import_files(audit, [tmp_path / "a.json"])
    with acting.restore(None):
        audit.record(Draft(event_type="quota_checked", actor_id="User@example.com", resource_type="account"))
    assert 2 == len(list(audit.query(actor="user@example.com")))


# --- the command ---------------------------------------------------------------------------------------


def test_command_reports_and_exits_by_what_it_found(old, days, tmp_path, capsys):
    """JSON and words, and the exit codes of the page."""
    log = ("--log", str(tmp_path / "log"))
    assert 0 == run(["init", *log])
    capsys.readouterr()
    assert 0 == run(["import", str(old), "--actor", BOSS, "--json", *log])
    told = json.loads(capsys.readouterr().out)
    assert (4, 4, 0) == (told["lines"], told["imported"], told["already_there"])
    assert ["file", "sha256", "bytes", "lines", "imported", "already_there", "repeated", "bad", "formats", "checksums",
            "chain", "findings"] == list(told["files"][0])  # fmt: skip
    assert 0 == run(["import", str(old), *map(str, days), *log])
    out = capsys.readouterr().out
    assert [] == [text for text in ("4 already there", "chain_restart", "4 of 8 lines imported") if text not in out]
    old.write_text(old.read_text().replace("submit_prompt", "submit_pr0mpt") + "\n")
    assert 1 == run(["import", str(old), *log])
    assert "line 5: bad_line, it is empty" in capsys.readouterr().out
    old.write_text(old.read_text().rstrip("\n") + "\n")
    assert 4 == run(["import", str(old), *log])
    assert 2 == run(["import", str(tmp_path / "gone"), *log])


def test_progress_counts_bytes(audit, old):
    """Every byte twice: looked at, then taken over."""
    seen = []
    import_files(audit, [old], progress=lambda done, total: seen.append((done, total)))
    assert (2 * old.stat().st_size,) * 2 == seen[-1]
    assert sorted(seen) == seen
