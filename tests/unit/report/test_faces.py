"""The four faces: self-contained, equal for equal facts, and harmless whatever the log holds."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import sys
from html.parser import HTMLParser

import pytest

from klingai_audit.config import Places, open_reader
from klingai_audit.errors import MissingExtra, UsageError
from klingai_audit.report import build, charts
from klingai_audit.report.making import format_of
from klingai_audit.report.table import HEAD, harmless
from tests.support.hostile import TEXTS, hostile_log
from tests.unit.report.conftest import UNTIL, opened

EXTRA = pytest.mark.skipif(
    any(not __import__("importlib.util").util.find_spec(name) for name in ("minijinja", "typst", "vl_convert")),
    reason="needs the extra klingai-audit[report]",
)
VOID = {"meta", "link", "br", "img", "input", "hr", "path", "line", "rect", "col"}


class Page(HTMLParser):
    """Collects what a browser would make of a page."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.ids, self.headings = [], [], [], []
        self._hidden = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._hidden += tag == "style"
        if "id" in dict(attrs):
            self.ids.append(dict(attrs)["id"])

    def handle_endtag(self, tag):
        self._hidden -= tag == "style"

    def handle_data(self, data):
        if not self._hidden:
            self.text.append(data)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The report on a log full of hostile values."""
    folder = hostile_log(tmp_path_factory.mktemp("hostile"))
    size = open_reader(Places.resolve(folder)).size
    with opened(folder) as audit:
        return build(audit, days=10, until=UNTIL, at=size)


@pytest.fixture(scope="module")
def page(hostile):
    """The hostile report as a parsed page."""
    return Page(hostile.render("html").data.decode())


@EXTRA
def test_a_page_holds_no_script_and_asks_for_nothing(page):
    """No script element, no handler, no frame, and every address is an anchor of the page or data."""
    tags = {tag for tag, _ in page.elements}
    handlers = [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    links = {attrs[name] for _, attrs in page.elements for name in ("href", "src", "xlink:href") if name in attrs}
    outside = {link for link in links if link and not link.startswith(("#", "data:,"))}
    assert (set(), [], set()) == (
        tags & {"script", "iframe", "object", "embed", "form", "base", "img", "foreignobject", "use", "image"},
        handlers,
        outside,
    )


@EXTRA
def test_a_style_sheet_asks_for_nothing(hostile):
    """Neither the style sheet nor a chart names an address."""
    text = hostile.render("html").data.decode()
    assert [] == re.findall(r"@import|url\((?!#)|https?://(?!www\.w3\.org/2000/svg)", text)


@EXTRA
def test_a_page_shows_hostile_values_as_text(page):
    """Markup arrives as the characters it is made of."""
    text = "".join(page.text)
    assert all(
        part in text for part in ("<script>alert(document.domain)</script>", "{{ 7*7 }}", '#read("/etc/passwd")')
    )


@EXTRA
@pytest.mark.parametrize("form", ["html", "csv"])
def test_no_control_or_direction_character_is_left(hostile, form):
    """Terminal escapes and direction marks are visible escapes."""
    text = hostile.render(form).data.decode()
    assert [] == sorted(
        set(re.findall(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", text))
    )


@EXTRA
def test_ids_of_a_page_are_unique_and_every_anchor_has_its_place(page):
    """Links of the contents lead somewhere; charts do not share ids."""
    anchors = {attrs["href"][1:] for tag, attrs in page.elements if tag == "a"}
    assert (len(page.ids), set()) == (len(set(page.ids)), anchors - set(page.ids))


@EXTRA
def test_a_page_can_be_read_without_seeing_it(page):
    """Language, title, one first heading, headers of columns, descriptions of charts."""
    heads = [attrs.get("scope") for tag, attrs in page.elements if tag == "th"]
    figures = [attrs for tag, attrs in page.elements if tag == "figure"]
    first = [tag for tag, _ in page.elements].count("h1")
    language = next(attrs["lang"] for tag, attrs in page.elements if tag == "html")
    assert ("en", 1, set(), True) == (
        language,
        first,
        set(heads) - {"col", "row"},
        all(figure["role"] == "img" and len(figure["aria-label"]) > 20 for figure in figures),
    )
    assert len(figures) >= 4


@EXTRA
def test_no_word_promises_more_than_evidence(page):
    """A page never says compliant or certified."""
    assert [] == re.findall(r"complian\w*|certified|tamper-?proof", "".join(page.text).lower())


@EXTRA
@pytest.mark.parametrize("form", ["html", "pdf"])
def test_equal_facts_give_equal_bytes(report, form):
    """Drawing anew, charts included, makes the same file."""
    first = report.render(form).data
    charts._convert.cache_clear()
    assert first == dataclasses.replace(report, _drawn={}).render(form).data


@EXTRA
def test_a_document_is_tagged_and_names_what_was_requested(report):
    """The PDF declares the standards that were requested of the typesetting program."""
    data = report.render("pdf").data
    assert (True, True, True) == (data.startswith(b"%PDF-1.7"), b"pdfaid:part>2" in data, b"pdfuaid:part>1" in data)


@EXTRA
def test_letters_without_a_font_are_spelled(hostile):
    """A value in a script that no font here has does not stop the document."""
    assert hostile.render("pdf").data.startswith(b"%PDF-1.7")


def test_csv_holds_no_formula(hostile):
    """No cell begins as a formula does, and every row has all columns."""
    rows = list(csv.reader(io.StringIO(hostile.render("csv").data.decode(), newline="")))
    risky = [
        cell for row in rows for cell in row if re.match(r"[=+\-@\t\r]", cell) and not re.fullmatch(r"-?\d+", cell)
    ]
    assert (list(HEAD), {len(HEAD)}, []) == (rows[0], {len(row) for row in rows}, risky)


@pytest.mark.parametrize(
    "value,expected", [("=1+1", "'=1+1"), ("-x", "'-x"), (-5, "-5"), (None, ""), ("a\x1bb", "a\\x1bb")]
)
def test_a_cell_is_text(value, expected):
    """Numbers of ours stay numbers; texts that a spreadsheet would run get an apostrophe."""
    assert expected == harmless(value)


def test_csv_says_for_each_number_where_it_comes_from(report):
    """Query, population and tree size stand beside every value."""
    rows = list(csv.DictReader(io.StringIO(report.render("csv").data.decode(), newline="")))
    size = str(report.scope.size)
    totals = {row["measure"]: row["value"] for row in rows if row["section"] == "totals"}
    assert ({size}, str(report.facts["total_events"])) == ({row["tree_size"] for row in rows}, totals["events"])


def test_json_holds_hostile_values_whole(hostile):
    """Nothing is cut or changed where a program reads."""
    models = {row["model"] for row in json.loads(hostile.render("json").data)["models"]["by_model"]}
    assert {text for text in TEXTS if "@" not in text and "Cookie" not in text} <= models


@pytest.mark.parametrize(
    "name,form", [("r.html", "html"), ("r.HTM", "html"), ("a.b.pdf", "pdf"), ("x.csv", "csv"), ("x.json", "json")]
)
def test_the_name_tells_the_format(name, form):
    """The end of the file's name decides."""
    assert form == format_of(name)


@pytest.mark.parametrize("name", ["r", "r.doc", "html", "-", ".pdf/"])
def test_other_names_are_refused(name):
    """What is no format is a usage error."""
    with pytest.raises(UsageError):
        format_of(name)


@pytest.mark.parametrize("form", ["html", "pdf"])
def test_a_missing_extra_says_what_to_install(report, form, monkeypatch):
    """Without the packages of the extra the message names it; JSON and CSV go on."""
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(MissingExtra) as caught:
        dataclasses.replace(report, _drawn={}).render(form)
    assert ("pip install 'klingai-audit[report]'" in caught.value.do, 2) == (True, caught.value.exit_code)
    assert report.render("json").data
