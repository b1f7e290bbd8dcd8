"""One day file by itself."""

from __future__ import annotations

import gzip

import pytest

from klingai_audit.errors import StorageError
from klingai_audit.ledger.purged import purged_line
from klingai_audit.trust.file import verify_file
from tests.support.logsmith import Smith, leaf_hash
from tests.unit.trust.attacks import broken, detected, join, split

SMITH = Smith().create().work(400)
SMITH.next_day().rotate().work(300).closed()
FIRST, SECOND = "audit-2026-11-20.jsonl", "audit-2026-11-21.jsonl"
FILES = SMITH.files()
BASE = 402


def attacked(change) -> bytes:
    lines = split(FILES[SECOND])
    change(lines)
    return join(lines)


def edit(lines):
    lines[50] = lines[50].replace(b"studio-", b"studiO-")


def delete(lines):
    del lines[50:53]


def swap(lines):
    lines[50], lines[60] = lines[60], lines[50]


def duplicate(lines):
    lines.insert(50, lines[40])


def ruin(lines):
    lines[50] = lines[50][:-1]


def respell(lines):
    lines[50] = lines[50].replace(b'"outcome"', b' "outcome"')


@pytest.mark.parametrize("name", [FIRST, SECOND, "copy of a day"])
def test_good_file_has_nothing_broken(name):
    """Any day by itself, under whatever name."""
    verdict = verify_file(FILES.get(name, FILES[SECOND]), name=name)
    assert (broken(verdict), verdict.exit_code, verdict.valid == verdict.total) == ([], 0, True)


@pytest.mark.parametrize(
    "change, findings",
    [
        (edit, [("link_broken", BASE + 50, BASE + 52, SECOND, 52)]),
        (delete, [("entry_missing", BASE + 50, BASE + 53, SECOND, 51)]),
        (swap, [("entry_moved", BASE + 60, BASE + 61, SECOND, 51), ("entry_moved", BASE + 50, BASE + 51, SECOND, 61)]),
        (duplicate, [("entry_duplicated", BASE + 40, BASE + 41, SECOND, 51)]),
        (ruin, [("entry_malformed", None, None, SECOND, 51)]),
        (
            respell,
            [
                ("entry_malformed", BASE + 50, BASE + 51, SECOND, 51),
                ("link_broken", BASE + 50, BASE + 52, SECOND, 52),
            ],
        ),
    ],
)
def test_damage_is_located_by_links(change, findings):
    """Without signatures, links and indexes still tell what does not fit."""
    verdict = verify_file(attacked(change), name=SECOND)
    assert (broken(verdict), verdict.exit_code) == (findings, 4)


def test_file_of_another_day_is_named():
    """A day file under another day's name."""
    verdict = verify_file(FILES[SECOND], name="audit-2026-11-25.jsonl")
    assert broken(verdict) == [("file_renamed", BASE, BASE + 302, "audit-2026-11-25.jsonl", 1)]


def test_torn_and_empty_files_are_named():
    """A line without LF; nothing at all."""
    assert broken(verify_file(FILES[SECOND][:-5], name=SECOND)) == [("torn_tail", None, None, SECOND, 302)]
    assert broken(verify_file(b"", name=SECOND)) == [("file_empty", None, None, SECOND, None)]


def test_link_of_entry_zero_is_the_empty_root():
    """A log's first line links to nothing, whatever it claims."""
    data = FILES[FIRST].replace(b'"prev_hash":"e3b0', b'"prev_hash":"e3b1', 1)
    assert broken(verify_file(data, name=FIRST))[0][:3] == ("link_broken", 0, 1)


def test_scope_is_the_file_and_the_rest_is_not_checked():
    """Design 14.5: the same object with `scope`, threats beyond the file `not_checked`."""
    told = verify_file(FILES[SECOND], name=SECOND).to_json()
    assert list(told)[:3] == ["format", "scope", "log"]
    assert (told["scope"], told["origin"], told["key"], told["size"], told["total"]) == ("file", None, None, 0, 302)
    states = {threat["threat"]: threat["state"] for threat in told["threats"]}
    open_ones = {name for name, state in states.items() if state == "not_ruled_out"}
    assert open_ones == {"edit", "insert", "delete", "reorder"}
    assert set(states.values()) == {"not_ruled_out", "not_checked"}


def test_edit_with_new_links_is_not_ruled_out():
    """A file by itself cannot show an edit whose links were computed anew, and does not claim to."""
    smith = Smith(seed="another").create().work(400)
    verdict = verify_file(smith.files()[FIRST], name=FIRST)
    assert (verdict.exit_code, verdict.threat("edit").state, detected(verdict)) == (0, "not_ruled_out", set())


def test_file_is_read_from_its_path(tmp_path):
    """A path is opened, named after itself, in ranges if it is large."""
    path = tmp_path / SECOND
    path.write_bytes(FILES[SECOND])
    seen = []
    verdict = verify_file(path, progress=lambda done, total: seen.append((done, total)))
    assert (verdict.log, verdict.exit_code, seen) == (str(path), 0, [(len(FILES[SECOND]),) * 2])


def test_file_that_cannot_be_read_is_a_storage_error(tmp_path):
    """Not evidence of anything: exit code 3."""
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(StorageError):
            verify_file(path)


def purge(*indexes):
    def change(lines):
        for index in indexes:
            lines[index] = purged_line(leaf_hash(lines[index]), 700)

    return change


@pytest.mark.parametrize(
    "indexes, spans",
    [
        ((50, 51, 60), [(50, 52), (60, 61)]),
        ((0, 1, 2), [(0, 3)]),
        (range(300), [(0, 300)]),
        (range(302), None),  # no line is left that tells which entries these were
    ],
)
def test_purged_lines_are_told_and_links_go_on_across_them(indexes, spans):
    """What stands for a purged entry counts as its line, at the start of a file, too."""
    verdict = verify_file(attacked(purge(*indexes)), name=SECOND)
    assert ([], 302, 302) == (broken(verdict), verdict.total, verdict.valid)
    assert [(BASE + begin, BASE + end, 700) for begin, end in spans or ()] == [tuple(run) for run in verdict.purged]


def test_damage_behind_purged_lines_is_where_it_is():
    """The first line that states its index tells what the purged ones before it stand for."""

    def change(lines):
        purge(0, 1, 52)(lines)
        lines[50] = lines[50].replace(b"studio-", b"studiO-")
        del lines[100]

    verdict = verify_file(attacked(change), name=SECOND)
    assert [("entry_missing", BASE + 100, BASE + 101), ("link_broken", BASE + 50, BASE + 52)] == sorted(
        found[:3] for found in broken(verdict)
    )
    assert [(BASE, BASE + 2, 700), (BASE + 52, BASE + 53, 700)] == [tuple(run) for run in verdict.purged]


def test_a_sealed_day_is_unpacked(tmp_path):
    """Its lines are checked as if they were not packed; one that does not unpack cannot be read."""
    path = tmp_path / (SECOND + ".gz")
    path.write_bytes(gzip.compress(attacked(edit), mtime=0))
    verdict = verify_file(path)
    assert ("link_broken", BASE + 50, BASE + 52, path.name, 52) == broken(verdict)[0]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StorageError):
        verify_file(path)
