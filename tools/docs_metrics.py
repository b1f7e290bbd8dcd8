"""The numbers of `--metrics` as Markdown."""

from __future__ import annotations

from klingai_audit.ledger.counters import BATCH_BOUNDS, SECONDS_BOUNDS
from klingai_audit.operation.names import METRICS, PREFIX
from tools.docs_pages import escape, table

__all__ = ["bounds", "metrics"]


def metrics() -> str:
    """Return one row for each number, under the name that Prometheus shows."""
    rows = []
    for name, metric in METRICS.items():
        shown = PREFIX + name + ("_total" if metric.kind == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
        rows.append((f"`{shown}`", metric.kind, labels, escape(metric.help)))
    return table(("name", "kind", "labels", "what it says"), rows)


def bounds() -> str:
    """Return the upper bounds of the classes of histograms."""
    batches = ", ".join(f"{bound:g}" for bound in BATCH_BOUNDS)
    seconds = ", ".join(f"{bound:g}" for bound in SECONDS_BOUNDS)
    return f"Classes of batches end at {batches} entries, those of durations at {seconds} seconds.\n"
