"""Pages: every entry once, in order, whatever is appended in between."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klingai_audit.errors import UsageError
from klingai_audit.views.pages import Page, take_page, with_fingerprints
from klingai_audit.views.query import Filter
from tests.unit.views.lines import NOW, event_id, line


def page(lines: list[bytes], wanted: Filter, **terms: object) -> Page:
    return take_page(lambda size: lines[:size], lines.__getitem__, len(lines), wanted, now=NOW, **terms)  # type: ignore[arg-type]


def moments(offsets: list[int]) -> list[bytes]:
    return [line(seq, when=NOW + dt.timedelta(seconds=offset)) for seq, offset in enumerate(offsets)]


@given(
    st.lists(st.integers(-50, 50), max_size=30), st.integers(1, 7), st.sampled_from(["seq", "timestamp"]), st.booleans()
)
def test_pages_give_every_entry_once_in_order(offsets: list[int], limit: int, sort: str, reverse: bool) -> None:
    """The pages together are the sorted whole, while the log grows between them."""
    lines = moments(offsets)
    expected = sorted(range(len(offsets)), key=lambda seq: (offsets[seq] if sort == "timestamp" else 0, seq))
    found, cursor = [], None
    while True:
        got = page(lines, Filter(limit=limit, reverse=reverse), sort=sort, cursor=cursor)
        assert len(got.entries) <= limit
        found += [entry.seq for entry in got.entries]
        lines.append(line(len(lines), when=NOW))
        cursor = got.cursor
        if cursor is None:
            break
    assert (expected[::-1] if reverse else expected) == found


def test_the_last_page_has_no_cursor() -> None:
    """A page that is exactly full is the last if nothing follows."""
    assert None is page(moments([1, 2]), Filter(limit=2)).cursor


def test_relative_times_stay_where_the_first_page_had_them() -> None:
    """A cursor carries the moment that -1m counted from."""
    lines = moments([-61, -59, -30, 0])
    first = page(lines, Filter(since="-1m", limit=1))
    later = take_page(
        lambda size: lines[:size],
        lines.__getitem__,
        len(lines),
        Filter(since="-1m"),
        cursor=first.cursor,
        now=NOW + dt.timedelta(hours=1),
    )
    assert [1] == [entry.seq for entry in first.entries]
    assert [2, 3] == [entry.seq for entry in later.entries]


def test_an_end_seen_twice_is_not_shown_on_a_later_page() -> None:
    """Folding looks at the whole log, not at the page."""
    twice = {"event_id": event_id(7, 8), "event_type": "video_generation_completed"}
    lines = [line(0, **twice), line(1), line(2, **twice)]
    first = page(lines, Filter(limit=1))
    assert [[0], [1]] == [
        [entry.seq for entry in got.entries] for got in (first, page(lines, Filter(), cursor=first.cursor))
    ]


@pytest.mark.parametrize(
    "cursor", ["", "x", "1.2.3", "2.1.0.0.0123456789abcdef", "1.1.0.999999999999999999.0123456789abcdef"]
)
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    """Never a wrong page for a wrong cursor."""
    with pytest.raises(UsageError, match="not a cursor"):
        page(moments([1, 2]), Filter(), cursor=cursor)


def test_a_cursor_serves_its_own_question_only() -> None:
    """Another filter, order or log would skip entries unseen."""
    lines = moments([1, 2, 3])
    cursor = page(lines, Filter(limit=1)).cursor
    for wanted, sort in ((Filter(team="a"), "seq"), (Filter(reverse=True), "seq"), (Filter(), "timestamp")):
        with pytest.raises(UsageError, match="another question"):
            page(lines, wanted, sort=sort, cursor=cursor)
    with pytest.raises(UsageError, match="another log"):
        page(lines[:2], Filter(), cursor=cursor)


def test_an_unknown_sort_is_refused() -> None:
    """The message names the sorts that there are."""
    with pytest.raises(UsageError, match="'cost' is unknown"):
        page([], Filter(), sort="cost")


def test_a_declared_name_stands_for_its_fingerprints() -> None:
    """Every credential that was ever declared under the name is meant."""
    lines = [
        line(
            seq,
            event_type="api_key_rotated",
            resource_type="api_key",
            resource_id=new,
            metadata={"name": name, "new": new},
        )
        for seq, (name, new) in enumerate([("prod", "a" * 16), ("test", "b" * 16), ("prod", "c" * 16)])
    ]
    assert ("prod", "a" * 16, "c" * 16) == with_fingerprints(lines, ["prod"])
    assert ("d" * 16,) == with_fingerprints(lines, ["d" * 16])
