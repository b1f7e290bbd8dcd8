"""A damaged log as a sequence: stretches of signed entries, and lines that were never signed between them.

Every signed entry says where it belongs (`seq`, under its leaf hash), so order, losses and copies follow from
where the stretches stand. Pure; `diagnose` makes the sequence and words the findings.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from typing import Final

__all__ = ["Foreign", "Gap", "Order", "Run", "order_runs", "subtract"]

_WEIGHED_LIMIT: Final = 2000


@dataclass(slots=True)
class Run:
    """Entries `[seq, seq + count)` on lines from `line` on of `file`; `day` is that of the first one."""

    seq: int
    count: int
    file: str
    line: int
    day: str = ""

    @property
    def end(self) -> int:
        """One past the last entry."""
        return self.seq + self.count


@dataclass(slots=True)
class Foreign:
    """A line that is no signed entry: the `seq` it states (`claimed`), and whether it links to the line before."""

    file: str
    line: int
    claimed: int | None
    data: bytes = field(repr=False)
    linked: bool = False
    ended: bool = True
    size: int = 0


@dataclass(slots=True)
class Gap:
    """Between two stretches in order: entries `[begin, end)` that are nowhere, and the lines that stand there."""

    begin: int
    end: int
    lines: list[Foreign]
    before: Run | None
    after: Run | None


@dataclass(slots=True)
class Order:
    """`kept` stretches ascend; `moved` and `copies` stand elsewhere; `gaps` lie before, between and after `kept`."""

    kept: list[Run]
    moved: list[Run]
    copies: list[Run]
    gaps: list[Gap]


def subtract(begin: int, end: int, covered: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the parts of `[begin, end)` outside the half-open ranges `covered`."""
    at = begin
    for first, last in sorted(covered):
        if first > at:
            yield at, min(first, end)
        at = max(at, last)
        if at >= end:
            return
    if at < end:
        yield at, end


def order_runs(items: Sequence[Run | Foreign], begin: int | None, size: int | None) -> Order:
    """Sort out the sequence `items` (in file order) of what should hold the entries `[begin, size)`.

    None stands for the first or the last entry that is there.
    """
    items = list(_cut_at_borders(items))
    runs = [item for item in items if isinstance(item, Run)]
    kept_ids = {id(run) for run in _heaviest_ascent(runs)}
    kept = [run for run in runs if id(run) in kept_ids]
    there = {run.seq: run.end for run in kept}
    moved: list[Run] = []
    copies: list[Run] = []
    for run in runs:
        if id(run) in kept_ids:
            continue
        (copies if run.seq in there else moved).append(run)
        there[run.seq] = run.end
    first = kept[0].seq if kept and begin is None else begin or 0
    end = kept[-1].end if kept and size is None else size or 0
    return Order(kept, moved, copies, list(_gaps(items, kept_ids, sorted(there.items()), (first, end))))


def _cut_at_borders(items: Sequence[Run | Foreign]) -> Iterator[Run | Foreign]:
    """Cut runs where others begin or end, so that any two are the same entries or none in common."""
    borders = sorted({border for item in items if isinstance(item, Run) for border in (item.seq, item.end)})
    for item in items:
        if isinstance(item, Foreign):
            yield item
            continue
        inner = borders[bisect_right(borders, item.seq) : bisect_left(borders, item.end)]
        for begin, end in pairwise([item.seq, *inner, item.end]):
            yield _part(item, begin, end)


def _part(run: Run, begin: int, end: int) -> Run:
    return Run(begin, end - begin, run.file, run.line + begin - run.seq, run.day)


def _gaps(
    items: Sequence[Run | Foreign], kept_ids: set[int], there: list[tuple[int, int]], whole: tuple[int, int]
) -> Iterator[Gap]:
    """One gap per place where entries are nowhere or foreign lines stand; `there` ascends without overlap."""
    lines: list[Foreign] = []
    before: Run | None = None
    for item in [*items, None]:
        if isinstance(item, Foreign):
            lines.append(item)
        elif item is None or id(item) in kept_ids:
            begin, end = before.end if before else whole[0], item.seq if item else whole[1]
            near = there[bisect_right(there, begin, key=itemgetter(1)) : bisect_left(there, end, key=itemgetter(0))]
            absent = list(subtract(begin, max(begin, end), near))
            if absent or lines:
                yield from _split(absent or [(begin, begin)], lines, before, item)
            lines, before = [], item or before


def _split(absent: list[tuple[int, int]], lines: list[Foreign], before: Run | None, after: Run | None) -> Iterator[Gap]:
    """Deal the lines out to the absent stretches: by what they claim, the rest to the last one."""
    dealt: list[list[Foreign]] = [[] for _ in absent]
    for line in lines:
        at = -1 if line.claimed is None else bisect_right(absent, line.claimed, key=itemgetter(0)) - 1
        claims = at >= 0 and line.claimed is not None and line.claimed < absent[at][1]
        dealt[at if claims else -1].append(line)
    for number, (begin, end) in enumerate(absent):
        last = number == len(absent) - 1
        yield Gap(begin, end, dealt[number], before if number == 0 else None, after if last else None)


def _heaviest_ascent(runs: list[Run]) -> list[Run]:
    """Choose runs whose entries ascend without overlap, with as many entries as possible."""
    if all(a.end <= b.seq for a, b in pairwise(runs)):
        return runs
    return _weighed(runs) if len(runs) <= _WEIGHED_LIMIT else _longest(runs)


def _weighed(runs: list[Run]) -> list[Run]:
    best: list[tuple[int, int]] = []  # entries in the best chain that ends here, and the run before in it
    for number, run in enumerate(runs):
        chains = [(best[other][0], other) for other in range(number) if runs[other].end <= run.seq]
        weight, previous = max(chains, key=lambda chain: chain[0], default=(0, -1))
        best.append((weight + run.count, previous))
    at = max(range(len(best)), key=lambda number: best[number][0])
    chosen = []
    while at >= 0:
        chosen.append(runs[at])
        at = best[at][1]
    return chosen[::-1]


def _longest(runs: list[Run]) -> list[Run]:
    """Count runs instead of entries where there are very many of them (patience sorting)."""
    ends: list[int] = []
    last: list[int] = []
    previous: list[int] = []
    for number, run in enumerate(runs):
        at = bisect_right(ends, run.seq)
        previous.append(last[at - 1] if at else -1)
        if at == len(ends):
            ends.append(run.end)
            last.append(number)
        elif run.end < ends[at]:
            ends[at], last[at] = run.end, number
    chosen, number = [], last[-1]
    while number >= 0:
        chosen.append(runs[number])
        number = previous[number]
    return chosen[::-1]
