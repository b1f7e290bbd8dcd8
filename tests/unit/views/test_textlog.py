"""Tests of the plain text log."""

from __future__ import annotations

from klingai_audit.views.textlog import TextLog
from tests.unit.views.lines import PEOPLE, line


def test_a_field_cannot_add_columns(tmp_path):
    """A bar inside a field is an escape, so that every line has six columns."""
    path = tmp_path / "audit.log"
    TextLog(path, PEOPLE).write([line(3, action="made | INFO | x_forged|boss | y | success")])
    (told,) = path.read_text("utf-8").splitlines()
    fields = told.split(" | ")
    assert 6 == len(fields) == 1 + told.count("|")
    assert "made \\x7c INFO \\x7c x_forged\\x7cboss \\x7c y \\x7c success" == fields[4]
