"""The fast path: what it reports of a range, that ranges tile a file, and that any doubt makes a range unsound."""

from __future__ import annotations

import hashlib

import pytest

from klingai_audit.tlog.hashing import fold_tile
from klingai_audit.trust.chunk import Report, Silence, Task
from klingai_audit.trust.scan import find_silences, scan
from tests.support.logsmith import Smith, leaf_hash

SMITH = Smith().create().work(998)
(DAY, DATA) = next((name[6:16], data) for name, data in SMITH.files().items() if name.startswith("audit"))
LEAVES = b"".join(leaf_hash(entry) for entry in SMITH.entries)


def scan_bytes(
    data: bytes, begin: int = 0, end: int | None = None, *, decode: bool = True, hashes: bytes = LEAVES, day: str = DAY
) -> Report:
    task = Task(0, None, day, begin, len(data) if end is None else end, len(data), None, decode)
    return scan(task, lambda a, b: data[a:b], lambda a, b: hashes[a:b])


@pytest.mark.parametrize("decode", [False, True])
def test_whole_file_is_reported(decode):
    """Base, count, link to the range before, last leaf, tree parts, times, seal."""
    report = scan_bytes(DATA, decode=decode)
    assert (report.sound, report.stored, report.sealed) == (True, True, True)
    assert (report.base, report.lines, report.start, report.stop) == (0, 1000, 0, len(DATA))
    assert (report.first_prev, report.last_leaf) == (hashlib.sha256(b"").digest(), LEAVES[-32:])
    assert (report.head, report.tail) == (b"", LEAVES[768 * 32 :])
    assert report.tiles == b"".join(fold_tile(LEAVES[at : at + 8192]) for at in range(0, 768 * 32, 8192))
    assert [seq for seq, _ in report.own] == [0, 1]


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("step", [300, 701, 5000, 100_003])
def test_ranges_tile_the_lines(decode, step):
    """However a file is cut into ranges, every line is in exactly one, and the tree parts add up."""
    reports = [scan_bytes(DATA, at, min(at + step, len(DATA)), decode=decode) for at in range(0, len(DATA), step)]
    found = [report for report in reports if report.lines]
    size, leaf = 0, hashlib.sha256(b"").digest()
    for report in found:
        assert (report.sound, report.base, report.first_prev) == (True, size, leaf)
        size, leaf = size + report.lines, report.last_leaf
    assert size == 1000
    assert (
        len(b"".join(r.head + r.tail for r in found)) // 32 + 256 * len(b"".join(r.tiles for r in found)) // 32 == 1000
    )


def doubtful() -> dict[str, bytes]:
    entry = SMITH.entries[500]
    other = {
        "changed": entry.replace(b"studio-", b"studiO-"),
        "seq": entry.replace(b'"seq":500', b'"seq":501'),
        "leading zero": entry.replace(b'"seq":500', b'"seq":0500'),
        "time": entry.replace(b'"logged_at":"2026-11-20T', b'"logged_at":"2026-11-20t'),
        "earlier": entry.replace(b'"logged_at":"2026-11-20T09', b'"logged_at":"2026-11-20T08'),
        "later day": entry.replace(b'"logged_at":"2026-11-20', b'"logged_at":"2026-11-21'),
        "link": entry.replace(b'"prev_hash":"', b'"prev_hash" "'),
        "end": entry + b" ",
        "too large": entry.replace(b'"metadata":{', b'"metadata":{"x":"' + b"y" * 65_000 + b'",'),
        "empty": b"",
        "carriage return": entry + b"\r",
        "seal": SMITH.seal(entry)[:-3] + b'!"}' if not entry.endswith(b'"}') else entry[:-3] + b'!"}',
    }
    return {name: DATA.replace(entry + b"\n", line + b"\n") for name, line in other.items()}


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("name", doubtful())
def test_doubt_makes_the_range_unsound(decode, name):
    """Whatever is off about one line, the fast path does not vouch for the range and loses no line."""
    data = doubtful()[name]
    assert data != DATA
    report = scan_bytes(data, decode=decode)
    assert (report.sound, report.start, report.stop, report.lines) == (False, 0, len(data), data.count(b"\n"))


MALFORMED = {
    "white space": (b'"outcome"', b' "outcome"'),
    "member twice": (b'"outcome"', b'"team":"x","outcome"'),
    "ledger member": (b'"outcome"', b'"seq":1,"outcome"'),
    "name twice inside": (b'"mode":"std"', b'"mode":"std","mode":"std"'),
    "schema": (b'"schema":1', b'"schema":2'),
    "unknown member": (b'"team"', b'"teem"'),
    "outcome": (b'"outcome":"unknown"', b'"outcome":"perhaps"'),
    "event type": (b'"event_type":"prompt', b'"event_type":"Prompt'),
    "event id": (b'"event_id":"0', b'"event_id":"g'),
    "timestamp": (b'"timestamp":"2', b'"timestamp":"x'),
    "not UTF-8": (b'"mode":"std"', b'"mode":"\xff"'),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_entries_of_another_form_are_doubted_when_decoded(name):
    """A writer that signs entries of another form is not believed: links and leaves agree, the form does not."""
    smith = Smith().create()
    body = smith.generation(0)[0]
    old, new = MALFORMED[name]
    assert old in body
    smith.batch(body.replace(old, new, 1))
    data = b"".join(entry + b"\n" for entry in smith.entries)
    hashes = b"".join(leaf_hash(entry) for entry in smith.entries)
    assert scan_bytes(data, hashes=hashes).sound is False


def test_other_stored_hashes_are_told():
    """`stored` compares as far as `tree/0` goes."""
    changed = LEAVES[: 900 * 32] + bytes(32) + LEAVES[901 * 32 :]
    assert [scan_bytes(DATA, hashes=hashes).stored for hashes in (LEAVES[: 32 * 400], changed, b"")] == [
        True,
        False,
        True,
    ]


def test_another_day_than_the_name_states_is_doubted():
    """A day file holds its own day only; a file without a day in its name is read as it is."""
    assert [scan_bytes(DATA, day=day).sound for day in ("2026-11-19", "2026-11-21", DAY, "")] == [
        False,
        False,
        True,
        True,
    ]


def test_acts_are_joined_within_a_range():
    """Open intents are reported by event id, answers to earlier ones by what they name."""
    smith = Smith().create()
    first, second, third = smith.generation(0), smith.generation(1), smith.generation(2)
    answer = smith.event("video_downloaded", {"intent": "earlier"}, correlation_id="another")
    smith.batch(first[0], first[1], second[0], third[3], answer)
    data = b"".join(entry + b"\n" for entry in smith.entries)
    report = scan_bytes(data, hashes=b"")
    assert list(report.intents) == [second[0][24:60].decode()]
    assert report.answered == ["earlier"]
    assert (len(report.ids), len(report.ends)) == (8 * 7, 8)


def test_silences_are_found_between_neighbours_only():
    """Over an hour (and a little) between two entries, however many hours the range spans."""
    hours = [0, 0, 10, 70, 71, 72, 300, 359, 424, 425]
    times = [f"2026-11-20T{minute // 60:02}:{minute % 60:02}:00.000000Z" for minute in hours]
    assert find_silences(times, 100) == [Silence(106, times[5], times[6])]
    assert find_silences(times[:1], 0) == []


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("wrong", ["24:00:00", "00:60:00", "00:00:60", "00:99:00"])
def test_moments_that_do_not_exist_are_doubted(decode, wrong):
    """Digits at their places are not enough for a time."""
    first = DATA.split(b"\n")[0] + b"\n"
    at = first.rindex(b'"logged_at":"') + 13
    assert scan_bytes(first, decode=decode).sound
    assert not scan_bytes(first[: at + 11] + wrong.encode() + first[at + 19 :], decode=decode).sound
    spoilt = first[:86] + wrong.encode() + first[94:]
    assert scan_bytes(spoilt, decode=decode).sound is not decode


def test_silence_is_measured_at_the_ends_of_time():
    """The first and the last year that there are hold no surprise."""
    first, last = "0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:00.000000Z"
    assert list(find_silences([first, first], 0)) == []
    assert list(find_silences([last, last], 0)) == []
    assert [silence.seq for silence in find_silences([first, last], 0)] == [1]
