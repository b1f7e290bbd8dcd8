"""Tests of what people see: one-line entries, verdicts, places."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from klingai_audit.cli.render import RowLayout, detail_of, entry_table, fit
from klingai_audit.cli.verdict import finding_lines, headline, place_of, threat_table
from klingai_audit.views.entry import EntryView, People
from tests.unit.views.lines import PEOPLE, line

HOSTILE = "[red]x[/red]\x1b[31m\n\u202e"
SHOWN = "[red]x[/red]\\x1b[31m\\n\\u202e"


def entry(**members):
    return EntryView(line(3, **members), People(PEOPLE))


def drawn(renderable, width=200):
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False, markup=False, emoji=False).print(renderable)
    return stream.getvalue()


@pytest.mark.parametrize("width", [20, 60, 80, 109, 110, 200])
@pytest.mark.parametrize("action", ["short", "a" * 500, "湖" * 300, "🎬 " * 200, "e\u0301" * 200])
def test_a_row_fits_the_terminal(width, action):
    """No entry takes more cells than the terminal has, whatever script its text is in."""
    layout = RowLayout(width)
    least = max(width, 69)
    assert cell_len(layout.row(entry(action=action)).plain) <= least
    assert cell_len(layout.head().plain) <= least


@pytest.mark.parametrize(
    "text,width,shown", [("abc", 5, "abc  "), ("abcdef", 4, "abc…"), ("湖湖", 3, "湖…"), ("ab", 0, "")]
)
def test_fit_cuts_and_pads_by_cells(text, width, shown):
    """Wide characters count two cells, and a cut is visible."""
    assert shown == fit(text, width)


def test_every_member_is_inert():
    """Hostile text in any member or metadata shows as escapes, in rows and in the table of one entry."""
    hostile = entry(
        action=HOSTILE, team=HOSTILE, resource_type=HOSTILE, resource_id=HOSTILE, user_agent=HOSTILE,
        event_type=HOSTILE, actor_id=HOSTILE, outcome=HOSTILE,
        metadata={HOSTILE: {HOSTILE: [HOSTILE]}, "code": HOSTILE},
    )  # fmt: skip
    text = drawn(entry_table(hostile, "audit-2026-11-21.jsonl:4")) + drawn(RowLayout(300).row(hostile), 300)
    assert [] == [char for char in text if not char.isprintable() and char != "\n"]
    assert 12 <= text.count(SHOWN)


def test_detail_names_action_resource_and_telling_metadata():
    """The last column holds what the others do not say; people are masked there too."""
    told = entry(
        action="add", resource_type="user", resource_id=line_actor(3), team="t", metadata={"code": 1301, "x": 1}
    )
    assert "user/bo***@example.org code=1301 add team=t" == detail_of(told)


def line_actor(number):
    return f"p_{number:021d}A"


# --- verdicts -----------------------------------------------------------------------------------------


def verdict(**members):
    states = {"edit": "ruled_out", "fork": "not_ruled_out", "key_holder": "not_ruled_out"}
    return {
        "total": 12,
        "integrity_ok": True,
        "key": {"vkey": "k", "source": "option"},
        "quick_from": None,
        "unsigned": {"entries": 0, "oldest": None},
        "threats": [{"threat": name, "state": state, "by": "b", "do": "d"} for name, state in states.items()],
        "findings": [],
        **members,
    }


BROKEN = {"kind": "entry_changed", "severity": "broken", "seq": 4, "seq_end": 5, "file": "f", "line": 5, "message": "m"}
NOTE = {
    "kind": "open_gap",
    "severity": "note",
    "seq": None,
    "seq_end": None,
    "file": None,
    "line": None,
    "message": "n",
}


def test_a_good_verdict_says_what_it_rests_on_and_what_it_leaves_open():
    """Never just that it is fine: by which key, and which threats are not ruled out."""
    text = headline(verdict()).plain
    assert text == (
        "No change found in the log of 12 entries, judged by the key you gave. Not ruled out: showing two histories to "
        "two readers; rewriting by whoever holds the keys. It cannot tell what the log never saw."
    )


@pytest.mark.parametrize(
    "members,words",
    [
        ({"key": None}, "judged by nothing but its own claim of its key."),
        ({"quick_from": 4096}, "Entries before 4,096 were checked by an earlier run"),
        ({"unsigned": {"entries": 2, "oldest": "x"}}, "2 at the end are not signed yet"),
        ({"scope": "file"}, "The links hold in this file of 12 entries. No signature was checked"),
        ({"integrity_ok": False, "findings": [BROKEN, NOTE]}, "BROKEN: 1 finding in the log of 12 entries."),
        ({"total": 1}, "of 1 entry,"),
    ],
)
def test_a_verdict_names_its_limits(members, words):
    """What was not looked at stands in the same line as the result."""
    assert words in headline(verdict(**members)).plain


def test_threats_and_findings_are_listed():
    """One row a threat with what rules it out and what to do; broken findings before notes, with their place."""
    text = drawn(threat_table(verdict()))
    assert [True, True] == ["not ruled out" in text, "b → d" in text]
    lines = [text.plain for text in finding_lines(verdict(findings=[NOTE, BROKEN]))]
    assert ["broken  entry_changed  seq 4, f:5  m", "note    open_gap  the log  n"] == lines


@pytest.mark.parametrize(
    "members,place",
    [
        ({"seq": 3, "seq_end": 9, "file": None, "line": None}, "seq 3–8"),
        ({"seq": None, "seq_end": None, "file": "tree/0", "line": None}, "tree/0"),
        ({"seq": None, "seq_end": None, "file": "a\x1b", "line": 2}, "a\\x1b:2"),
    ],
)
def test_places_are_as_narrow_as_known(members, place):
    """A range is half-open in JSON and inclusive for people."""
    assert place == place_of({**BROKEN, **members})
