"""Makes the generated parts of the documentation from the code: `python -m tools.docs_reference`.

With `--check` nothing is written; the pages that are not current are named and the exit code is 1.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tools import (
    docs_api,
    docs_attacks,
    docs_calls,
    docs_cli,
    docs_events,
    docs_exports,
    docs_findings,
    docs_ingest,
    docs_metrics,
    docs_policy,
    docs_rules,
    docs_sql,
    release_files,
)
from tools.docs_pages import fill, sections_of

__all__ = ["COPIES", "PARTS", "current", "pages"]

ROOT = Path(__file__).resolve().parent.parent

PARTS: Mapping[str, Callable[[], str]] = {
    "global-options": docs_cli.global_options,
    "commands": docs_cli.commands,
    "event-types": docs_events.types,
    "event-aliases": docs_events.aliases,
    "event-acts": docs_calls.calls,
    "kling-codes": docs_events.codes,
    "policy-settings": docs_policy.settings,
    "policy-classes": docs_policy.classes,
    "policy-default": docs_policy.default_file,
    **{part: (lambda part=part: docs_api.names(part)) for part in docs_api.PUBLIC},
    **{f"findings-{page}": (lambda page=page: docs_findings.findings(page)) for page in docs_findings.PAGES},
    "threats": docs_findings.threats,
    "attacks": docs_attacks.attacks,
    "detection-rules": docs_rules.rules,
    "detection-members": docs_rules.members,
    **docs_exports.PARTS,
    **docs_ingest.PARTS,
    "metrics": docs_metrics.metrics,
    "metric-bounds": docs_metrics.bounds,
    "release-files": release_files.checksums,
    "sql-columns": docs_sql.columns,
    "sql-functions": docs_sql.functions,
    "sql-table-functions": docs_sql.table_functions,
    "error-tree": lambda: docs_api.error_tree("klingai_audit.errors"),
    "kling-errors": lambda: docs_api.error_table("klingai_audit.kling.errors"),
}
"""Name of a generated part -> what makes it."""

COPIES: Mapping[str, str] = {"docs/format.md": "src/klingai_audit/bundle/format.md"}
"""Page -> the same page as a file of the package: bundles hand it out."""


def pages(root: Path = ROOT) -> Iterator[Path]:
    """Yield the pages that have generated parts."""
    yield from (path for path in sorted((root / "docs").rglob("*.md")) if sections_of(path.read_text(encoding="utf-8")))


def current(path: Path) -> str:
    """Return a page as it should be. Raises: ValueError: a part is unknown or not closed."""
    text = path.read_text(encoding="utf-8")
    return fill(text, {name: PARTS[name]() for name in sections_of(text) if name in PARTS})


def main(arguments: list[str]) -> int:
    """Write the pages, or check them."""
    stale = [(path, text) for path in pages() if (text := current(path)) != path.read_text(encoding="utf-8")]
    for path, text in stale:
        print(path.relative_to(ROOT).as_posix())
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
    for path, copy in COPIES.items():
        if (ROOT / path).read_bytes() != (ROOT / copy).read_bytes():
            stale.append((ROOT / copy, ""))
            print(copy)
            if "--check" not in arguments:
                (ROOT / copy).write_bytes((ROOT / path).read_bytes())
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
