"""Which unsigned lines count as acknowledged: those up to the last valid seal, and what follows is not guessed at."""

from __future__ import annotations

from pathlib import Path

import pytest

from klingai_audit.errors import LogDamaged
from klingai_audit.event.own import own_event
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.ledger.line import compute_seal, splice
from klingai_audit.ledger.recovery import Foreign, aside, count_acknowledged, foreign_bytes, joined
from klingai_audit.tlog.merkle import EMPTY_ROOT, leaf_hash
from tests.support.faulty import QuickOps
from tests.support.ledgers import ORIGIN, event

TIME = b"2026-11-21T12:00:00.000000Z"


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    """The keys of a log."""
    folder = KeyFolder(tmp_path / "keys", QuickOps())
    with folder.locked():
        folder.create(ORIGIN)
    return folder


def lines_of(keys: KeyFolder, *batches: int, size: int = 1) -> list[bytes]:
    """Batches of that many lines each, the last line of each sealed."""
    lines: list[bytes] = []
    prev = EMPTY_ROOT
    for batch in batches:
        for index in range(batch):
            line = splice(event(metadata={"text": "x" * size}).body, len(lines), TIME, prev)
            if index == batch - 1:
                line = compute_seal(keys.current.tail, ORIGIN, line)
            lines.append(line)
            prev = leaf_hash(line)
    return lines


def count(keys: KeyFolder, lines: list[bytes]) -> int:
    counted = count_acknowledged(lines, 0, EMPTY_ROOT, keys, "the log")
    assert counted.foreign == ()
    return counted.accepted


@pytest.mark.parametrize("batches", [(1,), (3,), (1, 1, 1), (2, 4, 1)])
def test_sealed_batches_count(keys: KeyFolder, batches: tuple[int, ...]) -> None:
    """Whole batches of any size were acknowledged."""
    assert sum(batches) == count(keys, lines_of(keys, *batches))


def test_lines_behind_the_last_seal_do_not(keys: KeyFolder) -> None:
    """The beginning of a batch without its seal was acknowledged by nobody."""
    lines = lines_of(keys, 2, 3)
    assert [2, 2, 2, 5] == [count(keys, lines[:end]) for end in (2, 3, 4, 5)]
    assert count(keys, lines[:1]) == 0
    assert count(keys, []) == 0


@pytest.mark.parametrize("place", range(5))
def test_a_change_before_a_seal_is_damage(keys: KeyFolder, place: int) -> None:
    """Any edit, loss or swap among acknowledged lines, with a sealed line behind it, is damage, insertions or not."""
    lines = lines_of(keys, 2, 1, 1, 2)
    changed = [
        [*lines[:place], lines[place].replace(b"x_test", b"x_tesu"), *lines[place + 1 :]],
        [*lines[:place], *lines[place + 1 :]],
        [*lines[:place], lines[place + 1], lines[place], *lines[place + 2 :]],
        [b"garbage", *lines[:place], *lines[place + 1 :]],
        [*lines[:place], lines[place].replace(b"x_test", b"x_tesu"), *lines[place + 1 : -1], b"garbage", lines[-1]],
    ]
    for wrong in changed:
        with pytest.raises(LogDamaged) as caught:
            count(keys, wrong)
        assert caught.value.kind_of_damage == "entry_changed"


FOREIGN = (
    b"garbage",
    b"",
    b'{"schema":1}',
    b'{"schema":1,"event_id":"01',
    b"\0" * 100,
    b'{"schema":1,"a":{"schema":{"schema":2}}}',
    b"\xff\xfe",
)


@pytest.mark.parametrize("junk", FOREIGN)
@pytest.mark.parametrize("place", range(4))
def test_lines_that_something_else_wrote_between_batches_are_foreign(keys: KeyFolder, junk: bytes, place: int) -> None:
    """The links go on behind them to a valid seal: nothing of ours is missing, and they alone go."""
    batches = (2, 1, 1, 2)
    lines = lines_of(keys, *batches)
    at = sum(batches[:place])
    found = [*lines[:at], junk, junk, *lines[at:]]
    counted = count_acknowledged(found, 0, EMPTY_ROOT, keys, "the log")
    assert counted == (at, (Foreign(at, None), Foreign(at + 1, None)))
    assert foreign_bytes(found, counted.foreign) == (junk + b"\n") * 2
    assert count(keys, [line for index, line in enumerate(found) if index not in (at, at + 1)]) == 6


@pytest.mark.parametrize("junk", [junk for junk in FOREIGN if junk])
def test_foreign_bytes_without_an_end_of_line(keys: KeyFolder, junk: bytes) -> None:
    """What stands on one line with an entry is told from it by the entry's seal or by the next link."""
    lines = lines_of(keys, 1, 1, 3, 1)
    glued = [lines[0], junk + lines[1], junk + lines[2], lines[3], lines[4], lines[5]]
    counted = count_acknowledged(glued, 0, EMPTY_ROOT, keys, "the log")
    assert counted == (1, (Foreign(1, len(junk)), Foreign(2, len(junk))))
    assert foreign_bytes(glued, counted.foreign) == junk * 2


def test_foreign_lines_at_several_places(keys: KeyFolder) -> None:
    """Between more than two batches, copies of our own lines among them, and at the very end."""
    lines = lines_of(keys, 1, 2, 1)
    found = [b"a", lines[0], b"b", lines[0], lines[1], lines[2], b"c", lines[3], b"d"]
    counted = count_acknowledged(found, 0, EMPTY_ROOT, keys, "the log")
    assert counted == (0, tuple(Foreign(index, None) for index in (0, 2, 3, 6)))
    assert count(keys, [*lines, b"d"]) == 4


def test_foreign_lines_before_a_batch_without_a_seal(keys: KeyFolder) -> None:
    """Nobody was told of it: all of it goes aside, as the unfinished end that it is."""
    lines = lines_of(keys, 2, 2)
    assert count(keys, [*lines[:2], b"garbage", lines[2]]) == 2
    assert count(keys, [*lines[:2], b"garbage", lines[2], lines[3].replace(b"x_test", b"x_tesu")]) == 2


def test_a_forged_line_that_fits_hides_nothing(keys: KeyFolder) -> None:
    """Someone who wrote a line of the right number and link before a batch of ours made damage, and nothing is cut."""
    lines = lines_of(keys, 2, 2)
    forged = splice(event().body, 2, TIME, leaf_hash(lines[1]))
    with pytest.raises(LogDamaged):
        count(keys, [*lines[:2], forged, *lines[2:]])


def test_foreign_lines_around_a_rotation(keys: KeyFolder) -> None:
    """The seals behind a change of epoch are of the next tail key."""
    lines = lines_of(keys, 1)
    with keys.locked():
        successor = keys.prepare_next()
    body = own_event("signing_key_rotated", {"epoch": 1, "epoch_key": "k", "handover": "h"}, 10**18).body
    lines.append(compute_seal(keys.current.tail, ORIGIN, splice(body, 1, TIME, leaf_hash(lines[0]))))
    keys.promote()
    lines.append(compute_seal(successor.tail, ORIGIN, splice(event().body, 2, TIME, leaf_hash(lines[1]))))
    counted = count_acknowledged([lines[0], lines[1], b"x", lines[2]], 0, EMPTY_ROOT, keys, "the log")
    assert counted.foreign == (Foreign(2, None),)


def test_an_edit_of_the_last_batch_alone_cannot_be_told_from_a_crash(keys: KeyFolder) -> None:
    """Without a valid seal behind them the last lines go aside, whatever they hold."""
    lines = lines_of(keys, 2, 1)
    assert count(keys, [*lines[:2], lines[2].replace(b"x_test", b"x_tesu")]) == 2
    assert count(keys, [*lines[:2], b"garbage", b"", lines[2][:-1]]) == 2


def test_forged_lines_do_not_count(keys: KeyFolder, tmp_path: Path) -> None:
    """Lines that fit in number and link but are not sealed by this log's tail key go aside, sealed or not."""
    lines = lines_of(keys, 2)
    plain = splice(event().body, 2, TIME, leaf_hash(lines[1]))
    other = KeyFolder(tmp_path / "other", QuickOps())
    with other.locked():
        other.create(ORIGIN)
    for forged in (
        plain,
        compute_seal(other.current.tail, ORIGIN, plain),
        compute_seal(keys.current.tail, "log.example.com/other", plain),
        plain[:-1] + b',"seal":"' + b"A" * 43 + b'"}',
    ):
        assert count(keys, [*lines, forged]) == 2
        assert count(keys, [*lines, forged, forged]) == 2


def test_copies_of_earlier_lines_do_not_count(keys: KeyFolder) -> None:
    """Anybody can append a copy of a sealed line; it is no sign of damage."""
    lines = lines_of(keys, 1, 1, 1)
    assert count(keys, [*lines, lines[0]]) == 3
    assert count(keys, [*lines, lines[2], lines[1], b"garbage", lines[2]]) == 3


def test_a_batch_with_zero_bytes_was_never_acknowledged(keys: KeyFolder) -> None:
    """Pages that power loss left empty inside the last batch send that batch aside, its seal included."""
    lines = lines_of(keys, 2, 4, size=2_000)
    data = b"\n".join(lines) + b"\n"
    start = data.index(lines[2])
    for begin, end in ((start, start + 4_096), (start + 100, start + 1_000), (start + 2_500, start + 6_000)):
        holed = data[:begin] + bytes(end - begin) + data[end:]
        assert count(keys, holed.split(b"\n")[:-1]) == 2


def test_zero_bytes_in_an_earlier_batch_are_damage(keys: KeyFolder) -> None:
    """A batch was synced before the next one was written: zero bytes there are no power loss."""
    lines = lines_of(keys, 2, 2, 1)
    with pytest.raises(LogDamaged):
        count(keys, [lines[0], lines[1], bytes(len(lines[2])), lines[3], lines[4]])


def test_findings_are_joined() -> None:
    """What one opening found is told in as few entries as it fits into, members in the order of the format page."""
    first, second = aside("a" * 64, 3), aside("b" * 64, 5)
    assert joined([]) == []
    assert joined([first, {"state_missing": True}]) == [{**first, "state_missing": True}]
    assert joined([{"entries": 2, **first}, second]) == [{"entries": 2, **first}, second]
    assert list(joined([{"state_missing": True}, {"entries": 1, **first}])[0]) == [
        "entries",
        "set_aside",
        "state_missing",
    ]
