"""What the sequence of signed stretches and foreign lines says."""

from __future__ import annotations

from klingai_audit.trust.runs import Foreign, Run, order_runs, subtract


def run(seq: int, count: int, line: int = 1, file: str = "a") -> Run:
    return Run(seq, count, file, line)


def foreign(line: int, claimed: int | None = None) -> Foreign:
    return Foreign("a", line, claimed, b"")


def spans(runs: list[Run]) -> list[tuple[int, int]]:
    return [(part.seq, part.end) for part in runs]


def gaps(items: list[Run | Foreign], size: int) -> list[tuple[int, int, list[int]]]:
    return [(gap.begin, gap.end, [line.line for line in gap.lines]) for gap in order_runs(items, 0, size).gaps]


def test_whole_sequence_has_nothing_to_say():
    """One stretch from 0 to the size."""
    order = order_runs([run(0, 10)], 0, 10)
    assert (spans(order.kept), order.moved, order.copies, order.gaps) == ([(0, 10)], [], [], [])


def test_nothing_at_all_is_one_gap():
    """No line: everything is missing."""
    assert gaps([], 5) == [(0, 5, [])]


def test_foreign_line_in_place_of_a_missing_entry_shares_its_gap():
    """A changed entry: one missing, one line."""
    assert gaps([run(0, 3), foreign(4, 3), run(4, 6, 5)], 10) == [(3, 4, [4])]


def test_foreign_line_where_nothing_is_missing_is_a_gap_of_no_entries():
    """An inserted line."""
    assert gaps([run(0, 3), foreign(4), run(3, 7, 5)], 10) == [(3, 3, [4])]


def test_missing_head_middle_and_tail_are_three_gaps():
    """Entries nowhere, at both ends and between."""
    assert gaps([run(2, 3), run(6, 2, 4)], 10) == [(0, 2, []), (5, 6, []), (8, 10, [])]


def test_swapped_entries_are_moved_and_nothing_is_missing():
    """Two entries exchanged: both stand elsewhere, the rest is in order."""
    order = order_runs([run(0, 3), run(7, 1, 4), run(4, 3, 5), run(3, 1, 8), run(8, 2, 9)], 0, 10)
    assert (spans(order.kept), spans(order.moved)) == ([(0, 3), (4, 7), (8, 10)], [(7, 8), (3, 4)])
    assert (order.copies, order.gaps) == ([], [])


def test_second_copy_is_a_copy_wherever_it_stands():
    """The copy before, beside, or long after the original."""
    before = order_runs([run(0, 3), run(8, 1, 4), run(3, 7, 5)], 0, 10)
    beside = order_runs([run(0, 4), run(3, 7, 5)], 0, 10)
    after = order_runs([run(0, 10), run(2, 3, 11)], 0, 10)
    assert [spans(order.copies) for order in (before, beside, after)] == [[(8, 9)], [(3, 4)], [(2, 5)]]
    assert [(order.moved, order.gaps) for order in (before, beside, after)] == [([], [])] * 3


def test_lines_are_dealt_to_the_entries_that_they_claim():
    """Two separate losses in one place: each line goes where it says it belongs."""
    items = [run(0, 2), foreign(3, 2), foreign(4, 5), run(3, 2, 9), run(6, 4, 5)]
    order = order_runs([items[0], items[1], items[2], items[4], items[3]], 0, 10)
    assert spans(order.moved) == [(3, 5)]
    assert [(gap.begin, gap.end, [line.line for line in gap.lines]) for gap in order.gaps] == [(2, 3, [3]), (5, 6, [4])]


def test_open_ends_take_what_is_there():
    """For a single file: from its first entry to its last."""
    order = order_runs([run(40, 3), run(45, 2, 4)], None, None)
    assert [(gap.begin, gap.end) for gap in order.gaps] == [(43, 45)]


def test_very_many_stretches_are_still_ordered():
    """Beyond the weighed limit, single entries out of place are still the ones that moved."""
    items = [run(seq, 1, seq * 2 + 1) for seq in range(5000)]
    items[100], items[4000] = run(4000, 1, 201), run(100, 1, 8001)
    order = order_runs(items, 0, 5000)
    assert (spans(order.moved), order.gaps) == ([(4000, 4001), (100, 101)], [])


def test_subtract_leaves_what_is_not_covered():
    """Half-open ranges, unordered and overlapping."""
    assert list(subtract(0, 10, [(7, 8), (2, 4), (3, 5)])) == [(0, 2), (5, 7), (8, 10)]
    assert list(subtract(3, 3, [])) == []
    assert list(subtract(0, 4, [(0, 9)])) == []
