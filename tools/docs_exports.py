"""The formats of `export` and their mapping tables, from the code that makes them, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from klingai_audit.event.types import EVENT_TYPES
from klingai_audit.exports.cef import EXTENSIONS, LABELS
from klingai_audit.exports.cef import SEVERITY as CEF_SEVERITY
from klingai_audit.exports.columns import COLUMNS, CSV_COLUMNS
from klingai_audit.exports.formats import FORMATS
from klingai_audit.exports.ocsf_rules import CLASS_NAMES, RULES, SEVERITIES
from klingai_audit.exports.otlp import ATTRIBUTES
from klingai_audit.exports.otlp import SEVERITY as OTEL_SEVERITY
from klingai_audit.exports.syslog import PARAMETERS
from klingai_audit.exports.syslog import SEVERITY as SYSLOG_SEVERITY
from tools.docs_pages import escape, table

__all__ = ["PARTS", "cef", "columns", "formats", "ocsf", "otlp", "severities", "syslog"]

BY_THE_CALL = "by the call: 1, 2 or 4"


def formats() -> str:
    """Return every format, where it can go, what carries the proof and what is lost."""
    head = ("`--format`", "is", "goes to", "carries the proof", "does not carry")
    rows = (
        (f"`{name}`", escape(told.title), _places(name), escape(told.carries), escape(told.drops))
        for name, told in FORMATS.items()
    )
    return table(head, rows)


def ocsf() -> str:
    """Return what each event type becomes in OCSF."""
    head = ("event type", "class", "activity", "type_uid", "severity", "severity of a failure")
    return table(head, _ocsf())


def severities() -> str:
    """Return how grave an event is, in the numbers of each format."""
    rows = (
        (name, str(number), str(CEF_SEVERITY[number]), str(SYSLOG_SEVERITY[number]), str(OTEL_SEVERITY[number]))
        for number, name in SEVERITIES.items()
    )
    return table(("severity", "OCSF", "CEF", "syslog", "OpenTelemetry"), rows)


def cef() -> str:
    """Return the keys of CEF."""
    rows = (
        (f"`{key}`" + (f", labelled “{LABELS[key]}”" if key in LABELS else ""), words)
        for key, (words, _limit, _value) in EXTENSIONS.items()
    )
    return table(("key", "holds"), rows)


def syslog() -> str:
    """Return the parameters of our structured data."""
    return table(("parameter", "holds"), ((f"`{name}`", words) for name, (words, _value) in PARAMETERS.items()))


def otlp() -> str:
    """Return the attributes of a log record."""
    return table(("attribute", "holds"), ((f"`{name}`", words) for name, (words, _value) in ATTRIBUTES.items()))


def columns() -> str:
    """Return the columns of Parquet and CSV."""
    rows = (
        (f"`{name}`", f"`{column.type}`", "yes" if name in CSV_COLUMNS else "no") for name, column in COLUMNS.items()
    )
    return table(("column", "type in Parquet", "in CSV"), rows)


def _places(name: str) -> str:
    told = FORMATS[name]
    places = (["a file"] if told.to_file else []) + (["standard output"] if told.encode is not None else [])
    return ", ".join([*places, *(f"`{scheme}://`" for scheme in told.schemes)])


def _ocsf() -> Iterator[tuple[str, ...]]:
    for name, rule in RULES.items():
        number = EVENT_TYPES[name].ocsf_class
        activity = BY_THE_CALL if rule.activity is None else str(rule.activity)
        kind = f"{number}0x" if rule.activity is None else str(number * 100 + rule.activity)
        severity, failed = (f"{SEVERITIES[grade]} ({grade})" for grade in (rule.severity, rule.failed))
        yield f"`{name}`", f"{number} {CLASS_NAMES[number]}", activity, kind, severity, failed


PARTS = {
    f"export-{name}": make
    for name, make in (
        ("formats", formats),
        ("ocsf", ocsf),
        ("severities", severities),
        ("cef", cef),
        ("syslog", syslog),
        ("otlp", otlp),
        ("columns", columns),
    )
}
"""Name of a generated part -> what makes it."""
