"""Plain JSON values and their pointers; the limits are tested with the events that hold them."""

from __future__ import annotations

import pytest

from klingai_audit.errors import InvalidEvent
from klingai_audit.event.plain import check_json, find_surrogate, pointer_of


@pytest.mark.parametrize("value", [None, True, 0, -1.5, "", [], {}, [{"a": [None]}], {"": {"": ""}}])
def test_plain_values_pass(value: object) -> None:
    """Every kind of JSON value passes, wherever it stands, and is left as it is."""
    before = repr(value)
    check_json(value)
    check_json([value], "/x")
    assert before == repr(value)


def test_errors_begin_at_the_given_pointer() -> None:
    """The pointer in the error continues the one that was given."""
    with pytest.raises(InvalidEvent, match=r"^/x/0/k: a value of type object is not JSON"):
        check_json([{"k": object()}], "/x")
    with pytest.raises(InvalidEvent, match=r"^: a value of type set is not JSON"):
        check_json(set())


def test_depth_counts_what_is_above() -> None:
    """`depth` levels above the value use up the limit of 16."""
    check_json([[]], depth=14)
    with pytest.raises(InvalidEvent, match="nested deeper"):
        check_json([[]], depth=15)


def test_pointers_are_rfc_6901() -> None:
    """`~` and `/` in keys are escaped, indexes are decimals; long keys are cut only when asked."""
    assert "/a~1b/m~0n//0/ " == pointer_of(["a/b", "m~n", "", 0, " "])
    assert "/" + "k" * 100 == pointer_of(["k" * 100])
    assert "/" + "k" * 64 + "…" == pointer_of(["k" * 100], shorten=True)
    assert "" == pointer_of([])


def test_surrogates_are_found_where_they_are() -> None:
    """The first text that UTF-8 cannot carry is found, in values and keys; none gives the empty string."""
    assert "/a/1" == find_surrogate({"a": ["ok", "\ud800"]})
    assert "/a" == find_surrogate({"a": {"\ud800": 1}})
    assert "" == find_surrogate({"a": ["ok", {"b": 1}], "c": None})
