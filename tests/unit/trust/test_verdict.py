"""The verdict: its JSON, its counts, its threats; the table of finding kinds."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from klingai_audit.privacy.policy import Policy, VerifyPolicy
from klingai_audit.trust.verdict import FINDING_KINDS, THREATS, Finding, Unsigned, Verdict, distinct
from tests.support.logsmith import Smith
from tests.unit.trust.attacks import GOOD, KEY, SIZE, SMITH, check, on_lines

FIRST_DAY = "audit-2026-11-20.jsonl"
TOLERANT = msgspec.structs.replace(Policy.default(), verify=VerifyPolicy(require_checkpoint=False))
SOURCES = Path(__file__).parents[3] / "src" / "klingai_audit" / "trust"
MEMBERS = ["format", "log", "origin", "key", "custody", "size", "total", "valid", "invalid", "integrity_ok", "exit"]
MEMBERS += ["quick_from", "purged", "unsigned", "threats", "findings", "recorded"]


def verdict_of(*findings: Finding) -> Verdict:
    return Verdict("log", "audit", None, None, "", 10, 10, 10, findings, ())


def test_json_of_a_good_log_has_exactly_the_members_of_the_design(tmp_path):
    """Design 14.5, in its order, with the values of the log."""
    told = check(tmp_path / "audit", GOOD).to_json()
    assert list(told) == MEMBERS
    assert told["key"] == {"vkey": KEY, "source": "--key"}
    assert (told["origin"], told["size"], told["total"], told["valid"]) == (SMITH.origin, SIZE, SIZE, SIZE)
    assert (told["invalid"], told["integrity_ok"], told["exit"], told["recorded"]) == (0, True, 0, False)
    assert told["unsigned"] == {"entries": 0, "oldest": None}
    assert [threat["threat"] for threat in told["threats"]] == list(THREATS)
    assert {tuple(threat) for threat in told["threats"]} == {("threat", "state", "by", "do")}


def test_json_of_a_finding_has_exactly_the_members_of_the_design(tmp_path):
    """Kind, severity, half-open range, file, line, message."""
    files = dict(GOOD)
    on_lines("audit-2026-11-20.jsonl", lambda lines: lines.pop(7))(files)
    (told,) = check(tmp_path / "audit", files).to_json()["findings"]
    message = told.pop("message")
    assert told == {
        "kind": "entry_missing",
        "severity": "broken",
        "seq": 7,
        "seq_end": 8,
        "file": "audit-2026-11-20.jsonl",
        "line": 8,
    }
    assert message == "Entry 7 is gone; it was signed."


def test_unsigned_tail_tells_count_and_oldest(tmp_path):
    """`unsigned` says how many lines no checkpoint covers, and since when."""
    last = SMITH.entries[-1].replace(b'"seq":%d' % (SIZE - 1), b'"seq":%d' % SIZE)
    files = dict(GOOD)
    on_lines("audit-2026-11-22.jsonl", lambda lines: lines.append(last))(files)
    verdict = check(tmp_path / "audit", files)
    logged_at = last[last.index(b'"logged_at":"') + 13 :][:27].decode()
    assert verdict.to_json()["unsigned"] == {"entries": 1, "oldest": logged_at}
    assert verdict.unsigned == Unsigned(1, logged_at)


def test_no_threat_is_ruled_out_without_a_ground(tmp_path):
    """Every threat says by what it is ruled out, or what to do."""
    for threat in check(tmp_path / "audit", GOOD).threats:
        assert threat.by
        assert bool(threat.do) == (threat.state != "ruled_out")


def test_states_of_a_good_log_with_a_pinned_key(tmp_path):
    """What the tree proves is ruled out; what only others could witness is not."""
    states = {threat.threat: threat.state for threat in check(tmp_path / "audit", GOOD).threats}
    proven = {name for name, state in states.items() if state == "ruled_out"}
    assert proven == {"edit", "insert", "delete", "reorder", "head_cut", "tail_cut", "foreign_key"}
    assert set(states.values()) == {"ruled_out", "not_ruled_out"}


def test_without_a_usable_checkpoint_nothing_is_ruled_out(tmp_path):
    """Checkpoints gone, kept ones too: the entries are covered by nothing."""
    files = {name: data for name, data in GOOD.items() if not name.startswith("checkpoint")}
    verdict = check(tmp_path / "audit", files)
    assert {verdict.threat(name).state for name in THREATS[:6]} == {"not_ruled_out"}


def test_invalid_counts_distinct_entries_of_broken_findings():
    """Overlapping ranges count once, notes and findings without entries not at all."""
    verdict = verdict_of(
        Finding("entry_changed", "", 3, 6),
        Finding("link_broken", "", 5, 8),
        Finding("clock_step", "", 9),
        Finding("checkpoint_missing", ""),
    )
    assert (verdict.invalid, verdict.exit_code, len(verdict.notes), len(verdict.broken)) == (5, 4, 1, 3)


def test_notes_alone_exit_zero():
    """A note never makes the exit code 4."""
    verdict = verdict_of(Finding("heartbeat_gap", "", 1))
    assert (verdict.exit_code, verdict.integrity_ok) == (0, True)


def test_recorded_is_set_on_a_copy():
    """`with_recorded` leaves the original as it was."""
    verdict = verdict_of()
    assert (verdict.with_recorded(True).recorded, verdict.recorded) == (True, False)


@pytest.mark.parametrize(
    "ranges, count", [([], 0), ([(0, 3)], 3), ([(0, 3), (2, 5)], 5), ([(4, 5), (0, 1)], 2), ([(0, 9), (1, 2)], 9)]
)
def test_distinct_counts_overlaps_once(ranges, count):
    """Half-open ranges, in any order."""
    assert distinct(ranges) == count


def test_every_kind_used_is_in_the_table_and_every_kind_in_the_table_is_used():
    """`FINDING_KINDS` and the code that makes findings name the same kinds."""
    code = "".join(path.read_text("utf-8") for path in SOURCES.glob("*.py") if path.name != "verdict.py")
    used = {kind for kind in FINDING_KINDS if f'"{kind}"' in code}
    named = set(re.findall(r'Finding\(\s*"([a-z_]+)"', code))
    assert (used, named - FINDING_KINDS.keys()) == (FINDING_KINDS.keys(), set())


def test_kinds_name_known_threats_and_pages():
    """Each kind has words, a page, and only threats that exist."""
    for kind in FINDING_KINDS.values():
        assert kind.meaning.endswith(".")
        assert re.fullmatch(r"[a-z-]+", kind.page)
        assert set(kind.threats) <= set(THREATS)
        assert kind.severity == "broken" or not kind.threats


def unpublished(*, tree: bool) -> tuple[dict[str, bytes], int]:
    """A log whose last checkpoint is 300 entries old, with or without tree hashes for the lines beyond."""
    smith = Smith().create().work(498)
    note, signed = smith.checkpoint(), len(smith.entries)
    files = smith.work(300).files(note)
    if not tree:
        files["tree/0"] = files["tree/0"][: signed * 32]
        files["tree/1"] = files["tree/1"][: signed // 256 * 32]
    return files, signed


def test_first_use_trusts_nobody(tmp_path):
    """A key that only the log names rules no foreign key out, and the tree is said to rest on that name."""
    verdict = check(tmp_path / "audit", GOOD, key_source="first use")
    assert verdict.threat("foreign_key").state == "not_ruled_out"
    assert "which only the log itself names" in verdict.threat("edit").by


def test_keys_folder_says_what_it_proves(tmp_path):
    """A folder that came with the log is no proof, and the verdict says so."""
    threat = check(tmp_path / "audit", GOOD, key_source="keys folder").threat("foreign_key")
    assert (threat.state, "from the same hand" in threat.by) == ("ruled_out", True)


@pytest.mark.parametrize("tree", [False, True])
def test_tolerated_lines_leave_threats_open(tmp_path, tree):
    """What no checkpoint covers can have been edited, inserted or cut, and only that is said."""
    files, signed = unpublished(tree=tree)
    verdict = check(tmp_path / "audit", files, policy=TOLERANT, now=Smith().now)
    assert ([("unpublished", signed, signed + 300)], 0) == (
        [(note.kind, note.seq, note.seq_end) for note in verdict.findings],
        verdict.exit_code,
    )
    states = {name: verdict.threat(name).state for name in ("edit", "insert", "delete", "reorder", "tail_cut")}
    assert set(states.values()) == {"not_ruled_out"}
    assert verdict.threat("head_cut").state == "ruled_out"


@pytest.mark.parametrize(("name", "at", "place"), [("tree/0", 700 * 32, (700, 701)), ("tree/1", 2 * 32, (512, 768))])
def test_hashes_of_tolerated_lines_are_compared(tmp_path, name, at, place):
    """Stored hashes beyond the signed size must be those of the lines that stand there."""
    files, _ = unpublished(tree=True)
    data = files[name]
    files[name] = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    verdict = check(tmp_path / "audit", files, policy=TOLERANT)
    assert [("tree_changed", *place)] == [(found.kind, found.seq, found.seq_end) for found in verdict.broken]


def test_publishing_that_was_interrupted_is_no_rollback(tmp_path):
    """The head was remembered and `checkpoint` not yet replaced: the lines are there, and say so by their root."""
    files, signed = unpublished(tree=True)
    newer = Smith().create().work(798).checkpoint()
    verdict = check(tmp_path / "audit", files, remembered=newer)
    assert [("unsigned_tail", signed, signed + 300)] == [(f.kind, f.seq, f.seq_end) for f in verdict.broken]
    assert "Open the log for writing once" in verdict.broken[0].message
    assert verdict.threat("rollback").state != "detected"


def interrupted():
    """Return a log of 503 entries whose closing is signed and kept while `checkpoint` is of 500, and both sizes."""
    smith = Smith().create().work(500)
    old = smith.files()["checkpoint"]
    smith.work(2).closed()
    return {**smith.files(), "checkpoint": old}, 502, 505


@pytest.mark.parametrize("remembered", [True, False])
def test_a_kept_checkpoint_ahead_is_told_for_what_it_is(tmp_path, remembered):
    """The lines have its root: publishing was interrupted; nobody is told of a rollback, and what to do is said."""
    files, old, new = interrupted()
    memory = files[f"checkpoints/{new:020}"] if remembered else None
    verdict = check(tmp_path / "audit", files, remembered=memory)
    kinds = [(found.kind, found.seq, found.seq_end) for found in verdict.broken]
    assert kinds == [("unsigned_tail", old, new), ("checkpoint_behind", old, new)]
    assert "Open the log for writing once" in verdict.broken[1].message
    assert (verdict.exit_code, verdict.threat("rollback").state) == (4, "ruled_out" if remembered else "not_ruled_out")
    assert [note.kind for note in check(tmp_path / "tolerant", files, policy=TOLERANT).broken] == []


@pytest.mark.parametrize("how", ["cut", "changed"])
def test_a_kept_checkpoint_ahead_without_its_lines_is_a_rollback(tmp_path, how):
    """Lines were cut off, or others stand there, and `checkpoint` is the older one: the log was set back."""
    files, old, _ = interrupted()
    lines = files[FIRST_DAY].splitlines(keepends=True)
    if how == "cut":
        files[FIRST_DAY] = b"".join(lines[:old])
        files["tree/0"] = files["tree/0"][: old * 32]
    else:
        files[FIRST_DAY] = b"".join(
            [*lines[:-2], lines[-2].replace(b'"outcome":"success"', b'"outcome":"failure"'), lines[-1]]
        )
    verdict = check(tmp_path / "audit", files)
    found = {finding.kind for finding in verdict.broken}
    assert "rollback" in found
    assert "checkpoint_behind" not in found
    assert verdict.threat("rollback").state == "detected"


def test_memory_that_the_lines_do_not_have_is_a_rollback(tmp_path):
    """As many lines, but others than were signed."""
    files, _ = unpublished(tree=True)
    last = files[FIRST_DAY].rindex(b'"actor_type"')
    files[FIRST_DAY] = files[FIRST_DAY][:last] + b'"actor_typo"' + files[FIRST_DAY][last + 12 :]
    verdict = check(tmp_path / "audit", files, remembered=Smith().create().work(798).checkpoint())
    assert "rollback" in {finding.kind for finding in verdict.broken}
